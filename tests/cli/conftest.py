"""The command line in this process, and a few images in folders."""

import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner

from transformers_cxr.checkpoints import load_checkpoint
from transformers_cxr.cli.main import app


@pytest.fixture(autouse=True)
def quiet(no_progress_bars):
    """No progress bars in the output of a command."""


@pytest.fixture
def run():
    def invoke(*arguments, **kwargs):
        return CliRunner().invoke(app, [str(argument) for argument in arguments], **kwargs)

    return invoke


@pytest.fixture
def check_error(run):
    """`check_error(message, *arguments)`: a command fails with that message, on one line, and prints nothing else."""

    def check(message, *arguments, exit_code=1):
        result = run(*arguments)
        assert result.exit_code == exit_code and isinstance(result.exception, SystemExit), result.exception
        assert message in result.stderr and "Traceback" not in result.stderr and result.stdout == ""
        assert exit_code == 2 or result.stderr.count("\n") == 1

    return check


@pytest.fixture
def loaded(checkpoint_dir):
    """Model and processor of the tiny checkpoint."""
    return load_checkpoint(str(checkpoint_dir), "cpu")


@pytest.fixture
def images(tmp_path):
    """A folder with 7 images at several depths, and a file that is not an image."""
    folder = tmp_path / "images"
    for number in range(7):
        path = folder / ("a" if number % 2 else "b/c") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(path)
    (folder / "notes.txt").write_text("no image")
    return folder
