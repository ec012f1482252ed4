"""`transformers-cxr score-reader-study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def score_reader_study(
    study: Annotated[Path, typer.Argument(help="Folder of a reader study with its sheets filled in.")],
    key: Annotated[Path, typer.Option(help="Key of the study.")],
):
    """
    Score the sheets of a reader study.

    ```
    transformers-cxr score-reader-study study --key key.json
    ```
    """
    from ..evaluation.reader_study import score_reader_study as score
    from ..evaluation.results.tables import format_interval, markdown_table

    scores = score(study, key)
    rows = [[name, format_interval(estimate), str(estimate.units)] for name, estimate in scores.items()]
    typer.echo(markdown_table(["score", "value", "trials"], rows))
