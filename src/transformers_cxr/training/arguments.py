"""Command-line arguments of the example scripts, with defaults from YAML files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import yaml
from transformers import HfArgumentParser


def parse_arguments(*dataclass_types: type) -> tuple:
    """
    Parses the command line into dataclasses; `--config FILE.yaml ...` gives defaults that the command line overrides, and of
    several files a later one overrides an earlier one. A setting that is a `dict` is written on the command line as in YAML:
    `--ratios "{report: 30, image: 70}"`.

    Raises:
        FileNotFoundError: there is no such YAML file.
        ValueError: a YAML file does not hold settings, or names one that no dataclass has.
    """
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--config", nargs="+", default=[])
    config, rest = first.parse_known_args()
    parser = HfArgumentParser(dataclass_types)
    parser.add_argument("--config", nargs="+", help="YAML files of settings; the command line goes before them")
    actions = {action.dest: action for action in parser._actions}
    for action in parser._actions:
        if action.type is dict:
            action.type = yaml.safe_load
    for path in config.config:
        with open(path, encoding="utf-8") as file:
            defaults = yaml.safe_load(file)
        if not isinstance(defaults, dict):
            raise ValueError(f"'{path}' does not hold settings, one `name: value` a line.")
        if unknown := sorted(set(defaults) - set(actions)):
            raise ValueError(f"'{path}' has unknown settings {unknown}; known are {sorted(actions)}.")
        for name in defaults:
            actions[name].required = False
        parser.set_defaults(**defaults)
    return parser.parse_args_into_dataclasses(rest)[: len(dataclass_types)]


def run_script(main: Callable, *dataclass_types: type) -> None:
    """
    Runs `main` with what [`parse_arguments`] makes of the command line. What the user can put right (a wrong setting or file,
    an extra that is not installed) is one message and exit code 1.
    """
    try:
        main(*parse_arguments(*dataclass_types))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"Error: {error}")
