"""Command-line arguments of the example scripts, with defaults from YAML files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import yaml
from transformers import HfArgumentParser


def parse_arguments(*dataclass_types: type) -> tuple:
    """
    Parses the command line into dataclasses; `--config FILE.yaml ...` gives defaults that the command line overrides, and of
    several files a later one overrides an earlier one. A setting that is a `dict` is written on the command line as in YAML:
    `--ratios "{report: 30, image: 70}"`.

    Raises:
        FileNotFoundError: there is no such YAML file.
        ValueError: a YAML file is broken, does not hold settings, or names one that no dataclass has or one of another kind.
    """
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--config", nargs="+", action="extend", default=[])
    config, rest = first.parse_known_args()
    parser = HfArgumentParser(dataclass_types)
    parser.add_argument("--config", nargs="+", help="YAML files of settings; the command line goes before them")
    actions = {action.dest: action for action in parser._actions}
    for action in parser._actions:
        if action.type is dict:
            action.type = _dict
    for path in config.config:
        with open(path, encoding="utf-8") as file:
            try:
                defaults = yaml.safe_load(file)
            except yaml.YAMLError as error:
                raise ValueError(f"'{path}' is not YAML: {error}") from error
        if not isinstance(defaults, dict):
            raise ValueError(f"'{path}' does not hold settings, one `name: value` a line.")
        if unknown := sorted(set(defaults) - set(actions)):
            raise ValueError(f"'{path}' has unknown settings {unknown}; known are {sorted(actions)}.")
        for name, value in defaults.items():
            if expected := _expected(actions[name], value):
                raise ValueError(f"`{name}` in '{path}' must be {expected}, got {value!r}.")
            actions[name].required = False
        parser.set_defaults(**defaults)
    return parser.parse_args_into_dataclasses(rest)[: len(dataclass_types)]


def _dict(text: str) -> dict:
    """A setting that is a `dict`, of the command line."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be {{name: value, ...}} in YAML, got {text!r}")
    return value


def _expected(action: argparse.Action, value: Any) -> str | None:
    """What the value of a setting in a YAML file must be where it is something else. Argparse converts texts."""
    if value is None and action.default is None:
        return None
    if action.nargs == "+":
        return None if isinstance(value, list) else "a list, such as [a, b]"
    if isinstance(value, str):
        return None
    types, name = {
        _dict: (dict, "{name: value, ...}"),
        int: (int, "a whole number"),
        float: ((int, float), "a number"),
    }.get(action.type, (object, ""))
    return None if isinstance(value, types) else name


def run_script(main: Callable, *dataclass_types: type) -> None:
    """
    Runs `main` with what [`parse_arguments`] makes of the command line. What the user can put right (a wrong setting or file,
    an extra that is not installed) is one message and exit code 1.
    """
    try:
        main(*parse_arguments(*dataclass_types))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"Error: {error}")
