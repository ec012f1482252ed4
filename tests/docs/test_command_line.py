"""The commands of docs/command_line.md, run as they stand, on the embedded checkpoint."""

from pathlib import Path

from transformers_cxr.cli import models as command_models


def test_commands_of_the_page_run_in_order(page, tmp_path, monkeypatch):
    # Loaded once for all commands.
    model = command_models.load_model(None, "cpu", None)
    monkeypatch.setattr(command_models, "load_model", lambda *arguments: model)
    page = page("docs/command_line.md")
    outputs = {}
    for language, block in page.blocks:
        if language == "python":
            page.run_python(block)
            continue
        for words in page.commands(block):
            outputs[words[1]] = page.run_command(words)
    assert "FINDINGS:" in outputs["report"] and len(page.namespace["dataset"]) == 2
    assert len(list(tmp_path.glob("generated/*.png"))) == 2 and list(tmp_path.glob("dicom/*.dcm"))
    assert " dB  mean of 2 images" in outputs["reconstruct"] and (tmp_path / "llm-cxr/config.json").is_file()
    assert len(Path("reports.jsonl").read_text().splitlines()) == 2
