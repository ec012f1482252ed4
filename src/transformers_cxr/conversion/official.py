"""
Conversion of the released LLM-CXR (github hyn2028/llm-cxr): a GPT-NeoX folder of Transformers, whose vocabulary ends
with the image codes, and a VQ-GAN of taming-transformers.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from accelerate import cpu_offload
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
)

from ..files import atomic_write
from ..llm_cxr.configuration_llm_cxr import CXRVQTokenizerConfig, LlmCxrConfig
from ..llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer
from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
from ..llm_cxr.processing_llm_cxr import END_TOKEN, INSTRUCTION_TOKEN, RESPONSE_TOKEN, TEXT_MARKERS, LlmCxrProcessor
from .state_dicts import first_names, format_mismatch, read_checkpoint
from .taming import read_taming_checkpoint, vq_tokenizer_from_taming, vq_tokenizer_to_taming

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
# Tables that older versions of Transformers saved with GPT-NeoX, and that the model computes.
COMPUTED = re.compile(r"\.attention\.(bias|masked_bias)$|\.rotary_emb\.inv_freq$")
VQ_TOKENIZER = "model.vq_tokenizer."
MAX_SHARD_BYTES = 256 * 2**20
PROBE_LENGTH = 64
# The first of the ten instructions for each task that it was trained with.
REPORT_INSTRUCTION = "Generate free-text radiology reports for the entered chest X-ray images."
IMAGE_INSTRUCTION = (
    "Generate a chest X-ray image that corresponds to the entered free-text radiology reports for the chest X-ray "
    "image."
)


class StreamedWeights(Mapping):
    """
    The weights of a Transformers folder by name, in one file or in shards of safetensors or `torch.save` (also of
    DeepSpeed's `zero_to_fp32.py`). Each access maps its file anew and reads one tensor, so that nothing stays in
    memory.

    Args:
        folder (`Path`):
            Folder with `model.safetensors`, `pytorch_model.bin`, or the `.index.json` of one of them and its shards.
        dtype (`torch.dtype`, *optional*):
            Dtype to convert the weights to. By default each weight keeps its own.

    Attributes:
        meta (`dict[str, torch.Tensor]`): shape and dtype of each weight, as a tensor on the meta device.

    Raises:
        FileNotFoundError: there are no weights, or a shard is missing.
        ValueError: a file is truncated, contains other objects than tensors, or refers to code (which is not
            executed).
    """

    def __init__(self, folder: Path, dtype: torch.dtype | None = None):
        self.files: dict[str, Path] = {}
        self.meta: dict[str, torch.Tensor] = {}
        for file in _weight_files(folder):
            for name, tensor in _map_tensors(file).items():
                if not COMPUTED.search(name):
                    self.files[name] = file
                    self.meta[name] = torch.empty_like(tensor, dtype=dtype or tensor.dtype, device="meta")

    def __getitem__(self, name: str) -> torch.Tensor:
        file = self.files[name]
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as content:
                tensor = content.get_tensor(name)
        else:
            tensor = _map_tensors(file)[name]
        return tensor.to(self.meta[name].dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def _weight_files(folder: Path) -> list[Path]:
    for name in WEIGHT_FILES:
        index = folder / f"{name}.index.json"
        if index.is_file():
            files = [folder / file for file in dict.fromkeys(_read_json(index)["weight_map"].values())]
            if missing := [file.name for file in files if not file.is_file()]:
                raise FileNotFoundError(
                    f"'{folder}' lacks {first_names(missing)}, {len(missing)} of the {len(files)} files that "
                    f"'{index.name}' names. Copy or download it again."
                )
            return files
        if (folder / name).is_file():
            return [folder / name]
    raise FileNotFoundError(
        f"No weights in '{folder}': expected {' or '.join(WEIGHT_FILES)}, or the `.index.json` of one and its shards. "
        "Join the parts that DeepSpeed writes in training with its `zero_to_fp32.py`."
    )


def _map_tensors(file: Path) -> Mapping[str, torch.Tensor]:
    tensors = read_checkpoint(file)
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise ValueError(f"'{file}' is not a plain state dict: expected tensors by name.")
    return tensors


@torch.no_grad()
def convert_official_checkpoint(
    language_model: str | os.PathLike,
    vq_gan_config: str | os.PathLike,
    vq_gan_checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    dtype: torch.dtype | None = None,
) -> list[tuple[str, str]]:
    """
    Convert the released LLM-CXR, or any checkpoint of its training code, and verify the result.

    Token ids stay the same (see `text_image_markers` of [`LlmCxrConfig`]). The default instructions and the sampling
    settings of the result are those of the release. At most one shard of 256 MB, or the largest tensor, is in memory
    at a time.

    Args:
        language_model (`str` or `os.PathLike`):
            The GPT-NeoX folder: `config.json`, tokenizer and weights (see [`StreamedWeights`]).
        vq_gan_config, vq_gan_checkpoint (`str` or `os.PathLike`):
            The `.yaml` and `.ckpt` files of taming-transformers.
        output (`str` or `os.PathLike`):
            Folder to write. It appears only after the verification.
        dtype (`torch.dtype`, *optional*):
            Dtype of the language model. By default each weight keeps its own. The VQ-GAN is always in fp32.

    Returns:
        `list[tuple[str, str]]`: name and result of each verification.

    Raises:
        FileExistsError: `output` exists.
        FileNotFoundError: a file is missing.
        ValueError: a file cannot be read, the parts do not match, or the result differs from its source.
    """
    with atomic_write(output, overwrite=False) as partial:
        folder = Path(language_model)
        text_config, tokenizer = _read_language_model_folder(folder)
        weights = StreamedWeights(folder, dtype)
        _check_language_model(text_config, weights, folder)
        text_config.dtype = weights.meta["gpt_neox.embed_in.weight"].dtype
        vq_tokenizer = vq_tokenizer_from_taming(vq_gan_config, vq_gan_checkpoint)
        _save_settings(partial, text_config, tokenizer, vq_tokenizer.config)
        vq_state = vq_tokenizer.state_dict()
        # `vq_state` alone holds its memory now, and `_write_weights` empties it.
        del vq_tokenizer
        _write_weights(partial, vq_state, weights)
        return [
            *_verify_weights(partial, weights),
            *_verify_vq_tokenizer(partial, vq_gan_checkpoint),
            *_verify_processor(partial),
        ]


def _read_language_model_folder(folder: Path):
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"No `{name}` in '{folder}': expected the folder of a language model.")
        # Transformers reports a damaged tokenizer as a missing package.
        _read_json(folder / name)
    model_type = _read_json(folder / "config.json").get("model_type")
    if model_type != "gpt_neox":
        raise ValueError(
            f"'{folder}' is a model of type {model_type!r}. Expected the 'gpt_neox' of LLM-CXR. "
            "`LlmCxrForCausalLM.from_language_model` adds image codes to other language models."
        )
    return AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"'{path}' is not a JSON file: {error}.") from error


def _check_language_model(text_config: PreTrainedConfig, weights: StreamedWeights, folder: Path) -> None:
    with torch.device("meta"):
        state = AutoModelForCausalLM.from_config(text_config).state_dict()
    expected = {_release_name(name): tensor for name, tensor in state.items()}
    if problem := format_mismatch(expected, weights.meta):
        raise ValueError(f"`config.json` does not match the weights in '{folder}': {problem}.")


def _release_name(name: str) -> str:
    """Return the name in the release of a weight of Transformers' GPT-NeoX."""
    return re.sub(r"^lm_head\.", "embed_out.", name)


def _converted_name(name: str) -> str:
    """Return the name in [`LlmCxrForCausalLM`] of a weight of the release."""
    return re.sub(r"^gpt_neox\.", "model.language_model.", re.sub(r"^embed_out\.", "lm_head.", name))


def _save_settings(folder: Path, text_config: PreTrainedConfig, tokenizer, vq_config: CXRVQTokenizerConfig) -> None:
    """Save the processor, and the configuration of the model and of generation."""
    vocabulary = tokenizer.get_vocab()
    expected = [INSTRUCTION_TOKEN, RESPONSE_TOKEN, END_TOKEN, *TEXT_MARKERS]
    if missing := [token for token in expected if token not in vocabulary]:
        raise ValueError(f"The tokenizer lacks the tokens {missing}: it is not that of LLM-CXR.")
    rows, codes = text_config.vocab_size, vq_config.codebook_size
    if len(tokenizer) + codes != rows:
        raise ValueError(
            f"Expected a tokenizer of {rows - codes} tokens for a language model of {rows} embeddings and a VQ-GAN of "
            f"{codes} codes, got {len(tokenizer)} tokens: these parts do not belong together."
        )
    processor = LlmCxrProcessor.from_tokenizer(tokenizer, vq_config, text_image_markers=True)
    processor.report_instruction, processor.image_instruction = REPORT_INSTRUCTION, IMAGE_INSTRUCTION
    processor.save_pretrained(folder)
    text_config._name_or_path = ""  # a folder of this machine
    text_config.bos_token_id, text_config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    LlmCxrConfig(
        text_config=text_config,
        vq_config=vq_config,
        **processor.token_layout,
        architectures=[LlmCxrForCausalLM.__name__],
        dtype=text_config.dtype,
    ).save_pretrained(folder)
    GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_p=0.92,
        top_k=0,
        image_generation={"top_p": 0.92},
        eos_token_id=processor.tokenizer.convert_tokens_to_ids(END_TOKEN),
        pad_token_id=processor.tokenizer.pad_token_id,
    ).save_pretrained(folder)


