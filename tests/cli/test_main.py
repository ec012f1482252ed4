import re
import subprocess
import sys

import pytest
import typer

from transformers_cxr.cli.main import app

COMMANDS = sorted(typer.main.get_command(app).commands)


def test_no_help_imports_anything_heavy():
    code = (
        "import sys\nfrom transformers_cxr.cli.main import main\n"
        f"for command in [[], *([name] for name in {COMMANDS})]:\n"
        "    sys.argv = ['transformers-cxr', *command, '--help']\n"
        "    try:\n        main()\n    except SystemExit as end:\n        assert not end.code\n"
        "heavy = {'torch', 'transformers', 'diffusers', 'datasets', 'pyarrow', 'numpy', 'PIL', 'pydicom', 'gradio'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert all(name in result.stdout for name in COMMANDS)


def test_without_arguments_it_shows_what_one_can_do_first(run):
    result = run()
    assert result.exit_code == 0
    shown = re.findall(r"^  transformers-cxr (\w+)", result.stdout, re.MULTILINE)
    assert shown[0] == "report" and set(shown) <= set(COMMANDS) and "transformers-cxr --help" in result.stdout
    assert "Usage" in run("--help").stdout and run("no-such").exit_code == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_shows_examples_whole_in_80_columns(run, command):
    result = run(command, "--help", env={"COLUMNS": "80"})
    assert result.exit_code == 0
    shown = [line.strip() for line in result.stdout.splitlines()]
    assert any(line.startswith(f"transformers-cxr {command}") for line in shown)
    examples = typer.main.get_command(app).commands[command].callback.__doc__.split("```")[1]
    assert {line.strip() for line in examples.splitlines()} <= set(shown)
