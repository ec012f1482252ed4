"""
VQ-GANs of taming-transformers (arXiv 2012.09841), as LLM-CXR and UniXGen publish them, and [`CXRVQTokenizer`]: both ways.

Such a VQ-GAN is two files: a YAML with its architecture (`model.params`) and a PyTorch Lightning checkpoint.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections import OrderedDict
from pathlib import Path
from pickle import UnpicklingError

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from ..files import atomic_write
from ..llm_cxr.configuration_llm_cxr import CXRVQTokenizerConfig, LlmCxrConfig
from ..llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor
from ..llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer
from .state_dicts import mismatch, some

# Everything that encoding and decoding use. Beside them a checkpoint holds what only training needs: the discriminator and
# the perceptual networks of `loss`.
MODULES = ("encoder", "decoder", "quantize", "quant_conv", "post_quant_conv")
# taming-transformers knows no other number.
NORM_NUM_GROUPS = 32

# What Lightning puts beside the tensors: states of callbacks, keyed by their classes, hyperparameters, metrics. The names are
# never imported, stand-ins without behaviour take their place; all other names are refused.
HARMLESS_PREFIXES = (
    "lightning.",
    "lightning_fabric.",
    "numpy._core.multiarray.",
    "numpy.core.multiarray.",
    "numpy.dtypes.",
    "omegaconf.",
    "pathlib.",
    "pytorch_lightning.",
    "torch.optim.",
    "torchmetrics.",
)
HARMLESS_NAMES = {
    "argparse.Namespace",
    "builtins.bool",
    "builtins.dict",
    "builtins.float",
    "builtins.int",
    "builtins.list",
    "builtins.str",
    "builtins.tuple",
    "collections.defaultdict",
    "numpy.dtype",
    "numpy.ndarray",
    "typing.Any",
}
DICT_SUBCLASSES = ("AttributeDict", "defaultdict")

# Names of the modules of `diffusers.VQModel` and of taming-transformers, applied in this order.
RENAMINGS = [
    (r"^vq_model\.", ""),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
    (r"\.(down|up)_blocks\.(\d+)\.", r".\1.\2."),
    (r"\.resnets\.", ".block."),
    (r"\.attentions\.", ".attn."),
    (r"\.(down|up)samplers\.0\.", r".\1sample."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_(q|k|v)\.", r".\1."),
    (r"\.to_out\.0\.", ".proj_out."),
    (r"\.conv_norm_out\.", ".norm_out."),
]


class _StandIn:
    """Takes the place of any class or function; takes any arguments and any state, and does nothing with them."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


class _DictStandIn:
    """Takes the place of a subclass of `dict`: the restricted unpickler fills dictionaries of the standard types only."""

    def __new__(cls, *args, **kwargs):
        return OrderedDict()


