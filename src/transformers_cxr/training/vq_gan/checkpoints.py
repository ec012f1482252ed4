"""Training-state checkpoints that are always complete."""

from __future__ import annotations

import shutil
from pathlib import Path

from accelerate import Accelerator


def save_checkpoint(accelerator: Accelerator, output_dir: str | Path, step: int) -> None:
    """
    Save the state of `accelerator` as `OUTPUT_DIR/checkpoint-STEP` and remove older checkpoints. It is written under
    another name and then renamed, so a checkpoint is complete even if the process is killed. Every process must call
    this.
    """
    output_dir = Path(output_dir)
    temporary = output_dir / "unfinished-checkpoint"
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(temporary))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        older = _checkpoints(output_dir).values()
        temporary.rename(output_dir / f"checkpoint-{step}")
        for path in older:
            shutil.rmtree(path)
    accelerator.wait_for_everyone()


def last_checkpoint(output_dir: str | Path) -> tuple[Path, int] | None:
    """Return the newest `OUTPUT_DIR/checkpoint-STEP` and its step, or `None`."""
    step, path = max(_checkpoints(output_dir).items(), default=(0, None))
    return None if path is None else (path, step)


def _checkpoints(output_dir: str | Path) -> dict[int, Path]:
    """Return the folders `checkpoint-STEP` by their steps; copies of other names are the user's."""
    paths = Path(output_dir).glob("checkpoint-*")
    return {int(step): path for path in paths if (step := path.name.removeprefix("checkpoint-")).isdigit()}
