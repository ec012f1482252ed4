"""The commands `reader-study` and `score-reader-study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def reader_study(
    evaluation: Annotated[Path, typer.Argument(help="Output folder of an evaluation.")],
    output: Annotated[Path, typer.Argument(help="Folder for the readers. It must not exist.")],
    key: Annotated[Path, typer.Option(help="JSON file to write the solutions to. Keep it from the readers.")],
    num_images: Annotated[int, typer.Option(min=0, help="Pairs of X-rays.")] = 50,
    num_reports: Annotated[int, typer.Option(min=0, help="Pairs of reports.")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of order and sides.")] = 0,
):
    """
    Export blinded pairs of real and generated X-rays and reports, with sheets to fill in.

    ```
    transformers-cxr reader-study runs/evaluation study --key key.json
    transformers-cxr reader-study runs/evaluation study --key key.json \\
        --num-images 20 --num-reports 0
    ```
    """
    from ..evaluation import export_reader_study

    export_reader_study(evaluation, output, key, num_images, num_reports, seed)
    typer.echo(f"{num_images} pairs of X-rays and {num_reports} of reports in {output}; their solutions are in {key}.")


def score_reader_study(
    study: Annotated[Path, typer.Argument(help="Folder of a reader study with its sheets filled in.")],
    key: Annotated[Path, typer.Option(help="JSON file with the solutions, as written by reader-study.")],
):
    """
    Score the sheets of a reader study.

    ```
    transformers-cxr score-reader-study study --key key.json
    ```
    """
    from ..evaluation import score_reader_study as score
    from ..evaluation.results.tables import format_interval, markdown_table

    scores = score(study, key)
    rows = [[name, format_interval(estimate), str(estimate.units)] for name, estimate in scores.items()]
    typer.echo(markdown_table(["score", "value", "trials"], rows))
