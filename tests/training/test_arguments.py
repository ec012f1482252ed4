"""Settings of the example scripts, from YAML files and the command line."""

from dataclasses import dataclass, field

import pytest

from transformers_cxr.training.arguments import parse_arguments, run_script


@dataclass
class Arguments:
    output_dir: str = field()
    ratios: dict = field(default_factory=dict)
    views: list[str] = field(default_factory=list)
    max_steps: int = field(default=10)
    learning_rate: float = field(default=1e-3)
    data_seed: int | None = field(default=None)
    packing: bool = field(default=False)


@pytest.fixture
def arguments_of(monkeypatch, tmp_path):
    """`arguments_of(yaml, *yamls, command_line=())`: what comes of YAML files `0.yaml`, `1.yaml` ... and a command line."""

    def set_command_line(*contents, command_line=()):
        paths = [tmp_path / f"{number}.yaml" for number in range(len(contents))]
        for path, content in zip(paths, contents):
            path.write_text(content)
        config = ["--config", *map(str, paths)] if paths else []
        monkeypatch.setattr("sys.argv", ["script.py", *config, *command_line])
        return parse_arguments(Arguments)[0]

    return set_command_line


def test_the_command_line_goes_before_the_later_file_and_that_before_the_earlier(arguments_of):
    arguments = arguments_of(
        "output_dir: a\nmax_steps: 1\nlearning_rate: 1\nviews: [AP, PA]\ndata_seed:\n",
        "max_steps: 2\nlearning_rate: 5e-6\nratios: {report: 60}",
        command_line=["--max_steps", "3", "--ratios", "{report: 30, image: 70}"],
    )
    assert arguments == Arguments("a", {"report": 30, "image": 70}, ["AP", "PA"], 3, 5e-6)


def test_a_second_list_of_files_adds_to_the_first(arguments_of, tmp_path):
    (tmp_path / "other.yaml").write_text("max_steps: 5")
    arguments = arguments_of("output_dir: a", command_line=["--config", str(tmp_path / "other.yaml")])
    assert arguments == Arguments("a", max_steps=5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ratios: {report: 30", "'.*0.yaml' is not YAML: while parsing"),
        ("max_steps: 1\n\tpacking: true", "cannot start any token\n.*line 2"),
        ("max_steps", "'.*0.yaml' does not hold settings"),
        ("maximum_steps: 1", r"unknown settings \['maximum_steps'\]; known are"),
        ("max_steps: 2.0", "`max_steps` in '.*0.yaml' must be a whole number, got 2.0"),
        ("max_steps:", "`max_steps` in .* must be a whole number, got None"),
        ("learning_rate: [1]", r"`learning_rate` in .* must be a number, got \[1\]"),
        ("ratios: 5", "`ratios` in .* must be {name: value, ...}, got 5"),
        ("views: AP", r"`views` in .* must be a list, such as \[a, b\], got 'AP'"),
    ],
)
def test_a_mistake_in_a_file_is_an_error_that_names_it(arguments_of, content, message):
    with pytest.raises(ValueError, match=message):
        arguments_of(content)


@pytest.mark.parametrize("value", ["{report: 30", "5", "report"])
def test_a_mistake_in_a_dict_on_the_command_line_is_a_message(arguments_of, capsys, value):
    with pytest.raises(SystemExit):
        arguments_of(command_line=["--output_dir", "o", "--ratios", value])
    assert f"argument --ratios: must be {{name: value, ...}} in YAML, got '{value}'" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError, OSError, ImportError])
def test_what_the_user_can_put_right_is_one_message(monkeypatch, error):
    def main(arguments):
        raise error("It is the wrong file.")

    monkeypatch.setattr("sys.argv", ["script.py", "--output_dir", "o"])
    with pytest.raises(SystemExit, match="^Error: It is the wrong file.$"):
        run_script(main, Arguments)
