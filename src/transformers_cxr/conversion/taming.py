"""
Conversion of VQ-GANs of taming-transformers (arXiv 2012.09841), as LLM-CXR and UniXGen publish them, to
[`CXRVQTokenizer`] and back. Such a VQ-GAN is two files: a YAML file with its architecture (`model.params`) and a
PyTorch Lightning checkpoint.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
import yaml

from ..checkpoints import find_checkpoint
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
            [`CXRVQTokenizer`] does not have.
    """
    text = Path(path).read_bytes()
    try:
        params = yaml.safe_load(text)["model"]["params"]
        ddconfig = params["ddconfig"]
        resolution, multipliers = ddconfig["resolution"], ddconfig["ch_mult"]
        return CXRVQTokenizerConfig(
            image_size=resolution,
            in_channels=ddconfig["in_channels"],
            block_out_channels=tuple(ddconfig["ch"] * multiplier for multiplier in multipliers),
            layers_per_block=ddconfig["num_res_blocks"],
            attention_levels=tuple(
                level for level in range(len(multipliers)) if resolution // 2**level in ddconfig["attn_resolutions"]
            ),
            latent_channels=ddconfig["z_channels"],
            norm_num_groups=NORM_NUM_GROUPS,
            codebook_size=params["n_embed"],
            codebook_dim=params["embed_dim"],
        )
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"'{path}' is not the config of a VQ-GAN of taming-transformers, or of one that is not supported "
            f"({type(error).__name__}: {error})."
        ) from error


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
    if others := [name for name, tensor in tensors.items() if not isinstance(tensor, torch.Tensor)]:
        raise ValueError(f"'{path}' holds other objects than tensors: {first_names(others)}.")
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
        FileNotFoundError, ValueError: as the functions that read; or config and checkpoint do not match, such as those
            of a Gumbel quantizer or a KL autoencoder.
    """
    config = read_taming_config(config_path)
    tensors = read_taming_checkpoint(checkpoint_path)
    vq_tokenizer = CXRVQTokenizer(config).eval()
    state = vq_tokenizer.state_dict()
    if problem := format_mismatch(vq_tokenizer_to_taming(vq_tokenizer), tensors):
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
        ValueError: taming-transformers does not have the architecture.
    """
    config, folder = vq_tokenizer.config, Path(folder)
    channels = tuple(config.block_out_channels)
    if config.norm_num_groups != NORM_NUM_GROUPS or any(n % channels[0] for n in channels):
        raise ValueError(
            f"Expected `norm_num_groups={NORM_NUM_GROUPS}` and multiples of the channels of the first level for "
            f"taming-transformers, got `norm_num_groups={config.norm_num_groups}` and `block_out_channels={channels}`."
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
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is one of another kind of model, or taming-transformers does not have the architecture.
    """
    path, config = find_checkpoint(model)
    if not isinstance(config, (CXRVQTokenizerConfig, LlmCxrConfig)):
        raise ValueError(f"'{model}' is a model of type {config.model_type!r}, which has no VQ-GAN.")
    save_taming(CXRVQTokenizer.from_pretrained(path), output)


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
