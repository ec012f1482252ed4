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


def test_the_newest_checkpoint_replaces_the_older_ones(accelerator, tmp_path):
    assert last_checkpoint(tmp_path) is None
    for step in (8, 10):
        save_checkpoint(accelerator, tmp_path, step)
        assert last_checkpoint(tmp_path) == (tmp_path / f"checkpoint-{step}", step)
        assert [path.name for path in tmp_path.iterdir()] == [f"checkpoint-{step}"]


def test_a_checkpoint_that_a_kill_left_unfinished_is_not_taken(accelerator, tmp_path, monkeypatch):
    save_checkpoint(accelerator, tmp_path, 8)

    def killed(folder):
        (tmp_path / "unfinished-checkpoint").mkdir()
        (tmp_path / "unfinished-checkpoint" / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(accelerator, "save_state", killed)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(accelerator, tmp_path, 16)
    assert last_checkpoint(tmp_path) == (tmp_path / "checkpoint-8", 8)
    save_checkpoint(accelerator, tmp_path, 16)
    assert (tmp_path / "checkpoint-16/model.safetensors").read_bytes() != b"half"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-16"]


def test_of_two_checkpoints_that_a_kill_left_the_newer_is_taken(accelerator, tmp_path):
    save_checkpoint(accelerator, tmp_path, 100)
    (tmp_path / "checkpoint-20").mkdir()
    assert last_checkpoint(tmp_path) == (tmp_path / "checkpoint-100", 100)
