"""The embedded checkpoint, and loading of any checkpoint, without imports of torch until then."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

    from ..llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor
    from ..llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer
    from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
    from ..llm_cxr.processing_llm_cxr import LlmCxrProcessor

FOLDER = Path(__file__).parent


def checkpoint(name: str) -> Path:
    """
    Return the folder of a checkpoint of the package, for `from_pretrained`.

    Args:
        name (`str`):
            Name of the checkpoint: "llm-cxr".

    Raises:
        ValueError: The package has no such checkpoint.
    """
    names = sorted(path.parent.name for path in FOLDER.glob("*/processor_config.json"))
    if name not in names:
        raise ValueError(f"No checkpoint '{name}' in this package; expected {', '.join(names)}.")
    return FOLDER / name


def find_device(name: str | torch.device | None = None) -> torch.device:
    """Return a device, CUDA by default if available."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    # The type of the error depends on the device.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"Device '{name}' is not available ({reason}). Use cpu, or cuda, cuda:1 or mps if present."
        ) from error
    return device


def find_checkpoint(name: str | None = None) -> tuple[str | Path, PreTrainedConfig]:
    """
    Return the path or Hub name of a checkpoint, and its configuration. By default, and for "llm-cxr" unless there is
    such a folder, it is the embedded checkpoint.
    """
    from transformers import AutoConfig

    embedded = checkpoint("llm-cxr")
    path = embedded if not name or (name == embedded.name and not Path(name).exists()) else name
    try:
        return path, AutoConfig.from_pretrained(path)
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise FileNotFoundError(f"No checkpoint at '{path}': {reason}") from error


def load_checkpoint(
    name: str | None = None, device: str | torch.device | None = None, dtype: str | None = None
) -> tuple[LlmCxrForCausalLM, LlmCxrProcessor]:
    """
    Load the model and the processor of a checkpoint for inference.

    Args:
        name (`str`, *optional*): Folder or Hub name; the embedded checkpoint by default.
        device (`str` or `torch.device`, *optional*): Device; CUDA by default if available.
        dtype (`str`, *optional*): Dtype of the language model; that of the checkpoint by default.

    Raises:
        ValueError, OSError: the device or the checkpoint does not exist, the checkpoint is of another model, or its
            chat template cannot be rendered.
    """
    from transformers import AutoProcessor

    from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM

    target = find_device(device)
    path, _ = find_checkpoint(name)
    model = LlmCxrForCausalLM.from_pretrained(path, dtype=dtype or "auto").to(target).eval()
    processor = AutoProcessor.from_pretrained(path)
    model.check_processor(processor)
    _check_chat_template(processor, path)
    processor.vq_tokenizer = model.vq_tokenizer
    return model, processor


def _check_chat_template(processor: LlmCxrProcessor, path: str | Path) -> None:
    """Render a request: a template is a program of the checkpoint, which may fail."""
    content = [{"type": "text", "text": "Is there pneumonia?"}, {"type": "image"}]
    try:
        processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"The chat template of '{path}' cannot be rendered: {reason}.") from error


def load_vq_tokenizer(
    name: str | None = None, device: str | torch.device | None = None
) -> tuple[CXRVQTokenizer, LlmCxrImageProcessor]:
    """Load the image tokenizer and the image processor of an LLM-CXR or image tokenizer checkpoint."""
    from transformers import AutoImageProcessor

    from ..llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer

    target = find_device(device)
    path, _ = find_checkpoint(name)
    return CXRVQTokenizer.from_pretrained(path).to(target).eval(), AutoImageProcessor.from_pretrained(path)


def checkpoint_name(name: str | None) -> str:
    """Return the name of a checkpoint in outputs."""
    return name or "llm-cxr"


def model_fingerprint(model: LlmCxrForCausalLM, processor: LlmCxrProcessor) -> str:
    """Return a hash, 16 hexadecimal digits, of everything in a checkpoint that outputs depend on."""
    described = [
        weights_fingerprint(model),
        processor.chat_template,
        processor.tokenizer.get_vocab(),
        processor.image_processor.to_dict(),
        processor.report_instruction,
        processor.image_instruction,
    ]
    # Without defaults, which another version of Transformers may have more of.
    for settings in (model.config.to_diff_dict(), model.generation_config.to_diff_dict()):
        unused = ("_name_or_path", "transformers_version")
        described.append({name: value for name, value in settings.items() if name not in unused})
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:16]


def weights_fingerprint(model: torch.nn.Module) -> str:
    """Return a hash, 16 hexadecimal digits, of the weights of a model."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
