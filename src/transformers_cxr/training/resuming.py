"""Going on with a run of the Trainer, and only with that run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from ..files import check_same_settings

RUN = "run.json"
# The settings of the Trainer that decide what comes out.
_RESULT_SETTINGS = (
    "max_steps num_train_epochs learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps weight_decay optim optim_args "
    "adam_beta1 adam_beta2 adam_epsilon max_grad_norm label_smoothing_factor neftune_noise_alpha bf16 fp16 seed data_seed "
    "train_sampling_strategy"
).split()


def result_settings(arguments: TrainingArguments) -> dict[str, Any]:
    """
    Those settings of the Trainer that decide what comes out, as JSON can say them: the conversations of a step, for instance,
    and not how devices share them.
    """
    settings = {name: getattr(arguments, name) for name in _RESULT_SETTINGS}
    settings["conversations_a_step"] = (
        arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    )
    return json.loads(json.dumps(settings, default=str))


def checkpoint_of_run(arguments: TrainingArguments, settings: dict[str, Any]) -> str | None:
    """
    The newest whole checkpoint of a run, which is told from others by its settings in `OUTPUT_DIR/run.json`.

    Args:
        arguments (`TrainingArguments`):
            Their [`result_settings`] are settings, too.
        settings (`dict`):
            All else that the result depends on, such as the [`~files.file_fingerprint`] of the data.

    Returns:
        `str`, *optional*: `OUTPUT_DIR/checkpoint-STEP`; one whose writing was cut short is passed over.

    Raises:
        ValueError: the folder holds checkpoints of a run with other settings, or of models alone (`save_only_model`); or the
            arguments name a checkpoint.
    """
    if arguments.resume_from_checkpoint:
        raise ValueError(
            f"Leave out `--resume_from_checkpoint {arguments.resume_from_checkpoint}`: the newest checkpoint in "
            f"'{arguments.output_dir}' (`--output_dir`) is gone on from without it."
        )
    settings = {**settings, **result_settings(arguments)}
    output_dir = Path(arguments.output_dir)
    # Its state is what the Trainer writes last into a checkpoint.
    states = output_dir.glob(f"checkpoint-*/{TRAINER_STATE_NAME}")
    steps = [int(state.parent.name.removeprefix("checkpoint-")) for state in states]
    with arguments.main_process_first():
        check_same_settings(output_dir / RUN, settings, replace=not steps)
    if not steps:
        return None
    checkpoint = output_dir / f"checkpoint-{max(steps)}"
    # The Trainer would go on with a new optimizer and a new schedule.
    if not list(checkpoint.glob("rng_state*.pth")):
        raise ValueError(
            f"'{checkpoint}' holds a model alone (`save_only_model`), from which no training can go on. Choose another "
            "`output_dir`, and leave `save_only_model` out where a run is to be resumed."
        )
    return str(checkpoint)
