"""The command `generate`."""

from __future__ import annotations

import secrets
import warnings
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .images import write_image
from .json_lines import JsonLines, open_json_lines


class ImageFormat(StrEnum):
    """File formats of generated images."""

    png = "png"
    dicom = "dicom"


def generate(
    texts: Annotated[list[str], typer.Argument(help="Reports, findings or impressions, in quotes.", metavar="TEXT")],
    num_images: Annotated[int, typer.Option("--num-images", "-n", min=1, help="Images per text.")] = 1,
    output: Annotated[Path, typer.Option(help="Folder to write to.", file_okay=False)] = Path("generated"),
    seed: Annotated[int | None, typer.Option(help="Seed of the first image of a text. Default: random.")] = None,
    instruction: options.Instruction = None,
    image_format: Annotated[ImageFormat, typer.Option("--format", help="Format of the files.")] = ImageFormat.png,
    *,
    generation: options.ImageOptions,
    model_options: options.ModelOptions,
):
    """
    Generate chest X-rays from texts.

    Synthetic, for research only. Each image is a file that is named after its text and seed and marked as generated;
    images.jsonl in the same folder has its text and settings. The same command again generates missing images.

    ```
    transformers-cxr generate "Normal chest X-ray of a child." -n 4
    transformers-cxr generate "Signs of viral pneumonia." --seed 7 \\
        --guidance-scale 2.5 --format dicom
    ```
    """
    with open_json_lines(output / "images.jsonl", ("file",)) as records:
        from tqdm import tqdm
        from transformers.utils import logging

        from ..llm_cxr.generation_llm_cxr import generate_image
        from ..llm_cxr.processing_llm_cxr import GENERATED_NOTICE

        model, processor = model_options.load()
        if seed is None:
            seed = secrets.randbelow(2**31)
            typer.echo(f"Seed: {seed}", err=True)
        instruction = instruction or processor.image_instruction
        settings = {"instruction": instruction, **model_options.settings, **generation.generate_kwargs}
        suffix = ".png" if image_format == ImageFormat.png else ".dcm"
        expected = [
            {"file": f"{number:03d}-seed-{each}{suffix}", "text": text, "seed": each, "settings": settings}
            for number, text in enumerate(texts)
            for each in range(seed, seed + num_images)
        ]
        missing = [record for record in expected if not _is_finished(record, records)]
        for record in expected:
            if record not in missing:
                typer.echo(output / record["file"])
        if not missing:
            return
        typer.echo(GENERATED_NOTICE, err=True)
        # The images of a text share its prompt.
        groups = [list(group) for _, group in groupby(missing, key=lambda record: record["text"])]
        size = generation.batch_size
        batches = [group[start : start + size] for group in groups for start in range(0, len(group), size)]
        if len(batches) == 1:
            # One bar over the codes. huggingface_hub warns that its own bars stay off.
            with warnings.catch_warnings(action="ignore"):
                logging.enable_progress_bar()
        with tqdm(total=len(missing), unit="image", disable=True if len(batches) == 1 else None) as progress:
            for batch in batches:
                images = generate_image(
                    model,
                    processor,
                    batch[0]["text"],
                    len(batch),
                    instruction,
                    seed=[record["seed"] for record in batch],
                    **generation.generate_kwargs,
                )
                for record, image in zip(batch, images):
                    write_image(image, {**record, "generated": True, "notice": GENERATED_NOTICE}, records)
                    tqdm.write(str(output / record["file"]))
                    progress.update()


def _is_finished(record: dict, records: JsonLines) -> bool:
    path = records.path.parent / record["file"]
    is_known = records.find(record) is not None
    if path.exists() and not is_known:
        raise FileExistsError(f"'{path}' exists and is not in '{records.path}'. Choose another output or seed.")
    return is_known and path.exists()
