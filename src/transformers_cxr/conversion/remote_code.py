"""Checkpoints that bring the model's code along, for `trust_remote_code=True` where this package is not installed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
from ..llm_cxr.processing_llm_cxr import LlmCxrProcessor

CODE_FOLDER = Path(__file__).parent.parent / "llm_cxr"
MODEL_CLASS = "modeling_llm_cxr.LlmCxrForCausalLM"
MODEL_AUTO_MAP = {
    "AutoConfig": "configuration_llm_cxr.LlmCxrConfig",
    "AutoModel": MODEL_CLASS,
    "AutoModelForCausalLM": MODEL_CLASS,
    "AutoModelForImageTextToText": MODEL_CLASS,
}
PROCESSOR_AUTO_MAP = {"AutoProcessor": "processing_llm_cxr.LlmCxrProcessor"}
IMAGE_PROCESSOR_AUTO_MAP = {"AutoImageProcessor": "image_processing_llm_cxr.LlmCxrImageProcessor"}


def save_with_remote_code(
    model: LlmCxrForCausalLM, processor: LlmCxrProcessor, save_directory: str | os.PathLike
) -> None:
    """
    Saves a checkpoint together with the code of its classes. Transformers' Auto classes load it with
    `trust_remote_code=True` where this package is not installed (its dependencies are needed), and where it is installed as
    any other checkpoint.

    Args:
        model ([`LlmCxrForCausalLM`]), processor ([`LlmCxrProcessor`]):
            What to save.
        save_directory (`str` or `os.PathLike`):
            Folder that is written.

    Raises:
        ValueError: the processor and the model do not belong together.
    """
    model.check_processor(processor)
    folder = Path(save_directory)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    for file in CODE_FOLDER.glob("*_llm_cxr.py"):
        shutil.copy(file, folder)
    shutil.copy(CODE_FOLDER / "modeling_cxr_vq_tokenizer.py", folder)

    # `register_for_auto_class` keeps one Auto class a class only, and the model has three.
    config = _read_json(folder / "config.json")
    config["auto_map"] = MODEL_AUTO_MAP
    _write_json(folder / "config.json", config)
    config = _read_json(folder / "processor_config.json")
    config["auto_map"] = PROCESSOR_AUTO_MAP
    config["image_processor"]["auto_map"] = IMAGE_PROCESSOR_AUTO_MAP
    _write_json(folder / "processor_config.json", config)


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


__all__ = ["save_with_remote_code"]
