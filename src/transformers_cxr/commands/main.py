"""`transformers-cxr`. What a command needs is imported when it runs, so that `--help` is immediate."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .convert_data import convert_codes, convert_vq_gan, convert_vqa, export_vq_gan
from .mistakes import mistakes_as_messages

app = typer.Typer(
    help="Chest X-rays and language models: tools of transformers-cxr.", no_args_is_help=True, add_completion=False
)


class Dtype(StrEnum):
    """Dtypes that a language model is stored in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@app.command()
def convert(
    language_model: Annotated[Path, typer.Option(help="GPT-NeoX folder of the release.")],
    vq_gan_config: Annotated[Path, typer.Option(help="The .yaml of the VQ-GAN.")],
    vq_gan_checkpoint: Annotated[Path, typer.Option(help="The .ckpt of the VQ-GAN.")],
    output: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    dtype: Annotated[Dtype | None, typer.Option(help="Dtype of the language model, if not to be kept.")] = None,
):
    """Convert the released LLM-CXR and verify the result."""
    with mistakes_as_messages():
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


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of an LLM-CXR checkpoint.")],
    output: Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")],
):
    """Write the backbone and its tokenizer as a plain checkpoint, for vLLM and other servers."""
    with mistakes_as_messages():
        from transformers import AutoProcessor

        from ..conversion.plain import export_language_model
        from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM

        if not (checkpoint / "config.json").is_file():
            raise FileNotFoundError(
                f"No `config.json` in '{checkpoint}': expected the folder of an LLM-CXR checkpoint."
            )
        model = LlmCxrForCausalLM.from_pretrained(checkpoint)
        export_language_model(model, AutoProcessor.from_pretrained(checkpoint), output)
    typer.echo(f"Written to {output}.")


for command in (convert_codes, convert_vqa, convert_vq_gan, export_vq_gan):
    app.command()(command)


def main() -> None:
    # The progress bars and notices of Transformers would stand between the user and the result.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    app()
