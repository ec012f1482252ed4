"""The command `get`."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from ..checkpoints import checkpoint


def get(
    name: Annotated[str, typer.Argument(help="Checkpoint of the package.")] = "llm-cxr",
    output: Annotated[Path | None, typer.Option(help="Folder to write. Default: ./llm-cxr.")] = None,
):
    """
    Copy the embedded checkpoint to ./llm-cxr, where `from_pretrained("llm-cxr")` finds it.

    The folder has its model card and its code, so it can be published, and loaded without this package.

    ```
    transformers-cxr get
    transformers-cxr get llm-cxr --output checkpoints/llm-cxr
    ```
    """
    from ..files import atomic_write
    from ..hub import add_remote_code

    target = output or Path(name)
    with TemporaryDirectory() as temporary:
        source = Path(shutil.copytree(checkpoint(name), Path(temporary) / name))
        add_remote_code(source)
        names = [path.name for path in source.iterdir()]
        if target.is_dir() and filecmp.cmpfiles(source, target, names, shallow=False)[0] == names:
            typer.echo(f"'{target}' is already there.")
            return
        with atomic_write(target, overwrite=False) as partial:
            shutil.copytree(source, partial, copy_function=shutil.copyfile)
    typer.echo(f"Written to {target}.")