def read_taming_config(path: str | os.PathLike) -> CXRVQTokenizerConfig:
    """
    Reads the architecture of a VQ-GAN from the YAML file of taming-transformers (`model.params`).

    As there, an attention resolution that no level has means nothing. Dropout is not taken over.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no such YAML, lacks a value, or describes what [`CXRVQTokenizer`] cannot be (a Gumbel
            quantizer, remapped codes, `double_z`, a first multiplier other than 1, different numbers of input and output
            channels).
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"'{path}' is not a YAML file: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' is not a taming-transformers config: it lacks `model.params.ddconfig`.")

    def value(name: str, kind: type = int):
        found = content
        for key in name.split("."):
            if not isinstance(found, dict) or key not in found:
                raise ValueError(f"'{path}' is not a taming-transformers config of a VQ-GAN: it lacks `{name}`.")
            found = found[key]
        numbers = found if kind is list and isinstance(found, list) else [found]
        if type(found) is not kind or any(type(number) is not int for number in numbers):
            expected = "an integer" if kind is int else "a list of integers"
            raise ValueError(f"`{name}` in '{path}' must be {expected}, got {found!r}.")
        return found

    prefix = "model.params.ddconfig."
    resolution, channels = value(prefix + "resolution"), value(prefix + "ch")
    multipliers, attention = value(prefix + "ch_mult", list), value(prefix + "attn_resolutions", list)
    in_channels, out_channels = value(prefix + "in_channels"), value(prefix + "out_ch")
    params = content["model"]["params"]
    if str(content["model"].get("target")).endswith("GumbelVQ"):
        raise ValueError(
            f"'{path}' describes a Gumbel-softmax VQ-GAN; only those that take the nearest code are supported."
        )
    if params.get("remap") is not None:
        raise ValueError(f"'{path}' remaps the codes (`remap: {params['remap']}`), which is not supported.")
    # A missing value means true there.
    if params["ddconfig"].get("double_z", True):
        raise ValueError(
            f"'{path}' has `double_z: true` (or no `double_z`, which means the same): it describes a KL autoencoder, not a "
            "VQ-GAN. Expected `double_z: false`."
        )
    if in_channels != out_channels:
        raise ValueError(
            f"'{path}' describes a VQ-GAN from {in_channels} to {out_channels} channels (`in_channels`, `out_ch`); only "
            "the same number on both sides is supported."
        )
    if multipliers[:1] != [1]:
        raise ValueError(f"`ch_mult` in '{path}' must begin with 1, got {multipliers}.")
    try:
        return CXRVQTokenizerConfig(
            image_size=resolution,
            in_channels=in_channels,
            block_out_channels=tuple(channels * multiplier for multiplier in multipliers),
            layers_per_block=value(prefix + "num_res_blocks"),
            attention_levels=tuple(n for n in range(len(multipliers)) if resolution // 2**n in attention),
            latent_channels=value(prefix + "z_channels"),
            norm_num_groups=NORM_NUM_GROUPS,
            codebook_size=value("model.params.n_embed"),
            codebook_dim=value("model.params.embed_dim"),
        )
    except ValueError as error:
        raise ValueError(f"'{path}' describes a VQ-GAN that is not supported: {error}") from error


def read_taming_checkpoint(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """
    Reads the tensors that a VQ-GAN of taming-transformers encodes and decodes with; those of its losses are left out.

    The file is never trusted: a pickle is read with `weights_only=True`, and what Lightning stores beside the tensors is not
    built. Its packages need not be installed.

    Args:
        path (`str` or `os.PathLike`):
            A Lightning checkpoint, a file of `torch.save` with a state dict in it, or a `.safetensors` file.

    Returns:
        `dict[str, torch.Tensor]`: tensors by their names in taming-transformers, mapped from the file where its format
        allows that.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, is no checkpoint, holds no VQ-GAN, or refers to code (which is not executed).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No checkpoint at '{path}'.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict):
        raise ValueError(f"'{path}' holds {type(state).__name__} instead of a dictionary of tensors by name.")
    tensors = {name: t for name, t in state.items() if isinstance(name, str) and name.split(".")[0] in MODULES}
    if not tensors:
        raise ValueError(
            f"'{path}' holds no VQ-GAN: no name begins with {', '.join(MODULES)}. Its names are "
            f"{some([str(name) for name in state])}."
        )
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"'{name}' in '{path}' is {type(tensor).__name__} instead of a tensor.")
    return tensors


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"Cannot read '{path}': {error}. It is truncated or not a safetensors file.") from error


def _read_pickle(path: Path) -> object:
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    try:
        # Files written before torch 1.6 are no zip archives: their names cannot be listed, nor can they be mapped.
        names = get_unsafe_globals_in_checkpoint(path) if is_zip else []
        refused = sorted(
            name for name in names if not name.startswith(HARMLESS_PREFIXES) and name not in HARMLESS_NAMES
        )
        if not refused:
            stand_ins = [(_DictStandIn if name.endswith(DICT_SUBCLASSES) else _StandIn, name) for name in names]
            with safe_globals(stand_ins):
                return torch.load(path, map_location="cpu", mmap=is_zip, weights_only=True)
    except UnpicklingError as error:
        raise ValueError(
            f"Cannot read '{path}': it is not a checkpoint, or it holds more than tensors and plain data. Nothing in it was "
            'executed. If you trust its source, save its tensors alone: torch.save({"state_dict": ...}, ...).'
        ) from error
    except (EOFError, OSError, RuntimeError, ValueError, struct.error) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"Cannot read '{path}': it is truncated or not a checkpoint ({reason}).") from error
    raise ValueError(
        f"'{path}' refers to {some(refused)}, which a VQ-GAN checkpoint has no use for. It was refused and nothing in it was "
        'executed. If you trust its source, save its tensors alone: torch.save({"state_dict": ...}, ...).'
    )


