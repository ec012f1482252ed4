"""`transformers-cxr compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    first: Annotated[Path, typer.Argument(help="Output folder of an evaluation.")],
    second: Annotated[Path, typer.Argument(help="Output folder of another model on the same examples.")],
    num_resamples: Annotated[int, typer.Option(min=1, help="Resamples of the intervals and p-values.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the resamples.")] = 0,
):
    """
    Compare two evaluations: differences with intervals and p-values, paired by patient.

    ```
    transformers-cxr compare runs/evaluation_before runs/evaluation_after
    ```
    """
    from ..evaluation.results.comparison import compare_runs
    from ..evaluation.results.tables import differences_to_markdown

    differences = compare_runs(first, second, num_resamples, seed)
    typer.echo(differences_to_markdown(differences))
