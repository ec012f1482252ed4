"""The command `generate`."""

from __future__ import annotations

import secrets
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .images import write_image
from .json_lines import open_json_lines


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
    torch_compile: Annotated[
        bool, typer.Option("--torch-compile", help="Compile the model: a later start, then faster. For many images.")
    ] = False,
    *,
    generation: options.ImageOptions,
    model_options: options.ServedModelOptions,
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
    with open_json_lines(output / "images.jsonl", "file") as results:
        from tqdm import tqdm
        from transformers import CompileConfig

        from ..llm_cxr.generation_llm_cxr import generate_image
        from ..llm_cxr.processing_llm_cxr import IMAGE_NOTICE

        model, processor = model_options.load()
        if seed is None:
            seed = secrets.randbelow(2**31)
            typer.echo(f"Seed: {seed}", err=True)
        instruction = instruction or processor.image_instruction
        settings = {
            "instruction": instruction,
            **model_options.settings(model, processor),
            **generation.generate_kwargs,
        }
        suffix = ".png" if image_format == ImageFormat.png else ".dcm"
        missing = []
        for number, text in enumerate(texts):
            for each in range(seed, seed + num_images):
                file = f"{number:03d}-seed-{each}{suffix}"
                result = {"file": file, "text": text, "seed": each, "settings": settings}
                if results.find(result) and (output / file).exists():
                    typer.echo(output / file)
                else:
                    missing.append(result)
        typer.echo(IMAGE_NOTICE, err=True)
        with tqdm(total=len(missing) * processor.num_image_tokens, unit="code", disable=None) as progress:
            for start in range(0, len(missing), generation.batch_size):
                batch = missing[start : start + generation.batch_size]
                images = generate_image(
                    model,
                    processor,
                    [result["text"] for result in batch],
                    instruction=instruction,
                    seed=[result["seed"] for result in batch],
                    callback_on_step_end=lambda model, step, kwargs: progress.update(len(kwargs["codes"])),
                    compile_config=CompileConfig() if torch_compile else None,
                    **generation.generate_kwargs,
                )
                for result, image in zip(batch, images):
                    write_image(image, {**result, "generated": True, "notice": IMAGE_NOTICE}, results)
                    tqdm.write(str(output / result["file"]))
