"""The command `info`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..checkpoints import checkpoint_name, find_checkpoint
from .options import Model


def info(
    model: Model = None,
    environment: Annotated[
        bool, typer.Option(help="Print versions, devices and the configuration of the checkpoint, for a bug report.")
    ] = False,
):
    """
    Print in ten lines what a checkpoint is and what it knows.

    ```
    transformers-cxr info
    transformers-cxr info --model runs/llm_cxr
    transformers-cxr info --environment
    ```
    """
    path, config = find_checkpoint(model)
    rows = {"Checkpoint": checkpoint_name(model)} | (_environment() if environment else _describe(path))
    width = max(map(len, rows))
    for name, value in rows.items():
        typer.echo(f"{name:<{width}}  {value}")
    if environment:
        typer.echo(config.to_json_string())


def _describe(path: str | Path) -> dict[str, str]:
    """Return the model, its prompts, and what its model card says."""
    import torch
    from transformers import AutoProcessor, GenerationConfig

    from ..llm_cxr.configuration_llm_cxr import LlmCxrConfig
    from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM

    config = LlmCxrConfig.from_pretrained(path)
    # Shapes without weights.
    with torch.device("meta"):
        model = LlmCxrForCausalLM(config)
    processor, generation = AutoProcessor.from_pretrained(path), GenerationConfig.from_pretrained(path)
    text, vq = config.get_text_config(), config.vq_config
    context = "any number of" if model.context_length is None else f"{model.context_length:,}"
    size, vq_size = model.num_parameters(), model.vq_tokenizer.num_parameters()
    dtype = str(config.dtype).removeprefix("torch.")
    image_generation = getattr(generation, "image_generation", {})
    settings = f"({', '.join(f'{name} {value}' for name, value in image_generation.items()) or 'no guidance'})"
    return {
        "Language model": f"{text.model_type}, {(size - vq_size) / 1e6:,.1f} M parameters, {dtype}",
        "Context": f"{context} tokens; an X-ray takes {vq.num_image_tokens + 2}",
        "Vocabulary": f"{config.image_token_offset:,} text tokens, {vq.codebook_size:,} image codes",
        "Image tokenizer": f"{vq_size / 1e6:,.1f} M parameters, {'gray' if vq.in_channels == 1 else 'RGB'}, "
        f"{vq.image_size}x{vq.image_size} pixels to {vq.grid_size}x{vq.grid_size} codes",
        "Prompt of reports": processor.report_instruction,
        "Prompt of images": f"{processor.image_instruction} {settings}",
        **_knowledge(path),
    }


def _knowledge(path: str | Path) -> dict[str, str]:
    """Return what the model card of a checkpoint says about its data and results."""
    from ..hub.cards import load_card_data

    card = load_card_data(path)
    if card is None:
        return {"Trained on": "not known: the checkpoint has no model card (README.md)"}
    results = card.eval_results or []
    measured = [f"{r.metric_name} {r.metric_value:.3g}" for r in results[:3]]
    on = [f" ({', '.join(filter(None, (r.dataset_name, r.dataset_config, r.dataset_split)))})" for r in results[:1]]
    datasets = [card.datasets] if isinstance(card.datasets, str) else card.datasets or []
    return {
        "Trained on": ", ".join(datasets) or "not named in the model card",
        "Measured": "; ".join(measured) + "".join(on) or "nothing: the model card has no results",
        "License": card.license or "not named in the model card",
    }


def _environment() -> dict[str, object]:
    import platform
    from importlib import metadata

    import torch
    from packaging.requirements import Requirement

    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    rows = {
        "Python": platform.python_version(),
        "Platform": platform.platform(),
        "CPU threads": torch.get_num_threads(),
        "CUDA devices": ", ".join(devices) or "none",
    }
    requirements = {each.name: each for each in map(Requirement, metadata.requires("transformers-cxr"))}
    for name in sorted({"transformers-cxr", *requirements}):
        try:
            rows[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            rows[name] = f"not installed ({requirements[name].marker or 'required'})"
    return rows
