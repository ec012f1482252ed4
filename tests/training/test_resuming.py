"""The checkpoint that a run resumes from, and the settings that must match."""

import json

import pytest
from transformers import TrainingArguments

from transformers_cxr.training import resume_checkpoint


def arguments(tmp_path, **settings):
    return TrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, report_to="none", **settings)


def write_checkpoint(tmp_path, step, complete=True, model_only=False):
    folder = tmp_path / f"run/checkpoint-{step}"
    folder.mkdir()
    if not model_only:
        (folder / "rng_state.pth").write_bytes(b"")
    if complete:
        (folder / "trainer_state.json").write_text("{}")


def test_a_new_run_writes_its_settings_which_may_change_before_the_first_checkpoint(tmp_path):
    assert resume_checkpoint(arguments(tmp_path), {"data": "a"}) is None
    settings = json.loads((tmp_path / "run/settings.json").read_text())
    assert settings["data"] == "a" and settings["conversations_per_step"] == 8
    assert resume_checkpoint(arguments(tmp_path), {"data": "b"}) is None


def test_the_newest_complete_checkpoint_is_returned(tmp_path):
    resume_checkpoint(arguments(tmp_path), {})
    for step in (20, 100):
        write_checkpoint(tmp_path, step)
    write_checkpoint(tmp_path, 120, complete=False)
    assert resume_checkpoint(arguments(tmp_path), {}) == str(tmp_path / "run/checkpoint-100")


def test_settings_that_do_not_change_the_result_may_change(tmp_path):
    resume_checkpoint(arguments(tmp_path, per_device_train_batch_size=4), {})
    write_checkpoint(tmp_path, 20)
    changed = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "logging_steps": 3}
    assert resume_checkpoint(arguments(tmp_path, **changed), {})


@pytest.mark.parametrize(
    ("settings", "trainer_settings", "message"),
    [
        ({"data": "b"}, {}, "other settings: data was 'a' and is 'b'"),
        ({"data": "a", "packing": True}, {}, "packing was None and is True"),
        ({"data": "a"}, {"learning_rate": 1e-3}, "learning_rate was 5e-05 and is 0.001"),
        ({"data": "a"}, {"gradient_accumulation_steps": 2}, "conversations_per_step was 8 and is 16"),
        (
            {"data": "a"},
            {"resume_from_checkpoint": "x/checkpoint-5"},
            "Remove `--resume_from_checkpoint x/checkpoint-5`",
        ),
    ],
)
def test_other_settings_raise_an_error(tmp_path, settings, trainer_settings, message):
    resume_checkpoint(arguments(tmp_path), {"data": "a"})
    write_checkpoint(tmp_path, 20)
    with pytest.raises(ValueError, match=message):
        resume_checkpoint(arguments(tmp_path, **trainer_settings), settings)


def test_a_checkpoint_of_the_model_alone_raises_an_error(tmp_path):
    resume_checkpoint(arguments(tmp_path), {})
    write_checkpoint(tmp_path, 20, model_only=True)
    with pytest.raises(ValueError, match="checkpoint-20' holds only the model"):
        resume_checkpoint(arguments(tmp_path), {})