def vq_tokenizer_from_taming(config_path: str | os.PathLike, checkpoint_path: str | os.PathLike) -> CXRVQTokenizer:
    """
    Converts a VQ-GAN of taming-transformers. The codes are the same, the decoded images equal up to rounding.

    Args:
        config_path (`str` or `os.PathLike`):
            See [`read_taming_config`].
        checkpoint_path (`str` or `os.PathLike`):
            See [`read_taming_checkpoint`].

    Returns:
        [`CXRVQTokenizer`]: in evaluation mode, in fp32.

    Raises:
        FileNotFoundError, ValueError: as the two functions that read; and where config and checkpoint do not belong
            together, which names the tensors that are missing, left over or of another shape.
    """
    config = read_taming_config(config_path)
    tensors = read_taming_checkpoint(checkpoint_path)
    vq_tokenizer = CXRVQTokenizer(config).eval()
    own_state = vq_tokenizer.state_dict()
    taming_names = _taming_names(vq_tokenizer)
    shapes = {taming: _taming_shape(taming, own_state[own]) for own, taming in taming_names.items()}
    if problem := mismatch(shapes, {name: tuple(tensor.shape) for name, tensor in tensors.items()}):
        raise ValueError(f"The config '{config_path}' does not match the weights in '{checkpoint_path}': {problem}.")
    vq_tokenizer.load_state_dict(
        {own: tensors[taming].reshape(own_state[own].shape) for own, taming in taming_names.items()}
    )
    return vq_tokenizer


def vq_tokenizer_to_taming(vq_tokenizer: CXRVQTokenizer) -> dict[str, torch.Tensor]:
    """
    The weights under the names and in the shapes of taming-transformers; they share memory with the model.

    Raises:
        ValueError: taming-transformers cannot express the architecture: it knows 32 groups of normalisation only, and each
            level has a multiple of the first level's channels.
    """
    _check_expressible(vq_tokenizer.config)
    own_state = vq_tokenizer.state_dict()
    return {
        taming: own_state[own].reshape(_taming_shape(taming, own_state[own]))
        for own, taming in _taming_names(vq_tokenizer).items()
    }


