"""Files and folders that are whole or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_output(path: str | os.PathLike) -> Iterator[Path]:
    """
    Gives a path beside `path` to write a file or a folder to, which takes the name `path` when the block has ended well and is
    removed when it has not.

    Raises:
        FileExistsError: `path` exists.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"'{path}' exists. Remove it or choose another output.")
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name says what a killed process leaves behind.
    partial = path.with_name(f"{path.name}.incomplete-{os.getpid()}")
    try:
        yield partial
        partial.rename(path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)


__all__ = ["new_output"]
