"""The command `convert-vq-gan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .errors import cli_errors


def convert_vq_gan(
    config: Annotated[Path, typer.Argument(help="The .yaml of the VQ-GAN.")],
    checkpoint: Annotated[Path, typer.Argument(help="Its .ckpt.")],
    output: Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")],
):
    """
    Convert a VQ-GAN of taming-transformers to a CXRVQTokenizer and its image processor.

    ```
    transformers-cxr convert-vq-gan vqgan.yaml vqgan.ckpt vq
    ```
    """
    with cli_errors():
        from ..conversion import taming

        taming.convert_vq_gan(config, checkpoint, output)
    typer.echo(f"Written to {output}.")
