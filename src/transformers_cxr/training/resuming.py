"""Resume a run after checking that its settings match."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from ..files import check_same_settings, read_json

SETTINGS_NAME = "settings.json"
# Settings of the Trainer that change the trained weights.
_RESULT_SETTINGS = (
    "max_steps num_train_epochs learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps weight_decay optim "
    "optim_args adam_beta1 adam_beta2 adam_epsilon max_grad_norm label_smoothing_factor neftune_noise_alpha bf16 fp16 "
    "seed data_seed train_sampling_strategy"
).split()
# Settings of TRL that do not change them.
_FREE_SETTINGS = ("log_", "num_completions_to_print", "dataset_num_proc", "steps_per_generation", "vllm_")


def result_settings(training_args: TrainingArguments) -> dict[str, Any]:
    """
    Return the settings that change the trained weights: the conversations per step, but not their devices. Those of
    TRL's trainers are the fields that they add.
    """
    added = {item.name for item in fields(training_args)} - {item.name for item in fields(TrainingArguments)}
    names = [*_RESULT_SETTINGS, *sorted(name for name in added if not name.startswith(_FREE_SETTINGS))]
    settings = {name: getattr(training_args, name) for name in names}
    settings["conversations_per_step"] = (
        training_args.train_batch_size * training_args.gradient_accumulation_steps * training_args.world_size
    )
    return settings


def resume_checkpoint(training_args: TrainingArguments, settings: dict[str, Any]) -> str | None:
    """
    Return the newest complete checkpoint of a run, after checking that its settings match those in
    `OUTPUT_DIR/settings.json`, which a new run writes.

    Args:
        training_args (`TrainingArguments`):
            Arguments of the Trainer. Their [`result_settings`] are checked, too.
        settings (`dict`):
            Everything else that the result depends on, such as the [`~files.file_fingerprint`] of the data.

    Returns:
        `str`, *optional*: `OUTPUT_DIR/checkpoint-STEP`, `None` for a new run.

    Raises:
        ValueError: the checkpoints are those of a run with other settings, or hold only the model
            (`save_only_model`), or are damaged; or `resume_from_checkpoint` is set.
    """
    if training_args.resume_from_checkpoint:
        raise ValueError(
            f"Remove `--resume_from_checkpoint {training_args.resume_from_checkpoint}`: training resumes from the "
            f"newest checkpoint in '{training_args.output_dir}' (`--output_dir`)."
        )
    output_dir = Path(training_args.output_dir)
    # The Trainer writes its state last, so a checkpoint that has one is complete.
    states = output_dir.glob(f"checkpoint-*/{TRAINER_STATE_NAME}")
    checkpoint = max((s.parent for s in states), key=lambda path: int(path.name.split("-")[1]), default=None)
    with training_args.main_process_first():
        check_same_settings(
            output_dir / SETTINGS_NAME, {**settings, **result_settings(training_args)}, replace=checkpoint is None
        )
    if checkpoint is None:
        return None
    read_json(checkpoint / TRAINER_STATE_NAME, {"global_step": int})
    if not list(checkpoint.glob("rng_state*.pth")):
        raise ValueError(
            f"'{checkpoint}' holds only the model, so training cannot resume from it. Choose another `output_dir`, "
            "and remove `save_only_model`."
        )
    return str(checkpoint)


class ResumedTrainerMixin:
    """Trainer that trains no more when a finished run is resumed; the first base of a subclass of `Trainer`."""

    def _run_epoch(self, **kwargs):
        # Transformers trains one more step if the last epoch is incomplete, and goes on after an early stop.
        stopped = any(
            isinstance(callback, EarlyStoppingCallback)
            and callback.early_stopping_patience_counter >= callback.early_stopping_patience
            for callback in self.callback_handler.callbacks
        )
        if not stopped and self.state.global_step < self.state.max_steps:
            super()._run_epoch(**kwargs)
