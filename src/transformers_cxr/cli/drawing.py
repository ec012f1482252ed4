"""Commands that write images: `generate` and `reconstruct`."""

from __future__ import annotations

import secrets
import warnings
from enum import StrEnum
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .errors import mistakes_as_messages
from .inputs import ImageReader, list_images
from .models import find_device, load_model, load_vq_tokenizer, model_name
from .outputs import JsonLines, show

if TYPE_CHECKING:
    import PIL.Image


class ImageFormat(StrEnum):
    """Formats that images are written in."""

    png = "png"
    dicom = "dicom"


SUFFIX_OF_FORMAT = {ImageFormat.png: "png", ImageFormat.dicom: "dcm"}


def generate(
    texts: Annotated[list[str], typer.Argument(help="Reports, findings or impressions, in quotes.", metavar="TEXT")],
    num_images: Annotated[int, typer.Option("--num-images", "-n", min=1, help="Images a text.")] = 1,
    output: Annotated[Path, typer.Option(help="Folder to write to.", file_okay=False)] = Path("generated"),
    seed: Annotated[
        int | None, typer.Option(help="Seed of the first image of a text, the next ones follow; random if not given.")
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(min=1.0, help="Weight of the text; 1 is no guidance. The checkpoint has a default.")
    ] = None,
    do_sample: Annotated[bool, typer.Option(help="Sample, or else take the likeliest code.")] = True,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    instruction: Annotated[str | None, typer.Option(help="Instruction in place of the default one.")] = None,
    image_format: Annotated[ImageFormat, typer.Option("--format", help="Format of the files.")] = ImageFormat.png,
    batch_size: options.BatchSize = 8,
    model: options.Model = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
):
    """
    Draw chest X-rays of texts.

    Synthetic, for research only. Each image is a file named after its text and its seed, and marked as generated in its
    metadata; images.jsonl in the same folder says what each was drawn from. The same command again draws what is missing.

    ```
    transformers-cxr generate "Normal chest X-ray of a child." -n 4
    transformers-cxr generate "Signs of viral pneumonia." --seed 7 \\
        --guidance-scale 2.5 --format dicom
    ```
    """
    sampling = options.sampling_arguments(do_sample, temperature=temperature, top_k=top_k, top_p=top_p)
    if guidance_scale is not None:
        sampling["guidance_scale"] = guidance_scale
    with mistakes_as_messages():
        from ..llm_cxr.processing_llm_cxr import IMAGE_INSTRUCTION

        if seed is None:
            seed = secrets.randbelow(2**31)
            typer.echo(f"Seed: {seed}", err=True)
        settings = {
            "instruction": instruction or IMAGE_INSTRUCTION,
            "model": model_name(model),
            "dtype": dtype,
            **sampling,
        }
        wanted = [
            {
                "file": f"{number:03d}-seed-{each}.{SUFFIX_OF_FORMAT[image_format]}",
                "text": text,
                "seed": each,
                "settings": settings,
            }
            for number, text in enumerate(texts)
            for each in range(seed, seed + num_images)
        ]
        with JsonLines(output / "images.jsonl", ("file",)) as records:
            missing = [record for record in wanted if not _is_there(output / record["file"], records, record)]
            for record in wanted:
                if record not in missing:
                    typer.echo(output / record["file"])
            if missing:
                _draw(missing, records, batch_size, (model, device, dtype))


def _is_there(path: Path, records: JsonLines, record: dict) -> bool:
    """Whether an image is finished; an image of the same name that is not that one is a mistake."""
    known = records.find(record) is not None
    if path.exists() and not known:
        raise FileExistsError(f"'{path}' exists and is not in '{records.path}'. Choose another output or seed.")
    return known and path.exists()


def _draw(
    wanted: list[dict],
    records: JsonLines,
    batch_size: int,
    load: tuple[str | None, str | None, str | None],
) -> None:
    from tqdm import tqdm
    from transformers.utils import logging

    from ..llm_cxr.generation_llm_cxr import generate_image
    from ..llm_cxr.processing_llm_cxr import GENERATED_NOTICE

    model, processor = load_model(*load)
    typer.echo(GENERATED_NOTICE, err=True)
    batches = []
    for record in wanted:
        # The images of one text share its prompt.
        if not batches or len(batches[-1]) == batch_size or batches[-1][0]["text"] != record["text"]:
            batches.append([])
        batches[-1].append(record)
    if len(batches) == 1:
        # The bar of the codes; loading a checkpoint should not have had one. Those of the Hub stay off, of which it warns.
        with warnings.catch_warnings(action="ignore"):
            logging.enable_progress_bar()
    with tqdm(total=len(wanted), unit="image", disable=True if len(batches) == 1 else None) as progress:
        for batch in batches:
            kwargs = {key: value for key, value in batch[0]["settings"].items() if key not in ("model", "dtype")}
            seeds = [record["seed"] for record in batch]
            images = generate_image(model, processor, batch[0]["text"], len(batch), seed=seeds, **kwargs)
            for record, image in zip(batch, images):
                _save(image, {**record, "generated": True, "notice": GENERATED_NOTICE}, records)
                show(records.path.parent / record["file"])
                progress.update()


