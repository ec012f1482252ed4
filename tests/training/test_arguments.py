"""Settings of the example scripts, from YAML files and the command line."""

import re
from dataclasses import dataclass, field

import pytest
from jinja2 import TemplateError

from transformers_cxr.files import locked_output
from transformers_cxr.training import parse_arguments, run_script


@dataclass
class Arguments:
    output_dir: str = field()
    ratios: dict = field(default_factory=dict)
    views: list[str] = field(default_factory=list)
    max_steps: int = field(default=10)
    learning_rate: float = field(default=1e-3)
    data_seed: int | None = field(default=None)


@pytest.fixture
def parse(monkeypatch, tmp_path):
    """`parse(yaml, *yamls, command_line=())` parses YAML files `0.yaml`, `1.yaml` ... and a command line."""

    def parse(*contents, command_line=()):
        paths = [tmp_path / f"{number}.yaml" for number in range(len(contents))]
        for path, content in zip(paths, contents):
            path.write_text(content)
        config = ["--config", *map(str, paths)] if paths else []
        monkeypatch.setattr("sys.argv", ["script.py", *config, *command_line])
        return parse_arguments(Arguments)[0]

    return parse


def test_the_command_line_overrides_later_files_and_these_earlier_ones(parse):
    arguments = parse(
        "output_dir: a\nmax_steps: 1\nlearning_rate: 1\nviews: [AP, PA]\ndata_seed:\n",
        "max_steps: 2\nlearning_rate: 5e-6\nratios: {report: 60}",
        command_line=["--max_steps", "3", "--ratios", "{report: 30, image: 70}"],
    )
    assert arguments == Arguments("a", {"report": 30, "image": 70}, ["AP", "PA"], 3, 5e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ratios: {report: 30", "'.*0.yaml' is not valid YAML: while parsing"),
        ("max_steps", "Expected settings in '.*0.yaml'"),
        ("maximum_steps: 1", r"unknown settings \['maximum_steps'\]. Known are"),
        ("max_steps: 2.0", "Expected an integer for `max_steps` in '.*0.yaml', got 2.0"),
        ("ratios: 5", "Expected {name: value, ...} for `ratios` in .*, got 5"),
        ("ratios: &a {report: 1}\nviews: [*a]", "settings have no aliases, such as `\\*a`"),
        ("ratios: " + "[" * 10_000, "'.*0.yaml' is not valid YAML: maximum recursion depth"),
        ("views: AP", r"Expected a list such as \[a, b\] for `views` in .*, got 'AP'"),
    ],
)
def test_invalid_files_raise_errors_that_name_them(parse, content, message):
    with pytest.raises(ValueError, match=message):
        parse(content)


def test_an_invalid_dict_on_the_command_line_is_a_message(parse, capsys):
    with pytest.raises(SystemExit):
        parse(command_line=["--output_dir", "o", "--ratios", "{report: 30"])
    assert "argument --ratios: expected {name: value, ...} in YAML, got '{report: 30'" in capsys.readouterr().err


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """`run(main)`: the message of a script that fails."""

    def run(main):
        monkeypatch.setattr("sys.argv", ["script.py", "--output_dir", str(tmp_path / "run")])
        with pytest.raises(SystemExit) as end:
            run_script(main, Arguments)
        assert end.value.code == 1
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("It is the wrong file."), "Error: It is the wrong file.\n"),
        # As torch reports a full disk.
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos"), "free some space .*run'"),
        (TemplateError("Unknown role."), "Error: Unknown role. The chat template of the checkpoint raised it.\n"),
    ],
)
def test_errors_of_the_user_are_messages(run, error, message):
    def main(arguments):
        raise error

    assert re.search(message, run(main))


def test_a_second_run_on_an_output_is_refused(run, tmp_path):
    with locked_output(tmp_path / "run"):
        assert "Another run is writing to this output" in run(lambda arguments: pytest.fail("It ran."))
