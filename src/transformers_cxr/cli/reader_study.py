"""`transformers-cxr reader-study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def reader_study(
    evaluation: Annotated[Path, typer.Argument(help="Output folder of an evaluation.")],
    output: Annotated[Path, typer.Argument(help="Folder for the readers. It must not exist.")],
    key: Annotated[Path, typer.Option(help="JSON file with the solution, to be kept from the readers.")],
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
    from ..evaluation.reader_study import export_reader_study, reader_study_trials

    image_trials, report_trials = reader_study_trials(evaluation, num_images, num_reports)
    export_reader_study(image_trials, report_trials, output, key, seed)
    typer.echo(
        f"{len(image_trials)} pairs of X-rays and {len(report_trials)} of reports in {output}, the key in {key}."
    )
