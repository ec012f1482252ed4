"""Commands that convert the data files and the VQ-GANs of the released LLM-CXR and its relatives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .mistakes import mistakes_as_messages


def convert_codes(
    codes: Annotated[Path, typer.Argument(help="Pickle of {image id: 256 codes}.")],
    output: Annotated[Path, typer.Argument(help="Parquet file to write; it must not exist.")],
):
    """Convert a pickle of image codes to Parquet. Code in it is refused and never run."""
    with mistakes_as_messages():
        from ..conversion.official_data import convert_code_pickle

        report = convert_code_pickle(codes, output)
    _show(report, "images", output)


def convert_vqa(
    folder: Annotated[Path, typer.Argument(help="Folder of pSUBJECT/sSTUDY.txt files.")],
    output: Annotated[Path, typer.Argument(help="JSON file to write; it must not exist.")],
):
    """Convert text files of questions and answers to one JSON file. They are parsed and never run."""
    with mistakes_as_messages():
        from ..conversion.official_data import convert_vqa_files

        report = convert_vqa_files(folder, output)
    _show(report, "questions", output)


def convert_vq_gan(
    config: Annotated[Path, typer.Argument(help="The .yaml of the VQ-GAN.")],
    checkpoint: Annotated[Path, typer.Argument(help="Its .ckpt.")],
    output: Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")],
):
    """Convert a VQ-GAN of taming-transformers to a CXRVQTokenizer and its image processor."""
    with mistakes_as_messages():
        from ..conversion import taming

        taming.convert_vq_gan(config, checkpoint, output)
    typer.echo(f"Written to {output}.")


def export_vq_gan(
    model: Annotated[Path, typer.Argument(help="Folder of a CXRVQTokenizer or of an LLM-CXR checkpoint.")],
    output: Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")],
):
    """Write the VQ-GAN of a checkpoint as a config and a checkpoint of taming-transformers."""
    with mistakes_as_messages():
        from ..conversion import taming

        taming.export_vq_gan(model, output)
    typer.echo(f"Written to {output}.")


def _show(report, records: str, output: Path) -> None:
    for where, reason in report.left_out:
        typer.echo(f"Left out: {where}: {reason}", err=True)
    typer.echo(f"{report.written} {records} written to {output}, {len(report.left_out)} left out.")
