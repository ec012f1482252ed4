"""Checkpoints that include the code of the model, for `trust_remote_code=True` without this package."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import read_json

if TYPE_CHECKING:
    from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
    from ..llm_cxr.processing_llm_cxr import LlmCxrProcessor

CODE_FOLDER = Path(__file__).parent.parent / "llm_cxr"
MODEL_CLASSES = ("AutoModel", "AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")
PIPELINES = {
    "cxr-report": "CxrReportPipeline",
    "cxr-vqa": "CxrVqaPipeline",
    "cxr-generation": "CxrGenerationPipeline",
}
IMAGE_PROCESSOR_MAP = {"AutoImageProcessor": "image_processing_llm_cxr.LlmCxrImageProcessor"}
# Entries of config.json for each model type.
CONFIG_ENTRIES = {
    "llm_cxr": {
        "auto_map": {
            "AutoConfig": "configuration_llm_cxr.LlmCxrConfig",
            **dict.fromkeys(MODEL_CLASSES, "modeling_llm_cxr.LlmCxrForCausalLM"),
        },
        "custom_pipelines": {
            task: {"impl": f"pipelines_llm_cxr.{name}", "pt": ["AutoModelForCausalLM"], "type": "multimodal"}
            for task, name in PIPELINES.items()
        },
    },
    "cxr_vq_tokenizer": {
        "auto_map": {
            "AutoConfig": "configuration_llm_cxr.CXRVQTokenizerConfig",
            "AutoModel": "modeling_cxr_vq_tokenizer.CXRVQTokenizer",
        }
    },
}


def add_remote_code(folder: str | os.PathLike) -> None:
    """
    Add the code of its classes to a saved LLM-CXR, image tokenizer or adapter. The Auto classes and `pipeline` of
    Transformers load it with `trust_remote_code=True` if this package is not installed (its dependencies are needed),
    and as any other checkpoint if it is.

    Args:
        folder (`str` or `os.PathLike`):
            Folder of `save_pretrained`.
    """
    folder = Path(folder)
    for file in [*CODE_FOLDER.glob("*_llm_cxr.py"), CODE_FOLDER / "modeling_cxr_vq_tokenizer.py"]:
        shutil.copyfile(file, folder / file.name)
    # `register_for_auto_class` keeps only one Auto class per class.
    for path in folder.glob("config.json"):
        _update_json(path, **CONFIG_ENTRIES[read_json(path)["model_type"]])
    for path in folder.glob("preprocessor_config.json"):
        _update_json(path, auto_map=IMAGE_PROCESSOR_MAP)
    for path in folder.glob("processor_config.json"):
        image_processor = read_json(path)["image_processor"] | {"auto_map": IMAGE_PROCESSOR_MAP}
        auto_map = {"AutoProcessor": "processing_llm_cxr.LlmCxrProcessor"}
        _update_json(path, auto_map=auto_map, image_processor=image_processor)


def save_with_remote_code(
    model: LlmCxrForCausalLM, processor: LlmCxrProcessor, save_directory: str | os.PathLike
) -> None:
    """
    Save a checkpoint together with the code of its classes, see [`add_remote_code`].

    Args:
        model ([`LlmCxrForCausalLM`]), processor ([`LlmCxrProcessor`]):
            Model and processor to save.
        save_directory (`str` or `os.PathLike`):
            Folder to write.

    Raises:
        ValueError: the processor and the model do not belong together.
    """
    model.check_processor(processor)
    model.save_pretrained(save_directory)
    processor.save_pretrained(save_directory)
    add_remote_code(save_directory)


def _update_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(read_json(path) | values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


__all__ = ["add_remote_code", "save_with_remote_code"]
