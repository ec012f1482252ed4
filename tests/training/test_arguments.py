"""Settings of the example scripts, from YAML files and the command line."""

from dataclasses import dataclass, field

import pytest

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


def test_errors_of_the_user_are_messages(monkeypatch):
    def main(arguments):
        raise OSError("It is the wrong file.")

    monkeypatch.setattr("sys.argv", ["script.py", "--output_dir", "o"])
    with pytest.raises(SystemExit, match="^Error: It is the wrong file.$"):
        run_script(main, Arguments)
