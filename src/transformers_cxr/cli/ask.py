"""The command `ask`."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options
from .errors import cli_errors
from .images import list_images
from .text_generation import write_texts


def ask(
    image: Annotated[str, typer.Argument(help="Image: a file or URL; or several: a folder, or a glob in quotes.")],
    question: Annotated[str, typer.Argument(help="The question, in quotes.")],
    output: options.Records = None,
    *,
    generation: options.BatchTextOptions,
    model_options: options.ModelOptions,
):
    """
    Answer a question about a chest X-ray.

    Generated, for research only. Prints the answers, or writes them to a JSON Lines file.

    ```
    transformers-cxr ask xray.png "Is there pneumonia?"
    transformers-cxr ask scans/ "Which view is this?" --output answers.jsonl
    ```
    """
    if not question.strip():
        raise typer.BadParameter("The question is empty.")
    with cli_errors():
        write_texts(list_images([image]), question, ("question", "answer"), output, generation, model_options)
