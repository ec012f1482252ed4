"""The command `info`."""

from __future__ import annotations

import typer

from .errors import cli_errors
from .models import find_checkpoint, model_name
from .options import Model

DISTRIBUTION = "transformers-cxr"


def info(model: Model = None):
    """
    Print what a bug report needs: versions, devices, extras that are installed, the checkpoint.

    ```
    transformers-cxr info
    transformers-cxr info --model runs/llm_cxr
    ```
    """
    with cli_errors():
        import platform

        import torch

        _, config = find_checkpoint(model)
        devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        rows = {
            DISTRIBUTION: _version(DISTRIBUTION),
            "Python": platform.python_version(),
            "Platform": platform.platform(),
            "CPU threads": torch.get_num_threads(),
            "CUDA devices": ", ".join(devices) or "none",
            **_dependencies(),
            "checkpoint": model_name(model),
        }
        width = max(map(len, rows))
        for name, value in rows.items():
            typer.echo(f"{name:<{width}}  {value}")
        typer.echo(config.to_json_string())


def _version(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _dependencies() -> dict[str, str]:
    """Return the version of each required package, and the missing packages of each extra."""
    from importlib.metadata import metadata

    from packaging.requirements import Requirement

    description = metadata(DISTRIBUTION)
    requirements = [Requirement(text) for text in description.get_all("Requires-Dist", [])]
    required = [each for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]
    rows = {each.name: _version(each.name) or "not installed" for each in required}
    for extra in description.get_all("Provides-Extra", []):
        missing = []
        for each in requirements:
            version = _version(each.name)
            if each in required or not each.marker.evaluate({"extra": extra}):
                continue
            if version is None:
                missing.append(each.name)
            elif not each.specifier.contains(version, prereleases=True):
                missing.append(f"{each.name}{each.specifier} (installed: {version})")
        rows[f"extra '{extra}'"] = f"missing: {', '.join(missing)}" if missing else "installed"
    return rows
