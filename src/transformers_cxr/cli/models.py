"""Loading what a command runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints import checkpoint

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

    from ..llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor
    from ..llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer
    from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
    from ..llm_cxr.processing_llm_cxr import LlmCxrProcessor

EMBEDDED = "llm-cxr"


def find_device(name: str | None) -> torch.device:
    """
    The device of a name, or CUDA or else the CPU.

    Raises:
        ValueError: there is no such device.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    # What torch raises depends on the kind of device.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"Device '{name}' cannot be used: {reason} `--device cpu` always can.") from error
    return device


def find_checkpoint(name: str | None) -> tuple[str | Path, PreTrainedConfig]:
    """
    Where `from_pretrained` finds a checkpoint, and its configuration: of an LLM-CXR or of an image tokenizer alone.

    Raises:
        FileNotFoundError: it is a folder without a checkpoint.
        ValueError: it is a checkpoint of another kind of model.
    """
    from transformers import AutoConfig

    from ..llm_cxr.configuration_llm_cxr import CXRVQTokenizerConfig, LlmCxrConfig

    path = checkpoint(EMBEDDED) if name is None else name
    if os.path.exists(path) and not (Path(path) / "config.json").is_file():
        raise FileNotFoundError(f"No `config.json` in '{path}': expected the folder of a checkpoint.")
    try:
        config = AutoConfig.from_pretrained(path)
    except OSError as error:
        if os.path.exists(path):
            raise
        raise FileNotFoundError(f"'{path}' is no folder here, and not found on the Hub: {error}") from error
    if not isinstance(config, (LlmCxrConfig, CXRVQTokenizerConfig)):
        raise ValueError(
            f"'{path}' is a model of type '{config.model_type}': expected an LLM-CXR or an image tokenizer."
        )
    return path, config


def _load_weights(model_class, path: str | Path, **kwargs):
    from safetensors import SafetensorError

    try:
        return model_class.from_pretrained(path, **kwargs).eval()
    # RuntimeError: the shapes are not those of the configuration.
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"The weights in '{path}' cannot be loaded: {error}") from error


def load_model(name: str | None, device: str | None, dtype: str | None) -> tuple[LlmCxrForCausalLM, LlmCxrProcessor]:
    """
    Loads a checkpoint for inference.

    Args:
        name (`str`, *optional*): folder or name on the Hub; the embedded checkpoint if `None`.
        device (`str`, *optional*): see [`find_device`].
        dtype (`str`, *optional*): of the language model; that of the checkpoint if `None`.

    Raises:
        ValueError, OSError: there is no such device or checkpoint, or it is of another kind.
    """
    from transformers import AutoProcessor

    from ..llm_cxr.configuration_llm_cxr import LlmCxrConfig
    from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM

    target = find_device(device)
    path, config = find_checkpoint(name)
    if not isinstance(config, LlmCxrConfig):
        raise ValueError(f"'{path}' is an image tokenizer alone: expected a whole LLM-CXR.")
    model = _load_weights(LlmCxrForCausalLM, path, dtype=dtype or "auto").to(target)
    processor = AutoProcessor.from_pretrained(path)
    model.check_processor(processor)
    processor.vq_tokenizer = model.vq_tokenizer
    return model, processor


def load_vq_tokenizer(name: str | None, device: torch.device) -> tuple[CXRVQTokenizer, LlmCxrImageProcessor]:
    """
    Loads the image tokenizer of a checkpoint, of an LLM-CXR or of a tokenizer alone, and its image processor.

    Raises:
        ValueError, OSError: there is no such checkpoint, or it is of another kind.
    """
    from transformers import AutoImageProcessor

    from ..llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer

    path, _ = find_checkpoint(name)
    return _load_weights(CXRVQTokenizer, path).to(device), AutoImageProcessor.from_pretrained(path)


def model_name(name: str | None) -> str:
    """How outputs name a checkpoint."""
    return name or f"{EMBEDDED} (embedded)"
