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
        older = list(output_dir.glob("checkpoint-*"))
        temporary.rename(output_dir / f"checkpoint-{step}")
        for path in older:
            shutil.rmtree(path)
    accelerator.wait_for_everyone()


def last_checkpoint(output_dir: str | Path) -> tuple[Path, int] | None:
    """Return the newest `OUTPUT_DIR/checkpoint-STEP` and its step, or `None`."""
    steps = [int(path.name.removeprefix("checkpoint-")) for path in Path(output_dir).glob("checkpoint-*")]
    return (Path(output_dir) / f"checkpoint-{max(steps)}", max(steps)) if steps else None
