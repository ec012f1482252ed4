"""The commands of docs/command_line.md, run as they stand, on the embedded checkpoint."""

import re
import shlex
import shutil
from pathlib import Path

from transformers_cxr.commands import chat, drawing, reading
from transformers_cxr.commands import models as command_models

ROOT = Path(__file__).parents[2]


def test_the_commands_of_the_documentation_run_in_order(run, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "examples/images", tmp_path / "examples/images")
    monkeypatch.chdir(tmp_path)
    # Loaded once for all commands.
    model = command_models.load_model(None, "cpu", None)
    for module in (chat, drawing, reading):
        monkeypatch.setattr(module, "load_model", lambda *arguments: model)
    text = (ROOT / "docs/command_line.md").read_text(encoding="utf-8")
    outputs = {}
    for language, block in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL):
        if language == "python":
            exec(compile(block, "command_line.md", "exec"), outputs)
            continue
        for line in block.splitlines():
            result = run(*shlex.split(line)[1:], input="Is there pneumonia?\n")
            assert result.exit_code == 0, (line, result.stderr)
            outputs[line.split()[1]] = result.stdout
    assert "FINDINGS:" in outputs["report"] and len(outputs["dataset"]) == 2
    assert len(list(tmp_path.glob("generated/*.png"))) == 2 and list(tmp_path.glob("drawings/*.dcm"))
    assert " dB  mean of 2 images" in outputs["reconstruct"] and (tmp_path / "llm-cxr/config.json").is_file()
    assert len(Path("reports.jsonl").read_text().splitlines()) == 2
