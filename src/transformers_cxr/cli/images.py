"""Image files that commands read and write."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    import PIL.Image
    import torch

    from ..llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor
    from .json_lines import JsonLines


def list_images(arguments: Sequence[str]) -> list[str]:
    """
    Return the images of files, folders, globs and URLs, each once.

    Raises:
        FileNotFoundError: a path does not exist or a folder has no image.
    """
    from ..data.readers.image_folder import IMAGE_SUFFIXES, walk_images

    images: dict[str, None] = {}
    for argument in arguments:
        if argument.startswith(("http://", "https://")):
            images[argument] = None
            continue
        paths = [argument] if os.path.exists(argument) else sorted(glob.glob(argument, recursive=True))
        if not paths:
            raise FileNotFoundError(f"No file or folder '{argument}', and no file matches it as a glob.")
        for path in paths:
            found = [str(image) for image in walk_images(Path(path))] if os.path.isdir(path) else [path]
            if not found:
                suffixes = ", ".join(IMAGE_SUFFIXES)
                raise FileNotFoundError(f"No image in '{path}': expected files {suffixes} at any depth.")
            images.update(dict.fromkeys(found))
    return list(images)


class ImageReader:
    """
    Reader of image files that names unreadable ones on the standard error output and skips them.

    Args:
        image_processor ([`LlmCxrImageProcessor`]): Image processor of the checkpoint.
    """

    def __init__(self, image_processor: LlmCxrImageProcessor):
        self.image_processor = image_processor
        self.num_failed = 0

    def read(self, batches: Sequence[Sequence[str]]) -> Iterator[tuple[list[str], torch.FloatTensor]]:
        """
        Read images with a progress bar.

        Returns:
            `Iterator[tuple[list[str], torch.FloatTensor]]`: the readable images of each batch, at least one, and their
            pixels of shape `(num_images, channels, height, width)` in [-1, 1].
        """
        import torch
        from tqdm import tqdm

        from ..data.readers.image_folder import READ_ERRORS

        total = sum(map(len, batches))
        with tqdm(total=total, unit="image", disable=True if total <= 1 else None) as progress:
            for batch in batches:
                readable, pixels = [], []
                for image in batch:
                    try:
                        pixels.append(self.image_processor(image, return_tensors="pt").pixel_values)
                        readable.append(image)
                    except READ_ERRORS as error:
                        self.num_failed += 1
                        tqdm.write(f"Not read: {image}: {error}", file=sys.stderr)
                if readable:
                    yield readable, torch.cat(pixels)
                progress.update(len(batch))

    def exit_if_failed(self) -> None:
        """Exit with code 1 if an image was unreadable."""
        if self.num_failed:
            typer.echo(f"Images that could not be read: {self.num_failed}.", err=True)
            raise typer.Exit(1)


def write_image(image: PIL.Image.Image, result: dict, results: JsonLines) -> None:
    """
    Write an image to `result["file"]`, as PNG or DICOM by its suffix, and append its result to `results` if missing.

    Raises:
        FileExistsError: the file exists and is not that of an earlier result.
    """
    from ..data.dicom_output import image_to_dicom
    from ..files import atomic_write
    from ..llm_cxr.image_processing_llm_cxr import save_image

    path = results.path.parent / result["file"]
    if results.find(result) is None:
        if path.exists():
            raise FileExistsError(f"'{path}' exists and is not in '{results.path}'. Choose another output.")
        # The result first: a file without a result belongs to the user.
        results.append([result])
    with atomic_write(path) as partial:
        if path.suffix == ".dcm":
            image_to_dicom(image).save_as(partial, enforce_file_format=True)
        else:
            save_image(image, partial)
