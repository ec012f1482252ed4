"""Checkpoints that include the code of the model, for `trust_remote_code=True` without this package."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
from ..llm_cxr.processing_llm_cxr import LlmCxrProcessor

CODE_FOLDER = Path(__file__).parent.parent / "llm_cxr"
MODEL_CLASSES = ("AutoModel", "AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")
MODEL_AUTO_MAP = {
    "AutoConfig": "configuration_llm_cxr.LlmCxrConfig",
    **dict.fromkeys(MODEL_CLASSES, "modeling_llm_cxr.LlmCxrForCausalLM"),
}
PROCESSOR_AUTO_MAP = {"AutoProcessor": "processing_llm_cxr.LlmCxrProcessor"}
IMAGE_PROCESSOR_AUTO_MAP = {"AutoImageProcessor": "image_processing_llm_cxr.LlmCxrImageProcessor"}


def save_with_remote_code(
    model: LlmCxrForCausalLM, processor: LlmCxrProcessor, save_directory: str | os.PathLike
) -> None:
    """
    Save a checkpoint together with the code of its classes. The Auto classes of Transformers load it with
    `trust_remote_code=True` if this package is not installed (its dependencies are needed), and as any other
    checkpoint if it is.

    Args:
        model ([`LlmCxrForCausalLM`]), processor ([`LlmCxrProcessor`]):
            Model and processor to save.
        save_directory (`str` or `os.PathLike`):
            Folder to write.

    Raises:
        ValueError: the processor and the model do not belong together.
    """
    model.check_processor(processor)
    folder = Path(save_directory)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    for file in [*CODE_FOLDER.glob("*_llm_cxr.py"), CODE_FOLDER / "modeling_cxr_vq_tokenizer.py"]:
        shutil.copy(file, folder)
    # `register_for_auto_class` keeps only one Auto class per class.
    _update_json(folder / "config.json", auto_map=MODEL_AUTO_MAP)
    image_processor = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))["image_processor"]
    _update_json(
        folder / "processor_config.json",
        auto_map=PROCESSOR_AUTO_MAP,
        image_processor=image_processor | {"auto_map": IMAGE_PROCESSOR_AUTO_MAP},
    )


def _update_json(path: Path, **values) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) | values
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


__all__ = ["save_with_remote_code"]
