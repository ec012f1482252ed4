"""Which checkpoint a run goes on from, and which run it must be."""

import json

import pytest
from transformers import TrainingArguments

from transformers_cxr.training.resuming import checkpoint_of_run


def arguments(tmp_path, **settings):
    return TrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, report_to="none", **settings)


def write_checkpoint(tmp_path, step, whole=True, model_alone=False):
    folder = tmp_path / f"run/checkpoint-{step}"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"")
    if not model_alone:
        (folder / "rng_state.pth").write_bytes(b"")
    if whole:
        (folder / "trainer_state.json").write_text("{}")


def test_a_new_run_has_no_checkpoint_and_notes_its_settings(tmp_path):
    assert checkpoint_of_run(arguments(tmp_path), {"data": "a"}) is None
    settings = json.loads((tmp_path / "run/run.json").read_text())
    assert settings["data"] == "a" and settings["conversations_a_step"] == 8
    # Nothing is trained yet, so that the settings may still change.
    assert checkpoint_of_run(arguments(tmp_path), {"data": "b"}) is None


def test_the_newest_whole_checkpoint_is_taken(tmp_path):
    checkpoint_of_run(arguments(tmp_path), {})
    for step in (20, 100):
        write_checkpoint(tmp_path, step)
    write_checkpoint(tmp_path, 120, whole=False)
    assert checkpoint_of_run(arguments(tmp_path), {}) == str(tmp_path / "run/checkpoint-100")


def test_settings_that_leave_the_result_alone_may_change(tmp_path):
    checkpoint_of_run(arguments(tmp_path, per_device_train_batch_size=4), {})
    write_checkpoint(tmp_path, 20)
    changed = arguments(
        tmp_path,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        logging_steps=3,
        dataloader_num_workers=1,
    )
    assert checkpoint_of_run(changed, {})


@pytest.mark.parametrize(
    ("settings", "trainer_settings", "message"),
    [
        ({"data": "b"}, {}, "other settings: data was 'a' and is 'b'"),
        ({"data": "a", "packing": True}, {}, "packing was None and is True"),
        ({"data": "a"}, {"learning_rate": 1e-3}, "learning_rate was 5e-05 and is 0.001"),
        ({"data": "a"}, {"gradient_accumulation_steps": 2}, "conversations_a_step was 8 and is 16"),
    ],
)
def test_another_run_is_refused(tmp_path, settings, trainer_settings, message):
    checkpoint_of_run(arguments(tmp_path), {"data": "a"})
    write_checkpoint(tmp_path, 20)
    with pytest.raises(ValueError, match=message):
        checkpoint_of_run(arguments(tmp_path, **trainer_settings), settings)


def test_a_model_alone_is_not_gone_on_with(tmp_path):
    checkpoint_of_run(arguments(tmp_path), {})
    write_checkpoint(tmp_path, 20, model_alone=True)
    with pytest.raises(ValueError, match="checkpoint-20' holds a model alone"):
        checkpoint_of_run(arguments(tmp_path), {})


def test_a_checkpoint_that_is_named_is_not_left_aside(tmp_path):
    with pytest.raises(ValueError, match="Leave out `--resume_from_checkpoint other/checkpoint-5`"):
        checkpoint_of_run(arguments(tmp_path, resume_from_checkpoint="other/checkpoint-5"), {})
