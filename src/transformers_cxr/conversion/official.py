"""
The released LLM-CXR (github hyn2028/llm-cxr) as a checkpoint of this package.

It is a GPT-NeoX folder of Transformers, whose vocabulary ends with the image codes, and a VQ-GAN of taming-transformers.
"""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from accelerate import cpu_offload
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from ..files import atomic_write
from ..llm_cxr.configuration_llm_cxr import CXRVQTokenizerConfig, LlmCxrConfig
from ..llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer
from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
from ..llm_cxr.processing_llm_cxr import END_TOKEN, INSTRUCTION_TOKEN, RESPONSE_TOKEN, TEXT_MARKERS, LlmCxrProcessor
from .state_dicts import mismatch, some
from .taming import read_taming_checkpoint, vq_tokenizer_from_taming, vq_tokenizer_to_taming

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
# Tables that older versions of Transformers saved with GPT-NeoX and that the model computes by itself.
COMPUTED = re.compile(r"\.attention\.(bias|masked_bias)$|\.rotary_emb\.inv_freq$")
LANGUAGE_MODEL = "language_model."
VQ_TOKENIZER = "vq_tokenizer."
MAX_SHARD_BYTES = 256 * 2**20
PROBE_LENGTH = 64
# The first of the ten instructions of each task that it was trained with.
REPORT_INSTRUCTION = "Generate free-text radiology reports for the entered chest X-ray images."
IMAGE_INSTRUCTION = (
    "Generate a chest X-ray image that corresponds to the entered free-text radiology reports for the chest X-ray image."
)


class OfficialWeights(Mapping):
    """
    The weights of a Transformers folder by name: single or sharded, safetensors or `torch.save` (also DeepSpeed's
    `zero_to_fp32.py`). Each access maps its file anew and reads one tensor, so that nothing stays in memory.

    Args:
        folder (`Path`):
            Folder with `model.safetensors`, `pytorch_model.bin`, or the `.index.json` of one of them and its shards.

    Raises:
        FileNotFoundError: there are no weights, or a shard is missing.
        ValueError: a file is truncated, is no such file, refers to code (which is not executed), or lacks a weight that the
            index promises.
    """

    def __init__(self, folder: Path):
        self.files: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        for file, promised in _weight_files(folder).items():
            tensors = _read_tensors(file)
            if missing := [name for name in promised if name not in tensors]:
                raise ValueError(f"'{file}' lacks {some(missing)}, which the index of the weights says it holds.")
            for name, tensor in tensors.items():
                if not COMPUTED.search(name):
                    self.files[name], self.shapes[name], self.dtypes[name] = file, tuple(tensor.shape), tensor.dtype

    def __getitem__(self, name: str) -> torch.Tensor:
        file = self.files[name]
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as content:
                return content.get_tensor(name)
        return _read_tensors(file)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def _weight_files(folder: Path) -> dict[Path, list[str]]:
    """The files of the weights, each with the names that an index says it holds."""
    for name in WEIGHT_FILES:
        index = folder / f"{name}.index.json"
        if index.is_file():
            files: dict[Path, list[str]] = {}
            for weight, file in _read_json(index)["weight_map"].items():
                files.setdefault(folder / file, []).append(weight)
            if missing := [file.name for file in files if not file.is_file()]:
                raise FileNotFoundError(
                    f"'{folder}' lacks {some(missing)}, {len(missing)} of the {len(files)} files that '{index.name}' "
                    "names. Copy or download it again."
                )
            return files
        if (folder / name).is_file():
            return {folder / name: []}
    raise FileNotFoundError(
        f"No weights in '{folder}': expected {' or '.join(WEIGHT_FILES)}, or the `.index.json` of one and its shards. The "
        "parts that DeepSpeed writes in training are put together by its `zero_to_fp32.py`."
    )


