"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class DtypeName(StrEnum):
    """Dtypes that a language model is stored in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Images = Annotated[list[str], typer.Argument(help="Images: files, folders, globs in quotes, URLs.", metavar="IMAGE")]
Model = Annotated[
    str | None, typer.Option(help="Checkpoint: a folder or a name on the Hub; the embedded one if not given.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps ...; CUDA where there is one if not given.")]
Dtype = Annotated[
    DtypeName | None, typer.Option(help="Dtype of the language model; that of the checkpoint if not given.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images at a time.")]
Records = Annotated[
    Path | None,
    typer.Option(help="JSONL file, one line an image. What is in it already is skipped.", dir_okay=False),
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Length of a text in tokens, at most.")]
Sample = Annotated[bool, typer.Option("--do-sample", help="Sample, in place of taking the likeliest token.")]
Temperature = Annotated[float | None, typer.Option(min=0.01, help="Temperature of sampling.")]
TopK = Annotated[int | None, typer.Option(min=1, help="Sample from that many likeliest tokens.")]
TopP = Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Sample from the likeliest tokens of that mass.")]
NumBeams = Annotated[int, typer.Option(min=1, help="Beams of beam search; 1 is none.")]
Seed = Annotated[int, typer.Option(help="Seed of sampling.")]


def sampling_arguments(do_sample: bool, **options: float | int | None) -> dict[str, float | int | bool]:
    """
    The keywords of `generate` out of those options that were given.

    Raises:
        typer.BadParameter: an option of sampling was given without `--do-sample`.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if given and not do_sample:
        name = next(iter(given)).replace("_", "-")
        raise typer.BadParameter(f"--{name} needs --do-sample.")
    return {"do_sample": do_sample, **given}
