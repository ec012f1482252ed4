"""Batched text generation for image files, shared by `report` and `ask`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import typer

from .images import ImageReader
from .json_lines import open_json_lines
from .options import BatchTextOptions, ModelOptions


def write_texts(
    images: list[str],
    instruction: str | None,
    fields: tuple[str, str],
    output: Path | None,
    generation: BatchTextOptions,
    model_options: ModelOptions,
) -> None:
    """
    Print a text for each image, or append it to a JSON Lines file that a later run resumes.

    Args:
        images (`list[str]`): Files and URLs.
        instruction (`str`, *optional*): Instruction or question; the report instruction of the checkpoint by default.
        fields (`tuple[str, str]`): Names of the instruction and of the text in the file.
        output (`Path`, *optional*): The file.
        generation ([`BatchTextOptions`]), model_options ([`ModelOptions`]): Options of the command.
    """
    import torch
    from tqdm import tqdm

    from ..llm_cxr.generation_llm_cxr import generate_text
    from ..llm_cxr.processing_llm_cxr import TEXT_NOTICE

    with open_json_lines(output, ("image", fields[0])) if output else nullcontext() as records:
        model, processor = model_options.load()
        instruction = instruction or processor.report_instruction
        settings = model_options.settings | generation.generate_kwargs
        if generation.do_sample:
            # The images of a batch share one stream of random numbers.
            settings |= {"seed": generation.seed, "batch_size": generation.batch_size}
        same = {fields[0]: instruction, "settings": settings}
        finished = {image for image in images if records and records.find({"image": image, **same})}
        if finished:
            typer.echo(f"{len(finished)} of {len(images)} images are already in '{output}'.", err=True)
        typer.echo(TEXT_NOTICE, err=True)
        reader = ImageReader(processor.image_processor)
        with tqdm(total=len(images), unit="image", disable=True if len(images) == 1 else None) as progress:
            for number, start in enumerate(range(0, len(images), generation.batch_size)):
                batch = images[start : start + generation.batch_size]
                progress.update(len(batch))
                if finished.issuperset(batch):
                    continue
                readable, pixel_values = reader.read(batch)
                if not readable:
                    continue
                with torch.no_grad():
                    codes = model.vq_tokenizer.encode(pixel_values.to(model.device))
                torch.manual_seed(generation.seed + number)
                texts = generate_text(
                    model, processor, instruction=instruction, image_codes=codes, **generation.generate_kwargs
                )
                new = [
                    {"image": image, fields[1]: text, **same, "generated": True, "notice": TEXT_NOTICE}
                    for image, text in zip(readable, texts)
                    if image not in finished
                ]
                if records:
                    records.append(new)
                else:
                    for record in new:
                        text = record[fields[1]]
                        tqdm.write(f"{record['image']}\n{text}\n" if len(images) > 1 else text)
    reader.exit_if_failed()
