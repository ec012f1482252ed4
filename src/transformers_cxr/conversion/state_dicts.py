"""State dicts: read them without executing code, and format mismatches."""

from __future__ import annotations

import os
import struct
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

# What PyTorch Lightning stores beside the tensors: states of callbacks, hyperparameters, metrics. These names are not
# imported: stand-ins without behavior take their place. All other names are refused.
HARMLESS_PREFIXES = tuple(
    "argparse.Namespace builtins.bool builtins.dict builtins.float builtins.int builtins.list builtins.str "
    "builtins.tuple collections.defaultdict lightning. lightning_fabric. numpy._core.multiarray. "
    "numpy.core.multiarray. numpy.dtype numpy.ndarray omegaconf. pathlib. pytorch_lightning. torch.optim. "
    "torchmetrics. typing.Any".split()
)
DICT_SUBCLASSES = ("AttributeDict", "defaultdict")


class _StandIn:
    """Takes the place of a class or function, accepts any arguments and state, and does nothing with them."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


class _DictStandIn:
    """Takes the place of a subclass of `dict`: the restricted unpickler fills dictionaries of standard types only."""

    def __new__(cls, *args, **kwargs):
        return OrderedDict()


def read_checkpoint(path: str | os.PathLike) -> object:
    """
    Read a `.safetensors` file, or a file of `torch.save` with tensors and plain data in it, without executing code.

    The tensors are mapped from the file if its format allows that. Objects of PyTorch Lightning and OmegaConf are
    replaced by stand-ins, so that these packages need not be installed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, is not a checkpoint, or refers to code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No checkpoint at '{path}'.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
        # Files written before torch 1.6 are not zip archives. Their names cannot be listed, and they cannot be mapped.
        names = get_unsafe_globals_in_checkpoint(path) if is_zip else []
        refused = sorted(name for name in names if not name.startswith(HARMLESS_PREFIXES))
        if not refused:
            stand_ins = [(_DictStandIn if name.endswith(DICT_SUBCLASSES) else _StandIn, name) for name in names]
            with safe_globals(stand_ins):
                return torch.load(path, map_location="cpu", mmap=is_zip, weights_only=True)
    except UnpicklingError as error:
        raise ValueError(
            f"Cannot read '{path}': it is not a checkpoint, or it contains more than tensors and plain data. Nothing "
            'in it was executed. If you trust its source, save only its tensors: torch.save({"state_dict": ...}, ...).'
        ) from error
    except (SafetensorError, EOFError, OSError, RuntimeError, ValueError, struct.error) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"Cannot read '{path}': it is truncated or not a checkpoint ({reason}).") from error
    raise ValueError(
        f"'{path}' refers to {first_names(refused)}, which a checkpoint does not need. It was refused, and nothing in "
        'it was executed. If you trust its source, save only its tensors: torch.save({"state_dict": ...}, ...).'
    )


def first_names(names: Sequence[str]) -> str:
    """Format the first five names and the number of the others."""
    shown = ", ".join(names[:5]) or "none"
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def format_mismatch(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> str:
    """Format which tensors are missing, left over or of another shape, or return "" if none is."""
    problems = {
        "are missing": [name for name in expected if name not in found],
        "are left over": [name for name in found if name not in expected],
        "have another shape": [
            f"{name} {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in found and found[name].shape != tensor.shape
        ],
    }
    return "; ".join(
        f"{len(names)} tensors {problem}: {first_names(names)}" for problem, names in problems.items() if names
    )


__all__ = ["first_names", "format_mismatch", "read_checkpoint"]
