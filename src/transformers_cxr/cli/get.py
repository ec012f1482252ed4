"""The command `get`."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path
from typing import Annotated

import typer

from ..checkpoints import checkpoint


def get(
    name: Annotated[str, typer.Argument(help="Checkpoint of the package.")] = "llm-cxr",
    output: Annotated[Path | None, typer.Option(help="Folder to write. Default: ./llm-cxr.")] = None,
):
    """
    Copy the embedded checkpoint to ./llm-cxr, where `from_pretrained("llm-cxr")` finds it.

    ```
    transformers-cxr get
    transformers-cxr get llm-cxr --output checkpoints/llm-cxr
    ```
    """
    from ..files import atomic_write

    source, target = checkpoint(name), output or Path(name)
    names = [path.name for path in source.iterdir()]
    if target.is_dir() and filecmp.cmpfiles(source, target, names, shallow=False)[0] == names:
        typer.echo(f"'{target}' is already there.")
        return
    with atomic_write(target, overwrite=False) as partial:
        partial.mkdir()
        for file in names:
            shutil.copy(source / file, partial)
    typer.echo(f"Written to {target}.")
