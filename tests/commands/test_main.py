import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from transformers_cxr import save_with_remote_code
from transformers_cxr.commands.main import app

OPTIONS = ("--language-model", "--vq-gan-config", "--vq-gan-checkpoint", "--output")


@pytest.fixture
def runner():
    return CliRunner()


def arguments(*values):
    return ["convert", *(text for pair in zip(OPTIONS, map(str, values)) for text in pair)]


def test_help_names_the_commands_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom transformers_cxr.commands.main import main\nsys.argv = ['transformers-cxr', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert not {'torch', 'transformers', 'diffusers'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "convert" in result.stdout and "export" in result.stdout


def test_convert_hands_the_files_on_and_prints_what_was_verified(runner, monkeypatch, tmp_path):
    given = []

    def convert(*args, dtype):
        given.append((*map(str, args), str(dtype)))
        return [("Logits", "equal"), ("Weights of the VQ-GAN", "all 3 equal")]

    monkeypatch.setattr("transformers_cxr.conversion.official.convert_official_checkpoint", convert)
    result = runner.invoke(app, [*arguments("a", "b", "c", tmp_path / "d"), "--dtype", "bfloat16"])
    assert result.exit_code == 0, result.output
    assert given == [("a", "b", "c", str(tmp_path / "d"), "torch.bfloat16")]
    lines = result.stdout.splitlines()
    assert lines[:2] == ["Logits                 equal", "Weights of the VQ-GAN  all 3 equal"]
    assert str(tmp_path / "d") in lines[2]


@pytest.mark.parametrize("missing", ["folder", "output exists"])
def test_a_mistake_is_one_message_without_a_stack_trace(runner, tmp_path, missing):
    output = tmp_path / "out"
    if missing == "output exists":
        output.mkdir()
    result = runner.invoke(app, arguments(tmp_path / "none", tmp_path / "x.yaml", tmp_path / "x.ckpt", output))
    assert result.exit_code == 1 and result.stdout == ""
    expected = "out' exists" if missing == "output exists" else "No `config.json` in"
    assert expected in result.stderr and len(result.stderr.splitlines()) == 1
    assert "Traceback" not in result.output


def test_a_bug_is_not_hidden_as_a_mistake(runner, monkeypatch):
    def broken(*args, **kwargs):
        raise TypeError("a bug")

    monkeypatch.setattr("transformers_cxr.conversion.official.convert_official_checkpoint", broken)
    assert isinstance(runner.invoke(app, arguments("a", "b", "c", "d")).exception, TypeError)


def test_an_unknown_dtype_is_refused(runner):
    result = runner.invoke(app, [*arguments("a", "b", "c", "d"), "--dtype", "int4"])
    assert result.exit_code == 2 and "int4" in result.stderr


def test_export_writes_a_plain_checkpoint(runner, tiny_model, tmp_path):
    model, processor = tiny_model
    save_with_remote_code(model, processor, tmp_path / "checkpoint")
    result = runner.invoke(app, ["export", str(tmp_path / "checkpoint"), str(tmp_path / "plain")])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "plain/config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_export_of_a_folder_that_is_no_checkpoint_is_one_message(runner, tmp_path):
    result = runner.invoke(app, ["export", str(tmp_path), str(tmp_path / "plain")])
    assert result.exit_code == 1 and "No `config.json`" in result.stderr and "Traceback" not in result.output
