"""
Conversion of the released LLM-CXR (github hyn2028/llm-cxr): a GPT-NeoX folder of Transformers, whose vocabulary ends
with the image codes, and a VQ-GAN of taming-transformers.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..files import atomic_write, read_json
from ..llm_cxr.configuration_llm_cxr import CXRVQTokenizerConfig, LlmCxrConfig
from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
from ..llm_cxr.processing_llm_cxr import END_TOKEN, INSTRUCTION_TOKEN, RESPONSE_TOKEN, TEXT_MARKERS, LlmCxrProcessor
from .state_dicts import first_names, format_mismatch, read_errors
from .taming import vq_tokenizer_from_taming

PROBE_LENGTH = 64
# The first of the ten training instructions of each task.
REPORT_INSTRUCTION = "Generate free-text radiology reports for the entered chest X-ray images."
IMAGE_INSTRUCTION = (
    "Generate a chest X-ray image that corresponds to the entered free-text radiology reports for the chest X-ray "
    "image."
)


@torch.no_grad()
def convert_official_checkpoint(
    language_model: str | os.PathLike,
    vq_gan_config: str | os.PathLike,
    vq_gan_checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    dtype: torch.dtype | None = None,
) -> None:
    """
    Convert the released LLM-CXR, or any checkpoint of its training code, and verify the result.

    Token ids stay the same (see `text_image_markers` of [`LlmCxrConfig`]). The default instructions and the sampling
    settings of the result are those of the release. Code in a checkpoint is never executed.

    Args:
        language_model (`str` or `os.PathLike`):
            The GPT-NeoX folder: `config.json`, tokenizer and weights, as safetensors or `pytorch_model.bin`, whole or
            in shards, also those of DeepSpeed's `zero_to_fp32.py`.
        vq_gan_config, vq_gan_checkpoint (`str` or `os.PathLike`):
            The `.yaml` and `.ckpt` files of taming-transformers.
        output (`str` or `os.PathLike`):
            Folder to write. It appears only after the verification.
        dtype (`torch.dtype`, *optional*):
            Dtype of the language model; by default that of its weights. The VQ-GAN is always in fp32.

    Raises:
        FileExistsError: `output` exists.
        FileNotFoundError, ValueError: a file is missing or cannot be read, the parts do not match, or the result
            differs from its source.
    """
    with atomic_write(output, overwrite=False) as partial:
        source, tokenizer = _load_language_model(Path(language_model), dtype)
        vq_tokenizer = vq_tokenizer_from_taming(vq_gan_config, vq_gan_checkpoint)
        processor = _build_processor(tokenizer, source.config.vocab_size, vq_tokenizer.config)
        text_config = source.config
        text_config._name_or_path = ""  # a folder of this machine
        text_config.bos_token_id, text_config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        config = LlmCxrConfig(text_config=text_config, vq_config=vq_tokenizer.config, **processor.token_layout)
        with torch.device("meta"):
            model = LlmCxrForCausalLM(config)
        model.model.language_model, model.lm_head = source.gpt_neox, source.lm_head
        model.model.vq_tokenizer = vq_tokenizer
        model.generation_config = GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_p=0.92,
            top_k=0,
            image_generation={"top_p": 0.92},
            eos_token_id=processor.tokenizer.convert_tokens_to_ids(END_TOKEN),
            pad_token_id=processor.tokenizer.pad_token_id,
        )
        model.save_pretrained(partial)
        processor.save_pretrained(partial)
        _verify(partial, model, source)


def _load_language_model(folder: Path, dtype: torch.dtype | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    for file in (folder / "config.json", folder / "tokenizer.json"):
        if not file.is_file():
            raise FileNotFoundError(f"No `{file.name}` in '{folder}': expected the folder of a language model.")
        read_json(file)  # Transformers reports a damaged tokenizer as a missing package.
    config = AutoConfig.from_pretrained(folder)
    if config.model_type != "gpt_neox":
        raise ValueError(
            f"'{folder}' is a model of type {config.model_type!r}. Expected the 'gpt_neox' of LLM-CXR. "
            "`LlmCxrForCausalLM.from_language_model` adds image codes to other language models."
        )
    config.dtype = None  # The weights have another one after `zero_to_fp32.py`.
    with read_errors(folder):
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=dtype or "auto", output_loading_info=True, ignore_mismatched_sizes=True
        )
    if problem := format_mismatch(info["missing_keys"], info["unexpected_keys"], info["mismatched_keys"]):
        raise ValueError(f"`config.json` does not match the weights in '{folder}': {problem}.")
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def _build_processor(
    tokenizer: PreTrainedTokenizerBase, num_embeddings: int, vq_config: CXRVQTokenizerConfig
) -> LlmCxrProcessor:
    vocabulary = tokenizer.get_vocab()
    expected = [INSTRUCTION_TOKEN, RESPONSE_TOKEN, END_TOKEN, *TEXT_MARKERS]
    if missing := [token for token in expected if token not in vocabulary]:
        raise ValueError(f"The tokenizer lacks the tokens {missing}: it is not that of LLM-CXR.")
    if len(tokenizer) + vq_config.codebook_size != num_embeddings:
        raise ValueError(
            f"Expected a tokenizer of {num_embeddings - vq_config.codebook_size} tokens for {num_embeddings} "
            f"embeddings and {vq_config.codebook_size} codes, got {len(tokenizer)}: the parts do not belong together."
        )
    processor = LlmCxrProcessor.from_tokenizer(tokenizer, vq_config, text_image_markers=True)
    processor.report_instruction, processor.image_instruction = REPORT_INSTRUCTION, IMAGE_INSTRUCTION
    return processor


def _verify(folder: Path, converted: LlmCxrForCausalLM, source: PreTrainedModel) -> None:
    """Raise a `ValueError` if the written checkpoint has other weights, logits or ids than it should have."""
    model, processor = LlmCxrForCausalLM.from_pretrained(folder, dtype="auto"), AutoProcessor.from_pretrained(folder)
    written = model.state_dict()
    if wrong := [name for name, t in converted.state_dict().items() if not torch.equal(written[name], t)]:
        raise ValueError(f"The written weights differ from their source in {first_names(wrong)}.")
    input_ids = torch.linspace(0, source.config.vocab_size - 1, PROBE_LENGTH).long()[None]
    logits, expected_logits = (m.eval()(input_ids, use_cache=False).logits.float() for m in (model, source))
    # Rounding depends on the alignment of the weights in memory.
    difference = (logits - expected_logits).abs().max() / expected_logits.abs().max()
    if not difference < 1e-2:
        raise ValueError(f"The logits of the converted model differ from those of its source by {difference:.2%}.")
    codes = torch.arange(processor.num_image_tokens) % processor.codebook_size
    expected = [model.config.boi_token_id, *(codes + model.config.image_token_offset), model.config.eoi_token_id]
    if processor(text="<image>", image_codes=codes[None])["input_ids"][0] != expected:
        raise ValueError("The processor does not write an image as `<`, its codes and `>`.")


__all__ = ["convert_official_checkpoint"]
