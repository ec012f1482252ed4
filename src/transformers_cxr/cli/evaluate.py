"""The commands `evaluate` and `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..evaluation.arguments import EvaluationArguments


def evaluate(
    arguments: EvaluationArguments,
    model_card: Annotated[
        Path | None, typer.Option(help="Model card (Markdown file) to write the tables and metadata into.")
    ] = None,
):
    """
    Evaluate a checkpoint: reports, generated images, answers, language, image tokenizer, robustness.

    ```
    transformers-cxr evaluate runs/quick --records DATA --limit 8
    transformers-cxr evaluate runs/evaluation --model my-checkpoint \\
        --records records.parquet --split test --tasks report,image
    accelerate launch -m transformers_cxr.cli.main \\
        evaluate runs/evaluation --records records.parquet
    ```
    """
    from ..evaluation import run_evaluation, update_model_card
    from ..evaluation.results.tables import results_to_markdown

    results = run_evaluation(arguments)
    if results is None:
        return
    if model_card is not None:
        update_model_card(model_card, arguments.output_dir)
    typer.echo(results_to_markdown(results))
    typer.echo(f"Results in {arguments.output_dir}: results.json, tables.md, report.html.")


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
    from ..evaluation import compare_runs
    from ..evaluation.results.tables import format_interval, format_number, markdown_table

    rows = [
        [result.task, result.metric, format_interval(result.estimate), format_number(p_value)]
        for result, p_value in compare_runs(first, second, num_resamples, seed)
    ]
    typer.echo(markdown_table(["task", "metric", "difference, second minus first", "p"], rows))
