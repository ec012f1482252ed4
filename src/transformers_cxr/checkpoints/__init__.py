"""The checkpoints that are part of the package."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def checkpoint(name: str) -> Path:
    """
    The folder of a checkpoint that is part of the package, for `from_pretrained`.

    Args:
        name (`str`):
            "llm-cxr" is the only one.

    Raises:
        ValueError: there is no such checkpoint.
    """
    names = sorted(path.parent.name for path in FOLDER.glob("*/config.json"))
    if name not in names:
        raise ValueError(f"No checkpoint '{name}' in this package; there is {', '.join(names)}.")
    return FOLDER / name
