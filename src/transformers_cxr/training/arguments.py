"""Command-line arguments of the example scripts, with defaults from YAML files."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, TextIO

import yaml
from transformers import HfArgumentParser

from ..errors import cli_errors
from ..files import locked_output


def parse_arguments(*dataclass_types: type, arguments: Sequence[str] | None = None) -> tuple:
    """
    Parse the command line, or other `arguments`, into dataclasses.

    `--config FILE.yaml ...` sets defaults. Later files override earlier ones, and the command line overrides all
    files. A `dict` is written as in YAML: `--ratios "{report: 30, image: 70}"`.

    Raises:
        FileNotFoundError: a YAML file does not exist.
        ValueError: a YAML file is invalid, or has an unknown setting or a value of the wrong type.
    """
    config_parser = argparse.ArgumentParser(add_help=False)
    config_parser.add_argument("--config", nargs="+", action="extend", default=[])
    config, remaining = config_parser.parse_known_args(arguments)
    parser = HfArgumentParser(dataclass_types)
    parser.add_argument("--config", nargs="+", help="YAML files of settings, which the command line overrides")
    actions = {action.dest: action for action in parser._actions}
    for action in actions.values():
        if action.type is dict:
            action.type = _parse_dict
    for path in config.config:
        with open(path, encoding="utf-8") as file:
            try:
                defaults = _load_yaml(file)
            except ValueError as error:
                raise ValueError(f"'{path}' is not valid YAML: {error}") from error
        if not isinstance(defaults, dict):
            raise ValueError(f"Expected settings in '{path}', one `name: value` per line.")
        if unknown := sorted(set(defaults) - set(actions)):
            raise ValueError(f"'{path}' has unknown settings {unknown}. Known are {sorted(actions)}.")
        for name, value in defaults.items():
            if expected := _expected_type(actions[name], value):
                raise ValueError(f"Expected {expected} for `{name}` in '{path}', got {value!r}.")
            actions[name].required = False
        parser.set_defaults(**defaults)
    return parser.parse_args_into_dataclasses(remaining)[: len(dataclass_types)]


def run_script(main: Callable, *dataclass_types: type) -> None:
    """
    Call `main` with the arguments of [`parse_arguments`] under [`~errors.cli_errors`], with the lock of the folder
    `output_dir`, if that is an argument.
    """
    with cli_errors():
        arguments = parse_arguments(*dataclass_types)
        folder = next((vars(each)["output_dir"] for each in arguments if "output_dir" in vars(each)), None)
        with locked_output(folder) if folder else nullcontext():
            main(*arguments)


class _SettingsLoader(yaml.SafeLoader):
    """Loader without aliases, which can make a small file endless."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"settings have no aliases, such as `*{self.peek_event().anchor}`")
        return super().compose_node(parent, index)


def _load_yaml(stream: str | TextIO) -> Any:
    try:
        return yaml.load(stream, _SettingsLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(str(error)) from error


def _parse_dict(text: str) -> dict:
    try:
        value = _load_yaml(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected {{name: value, ...}} in YAML, got {text!r}")
    return value


def _expected_type(action: argparse.Action, value: Any) -> str | None:
    """Describe the type that a setting needs if a YAML value has another one. Argparse converts strings itself."""
    if value is None and action.default is None:
        return None
    if action.nargs == "+":
        return None if isinstance(value, list) else "a list such as [a, b]"
    if isinstance(value, str):
        return None
    types, name = {
        _parse_dict: (dict, "{name: value, ...}"),
        int: (int, "an integer"),
        float: ((int, float), "a number"),
    }.get(action.type, (object, ""))
    return None if isinstance(value, types) else name
