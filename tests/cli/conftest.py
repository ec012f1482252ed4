"""A tiny checkpoint and a few images in folders, and the command line in this process."""

import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner

from transformers_cxr.cli.main import app


@pytest.fixture(autouse=True)
def quiet(no_progress_bars):
    """No progress bars in what a command prints."""


@pytest.fixture
def run():
    def invoke(*arguments, **kwargs):
        return CliRunner().invoke(app, [str(argument) for argument in arguments], **kwargs)

    return invoke


@pytest.fixture
def checkpoint(tiny_model, tmp_path):
    """The folder of a tiny model: 16 codes an image of 32x32 pixels."""
    model, processor = tiny_model
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def images(tmp_path):
    """A folder with 7 images at several depths, and a file that is none."""
    folder = tmp_path / "images"
    for number in range(7):
        path = folder / ("a" if number % 2 else "b/c") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(path)
    (folder / "notes.txt").write_text("no image")
    return folder
