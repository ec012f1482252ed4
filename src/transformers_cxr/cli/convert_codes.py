"""The command `convert-codes`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .errors import cli_errors


def convert_codes(
    codes: Annotated[Path, typer.Argument(help="Pickle of {image id: 256 codes}.")],
    output: Annotated[Path, typer.Argument(help="Parquet file to write; it must not exist.")],
):
    """
    Convert a pickle of image codes to Parquet. Code in it is refused and never run.

    ```
    transformers-cxr convert-codes codes.pickle codes.parquet
    ```
    """
    with cli_errors():
        from ..conversion.official_data import convert_code_pickle

        num_images, skipped = convert_code_pickle(codes, output)
    for image_id, reason in skipped:
        typer.echo(f"Skipped: {image_id}: {reason}", err=True)
    typer.echo(f"{num_images} images written to {output}, {len(skipped)} skipped.")
