"""Commands that read X-rays: `report` and `ask`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from ..notices import TEXT_NOTICE
from . import options
from .errors import mistakes_as_messages
from .inputs import ImageReader, list_images
from .models import load_model, model_name
from .outputs import JsonLines, show


def report(
    images: options.Images,
    output: options.Records = None,
    instruction: Annotated[str | None, typer.Option(help="Instruction in place of the default one.")] = None,
    max_new_tokens: options.MaxNewTokens = 256,
    num_beams: options.NumBeams = 1,
    do_sample: options.Sample = False,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 8,
    model: options.Model = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
):
    """
    Write radiology reports of chest X-rays.

    Generated, for research only. The reports go to the standard output, or as JSONL to a file.

    ```
    transformers-cxr report xray.png
    transformers-cxr report scans/ 'more/*.dcm' --output reports.jsonl
    transformers-cxr report xray.png --do-sample --top-p 0.92 --seed 1
    ```
    """
    sampling = options.sampling_arguments(do_sample, temperature=temperature, top_k=top_k, top_p=top_p)
    with mistakes_as_messages():
        from ..llm_cxr.processing_llm_cxr import REPORT_INSTRUCTION

        _read_images(
            list_images(images),
            instruction or REPORT_INSTRUCTION,
            ("instruction", "report"),
            ("image",),
            output,
            {"max_new_tokens": max_new_tokens, "num_beams": num_beams, **sampling},
            seed,
            batch_size,
            (model, device, dtype),
        )


def ask(
    image: Annotated[str, typer.Argument(help="Image: a file or URL; or several: a folder, or a glob in quotes.")],
    question: Annotated[str, typer.Argument(help="The question, in quotes.")],
    output: options.Records = None,
    max_new_tokens: options.MaxNewTokens = 128,
    num_beams: options.NumBeams = 1,
    do_sample: options.Sample = False,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 8,
    model: options.Model = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
):
    """
    Answer a question about a chest X-ray.

    Generated, for research only. The answers go to the standard output, or as JSONL to a file.

    ```
    transformers-cxr ask xray.png "Is there pneumonia?"
    transformers-cxr ask scans/ "Which view is this?" --output answers.jsonl
    ```
    """
    if not question.strip():
        raise typer.BadParameter("The question is empty.")
    sampling = options.sampling_arguments(do_sample, temperature=temperature, top_k=top_k, top_p=top_p)
    with mistakes_as_messages():
        _read_images(
            list_images([image]),
            question,
            ("question", "answer"),
            ("image", "question"),
            output,
            {"max_new_tokens": max_new_tokens, "num_beams": num_beams, **sampling},
            seed,
            batch_size,
            (model, device, dtype),
        )


def _read_images(
    images: list[str],
    instruction: str,
    fields: tuple[str, str],
    key: tuple[str, ...],
    output: Path | None,
    generate_kwargs: dict,
    seed: int,
    batch_size: int,
    load: tuple[str | None, str | None, str | None],
) -> None:
    """Writes the text of each image, under the names `fields` of the instruction and of the text."""
    from tqdm import tqdm

    settings = {"model": model_name(load[0]), "dtype": load[2], **generate_kwargs}
    if generate_kwargs["do_sample"]:
        # The images of a batch are drawn from one stream of random numbers.
        settings |= {"seed": seed, "batch_size": batch_size}
    what = {fields[0]: instruction, "settings": settings}
    with JsonLines(output, key) if output else nullcontext() as records:
        done = {image for image in images if records and records.find({"image": image, **what})}
        if done:
            typer.echo(f"{len(done)} of {len(images)} images are in '{output}' already.", err=True)
        if len(done) == len(images):
            return
        model, processor = load_model(*load)
        reader = ImageReader(processor.image_processor)
        typer.echo(TEXT_NOTICE, err=True)
        progress = tqdm(total=len(images), unit="image", disable=True if len(images) == 1 else None)
        with progress:
            for number, start in enumerate(range(0, len(images), batch_size)):
                batch = images[start : start + batch_size]
                if not done.issuperset(batch):
                    texts = _write_texts(model, processor, reader, batch, instruction, generate_kwargs, seed + number)
                    texts = {image: text for image, text in texts.items() if image not in done}
                    if records:
                        marks = {"generated": True, "notice": TEXT_NOTICE}
                        records.append(
                            [{"image": image, fields[1]: text, **what, **marks} for image, text in texts.items()]
                        )
                    else:
                        for image, text in texts.items():
                            show(f"{image}\n{text}\n" if len(images) > 1 else text)
                progress.update(len(batch))
    reader.end()


def _write_texts(
    model, processor, reader: ImageReader, images: list[str], instruction: str, generate_kwargs: dict, seed: int
) -> dict[str, str]:
    """The text of each of some images that can be read."""
    import torch

    readable, pixel_values = reader.read(images)
    if not readable:
        return {}
    messages = [{"role": "user", "content": [{"type": "text", "text": instruction}, {"type": "image"}]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    with torch.no_grad():
        codes = model.vq_tokenizer.encode(pixel_values.to(model.device))
    inputs = processor(text=[prompt] * len(readable), image_codes=codes, return_tensors="pt").to(model.device)
    torch.manual_seed(seed)
    output = model.generate(**inputs, generation_mode="text", **generate_kwargs)
    texts = processor.post_process_multimodal_output(output[:, inputs.input_ids.shape[1] :], generation_mode="text")
    return {image: text.strip() for image, text in zip(readable, texts)}
