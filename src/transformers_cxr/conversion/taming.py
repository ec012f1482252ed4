"""
Conversion of VQ-GANs of taming-transformers (arXiv 2012.09841), as LLM-CXR and UniXGen publish them, to
[`CXRVQTokenizer`] and back. Such a VQ-GAN is two files: a YAML file with its architecture (`model.params`) and a
PyTorch Lightning checkpoint.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import torch
import yaml

from ..files import atomic_write
from ..llm_cxr.configuration_llm_cxr import CXRVQTokenizerConfig, LlmCxrConfig
from ..llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor
from ..llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer
from .state_dicts import first_names, format_mismatch, read_checkpoint

# The modules that encode and decode. A checkpoint also contains the discriminator and the perceptual network of
# `loss`.
MODULES = ("encoder", "decoder", "quantize", "quant_conv", "post_quant_conv")
# taming-transformers has no other number.
NORM_NUM_GROUPS = 32

# From the module names of `diffusers.VQModel` to those of taming-transformers, applied in this order.
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


def read_taming_config(path: str | os.PathLike) -> CXRVQTokenizerConfig:
    """
    Read the architecture of a VQ-GAN from the YAML file of taming-transformers (`model.params`).

    As there, an attention resolution that no level has is ignored. Dropout is not converted.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not such a YAML file, lacks a value, or describes an architecture that
            [`CXRVQTokenizer`] does not have (a Gumbel quantizer, remapped codes, `double_z`, a first multiplier other
            than 1, different numbers of input and output channels).
    """
    try:
        model = yaml.safe_load(Path(path).read_text(encoding="utf-8"))["model"]
        params = model["params"]
        ddconfig, embed_dim, n_embed = params["ddconfig"], params["embed_dim"], params["n_embed"]
        resolution, channels, multipliers = ddconfig["resolution"], ddconfig["ch"], ddconfig["ch_mult"]
        attention, num_res_blocks = ddconfig["attn_resolutions"], ddconfig["num_res_blocks"]
        in_channels, out_channels, z_channels = ddconfig["in_channels"], ddconfig["out_ch"], ddconfig["z_channels"]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"'{path}' is not a YAML file: {error}.") from error
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"'{path}' is not a taming-transformers config of a VQ-GAN: `model.params` or a value in it is missing "
            f"({error})."
        ) from error
    if str(model.get("target")).endswith("GumbelVQ"):
        raise ValueError(
            f"'{path}' describes a Gumbel-softmax VQ-GAN. Only a nearest-neighbor quantizer is supported."
        )
    if params.get("remap") is not None:
        raise ValueError(f"'{path}' remaps the codes (`remap: {params['remap']}`), which is not supported.")
    # A missing value means true there.
    if ddconfig.get("double_z", True):
        raise ValueError(f"'{path}' describes a KL autoencoder. Expected a VQ-GAN with `double_z: false`.")
    if in_channels != out_channels:
        raise ValueError(
            f"'{path}' describes a VQ-GAN from {in_channels} to {out_channels} channels (`in_channels`, `out_ch`). "
            "Expected the same number."
        )
    if multipliers[:1] != [1]:
        raise ValueError(f"`ch_mult` in '{path}' must begin with 1, got {multipliers}.")
    try:
        return CXRVQTokenizerConfig(
            image_size=resolution,
            in_channels=in_channels,
            block_out_channels=tuple(channels * multiplier for multiplier in multipliers),
            layers_per_block=num_res_blocks,
            attention_levels=tuple(n for n in range(len(multipliers)) if resolution // 2**n in attention),
            latent_channels=z_channels,
            norm_num_groups=NORM_NUM_GROUPS,
            codebook_size=n_embed,
            codebook_dim=embed_dim,
        )
    except ValueError as error:
        raise ValueError(f"'{path}' describes a VQ-GAN that is not supported: {error}") from error


def read_taming_checkpoint(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """
    Read the tensors with which a VQ-GAN of taming-transformers encodes and decodes.

    Args:
        path (`str` or `os.PathLike`):
            A Lightning checkpoint, a file of `torch.save` with a state dict, or a `.safetensors` file. Nothing in it
            is executed.

    Returns:
        `dict[str, torch.Tensor]`: tensors by their names in taming-transformers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, is not a checkpoint of a VQ-GAN, or refers to code.
    """
    content = read_checkpoint(path)
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict):
        raise ValueError(f"'{path}' holds {type(state).__name__} instead of a dictionary of tensors by name.")
    tensors = {name: t for name, t in state.items() if isinstance(name, str) and name.split(".")[0] in MODULES}
    if not tensors:
        raise ValueError(
            f"'{path}' holds no VQ-GAN: no name begins with {', '.join(MODULES)}. Its names are "
            f"{first_names([str(name) for name in state])}."
        )
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"'{name}' in '{path}' is {type(tensor).__name__} instead of a tensor.")
    return tensors


def vq_tokenizer_from_taming(config_path: str | os.PathLike, checkpoint_path: str | os.PathLike) -> CXRVQTokenizer:
    """
    Convert a VQ-GAN of taming-transformers. Its codes stay the same; decoded images are equal up to rounding.

    Args:
        config_path (`str` or `os.PathLike`):
            See [`read_taming_config`].
        checkpoint_path (`str` or `os.PathLike`):
            See [`read_taming_checkpoint`].

    Returns:
        [`CXRVQTokenizer`]: in evaluation mode, in fp32.

    Raises:
        FileNotFoundError, ValueError: as the functions that read; or config and checkpoint do not match, in which case
        the
            error names the tensors.
    """
    config = read_taming_config(config_path)
    tensors = read_taming_checkpoint(checkpoint_path)
    vq_tokenizer = CXRVQTokenizer(config).eval()
    state = vq_tokenizer.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in vq_tokenizer_to_taming(vq_tokenizer).items()}
    if problem := format_mismatch(shapes, {name: tuple(tensor.shape) for name, tensor in tensors.items()}):
        raise ValueError(f"The config '{config_path}' does not match the weights in '{checkpoint_path}': {problem}.")
    names = _taming_names(vq_tokenizer)
    vq_tokenizer.load_state_dict({own: tensors[names[own]].reshape(tensor.shape) for own, tensor in state.items()})
    return vq_tokenizer


def vq_tokenizer_to_taming(vq_tokenizer: CXRVQTokenizer) -> dict[str, torch.Tensor]:
    """Return the weights by their names and in the shapes of taming-transformers. They share memory with the model."""
    names = _taming_names(vq_tokenizer)
    return {names[own]: _as_taming(names[own], tensor) for own, tensor in vq_tokenizer.state_dict().items()}


def taming_ddconfig(config: CXRVQTokenizerConfig) -> dict:
    """Return the arguments of encoder and decoder of taming-transformers for an architecture."""
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
    Write a folder of `vq_gan.yaml` and `vq_gan.ckpt` for taming-transformers.

    Returns:
        `tuple[Path, Path]`: the config and the checkpoint.

    Raises:
        FileExistsError: the folder exists.
        ValueError: taming-transformers does not have the architecture: it normalizes in 32 groups, and each level has
            a multiple of the channels of the first level.
    """
    config, folder = vq_tokenizer.config, Path(folder)
    if config.norm_num_groups != NORM_NUM_GROUPS:
        raise ValueError(
            f"taming-transformers always normalizes in {NORM_NUM_GROUPS} groups, and this VQ tokenizer has "
            f"`norm_num_groups={config.norm_num_groups}`."
        )
    channels = tuple(config.block_out_channels)
    if any(n % channels[0] for n in channels):
        raise ValueError(
            "Each level of taming-transformers has a multiple of the channels of the first level, and this VQ "
            f"tokenizer has `block_out_channels={channels}`."
        )
    params = {
        "embed_dim": config.codebook_dim,
        "n_embed": config.codebook_size,
        "ddconfig": taming_ddconfig(config),
        # Its model cannot be built without a loss. This one has no weights.
        "lossconfig": {"target": "taming.modules.losses.vqperceptual.DummyLoss"},
    }
    content = {"model": {"target": "taming.models.vqgan.VQModel", "params": params}}
    with atomic_write(folder, overwrite=False) as partial:
        partial.mkdir()
        torch.save({"state_dict": vq_tokenizer_to_taming(vq_tokenizer)}, partial / "vq_gan.ckpt")
        (partial / "vq_gan.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return folder / "vq_gan.yaml", folder / "vq_gan.ckpt"


def convert_vq_gan(
    config_path: str | os.PathLike, checkpoint_path: str | os.PathLike, output: str | os.PathLike
) -> None:
    """
    Write a VQ-GAN of taming-transformers as a folder of [`CXRVQTokenizer`] and [`LlmCxrImageProcessor`]. The latter
    prepares images as the released LLM-CXR does: number of channels, shorter side to the resolution (Lanczos), center
    crop.

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
    Write the VQ-GAN of a checkpoint folder, of a [`CXRVQTokenizer`] or a [`LlmCxrForCausalLM`], for
    taming-transformers.

    Raises:
        FileExistsError: `output` exists.
        FileNotFoundError: `model` is not the folder of a checkpoint.
        ValueError: it is the folder of another kind of model, or taming-transformers does not have the architecture.
    """
    config_path = Path(model) / "config.json"
    if not config_path.is_file():
        raise FileNotFoundError(f"No `config.json` in '{model}': expected the folder of a checkpoint.")
    model_type = json.loads(config_path.read_text(encoding="utf-8")).get("model_type")
    if model_type not in (CXRVQTokenizerConfig.model_type, LlmCxrConfig.model_type):
        raise ValueError(f"'{model}' is a model of type {model_type!r}, which has no VQ-GAN.")
    save_taming(CXRVQTokenizer.from_pretrained(model), output)


def _taming_names(vq_tokenizer: CXRVQTokenizer) -> dict[str, str]:
    """Return the name in taming-transformers of each of our tensors."""
    last = len(vq_tokenizer.config.block_out_channels) - 1
    names = {}
    for own in vq_tokenizer.state_dict():
        name = own
        for pattern, replacement in RENAMINGS:
            name = re.sub(pattern, replacement, name)
        # There the levels of the decoder are numbered by resolution, as in the encoder; in diffusers by order of
        # execution.
        names[own] = re.sub(r"\.up\.(\d+)\.", lambda match: f".up.{last - int(match[1])}.", name)
    return names


def _as_taming(name: str, tensor: torch.Tensor) -> torch.Tensor:
    # The projections of attention are 1x1 convolutions there, and linear layers in diffusers.
    is_projection = re.search(r"\.attn(\.\d+|_1)\.(q|k|v|proj_out)\.weight$", name)
    return tensor[:, :, None, None] if is_projection else tensor


__all__ = [
    "convert_vq_gan",
    "export_vq_gan",
    "read_taming_checkpoint",
    "read_taming_config",
    "save_taming",
    "taming_ddconfig",
    "vq_tokenizer_from_taming",
    "vq_tokenizer_to_taming",
]
