"""The commands `report` and `ask`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .images import ImageReader, list_images
from .json_lines import open_json_lines


def report(
    images: options.Images,
    output: options.JsonLinesFile = None,
    instruction: options.Instruction = None,
    *,
    generation: options.BatchTextOptions,
    model_options: options.ServedModelOptions,
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
    _write_texts(list_images(images), instruction, ("instruction", "report"), output, generation, model_options)


def ask(
    image: Annotated[str, typer.Argument(help="Image: a file or URL; or several: a folder, or a glob in quotes.")],
    question: Annotated[str, typer.Argument(help="The question, in quotes.")],
    output: options.JsonLinesFile = None,
    *,
    generation: options.BatchTextOptions,
    model_options: options.ServedModelOptions,
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
    _write_texts(list_images([image]), question, ("question", "answer"), output, generation, model_options)


def _write_texts(
    images: list[str],
    instruction: str | None,
    fields: tuple[str, str],
    output: Path | None,
    generation: options.BatchTextOptions,
    model_options: options.ServedModelOptions,
) -> None:
    """Print a text for each image, or append it to a JSON Lines file; `fields` names the instruction and the text."""
    import torch
    from tqdm import tqdm

    from ..llm_cxr.generation_llm_cxr import generate_text
    from ..llm_cxr.likelihood_llm_cxr import warn_about_other_images
    from ..llm_cxr.processing_llm_cxr import TEXT_NOTICE

    with open_json_lines(output, "image", fields[0]) if output else nullcontext() as results:
        model, processor = model_options.load()
        instruction = instruction or processor.report_instruction
        settings = generation.generate_kwargs | (model_options.settings(model, processor) if results else {})
        if generation.do_sample:
            # The images of a batch share one stream of random numbers.
            settings |= {"seed": generation.seed, "batch_size": generation.batch_size}
        same = {fields[0]: instruction, "settings": settings}
        finished = {image for image in images if results and results.find({"image": image, **same})}
        if finished:
            typer.echo(f"{len(finished)} of {len(images)} images are already in '{output}'.", err=True)
        typer.echo(TEXT_NOTICE, err=True)
        batches = [images[i : i + generation.batch_size] for i in range(0, len(images), generation.batch_size)]
        seeds = {image: generation.seed + number for number, batch in enumerate(batches) for image in batch}
        reader = ImageReader(processor.image_processor)
        for readable, pixel_values in reader.read([batch for batch in batches if not finished.issuperset(batch)]):
            with torch.no_grad():
                codes = model.vq_tokenizer.encode(pixel_values.to(model.device))
            warn_about_other_images(model, processor, codes, readable)
            torch.manual_seed(seeds[readable[0]])
            texts = generate_text(
                model, processor, instruction=instruction, image_codes=codes, **generation.generate_kwargs
            )
            new = {image: text for image, text in zip(readable, texts) if image not in finished}
            if results:
                marks = {"generated": True, "notice": TEXT_NOTICE}
                results.append([{"image": image, fields[1]: text, **same, **marks} for image, text in new.items()])
            else:
                for image, text in new.items():
                    tqdm.write(f"{image}\n{text}\n" if len(images) > 1 else text)
    reader.exit_if_failed()