def taming_ddconfig(config: CXRVQTokenizerConfig) -> dict:
    """What taming-transformers' encoder and decoder are built with for this architecture."""
    channels = config.block_out_channels
    return {
        "double_z": False,
        "z_channels": config.latent_channels,
        "resolution": config.image_size,
        "in_channels": config.in_channels,
        "out_ch": config.in_channels,
        "ch": channels[0],
        "ch_mult": [n // channels[0] for n in channels],
        "num_res_blocks": config.layers_per_block,
        "attn_resolutions": [config.image_size // 2**level for level in config.attention_levels],
        "dropout": 0.0,
    }


def save_taming(vq_tokenizer: CXRVQTokenizer, folder: str | os.PathLike) -> tuple[Path, Path]:
    """
    Writes a folder of `vq_gan.yaml` and `vq_gan.ckpt` for taming-transformers.

    Returns:
        `tuple[Path, Path]`: the config and the checkpoint.

    Raises:
        FileExistsError: the folder exists.
        ValueError: as [`vq_tokenizer_to_taming`].
    """
    state = vq_tokenizer_to_taming(vq_tokenizer)
    config = vq_tokenizer.config
    params = {
        "embed_dim": config.codebook_dim,
        "n_embed": config.codebook_size,
        "ddconfig": taming_ddconfig(config),
        # Its model cannot be built without a loss; this one has no weights.
        "lossconfig": {"target": "taming.modules.losses.vqperceptual.DummyLoss"},
    }
    content = {"model": {"target": "taming.models.vqgan.VQModel", "params": params}}
    folder = Path(folder)
    with atomic_write(folder, overwrite=False) as partial:
        partial.mkdir()
        torch.save({"state_dict": state}, partial / "vq_gan.ckpt")
        (partial / "vq_gan.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return folder / "vq_gan.yaml", folder / "vq_gan.ckpt"


def convert_vq_gan(
    config_path: str | os.PathLike, checkpoint_path: str | os.PathLike, output: str | os.PathLike
) -> None:
    """
    Writes a VQ-GAN of taming-transformers as a folder of [`CXRVQTokenizer`] and [`LlmCxrImageProcessor`]. The latter prepares
    images as the released LLM-CXR does: its number of channels, shorter side to its resolution (Lanczos), centre crop.

    Raises:
        FileExistsError: `output` exists.
        FileNotFoundError, ValueError: as [`vq_tokenizer_from_taming`].
    """
    with atomic_write(output, overwrite=False) as partial:
        vq_tokenizer = vq_tokenizer_from_taming(config_path, checkpoint_path)
        size = vq_tokenizer.config.image_size
        image_processor = LlmCxrImageProcessor(
            size={"shortest_edge": size},
            crop_size={"height": size, "width": size},
            do_convert_rgb=vq_tokenizer.config.in_channels == 3,
            round_to_nearest=True,
        )
        vq_tokenizer.save_pretrained(partial)
        image_processor.save_pretrained(partial)


def export_vq_gan(model: str | os.PathLike, output: str | os.PathLike) -> None:
    """
    Writes the VQ-GAN of a checkpoint folder, that of a [`CXRVQTokenizer`] or of a whole [`LlmCxrForCausalLM`], for
    taming-transformers (see [`save_taming`]).

    Raises:
        FileExistsError: `output` exists.
        FileNotFoundError: `model` is no folder of a checkpoint.
        ValueError: it is that of another kind of model, or taming-transformers cannot express its VQ-GAN.
    """
    config_path = Path(model) / "config.json"
    if not config_path.is_file():
        raise FileNotFoundError(f"No `config.json` in '{model}': expected the folder of a checkpoint.")
    model_type = json.loads(config_path.read_text(encoding="utf-8")).get("model_type")
    if model_type not in (CXRVQTokenizerConfig.model_type, LlmCxrConfig.model_type):
        raise ValueError(f"'{model}' is a model of type {model_type!r}, which has no VQ-GAN.")
    save_taming(CXRVQTokenizer.from_pretrained(model), output)


def _check_expressible(config: CXRVQTokenizerConfig) -> None:
    if config.norm_num_groups != NORM_NUM_GROUPS:
        raise ValueError(
            f"taming-transformers always normalises in {NORM_NUM_GROUPS} groups; this VQ tokenizer has "
            f"`norm_num_groups={config.norm_num_groups}` and cannot be expressed there."
        )
    channels = config.block_out_channels
    if any(n % channels[0] for n in channels):
        raise ValueError(
            "taming-transformers gives each level a multiple of the channels of the first; this VQ tokenizer has "
            f"`block_out_channels={tuple(channels)}` and cannot be expressed there."
        )


def _taming_names(vq_tokenizer: CXRVQTokenizer) -> dict[str, str]:
    """Our name of each tensor to that in taming-transformers."""
    last = len(vq_tokenizer.config.block_out_channels) - 1
    names = {}
    for own in vq_tokenizer.state_dict():
        name = own
        for pattern, replacement in RENAMINGS:
            name = re.sub(pattern, replacement, name)
        # There the decoder's levels are numbered by resolution, as the encoder's; in diffusers in order of execution.
        names[own] = re.sub(r"\.up\.(\d+)\.", lambda match: f".up.{last - int(match[1])}.", name)
    return names


def _taming_shape(taming_name: str, own: torch.Tensor) -> tuple[int, ...]:
    """The projections of attention are 1x1 convolutions there, linear layers in diffusers."""
    is_projection = re.search(r"\.attn(\.\d+|_1)\.(q|k|v|proj_out)\.weight$", taming_name)
    return (*own.shape, 1, 1) if is_projection else tuple(own.shape)


__all__ = [
    "convert_vq_gan",
    "export_vq_gan",
    "read_taming_checkpoint",
    "read_taming_config",
    "save_taming",
    "vq_tokenizer_from_taming",
    "vq_tokenizer_to_taming",
]
