"""Training states that survive a kill at any moment."""

from __future__ import annotations

import shutil
from pathlib import Path

from accelerate import Accelerator


def save_checkpoint(accelerator: Accelerator, output_dir: str | Path, step: int) -> None:
    """
    Saves all that `accelerator` was given, and the random states, as `OUTPUT_DIR/checkpoint-STEP`, and removes the older
    ones. The state is written under another name first, so that a folder of this name is always whole. Every process calls
    it.
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
    """The newest `OUTPUT_DIR/checkpoint-STEP` and its step, `None` where there is none."""
    steps = [int(path.name.removeprefix("checkpoint-")) for path in Path(output_dir).glob("checkpoint-*")]
    return (Path(output_dir) / f"checkpoint-{max(steps)}", max(steps)) if steps else None
