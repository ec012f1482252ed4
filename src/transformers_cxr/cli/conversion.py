"""The commands that convert and export checkpoints and codes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..checkpoints import load_checkpoint, load_vq_tokenizer
from .options import DtypeName

NewFolder = Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")]


def convert(
    language_model: Annotated[Path, typer.Option(help="Folder of the language model (GPT-NeoX).")],
    vq_gan_config: Annotated[Path, typer.Option(help="The .yaml of the VQ-GAN.")],
    vq_gan_checkpoint: Annotated[Path, typer.Option(help="The .ckpt of the VQ-GAN.")],
    output: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    dtype: Annotated[
        DtypeName | None, typer.Option(help="Dtype of the language model. Default: that of its weights.")
    ] = None,
):
    """
    Convert the released LLM-CXR and verify the result.

    ```
    transformers-cxr convert --language-model llm-cxr/ \\
        --vq-gan-config vqgan.yaml --vq-gan-checkpoint vqgan.ckpt \\
        --output llm-cxr-3b
    ```
    """
    import torch

    from ..conversion.official import convert_official_checkpoint

    torch_dtype = None if dtype is None else getattr(torch, dtype)
    convert_official_checkpoint(language_model, vq_gan_config, vq_gan_checkpoint, output, torch_dtype)
    typer.echo(f"Verified and written to {output}.")


def convert_vq_gan(
    config: Annotated[Path, typer.Argument(help="The .yaml of the VQ-GAN.")],
    checkpoint: Annotated[Path, typer.Argument(help="The .ckpt of the VQ-GAN.")],
    output: NewFolder,
):
    """
    Convert a VQ-GAN of taming-transformers to a CXRVQTokenizer and its image processor.

    ```
    transformers-cxr convert-vq-gan vqgan.yaml vqgan.ckpt vq
    ```
    """
    from ..conversion import taming

    taming.convert_vq_gan(config, checkpoint, output)
    typer.echo(f"Written to {output}.")


def convert_codes(
    codes: Annotated[Path, typer.Argument(help="Pickle of {image id: 256 codes}.")],
    output: Annotated[Path, typer.Argument(help="Parquet file to write; it must not exist.")],
):
    """
    Convert a pickle of image codes of the released LLM-CXR to Parquet. Program code in the pickle never runs.

    ```
    transformers-cxr convert-codes codes.pickle codes.parquet
    ```
    """
    from ..conversion.official_data import convert_code_pickle

    num_images, skipped = convert_code_pickle(codes, output)
    for image_id in skipped:
        typer.echo(f"Skipped: {image_id}: expected 256 codes in [0, 1024).", err=True)
    typer.echo(f"{num_images} images written to {output}, {len(skipped)} skipped.")


def export(
    checkpoint: Annotated[str, typer.Argument(help="LLM-CXR checkpoint: a folder or a name on the Hub.")],
    output: NewFolder,
):
    """
    Write the language model and its tokenizer as a plain checkpoint, for vLLM and other servers.

    ```
    transformers-cxr export llm-cxr-3b llm-cxr-3b-plain
    ```
    """
    from ..conversion.export import export_language_model

    export_language_model(*load_checkpoint(checkpoint, "cpu"), output)
    typer.echo(f"Written to {output}.")


def export_vq_gan(
    checkpoint: Annotated[str, typer.Argument(help="CXRVQTokenizer or LLM-CXR: a folder or a name on the Hub.")],
    output: NewFolder,
):
    """
    Write the VQ-GAN of a checkpoint as a config and a checkpoint of taming-transformers.

    ```
    transformers-cxr export-vq-gan vq vq-taming
    ```
    """
    from ..conversion import taming

    taming.export_vq_gan(load_vq_tokenizer(checkpoint, "cpu")[0], output)
    typer.echo(f"Written to {output}.")
