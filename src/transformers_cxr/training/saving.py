"""Saving of trained models, each in a folder that can be published."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import Trainer
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer import TRAINING_ARGS_NAME

from ..data.store import is_records, load_records
from ..files import read_json
from ..hub.cards import Training, model_card
from ..hub.remote_code import add_remote_code
from ..llm_cxr.modeling_cxr_vq_tokenizer import share_weights
from .resuming import SETTINGS_NAME


@dataclass
class SavingArguments:
    """Arguments of [`save_trained_model`]."""

    remote_code: bool = field(
        default=True, metadata={"help": "save the code of the model too, for trust_remote_code without this package"}
    )


def save_trained_model(trainer: Trainer, base: str, data: Sequence[str], remote_code: bool = True) -> None:
    """
    Save the model of a trainer and its processor in `OUTPUT_DIR/final`. With LoRA that is the merged model, beside the
    adapter in `OUTPUT_DIR/adapter`, which is all that sharded weights give. Both folders get [`add_card_and_code`].

    Args:
        trainer (`Trainer`):
            Trainer after `train`.
        base (`str`), data (`Sequence[str]`), remote_code (`bool`, *optional*, defaults to `True`):
            As in [`add_card_and_code`].
    """
    output_dir, model = Path(trainer.args.output_dir), trainer.model
    has_adapter = hasattr(model, "merge_and_unload")
    trainer.save_model(output_dir / ("adapter" if has_adapter else "final"))
    if not trainer.is_world_process_zero():
        return
    is_sharded = trainer.args.fsdp or is_deepspeed_zero3_enabled()
    if has_adapter and not is_sharded:
        model.merge_and_unload().save_pretrained(output_dir / "final")
        trainer.processing_class.save_pretrained(output_dir / "final")
    evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    losses = {name: value for name, value in (evaluations or [{}])[-1].items() if name.startswith("eval_loss")}
    for folder in filter(Path.is_dir, (output_dir / "final", output_dir / "adapter")):
        # A pickle with the folders of this machine; the card and `OUTPUT_DIR/settings.json` have the settings.
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        add_card_and_code(folder, output_dir / SETTINGS_NAME, base, data, losses, remote_code)


def add_card_and_code(
    folder: str | os.PathLike,
    settings: str | os.PathLike,
    base: str,
    data: Sequence[str],
    losses: dict[str, float] | None = None,
    remote_code: bool = True,
) -> None:
    """
    Add a model card and the code of the model to the folder of a trained model, and let others read its weights.

    Args:
        folder (`str` or `os.PathLike`):
            Folder of `save_pretrained`. An existing model card is replaced.
        settings (`str` or `os.PathLike`):
            JSON file of the settings of the run.
        base (`str`):
            Checkpoint or language model before the training; "" for random weights.
        data (`Sequence[str]`):
            Paths of the training data, "" for none.
        losses (`dict[str, float]`, *optional*):
            Losses on the evaluation data.
        remote_code (`bool`, *optional*, defaults to `True`):
            Whether to add the code.
    """
    share_weights(folder)
    if remote_code:
        add_remote_code(folder)
    training = Training(base, _dataset_names(filter(None, data)), read_json(settings), losses or {})
    model_card(folder, training).save(Path(folder) / "README.md")


def _dataset_names(paths: Iterable[str]) -> list[str]:
    """Return the names of datasets: the sources of records, or the name of the file."""
    names: list[str] = []
    for path in paths:
        if is_records(path) or (Path(path) / "metadata.csv").is_file():
            names += load_records(path).unique("source")
        else:
            names.append(Path(path).stem)
    return list(dict.fromkeys(names))
