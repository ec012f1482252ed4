"""Checkpoints of other packages: read them without executing code, and format mismatches."""

from __future__ import annotations

import os
import struct
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

# Subclasses of `dict` that PyTorch Lightning stores.
DICT_SUBCLASSES = ("AttributeDict", "defaultdict")


class _Placeholder:
    """Placeholder of a class or function that ignores all arguments and state."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


class _DictPlaceholder:
    """Placeholder of a subclass of `dict`: the restricted unpickler fills dictionaries of standard types only."""

    def __new__(cls, *args, **kwargs):
        return OrderedDict()


def read_checkpoint(path: str | os.PathLike) -> object:
    """
    Read a `.safetensors` file, or a file of `torch.save`, without executing code in it.

    The tensors are mapped from the file if its format allows that. Placeholders without behavior replace all objects
    but tensors and plain data, such as those of PyTorch Lightning and OmegaConf, so that these packages need not be
    installed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated or is not a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No checkpoint at '{path}'.")
    with read_errors(path):
        if path.suffix == ".safetensors":
            return load_file(path)
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
        # Files written before torch 1.6 are not zip archives. Their names cannot be listed, and they cannot be mapped.
        names = get_unsafe_globals_in_checkpoint(path) if is_zip else []
        placeholders = [(_DictPlaceholder if name.endswith(DICT_SUBCLASSES) else _Placeholder, name) for name in names]
        with safe_globals(placeholders):
            return torch.load(path, map_location="cpu", mmap=is_zip, weights_only=True)


@contextmanager
def read_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turn the errors of reading a checkpoint into a `ValueError` that names it."""
    try:
        yield
    except UnpicklingError as error:
        raise ValueError(
            f"Cannot read '{path}': it is not a checkpoint, or it contains more than tensors and plain data. Nothing "
            'in it was executed. If you trust its source, save only its tensors: torch.save({"state_dict": ...}, ...).'
        ) from error
    except (SafetensorError, EOFError, OSError, RuntimeError, ValueError, struct.error) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"Cannot read '{path}': it is incomplete or not a checkpoint ({reason}).") from error


def first_names(names: Collection[str]) -> str:
    """Format the first five names and the number of the others."""
    shown = ", ".join(list(names)[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def format_mismatch(missing: Collection[str], left_over: Collection[str], reshaped: Collection[tuple]) -> str:
    """
    Format which tensors are missing, left over or of another shape, or return "" if none is.

    Args:
        missing, left_over (collection of `str`): Names of tensors.
        reshaped (collection of `tuple`): Name, shape and expected shape of each tensor of another shape.
    """
    problems = {
        "are missing": missing,
        "are left over": left_over,
        "have another shape": [
            f"{name} {tuple(found)} instead of {tuple(wanted)}" for name, found, wanted in reshaped
        ],
    }
    return "; ".join(
        f"{len(names)} tensors {problem}: {first_names(names)}" for problem, names in problems.items() if names
    )


__all__ = ["first_names", "format_mismatch", "read_checkpoint", "read_errors"]
