"""The checkpoint that a run resumes from, and the settings that must match."""

import pytest
from transformers import TrainingArguments

from transformers_cxr.training import resume_checkpoint


@pytest.fixture
def resume(tmp_path):
    """`resume(settings, ...)` of a run with `data="a"` and the checkpoints 20 and 100, the last one incomplete."""

    def resume(settings, **trainer_settings):
        args = TrainingArguments(str(tmp_path / "run"), use_cpu=True, report_to="none", **trainer_settings)
        return resume_checkpoint(args, settings)

    assert resume({"data": "b"}) is None
    # Before the first checkpoint the settings may change.
    assert resume({"data": "a"}, per_device_train_batch_size=4, gradient_accumulation_steps=2) is None
    for step in (20, 100, 120):
        (tmp_path / f"run/checkpoint-{step}").mkdir()
        (tmp_path / f"run/checkpoint-{step}/rng_state.pth").touch()
        if step < 120:
            (tmp_path / f"run/checkpoint-{step}/trainer_state.json").write_text('{"global_step": 20}')
    return resume


def test_the_newest_complete_checkpoint_is_resumed_with_settings_of_the_same_result(resume, tmp_path):
    newest = tmp_path / "run/checkpoint-100"
    assert resume({"data": "a"}, per_device_train_batch_size=8, logging_steps=3) == str(newest)
    (newest / "rng_state.pth").unlink()
    with pytest.raises(ValueError, match="checkpoint-100' holds only the model"):
        resume({"data": "a"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 1e-3}, "other settings: learning_rate was 5e-05 and is 0.001"),
        ({"gradient_accumulation_steps": 2}, "conversations_per_step was 8 and is 16"),
        ({"resume_from_checkpoint": "x/checkpoint-5"}, "Remove `--resume_from_checkpoint x/checkpoint-5`"),
    ],
)
def test_settings_of_another_result_are_an_error(resume, settings, message):
    with pytest.raises(ValueError, match=message):
        resume({"data": "a"}, **settings)
