"""Checkpoints of the package."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def checkpoint(name: str) -> Path:
    """
    Return the folder of a checkpoint of the package, for `from_pretrained`.

    Args:
        name (`str`):
            Name of the checkpoint: "llm-cxr".

    Raises:
        ValueError: The package has no such checkpoint.
    """
    names = sorted(path.parent.name for path in FOLDER.glob("*/config.json"))
    if name not in names:
        raise ValueError(f"No checkpoint '{name}' in this package; expected {', '.join(names)}.")
    return FOLDER / name