def _save(picture: PIL.Image.Image, record: dict, records: JsonLines) -> None:
    """Saves a picture, as PNG or DICOM by the name of its file, and its record."""
    from ..data.dicom_output import image_to_dicom
    from ..files import atomic_write
    from ..llm_cxr.image_processing_llm_cxr import save_image

    # The record comes first: a file without one is somebody else's.
    if records.find({name: record[name] for name in records.key}) is None:
        records.append([record])
    with atomic_write(records.path.parent / record["file"]) as partial:
        if partial.suffix == ".dcm":
            image_to_dicom(picture).save_as(partial, enforce_file_format=True)
        else:
            save_image(picture, partial)


def reconstruct(
    images: options.Images,
    output: Annotated[Path, typer.Option(help="Folder to write to.", file_okay=False)] = Path("reconstructed"),
    batch_size: options.BatchSize = 8,
    model: options.Model = None,
    device: options.Device = None,
):
    """
    Show X-rays beside their reconstructions from the codes of the image tokenizer.

    One PNG an image, the original on the left. The PSNR in dB goes to the standard output and, with the file of each image,
    to reconstructions.jsonl in the same folder. The same command again writes what is missing.

    ```
    transformers-cxr reconstruct xray.png
    transformers-cxr reconstruct scans/ --model runs/vq --output reconstructions
    ```
    """
    with mistakes_as_messages(), JsonLines(output / "reconstructions.jsonl", ("image",)) as records:
        _reconstruct(list_images(images), records, batch_size, model, device)


def _reconstruct(images: list[str], records: JsonLines, batch_size: int, name: str | None, device: str | None) -> None:
    import torch
    from tqdm import tqdm

    from ..evaluation.metrics.reconstruction import RECONSTRUCTION_NOTICE

    folder = records.path.parent
    what = {"settings": {"model": model_name(name)}}
    known = {image: records.find({"image": image, **what}) for image in images}
    missing = [image for image, record in known.items() if record is None or not (folder / record["file"]).exists()]
    decibels = {image: record["psnr"] for image, record in known.items() if image not in missing}
    vq_tokenizer, image_processor = load_vq_tokenizer(name, find_device(device))
    reader = ImageReader(image_processor)
    typer.echo(RECONSTRUCTION_NOTICE, err=True)
    with tqdm(total=len(missing), unit="image", disable=None) as progress:
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            readable, pixel_values = reader.read(batch)
            progress.update(len(batch))
            if not readable:
                continue
            pixel_values = pixel_values.to(vq_tokenizer.device)
            with torch.no_grad():
                decoded = vq_tokenizer.decode(vq_tokenizer.encode(pixel_values))
            mse = (decoded - pixel_values).square().mean(dim=(1, 2, 3))
            psnr = (10 * torch.log10(4 / mse)).tolist()
            pictures = image_processor.postprocess(torch.cat([pixel_values, decoded], dim=-1))
            for image, picture, decibels[image] in zip(readable, pictures, psnr):
                picture.info["comment"] = RECONSTRUCTION_NOTICE
                marks = {"generated": True, "notice": RECONSTRUCTION_NOTICE}
                file = known[image]["file"] if known[image] else _free_name(image, records)
                _save(picture, {"image": image, "file": file, "psnr": decibels[image], **what, **marks}, records)
    for image in images:
        if image in decibels:
            typer.echo(f"{decibels[image]:6.2f} dB  {image}")
    if len(decibels) > 1:
        typer.echo(f"{sum(decibels.values()) / len(decibels):6.2f} dB  mean of {len(decibels)} images")
    reader.end()


def _free_name(image: str, records: JsonLines) -> str:
    """A name of a PNG for an image; images of one name in several folders are told apart by a number."""
    folder, stem = records.path.parent, Path(image).stem
    taken = {record["file"] for record in records}
    names = (f"{stem}{number}.png" for number in chain([""], (f"-{n}" for n in count(2))))
    return next(name for name in names if name not in taken and not (folder / name).exists())
