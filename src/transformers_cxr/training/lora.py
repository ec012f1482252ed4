"""LoRA and new-token embeddings."""

from __future__ import annotations

import torch

from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
from ..llm_cxr.processing_llm_cxr import (
    BOI_TOKEN,
    END_TOKEN,
    EOI_TOKEN,
    IMAGE_TOKEN,
    INSTRUCTION_TOKEN,
    RESPONSE_TOKEN,
    LlmCxrProcessor,
    code_token,
)


def new_token_ids(model: LlmCxrForCausalLM, processor: LlmCxrProcessor) -> list[int]:
    """Return the ids of the tokens that this package adds to a language model, if they have an embedding."""
    tokens = [INSTRUCTION_TOKEN, RESPONSE_TOKEN, END_TOKEN, IMAGE_TOKEN, BOI_TOKEN, EOI_TOKEN]
    tokens += [code_token(code) for code in range(processor.codebook_size)]
    # Not `len(weight)`, which DeepSpeed ZeRO-3 empties.
    num_embeddings = model.get_input_embeddings().num_embeddings
    return sorted(i for i in processor.tokenizer.convert_tokens_to_ids(tokens) if i < num_embeddings)


def train_new_embeddings_only(model: LlmCxrForCausalLM, processor: LlmCxrProcessor) -> None:
    """
    Set the gradients of all embeddings, and rows of an untied head, other than those of new tokens to 0.

    Weight decay changes them nevertheless, so it must be 0. Sharded weights are not supported.
    """
    new_ids = new_token_ids(model, processor)
    for weight in {model.get_input_embeddings().weight, model.get_output_embeddings().weight}:
        is_new = torch.zeros(len(weight), 1)
        is_new[new_ids] = 1
        weight.register_hook(lambda gradient, is_new=is_new: gradient * is_new.to(gradient))


def lora_config(**lora_settings):
    """
    Return the settings of LoRA (arXiv 2106.09685) on the linear layers of the backbone.

    Args:
        **lora_settings:
            Fields of `peft.LoraConfig`, such as `r`, `lora_alpha` and `lora_dropout`. `target_modules` defaults to
            `"all-linear"`, all linear layers but the head.

    Returns:
        `peft.LoraConfig`, for `peft.get_peft_model` or as `peft_config` of a trainer of TRL.

    Raises:
        ImportError: PEFT is not installed.
        ValueError: `peft.LoraConfig` has no such setting.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError("LoRA needs PEFT: `pip install transformers-cxr[train]`.") from error

    if unknown := sorted(set(lora_settings) - LoraConfig.__dataclass_fields__.keys()):
        known = ", ".join(LoraConfig.__dataclass_fields__)
        raise ValueError(f"`peft.LoraConfig` has no settings {unknown}. It has {known}.")
    settings = {
        "task_type": "CAUSAL_LM",
        "target_modules": "all-linear",
        "exclude_modules": r"(.*\.)?vq_tokenizer\..*",
    }
    return LoraConfig(**(settings | lora_settings))


def add_lora(
    model: LlmCxrForCausalLM, processor: LlmCxrProcessor, train_new_embeddings_only: bool = True, **lora_settings
):
    """
    Add LoRA to the linear layers of the backbone, and train embeddings too.

    Args:
        model ([`LlmCxrForCausalLM`]), processor ([`LlmCxrProcessor`]):
            Model and processor. The weights of the model are frozen.
        train_new_embeddings_only (`bool`, *optional*, defaults to `True`):
            Train, and save in the adapter, only the embeddings (and rows of an untied head) of new tokens. Otherwise
            all.
        **lora_settings:
            Settings of [`lora_config`].

    Returns:
        `peft.PeftModel`; its `merge_and_unload()` returns a model without PEFT.

    Raises:
        ImportError: PEFT is not installed.
        ValueError: `peft.LoraConfig` has no such setting.
    """
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    # Both names, also if they share one weight: PEFT then trains one set of rows for the two.
    names = [name for name, module in model.named_modules() if module in tables]
    if train_new_embeddings_only:
        embeddings = {"trainable_token_indices": dict.fromkeys(names, new_token_ids(model, processor))}
    else:
        embeddings = {"modules_to_save": names, "ensure_weight_tying": model.config.tie_word_embeddings}
    config = lora_config(**(embeddings | lora_settings))
    from peft import get_peft_model

    return get_peft_model(model, config)
