"""The command `export-vq-gan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .errors import cli_errors


def export_vq_gan(
    model: Annotated[Path, typer.Argument(help="Folder of a CXRVQTokenizer or of an LLM-CXR checkpoint.")],
    output: Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")],
):
    """
    Write the VQ-GAN of a checkpoint as a config and a checkpoint of taming-transformers.

    ```
    transformers-cxr export-vq-gan vq vq-taming
    ```
    """
    with cli_errors():
        from ..conversion import taming

        taming.export_vq_gan(model, output)
    typer.echo(f"Written to {output}.")
