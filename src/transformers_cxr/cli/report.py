"""The command `report`."""

from __future__ import annotations

from . import options
from .errors import cli_errors
from .images import list_images
from .text_generation import write_texts


def report(
    images: options.Images,
    output: options.Records = None,
    instruction: options.Instruction = None,
    *,
    generation: options.BatchTextOptions,
    model_options: options.ModelOptions,
):
    """
    Write radiology reports of chest X-rays.

    Generated, for research only. Prints the reports, or writes them to a JSON Lines file.

    ```
    transformers-cxr report xray.png
    transformers-cxr report scans/ 'more/*.dcm' --output reports.jsonl
    transformers-cxr report xray.png --do-sample --top-p 0.92 --seed 1
    ```
    """
    with cli_errors():
        write_texts(list_images(images), instruction, ("instruction", "report"), output, generation, model_options)
