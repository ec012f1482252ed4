"""The command `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..checkpoints import load_checkpoint
from .errors import cli_errors


def export(
    checkpoint: Annotated[str, typer.Argument(help="LLM-CXR checkpoint: a folder or a name on the Hub.")],
    output: Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")],
):
    """
    Write the backbone and its tokenizer as a plain checkpoint, for vLLM and other servers.

    ```
    transformers-cxr export llm-cxr-3b llm-cxr-3b-plain
    ```
    """
    with cli_errors():
        from ..conversion.export import export_language_model

        export_language_model(*load_checkpoint(checkpoint, "cpu"), output)
    typer.echo(f"Written to {output}.")
