"""A checkpoint of this package as a plain language model, for servers that know only text."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

from ..files import atomic_write
from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
from ..llm_cxr.processing_llm_cxr import LlmCxrProcessor


def export_language_model(
    model: LlmCxrForCausalLM, processor: LlmCxrProcessor, save_directory: str | os.PathLike
) -> None:
    """
    Writes the backbone and its tokenizer, which loads without this package. There an image is text: the tokens that begin
    and end it around 256 code tokens (`<|cxr_0000|>` and so on), and the ids are those of the model.

    Args:
        model ([`LlmCxrForCausalLM`]), processor ([`LlmCxrProcessor`]):
            What to export.
        save_directory (`str` or `os.PathLike`):
            Folder to write. It appears only when all of it is written.

    Raises:
        FileExistsError: the folder exists.
        ValueError: the processor and the model do not belong together.
    """
    model.check_processor(processor)
    with atomic_write(save_directory, overwrite=False) as partial:
        model.language_model.save_pretrained(partial)
        model.generation_config.save_pretrained(partial)
        tokenizer = copy.deepcopy(processor.tokenizer)
        tokenizer.chat_template = processor.chat_template
        tokenizer.save_pretrained(partial)
        _drop_tokens_beyond(partial, model.config.text_config.vocab_size)


def _drop_tokens_beyond(folder: Path, vocab_size: int) -> None:
    """Takes the tokens out that the backbone has no embedding for: the image tokens of the released LLM-CXR's layout."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["id"] < vocab_size]
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


__all__ = ["export_language_model"]
