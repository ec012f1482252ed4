"""Commands about checkpoints and the installation: `get` and `info`."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path
from typing import Annotated

import typer

from ..checkpoints import checkpoint
from . import options
from .errors import mistakes_as_messages
from .models import EMBEDDED, find_checkpoint, model_name

DISTRIBUTION = "transformers-cxr"
PACKAGES = (
    "torch",
    "transformers",
    "diffusers",
    "accelerate",
    "datasets",
    "tokenizers",
    "safetensors",
    "pyarrow",
    "pillow",
)


def get(
    name: Annotated[str, typer.Argument(help="Checkpoint of the package.")] = EMBEDDED,
    output: Annotated[Path | None, typer.Option(help="Folder to write; ./NAME if not given.")] = None,
):
    """
    Put the embedded checkpoint where `from_pretrained("llm-cxr")` finds it.

    ```
    transformers-cxr get
    transformers-cxr get llm-cxr --output checkpoints/llm-cxr
    ```
    """
    with mistakes_as_messages():
        from ..files import atomic_write, disk_full_error

        source, target = checkpoint(name), output or Path(name)
        names = [path.name for path in source.iterdir()]
        if target.is_dir() and filecmp.cmpfiles(source, target, names, shallow=False)[0] == names:
            typer.echo(f"'{target}' is there already.")
            return
        with disk_full_error(target), atomic_write(target, overwrite=False) as partial:
            partial.mkdir()
            for file in names:
                shutil.copy(source / file, partial)
    typer.echo(f"Written to {target}.")


def info(model: options.Model = None):
    """
    Print what a bug report needs: versions, devices, extras that are installed, the checkpoint.

    ```
    transformers-cxr info
    transformers-cxr info --model runs/llm_cxr
    ```
    """
    with mistakes_as_messages():
        import platform
        from importlib.metadata import PackageNotFoundError, version

        import torch

        _, config = find_checkpoint(model)
        lines = [
            (DISTRIBUTION, version(DISTRIBUTION)),
            ("Python", platform.python_version()),
            ("Platform", platform.platform()),
        ]
        for name in PACKAGES:
            try:
                lines.append((name, version(name)))
            except PackageNotFoundError:
                lines.append((name, "not installed"))
        lines.append(("CPU threads", torch.get_num_threads()))
        devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        lines.append(("CUDA devices", ", ".join(devices) or "none"))
        lines += [(f"extra '{extra}'", state) for extra, state in _extras()]
        lines.append(("checkpoint", model_name(model)))
        width = max(len(name) for name, _ in lines)
        for name, value in lines:
            typer.echo(f"{name:<{width}}  {value}")
        typer.echo(config.to_json_string())


def _extras() -> list[tuple[str, str]]:
    """Each extra of the package with what of it is missing."""
    from importlib.metadata import PackageNotFoundError, metadata, version

    from packaging.requirements import Requirement

    description = metadata(DISTRIBUTION)
    extras = []
    for extra in description.get_all("Provides-Extra", []):
        missing = []
        for text in description.get_all("Requires-Dist", []):
            requirement = Requirement(text)
            if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
                continue
            if requirement.marker.evaluate({"extra": ""}):
                continue
            try:
                if not requirement.specifier.contains(version(requirement.name), prereleases=True):
                    missing.append(f"{requirement.name} {version(requirement.name)}, needs {requirement.specifier}")
            except PackageNotFoundError:
                missing.append(requirement.name)
        extras.append((extra, f"missing: {', '.join(missing)}" if missing else "installed"))
    return extras
