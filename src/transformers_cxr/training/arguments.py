"""Command-line arguments of the example scripts, with defaults from a YAML file."""

from __future__ import annotations

import argparse

import yaml
from transformers import HfArgumentParser


def parse_arguments(*dataclass_types: type) -> tuple:
    """
    Parses the command line into dataclasses; `--config FILE.yaml` gives defaults that the command line overrides.

    Raises:
        ValueError: the YAML file names a setting that no dataclass has.
    """
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--config")
    config, rest = first.parse_known_args()
    parser = HfArgumentParser(dataclass_types)
    parser.add_argument("--config", help="YAML file of settings; the command line goes before it")
    if config.config:
        with open(config.config, encoding="utf-8") as file:
            defaults = yaml.safe_load(file)
        actions = {action.dest: action for action in parser._actions}
        if unknown := sorted(set(defaults) - set(actions)):
            raise ValueError(f"'{config.config}' has unknown settings {unknown}; known are {sorted(actions)}.")
        for name in defaults:
            actions[name].required = False
        parser.set_defaults(**defaults)
    return parser.parse_args_into_dataclasses(rest)[: len(dataclass_types)]