def _write_weights(folder: Path, vq_state: dict[str, torch.Tensor], weights: StreamedWeights) -> None:
    """Write shards and their index, with one shard in memory at a time. Empties `vq_state`."""
    sources = {_converted_name(name): name for name in weights}
    meta = {VQ_TOKENIZER + name: torch.empty_like(tensor, device="meta") for name, tensor in vq_state.items()}
    meta |= {name: weights.meta[source] for name, source in sources.items()}
    split = split_torch_state_dict_into_shards(meta, max_shard_size=MAX_SHARD_BYTES)
    for file, names in split.filename_to_tensors.items():
        shard = {
            name: (weights[sources[name]] if name in sources else vq_state.pop(name.removeprefix(VQ_TOKENIZER)))
            for name in names
        }
        save_file({name: t.contiguous() for name, t in shard.items()}, folder / file, metadata={"format": "pt"})
        del shard  # before the next one is read
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": dict(sorted(split.tensor_to_filename.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _verify_weights(folder: Path, weights: StreamedWeights) -> list[tuple[str, str]]:
    """Compare the logits of the written weights with those of their source."""
    written = StreamedWeights(folder)
    config = LlmCxrConfig.from_pretrained(folder)
    with torch.device("meta"):
        source_model = AutoModelForCausalLM.from_config(config.text_config).eval()
        model = LlmCxrForCausalLM(config).eval()
    if problem := format_mismatch(model.state_dict(), written.meta):
        raise ValueError(f"The written weights are not those of the model: {problem}.")
    _stream(source_model, source_model.gpt_neox, lambda name: weights[_release_name(name)])
    _stream(model, model.get_decoder(), lambda name: written[name])
    input_ids = torch.linspace(0, config.text_config.vocab_size - 1, PROBE_LENGTH).long()[None]
    expected_logits, logits = (m(input_ids=input_ids, use_cache=False).logits for m in (source_model, model))
    if not torch.equal(logits, expected_logits):
        difference = (logits.float() - expected_logits.float()).abs().max()
        raise ValueError(
            f"The logits of the converted model differ from those of its source by up to {difference:.2e}."
        )
    return [
        ("Weights of the language model", f"all {len(weights)} used"),
        ("Weights of the converted model", f"all {len(written)} present"),
        ("Logits", f"equal at {PROBE_LENGTH} positions x {logits.shape[-1]} tokens"),
    ]


