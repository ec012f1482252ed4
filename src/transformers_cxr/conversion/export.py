"""Export of the backbone as a plain language model, for servers that support only text."""

from __future__ import annotations

import copy
import json
import os

from ..files import atomic_write
from ..llm_cxr.modeling_cxr_vq_tokenizer import share_weights
from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
from ..llm_cxr.processing_llm_cxr import BOI_TOKEN, EOI_TOKEN, LlmCxrProcessor

MARKERS = (BOI_TOKEN, EOI_TOKEN)


def export_language_model(
    model: LlmCxrForCausalLM, processor: LlmCxrProcessor, save_directory: str | os.PathLike
) -> None:
    """
    Write the backbone and its tokenizer as a checkpoint that loads without this package. Its ids and logits are those
    of the model. An image is text there: a start token, 256 code tokens (`<|cxr_0000|>` ...) and an end token.

    Args:
        model ([`LlmCxrForCausalLM`]), processor ([`LlmCxrProcessor`]):
            Model and processor to export.
        save_directory (`str` or `os.PathLike`):
            Folder to write.

    Raises:
        FileExistsError: the folder exists.
        ValueError: the processor and the model do not belong together.
    """
    model.check_processor(processor)
    with atomic_write(save_directory, overwrite=False) as partial:
        model.to_language_model().save_pretrained(partial)
        share_weights(partial)
        model.generation_config.save_pretrained(partial)
        tokenizer = copy.deepcopy(processor.tokenizer)
        tokenizer.chat_template = processor.chat_template
        tokenizer.save_pretrained(partial)
        # The image tokens of the released LLM-CXR have no embeddings.
        path, vocab_size = partial / "tokenizer.json", model.config.text_config.vocab_size
        content = json.loads(path.read_text(encoding="utf-8"))
        content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < vocab_size]
        for token in content["added_tokens"]:
            # Servers leave special tokens out of their answers.
            token["special"] &= token["id"] < processor.image_token_offset and token["content"] not in MARKERS
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        # Transformers 4 does not know the name that Transformers 5 writes.
        path = partial / "tokenizer_config.json"
        content = json.loads(path.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


__all__ = ["export_language_model"]
