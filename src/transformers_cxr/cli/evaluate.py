"""The commands `evaluate` and `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..evaluation.arguments import EvaluationArguments
from ..files import locked_output


def evaluate(
    arguments: EvaluationArguments,
    model_card: Annotated[
        Path | None, typer.Option(help="Model card (Markdown file) for tables and metadata; written if there is none.")
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
    from ..evaluation import prepare_model_card, run_evaluation, update_model_card
    from ..evaluation.predictions import distributed_state
    from ..evaluation.results.sections import summary

    with locked_output(arguments.output_dir):
        if model_card is not None and distributed_state().is_main_process:
            prepare_model_card(model_card, arguments.model)
        results = run_evaluation(arguments)
        if results is None:
            return
        if model_card is not None:
            update_model_card(model_card, arguments.output_dir)
    typer.echo(
        f"{summary(results)}\n\nAll results in {arguments.output_dir}: report.html (a page), tables.md, results.json."
    )


def compare(
    first: Annotated[Path, typer.Argument(help="Output folder of an evaluation.")],
    second: Annotated[Path, typer.Argument(help="Output folder of another model on the same examples.")],
    output: Annotated[Path | None, typer.Option(help="HTML page to write, with samples.", dir_okay=False)] = None,
    num_resamples: Annotated[int, typer.Option(min=1, help="Resamples of the intervals and p-values.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the resamples.")] = 0,
):
    """
    Compare two evaluations: what changed, with intervals and p-values, paired by patient.

    ```
    transformers-cxr compare runs/evaluation_before runs/evaluation_after
    transformers-cxr compare runs/evaluation_before runs/evaluation_after \\
        --output comparison.html
    ```
    """
    from ..evaluation import compare_runs
    from ..evaluation.results.comparison import change_summary, changed_samples
    from ..evaluation.results.page import html_comparison
    from ..evaluation.results.tables import read_run
    from ..files import atomic_write

    changes = compare_runs(first, second, num_resamples, seed)
    typer.echo(change_summary(changes))
    if output is not None:
        facts = {name: f"{read_run(run)['model']}, {run}" for name, run in (("First", first), ("Second", second))}
        page = html_comparison(facts, changes, changed_samples(first, second))
        with atomic_write(output, overwrite=False) as partial:
            partial.write_text(page + "\n", encoding="utf-8")
        typer.echo(f"\nAll differences and samples in {output}.")
