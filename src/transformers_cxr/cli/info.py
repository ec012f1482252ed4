"""The command `info`."""

from __future__ import annotations

import typer

from ..checkpoints import checkpoint_name, find_checkpoint
from .options import Model


def info(model: Model = None):
    """
    Print versions, devices and the configuration of the checkpoint, for a bug report.

    ```
    transformers-cxr info
    transformers-cxr info --model runs/llm_cxr
    ```
    """
    import platform
    from importlib import metadata

    import torch
    from packaging.requirements import Requirement

    _, config = find_checkpoint(model)
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    rows = {
        "Python": platform.python_version(),
        "Platform": platform.platform(),
        "CPU threads": torch.get_num_threads(),
        "CUDA devices": ", ".join(devices) or "none",
        "Checkpoint": checkpoint_name(model),
    }
    requirements = {each.name: each for each in map(Requirement, metadata.requires("transformers-cxr"))}
    for name in sorted({"transformers-cxr", *requirements}):
        try:
            rows[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            rows[name] = f"not installed ({requirements[name].marker or 'required'})"
    width = max(map(len, rows))
    for name, value in rows.items():
        typer.echo(f"{name:<{width}}  {value}")
    typer.echo(config.to_json_string())
