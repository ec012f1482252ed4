"""Which weights of the language model train: LoRA and the rows of the new tokens."""

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
    """Ids of the tokens that this package adds to a language model and that have a row in its vocabulary, ascending."""
    tokens = [INSTRUCTION_TOKEN, RESPONSE_TOKEN, END_TOKEN, IMAGE_TOKEN, BOI_TOKEN, EOI_TOKEN]
    tokens += [code_token(code) for code in range(processor.codebook_size)]
    # Not those of the weight, of which DeepSpeed ZeRO-3 leaves nothing here.
    rows = model.get_input_embeddings().num_embeddings
    return sorted(i for i in processor.tokenizer.convert_tokens_to_ids(tokens) if i < rows)


def freeze_old_rows(model: LlmCxrForCausalLM, new_ids: list[int]) -> None:
    """
    Lets only the rows `new_ids` of the vocabulary, and of an untied head, train: the gradient of the others is 0. A weight
    decay would change them all the same, and weights that are sharded have no rows to tell apart.
    """
    for table in {model.get_input_embeddings().weight, model.get_output_embeddings().weight}:
        trained = torch.zeros(len(table), 1)
        trained[new_ids] = 1
        table.register_hook(lambda gradient, trained=trained: gradient * trained.to(gradient))


def add_lora(model: LlmCxrForCausalLM, new_ids: list[int], freeze_old_rows: bool = True, **lora_settings):
    """
    Adds LoRA (arXiv 2106.09685) to the linear layers of the backbone, and makes rows of the vocabulary trainable beside it.

    Args:
        model ([`LlmCxrForCausalLM`]):
            The model; its own weights are frozen.
        new_ids (`list[int]`):
            Of [`new_token_ids`].
        freeze_old_rows (`bool`, *optional*, defaults to `True`):
            Train the rows `new_ids` alone, which is also all that the adapter holds of them. `False` trains, and saves, the
            whole vocabulary and head.
        **lora_settings:
            Fields of `peft.LoraConfig`, such as `r`, `lora_alpha` and `lora_dropout`; `target_modules` is by default
            `"all-linear"`, all linear layers but the head.

    Returns:
        `peft.PeftModel`; `merge_and_unload()` gives a model without PEFT again.

    Raises:
        ImportError: PEFT is not installed.
        ValueError: a setting that `peft.LoraConfig` does not have.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("LoRA needs PEFT: `pip install transformers-cxr[train]`.") from error

    if unknown := sorted(set(lora_settings) - LoraConfig.__dataclass_fields__.keys()):
        raise ValueError(
            f"LoRA has no settings {unknown}; `peft.LoraConfig` has {', '.join(LoraConfig.__dataclass_fields__)}."
        )
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    # Both names also where they share one weight: PEFT then trains one set of rows for the two.
    names = [name for name, module in model.named_modules() if module in tables]
    if freeze_old_rows:
        rows = {"trainable_token_indices": dict.fromkeys(names, new_ids)}
    else:
        rows = {"modules_to_save": names, "ensure_weight_tying": model.config.tie_word_embeddings}
    settings = {"task_type": "CAUSAL_LM", "target_modules": "all-linear", "exclude_modules": r"vq_tokenizer\..*"}
    return get_peft_model(model, LoraConfig(**(settings | rows | lora_settings)))
