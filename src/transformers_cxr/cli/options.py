"""Options that several commands share, each declared once, alone or in a group."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from .. import checkpoints
from ..errors import cli_errors

if TYPE_CHECKING:
    from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
    from ..llm_cxr.processing_llm_cxr import LlmCxrProcessor
    from ..serving.client import ServerModel


class DtypeName(StrEnum):
    """Dtypes of a language model."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Images = Annotated[list[str], typer.Argument(help="Images: files, folders, globs in quotes, URLs.", metavar="IMAGE")]
Model = Annotated[
    str | None, typer.Option(help="Checkpoint: a folder or a name on the Hub. Default: the embedded checkpoint.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps ... Default: CUDA if available.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per batch.")]
Instruction = Annotated[str | None, typer.Option(help="Instruction of the prompt. Default: that of the checkpoint.")]
JsonLinesFile = Annotated[
    Path | None,
    typer.Option(help="JSON Lines file, one line per image. A second run skips finished images.", dir_okay=False),
]


@dataclass(frozen=True)
class ModelOptions:
    """The checkpoint, and where and in which dtype it runs."""

    model: Model = None
    device: Device = None
    dtype: Annotated[
        DtypeName | None, typer.Option(help="Dtype of the language model. Default: that of the checkpoint.")
    ] = None

    def load(self) -> tuple[LlmCxrForCausalLM, LlmCxrProcessor]:
        """Load the checkpoint."""
        return checkpoints.load_checkpoint(self.model, self.device, self.dtype)

    def settings(self, model: LlmCxrForCausalLM | ServerModel, processor: LlmCxrProcessor) -> dict[str, Any]:
        """Return what results depend on: the options, and the content of the checkpoint."""
        fingerprint = checkpoints.model_fingerprint(model, processor)
        return {"model": checkpoints.checkpoint_name(self.model), "fingerprint": fingerprint, "dtype": self.dtype}


@dataclass(frozen=True)
class ServedModelOptions(ModelOptions):
    """The checkpoint, run here or on a server."""

    server: Annotated[
        str | None,
        typer.Option(help="URL of a server that runs the checkpoint, such as http://localhost:8000 of `vllm serve`."),
    ] = None

    def __post_init__(self):
        if self.server and self.dtype:
            raise typer.BadParameter("--dtype is for a model that runs here; a server has its own.")

    def load(self) -> tuple[LlmCxrForCausalLM | ServerModel, LlmCxrProcessor]:
        """Load the checkpoint, or find it on the server."""
        if not self.server:
            return super().load()
        from ..serving.client import load_server_model

        return load_server_model(self.server, self.model, self.device)

    def settings(self, model: LlmCxrForCausalLM | ServerModel, processor: LlmCxrProcessor) -> dict[str, Any]:
        """Return what results depend on. A server has random numbers of its own, and its weights are unknown."""
        if not self.server:
            return super().settings(model, processor)
        return {"model": checkpoints.checkpoint_name(self.model), "server": True}


@dataclass(frozen=True)
class SamplingOptions:
    """Sampling of tokens."""

    do_sample: Annotated[bool, typer.Option(help="Sample instead of taking the likeliest token.")] = False
    temperature: Annotated[float | None, typer.Option(min=0.01, help="Temperature of sampling.")] = None
    top_k: Annotated[int | None, typer.Option(min=1, help="Sample from this number of likeliest tokens.")] = None
    top_p: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Sample from the likeliest tokens up to this total probability."),
    ] = None

    def __post_init__(self):
        for name in ("temperature", "top_k", "top_p"):
            if not self.do_sample and getattr(self, name) is not None:
                raise typer.BadParameter(f"--{name.replace('_', '-')} needs --do-sample.")

    @property
    def generate_kwargs(self) -> dict[str, Any]:
        """The given keyword arguments of `generate`."""
        return {n: value for n, value in vars(self).items() if n not in ("seed", "batch_size") and value is not None}


@dataclass(frozen=True)
class TextOptions(SamplingOptions):
    """Generation of text."""

    seed: Annotated[int, typer.Option(help="Seed of sampling.")] = 0
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of a text in tokens.")] = 256


@dataclass(frozen=True)
class BatchTextOptions(TextOptions):
    """Generation of text in batches."""

    num_beams: Annotated[int, typer.Option(min=1, help="Beams of the beam search; 1: no beam search.")] = 1
    batch_size: BatchSize = 8


@dataclass(frozen=True)
class ImageOptions(SamplingOptions):
    """Generation of images in batches."""

    do_sample: Annotated[bool, typer.Option(help="Sample instead of taking the likeliest code.")] = True
    guidance_scale: Annotated[
        float | None,
        typer.Option(
            min=1.0,
            help="Classifier-free guidance: how closely images follow the text (1: off). Default: of the checkpoint.",
        ),
    ] = None
    batch_size: BatchSize = 8


def to_typer_command(command: Callable) -> Callable:
    """
    Replace each parameter of a command that is a dataclass by one parameter per field, for Typer, and run the command
    under `cli_errors`.

    Args:
        command (`Callable`):
            A function that takes instances of the dataclasses as keyword arguments. A field is annotated for Typer, or
            has its help in its metadata, as for `HfArgumentParser`: then it is an argument if it has no default, else
            an option.
    """
    groups, parameters = {}, []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        group = parameter.annotation
        if is_dataclass(group):
            groups[parameter.name] = group
            hints = get_type_hints(group, include_extras=True)
            parameters += [_field_parameter(parameter, field, hints[field.name]) for field in fields(group)]
        else:
            parameters.append(parameter)

    @functools.wraps(command)
    @cli_errors()
    def expanded(**values):
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        return command(**values)

    expanded.__signature__ = inspect.Signature(parameters)
    return expanded


def _field_parameter(parameter: inspect.Parameter, field: Field, annotation: Any) -> inspect.Parameter:
    has_default = field.default is not MISSING or field.default_factory is not MISSING
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    if "help" in field.metadata:
        kind = typer.Option if has_default else typer.Argument
        annotation = Annotated[annotation, kind(help=field.metadata["help"])]
    return parameter.replace(
        name=field.name, annotation=annotation, default=default if has_default else inspect.Parameter.empty
    )
