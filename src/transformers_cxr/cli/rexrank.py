"""The command `rexrank`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import BatchSize, Model


def rexrank(
    studies: Annotated[Path, typer.Argument(help="JSON file of the studies, from ReXrank.")],
    output: Annotated[Path, typer.Argument(help="JSON file to write. It must not exist.")],
    image_root: Annotated[Path, typer.Argument(help="Folder that the image paths of the studies start in.")],
    model: Model = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of a report in tokens.")] = 256,
    batch_size: BatchSize = 32,
):
    """
    Write reports for the ReXrank leaderboard. An interrupted run resumes.

    ```
    transformers-cxr rexrank ReXRank_IUXray_test.json predictions.json images/
    transformers-cxr rexrank ReXRank_MIMICCXR_test.json predictions.json \\
        mimic-cxr-jpg/files --model my-checkpoint
    ```
    """
    from accelerate import PartialState

    from ..evaluation import write_rexrank_predictions

    write_rexrank_predictions(studies, output, image_root, model, max_new_tokens, batch_size)
    if PartialState().is_main_process:
        typer.echo(f"Reports in {output}; {output}.predictions can be removed.")
