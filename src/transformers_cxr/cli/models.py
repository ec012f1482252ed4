"""Loading of checkpoints and devices."""

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


def find_device(name: str | None = None) -> torch.device:
    """
    Return a device, CUDA by default if available.

    Raises:
        ValueError: If the device is not available.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    # torch raises other errors for other kinds of devices.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"Device '{name}' is not available: {reason} `--device cpu` always is.") from error
    return device


def find_checkpoint(name: str | None = None) -> tuple[str | Path, PreTrainedConfig]:
    """
    Return the path or Hub name of a checkpoint, the embedded one by default, and its configuration.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it is neither an LLM-CXR nor an image tokenizer.
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
        raise FileNotFoundError(f"'{path}' is neither a folder nor a checkpoint on the Hub: {error}") from error
    if not isinstance(config, (LlmCxrConfig, CXRVQTokenizerConfig)):
        raise ValueError(
            f"'{path}' is a model of type '{config.model_type}': expected an LLM-CXR or an image tokenizer."
        )
    return path, config


def _load_weights(model_class, path: str | Path, **kwargs):
    from safetensors import SafetensorError

    try:
        return model_class.from_pretrained(path, **kwargs).eval()
    # RuntimeError: shapes differ from the configuration.
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"The weights in '{path}' cannot be loaded: {error}") from error


def load_model(
    name: str | None = None, device: str | None = None, dtype: str | None = None
) -> tuple[LlmCxrForCausalLM, LlmCxrProcessor]:
    """
    Load a checkpoint for inference.

    Args:
        name (`str`, *optional*): Folder or Hub name; the embedded checkpoint by default.
        device (`str`, *optional*): Device; CUDA by default if available.
        dtype (`str`, *optional*): Dtype of the language model; that of the checkpoint by default.

    Raises:
        ValueError, OSError: If the device or the checkpoint does not exist, or the checkpoint is of another model.
    """
    from transformers import AutoProcessor

    from ..llm_cxr.configuration_llm_cxr import LlmCxrConfig
    from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM

    target = find_device(device)
    path, config = find_checkpoint(name)
    if not isinstance(config, LlmCxrConfig):
        raise ValueError(f"'{path}' is an image tokenizer: expected an LLM-CXR.")
    model = _load_weights(LlmCxrForCausalLM, path, dtype=dtype or "auto").to(target)
    processor = AutoProcessor.from_pretrained(path)
    model.check_processor(processor)
    processor.vq_tokenizer = model.vq_tokenizer
    return model, processor


def load_vq_tokenizer(name: str | None, device: torch.device) -> tuple[CXRVQTokenizer, LlmCxrImageProcessor]:
    """
    Load the image tokenizer and the image processor of a checkpoint: an LLM-CXR or an image tokenizer.

    Raises:
        ValueError, OSError: If there is no such checkpoint.
    """
    from transformers import AutoImageProcessor

    from ..llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer

    path, _ = find_checkpoint(name)
    return _load_weights(CXRVQTokenizer, path).to(device), AutoImageProcessor.from_pretrained(path)


def model_name(name: str | None) -> str:
    """Return the name of a checkpoint in outputs."""
    return name or f"{EMBEDDED} (embedded)"