def _stream(model: nn.Module, backbone: nn.Module, read: Callable[[str], torch.Tensor]) -> None:
    """Let each module of a GPT-NeoX on the meta device read its weights when it runs, and drop them afterwards."""
    # This table is in no checkpoint, and a model on the meta device has not computed it.
    backbone.rotary_emb = type(backbone.rotary_emb)(backbone.config)
    cpu_offload(model, execution_device=torch.device("cpu"), state_dict=_WeightsOnDemand(read))


class _WeightsOnDemand(dict):
    """A state dict that reads a weight whenever it is accessed."""

    def __init__(self, read: Callable[[str], torch.Tensor]):
        super().__init__()
        self.read = read

    def __missing__(self, name: str) -> torch.Tensor:
        # A copy always has the same alignment, on which the rounding of kernels may depend.
        return self.read(name).clone()


def _verify_vq_tokenizer(folder: Path, vq_gan_checkpoint: str | os.PathLike) -> list[tuple[str, str]]:
    written = StreamedWeights(folder)
    vq_tokenizer = CXRVQTokenizer(LlmCxrConfig.from_pretrained(folder).vq_config)
    vq_tokenizer.load_state_dict({name: written[VQ_TOKENIZER + name] for name in vq_tokenizer.state_dict()})
    source, back = read_taming_checkpoint(vq_gan_checkpoint), vq_tokenizer_to_taming(vq_tokenizer)
    if wrong := [name for name in source if not torch.equal(back[name], source[name].float())]:
        raise ValueError(f"The converted VQ-GAN differs from its source in {first_names(wrong)}.")
    return [("Weights of the VQ-GAN", f"all {len(source)} equal when converted back")]


def _verify_processor(folder: Path) -> list[tuple[str, str]]:
    config, processor = LlmCxrConfig.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    first, last = config.image_token_offset, config.image_token_offset + processor.codebook_size - 1
    codes = torch.arange(config.vq_config.num_image_tokens) % processor.codebook_size
    expected = [config.boi_token_id, *(codes + first).tolist(), config.eoi_token_id]
    if processor(text="<image>", image_codes=codes[None])["input_ids"][0] != expected:
        raise ValueError("The processor does not write an image as `<`, its codes and `>`.")
    return [("Token ids", f"codes {first} to {last}, between {expected[0]} and {expected[-1]}")]


__all__ = ["convert_official_checkpoint"]
