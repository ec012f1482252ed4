import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from transformers_cxr.training.vq_gan.checkpoints import last_checkpoint, save_checkpoint


@pytest.fixture
def accelerator():
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator()
    accelerator.prepare(torch.nn.Linear(2, 2))
    yield accelerator
    AcceleratorState._reset_state(reset_partial_state=True)


def test_the_newest_checkpoint_replaces_older_ones_and_an_unfinished_one_is_ignored(accelerator, tmp_path):
    assert last_checkpoint(tmp_path) is None
    for step in (8, 100):
        (tmp_path / "unfinished-checkpoint").mkdir()
        (tmp_path / "unfinished-checkpoint/model.safetensors").write_bytes(b"half")
        save_checkpoint(accelerator, tmp_path, step)
        assert last_checkpoint(tmp_path) == (tmp_path / f"checkpoint-{step}", step)
        assert [path.name for path in tmp_path.iterdir()] == [f"checkpoint-{step}"]
    # A kill between renaming and removing.
    (tmp_path / "checkpoint-20").mkdir()
    # A copy of the user.
    (tmp_path / "checkpoint-20-good").mkdir()
    assert last_checkpoint(tmp_path) == (tmp_path / "checkpoint-100", 100)
    save_checkpoint(accelerator, tmp_path, 200)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-20-good", "checkpoint-200"}
