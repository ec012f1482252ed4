"""`transformers-cxr evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..evaluation.tasks import EvaluationArguments


def evaluate(
    arguments: EvaluationArguments,
    model_card: Annotated[Path | None, typer.Option(help="Model card to write tables and metadata into.")] = None,
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
    from ..evaluation.results.model_card import update_model_card
    from ..evaluation.results.tables import results_to_markdown
    from ..evaluation.runner import cost_summary, data_name, run_evaluation

    results = run_evaluation(arguments)
    if results is None:
        return
    cost = cost_summary(arguments.output_dir)
    if model_card is not None:
        name = Path(arguments.model or "llm-cxr").name
        update_model_card(model_card, results, name, data_name(arguments), ", ".join(arguments.split), cost)
    typer.echo(results_to_markdown(results))
    typer.echo(cost)
    typer.echo(f"Results in {arguments.output_dir}: results.json, tables.md, report.html.")
