"""The images that a command is given."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..data.readers.image_folder import IMAGE_SUFFIXES, READ_ERRORS, walk_images

if TYPE_CHECKING:
    import torch

    from ..llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor


def list_images(arguments: Sequence[str]) -> list[str]:
    """
    Files, folders, globs and URLs to one image each, without repetitions.

    Raises:
        FileNotFoundError: nothing is there, or a folder holds no image.
    """
    images: dict[str, None] = {}
    for argument in arguments:
        if argument.startswith(("http://", "https://")):
            images[argument] = None
            continue
        paths = [argument] if os.path.exists(argument) else sorted(glob.glob(argument, recursive=True))
        if not paths:
            raise FileNotFoundError(f"No file, folder or match of a glob at '{argument}'.")
        for path in paths:
            found = [str(image) for image in walk_images(Path(path))] if os.path.isdir(path) else [path]
            if not found:
                raise FileNotFoundError(
                    f"No image in '{path}': expected files {', '.join(IMAGE_SUFFIXES)} at any depth."
                )
            images.update(dict.fromkeys(found))
    return list(images)


class ImageReader:
    """
    Reads images for a command and reports by name those that cannot be read.

    Args:
        image_processor ([`LlmCxrImageProcessor`]):
            Prepares them.
    """

    def __init__(self, image_processor: LlmCxrImageProcessor):
        self.image_processor = image_processor
        self.num_failed = 0

    def read(self, images: Sequence[str]) -> tuple[list[str], torch.FloatTensor | None]:
        """
        Those of some images that can be read, and their pixels (`(num_images, channels, height, width)` in [-1, 1]); `None`
        where none can.
        """
        import torch

        readable, pixels = [], []
        for image in images:
            try:
                pixels.append(self.image_processor(image, return_tensors="pt").pixel_values)
                readable.append(image)
            except READ_ERRORS as error:
                self.num_failed += 1
                typer.echo(f"Not read: {image}: {error}", err=True)
        return readable, torch.cat(pixels) if pixels else None

    def end(self) -> None:
        """Ends the command with exit code 1 where an image could not be read."""
        if self.num_failed:
            typer.echo(f"{self.num_failed} images could not be read.", err=True)
            raise typer.Exit(1)
