"""`transformers-cxr rexrank`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import BatchSize, Model


def rexrank(
    studies: Annotated[Path, typer.Argument(help="JSON file of the studies.")],
    output: Annotated[Path, typer.Argument(help="JSON file to write. It must not exist.")],
    image_root: Annotated[Path, typer.Argument(help="Folder of the image paths.")],
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
    from ..checkpoints import load_checkpoint
    from ..evaluation.generations import distributed_state, generate_outputs, model_fingerprint
    from ..evaluation.rexrank import read_rexrank_studies, write_rexrank_predictions
    from ..llm_cxr.generation_llm_cxr import generate_text

    if output.exists():
        raise FileExistsError(f"'{output}' exists. Remove it or choose another output.")
    content, examples = read_rexrank_studies(studies, image_root)
    state = distributed_state()
    llm, processor = load_checkpoint(model, state.device)

    def generate(batch):
        images = [example.image_path for example in batch]
        return generate_text(llm, processor, images, max_new_tokens=max_new_tokens, do_sample=False)

    settings = {"model": model_fingerprint(llm, processor), "max_new_tokens": max_new_tokens}
    cache = output.with_name(f"{output.name}.generations")
    reports = generate_outputs(examples, generate, cache, settings, batch_size, "reports")
    if not state.is_main_process:
        return
    write_rexrank_predictions(content, {e.id: report for e, report in zip(examples, reports)}, output)
    typer.echo(f"{len(content)} studies in {output}; {cache} can be removed.")
