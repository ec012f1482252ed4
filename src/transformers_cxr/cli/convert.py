"""The command `convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .errors import cli_errors
from .options import DtypeName


def convert(
    language_model: Annotated[Path, typer.Option(help="GPT-NeoX folder of the release.")],
    vq_gan_config: Annotated[Path, typer.Option(help="The .yaml of the VQ-GAN.")],
    vq_gan_checkpoint: Annotated[Path, typer.Option(help="The .ckpt of the VQ-GAN.")],
    output: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    dtype: Annotated[DtypeName | None, typer.Option(help="Dtype of the language model, if not to be kept.")] = None,
):
    """
    Convert the released LLM-CXR and verify the result.

    ```
    transformers-cxr convert --language-model llm-cxr/ \\
        --vq-gan-config vqgan.yaml --vq-gan-checkpoint vqgan.ckpt \\
        --output llm-cxr-3b
    ```
    """
    with cli_errors():
        import torch

        from ..conversion.official import convert_official_checkpoint

        rows = convert_official_checkpoint(
            language_model,
            vq_gan_config,
            vq_gan_checkpoint,
            output,
            dtype=None if dtype is None else getattr(torch, dtype),
        )
    width = max(len(name) for name, _ in rows)
    for name, result in rows:
        typer.echo(f"{name:<{width}}  {result}")
    typer.echo(f"Verified and written to {output}.")
