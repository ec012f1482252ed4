"""Training states that survive a kill at any moment."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..data.durable import durable_file
from .resuming import RUN


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


def check_same_run(accelerator: Accelerator, output_dir: str | Path, settings: dict[str, Any]) -> None:
    """
    Refuses to go on with checkpoints of a run with other settings, which are those in `OUTPUT_DIR/run.json`; a run without
    checkpoints writes its own there. Every process calls it.

    Raises:
        ValueError: the folder holds checkpoints of another run.
    """
    settings = json.loads(json.dumps(settings, default=str))
    output_dir = Path(output_dir)
    path = output_dir / RUN
    if last_checkpoint(output_dir) is None:
        if accelerator.is_main_process:
            output_dir.mkdir(parents=True, exist_ok=True)
            with durable_file(path) as partial:
                partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        accelerator.wait_for_everyone()
        return
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if differing := sorted(name for name in {**known, **settings} if known.get(name) != settings.get(name)):
        changes = "; ".join(f"{name} was {known.get(name)!r} and is {settings.get(name)!r}" for name in differing)
        raise ValueError(
            f"'{output_dir}' holds checkpoints of another run: {changes}. Resume with the data and settings of that run, or "
            "choose another `output_dir`."
        )


def last_checkpoint(output_dir: str | Path) -> tuple[Path, int] | None:
    """The newest `OUTPUT_DIR/checkpoint-STEP` and its step, `None` where there is none."""
    steps = [int(path.name.removeprefix("checkpoint-")) for path in Path(output_dir).glob("checkpoint-*")]
    return (Path(output_dir) / f"checkpoint-{max(steps)}", max(steps)) if steps else None
