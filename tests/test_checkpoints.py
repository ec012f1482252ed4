"""Checkpoints of other people: nothing in them runs or fails without a message."""

import pickle
import shutil
from pathlib import Path

import pytest

from transformers_cxr import checkpoints


@pytest.fixture
def folder(checkpoint_dir, tmp_path):
    return Path(shutil.copytree(checkpoint_dir, tmp_path / "checkpoint"))


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{{ ().__class__.__base__ }}", "unsafe"),
        ("{{ 1 + 'a' }}", "unsupported operand"),
        ("{% if", "unexpected"),
    ],
)
def test_a_template_that_cannot_be_rendered_is_an_error_that_names_the_checkpoint(folder, template, reason):
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(ValueError, match=f"The chat template of '{folder}' cannot be rendered: .*{reason}"):
        checkpoints.load_checkpoint(str(folder), "cpu")


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('It ran.')",)


@pytest.mark.parametrize("load", [checkpoints.load_checkpoint, checkpoints.load_vq_tokenizer])
def test_weights_are_never_a_pickle(folder, load):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        load(str(folder), "cpu")
