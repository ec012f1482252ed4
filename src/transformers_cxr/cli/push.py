"""The command `push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push(
    folder: Annotated[Path, typer.Argument(help="Folder of a checkpoint with a model card.", metavar="DIR")],
    repo: Annotated[str, typer.Argument(help="Repository on the Hub, such as user/name; created if needed.")],
):
    """
    Upload a checkpoint to the Hugging Face Hub, after a check of its model card.

    Log in first (`hf auth login`). Only the files directly in DIR are uploaded.

    ```
    transformers-cxr push runs/own/final user/own
    ```
    """
    from ..hub import push_checkpoint

    typer.echo(f"Uploaded: {push_checkpoint(folder, repo)}")