def _read_tensors(file: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of a file, mapped and not read."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        tensors = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"'{file}' is not a plain state dict: it holds more than tensors, or refers to code. It was refused and nothing "
            "in it was executed."
        ) from error
    except (SafetensorError, RuntimeError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"Cannot read '{file}': it is truncated or not a file of weights ({reason}).") from error
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
    Converts the released LLM-CXR, or any checkpoint of its training code, and verifies the result. The token ids stay what
    they are (see `text_image_markers` of [`LlmCxrConfig`]).

    Memory: one group of tensors of at most 256 MB at a time, or the largest tensor; never a whole model.

    Args:
        language_model (`str` or `os.PathLike`):
            The GPT-NeoX folder: `config.json`, tokenizer and weights (see [`OfficialWeights`]).
        vq_gan_config, vq_gan_checkpoint (`str` or `os.PathLike`):
            The `.yaml` and `.ckpt` of taming-transformers.
        output (`str` or `os.PathLike`):
            Folder to write. It appears only when all of it is written and verified.
        dtype (`torch.dtype`, *optional*):
            Dtype of the language model; by default each weight keeps its own. The VQ-GAN is always in fp32.

    Returns:
        `list[tuple[str, str]]`: what was verified, and with which result.

    Raises:
        FileExistsError: `output` exists.
        FileNotFoundError: a file is missing.
        ValueError: a file cannot be read, the parts do not belong together, or the result differs from its source.
    """
    with atomic_write(output, overwrite=False) as partial:
        weights, vq_tokenizer, processor, config = _read_official(
            Path(language_model), vq_gan_config, vq_gan_checkpoint, dtype
        )
        generation_config = GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_p=0.92,
            top_k=0,
            image_generation={"top_p": 0.92},
            eos_token_id=processor.tokenizer.convert_tokens_to_ids(END_TOKEN),
            pad_token_id=processor.tokenizer.pad_token_id,
        )
        config.save_pretrained(partial)
        generation_config.save_pretrained(partial)
        processor.save_pretrained(partial)
        pixel_values = _probe_pixels(vq_tokenizer.config)
        source_codes = vq_tokenizer.encode(pixel_values)
        _write_weights(partial, weights, vq_tokenizer, dtype)
        # Verified is what the files hold, not what was in memory.
        return [
            *_verify_weights(partial, weights, dtype),
            *_verify_vq_tokenizer(partial, vq_gan_checkpoint, pixel_values, source_codes),
            *_verify_processor(partial, source_codes),
        ]


def _read_official(
    folder: Path, vq_gan_config: str | os.PathLike, vq_gan_checkpoint: str | os.PathLike, dtype: torch.dtype | None
) -> tuple[OfficialWeights, CXRVQTokenizer, LlmCxrProcessor, LlmCxrConfig]:
    """The parts of a checkpoint, once it is sure that they belong together."""
    text_config, tokenizer = _read_language_model_folder(folder)
    weights = OfficialWeights(folder)
    _check_language_model(text_config, weights, folder)
    vq_tokenizer = vq_tokenizer_from_taming(vq_gan_config, vq_gan_checkpoint)
    processor = _processor(tokenizer, text_config, vq_tokenizer.config)
    text_config.dtype = dtype or weights.dtypes["gpt_neox.embed_in.weight"]
    config = LlmCxrConfig(
        text_config=text_config,
        vq_config=vq_tokenizer.config,
        **processor.token_layout,
        architectures=[LlmCxrForCausalLM.__name__],
        dtype=text_config.dtype,
    )
    return weights, vq_tokenizer, processor, config


def _read_language_model_folder(folder: Path):
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"No `config.json` in '{folder}': expected the folder of a language model.")
    model_type = _read_json(folder / "config.json").get("model_type")
    if model_type != "gpt_neox":
        raise ValueError(
            f"'{folder}' is a model of type {model_type!r}; LLM-CXR is a 'gpt_neox'. "
            "`LlmCxrForCausalLM.from_language_model` adds image codes to other language models."
        )
    if not (folder / "tokenizer.json").is_file():
        raise FileNotFoundError(f"No `tokenizer.json` in '{folder}'.")
    # Transformers reports a broken file as a missing package.
    _read_json(folder / "tokenizer.json")
    return AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def _check_language_model(text_config: PreTrainedConfig, weights: OfficialWeights, folder: Path) -> None:
    with torch.device("meta"):
        state = AutoModelForCausalLM.from_config(text_config).state_dict()
    expected = {_saved_name(name): tuple(tensor.shape) for name, tensor in state.items()}
    if problem := mismatch(expected, weights.shapes):
        raise ValueError(f"`config.json` does not match the weights in '{folder}': {problem}.")


def _processor(tokenizer, text_config: PreTrainedConfig, vq_config: CXRVQTokenizerConfig) -> LlmCxrProcessor:
    vocabulary = tokenizer.get_vocab()
    expected = [INSTRUCTION_TOKEN, RESPONSE_TOKEN, END_TOKEN, *TEXT_MARKERS]
    if missing := [token for token in expected if token not in vocabulary]:
        raise ValueError(f"The tokenizer lacks the tokens {missing}: it is not that of LLM-CXR.")
    rows, codes = text_config.vocab_size, vq_config.codebook_size
    if len(tokenizer) + codes != rows:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens, which with the {codes} codes of the VQ-GAN makes "
            f"{len(tokenizer) + codes}, but the language model has {rows} embeddings. Expected a tokenizer of "
            f"{rows - codes} tokens: these parts do not belong together."
        )
    processor = LlmCxrProcessor.from_tokenizer(tokenizer, vq_config, text_image_markers=True)
    processor.report_instruction, processor.image_instruction = REPORT_INSTRUCTION, IMAGE_INSTRUCTION
    return processor


def _write_weights(
    folder: Path, weights: OfficialWeights, vq_tokenizer: CXRVQTokenizer, dtype: torch.dtype | None
) -> None:
    """Writes shards and their index, one shard in memory at a time."""

    def size(name: str) -> int:
        shape = torch.Size(weights.shapes[name])
        return shape.numel() * (dtype or weights.dtypes[name]).itemsize

    groups: list[list[str]] = [[]]
    for name in weights:
        if groups[-1] and sum(map(size, groups[-1])) + size(name) > MAX_SHARD_BYTES:
            groups.append([])
        groups[-1].append(name)
    weight_map, total = {}, 0

    def write(number: int, tensors: dict[str, torch.Tensor]) -> None:
        nonlocal total
        file = f"model-{number:05d}-of-{len(groups) + 1:05d}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, file))
        total += sum(tensor.nbytes for tensor in tensors.values())

    write(len(groups) + 1, {VQ_TOKENIZER + name: tensor for name, tensor in vq_tokenizer.state_dict().items()})
    vq_tokenizer.to("meta")  # gives its memory back
    for number, names in enumerate(groups, start=1):
        write(number, {LANGUAGE_MODEL + n: weights[n].to(dtype or weights.dtypes[n]).contiguous() for n in names})
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _verify_weights(folder: Path, weights: OfficialWeights, dtype: torch.dtype | None) -> list[tuple[str, str]]:
    written = OfficialWeights(folder)
    config = LlmCxrConfig.from_pretrained(folder)
    with torch.device("meta"):
        source_model = AutoModelForCausalLM.from_config(config.text_config)
        model = LlmCxrForCausalLM(config)
    expected = {_saved_name(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if problem := mismatch(expected, written.shapes):
        raise ValueError(f"The written weights are not those of the model: {problem}.")

    input_ids = torch.linspace(0, config.text_config.vocab_size - 1, PROBE_LENGTH).long()[None]
    expected_logits = _streamed_logits(
        source_model, source_model, input_ids, lambda name: weights[name].to(dtype or weights.dtypes[name])
    )
    logits = _streamed_logits(model, model.language_model, input_ids, lambda name: written[LANGUAGE_MODEL + name])
    if not torch.equal(logits, expected_logits):
        difference = (logits.float() - expected_logits.float()).abs().max()
        raise ValueError(
            f"The logits of the converted model differ from those of its source by up to {difference:.2e}."
        )
    return [
        ("Weights of the language model", f"all {len(weights)} used"),
        ("Weights of the converted model", f"all {len(expected)} present"),
        ("Logits", f"equal at {PROBE_LENGTH} positions x {logits.shape[-1]} tokens"),
    ]


class _WeightsOnDemand(dict):
    """A state dict of a GPT-NeoX that reads a weight, by the name it is saved under, each time it is asked for one."""

    def __init__(self, read: Callable[[str], torch.Tensor]):
        super().__init__()
        self.read = read

    def __missing__(self, name: str) -> torch.Tensor:
        # A copy has the same alignment wherever it comes from, and kernels may round differently by alignment.
        return self.read(_saved_name(name)).clone()


def _streamed_logits(
    model: PreTrainedModel,
    language_model: PreTrainedModel,
    input_ids: torch.LongTensor,
    read: Callable[[str], torch.Tensor],
) -> torch.Tensor:
    """Logits of a model on the meta device, of which `language_model` is the backbone; a module at a time has weights."""
    # This table is in no checkpoint, and a model on the meta device has not computed it.
    rotary = language_model.gpt_neox.rotary_emb
    language_model.gpt_neox.rotary_emb = type(rotary)(language_model.config)
    cpu_offload(language_model, execution_device=torch.device("cpu"), state_dict=_WeightsOnDemand(read))
    return model.eval()(input_ids=input_ids, use_cache=False).logits


def _verify_vq_tokenizer(
    folder: Path, vq_gan_checkpoint: str | os.PathLike, pixel_values: torch.FloatTensor, source_codes: torch.LongTensor
) -> list[tuple[str, str]]:
    written = OfficialWeights(folder)
    vq_tokenizer = CXRVQTokenizer(LlmCxrConfig.from_pretrained(folder).vq_config).eval()
    vq_tokenizer.load_state_dict({name: written[VQ_TOKENIZER + name] for name in vq_tokenizer.state_dict()})
    if not torch.equal(vq_tokenizer.encode(pixel_values), source_codes):
        raise ValueError("The converted VQ-GAN gives other codes than its source.")
    source, back = read_taming_checkpoint(vq_gan_checkpoint), vq_tokenizer_to_taming(vq_tokenizer)
    if wrong := [name for name in source if not torch.equal(back[name], source[name].float())]:
        raise ValueError(f"The converted VQ-GAN differs from its source in {some(wrong)}.")
    return [
        ("Weights of the VQ-GAN", f"all {len(source)} equal when converted back"),
        ("Codes", f"all {source_codes.numel()} equal, {len(source_codes.unique())} of them distinct"),
    ]


def _verify_processor(folder: Path, codes: torch.LongTensor) -> list[tuple[str, str]]:
    config, processor = LlmCxrConfig.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    first = config.image_token_offset
    expected = [config.boi_token_id, *(codes[0] + first).tolist(), config.eoi_token_id]
    if processor(text="<image>", image_codes=codes)["input_ids"][0] != expected:
        raise ValueError("The processor does not write an image as `<`, its codes and `>`.")
    return [
        (
            "Token ids",
            f"codes {first} to {first + processor.codebook_size - 1}, between {expected[0]} and {expected[-1]}",
        )
    ]


def _probe_pixels(config: CXRVQTokenizerConfig) -> torch.FloatTensor:
    """Noise that changes slowly, which meets more codes than an image would."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand((1, config.in_channels, config.grid_size, config.grid_size), generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(noise, size=config.image_size, mode="bilinear")


def _saved_name(name: str) -> str:
    """Name under which Transformers saves a weight of GPT-NeoX, also within the model of this package."""
    return re.sub(r"(^|\.)lm_head\.", r"\1embed_out.", name)


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"'{path}' is not a JSON file: {error}.") from error


__all__ = ["convert_official_checkpoint"]
