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

from ..files import atomic_write
from ..llm_cxr.configuration_llm_cxr import CXRVQTokenizerConfig
from ..llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor
from ..llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer
from .state_dicts import format_mismatch, read_checkpoint

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
    Read the tensors with which a VQ-GAN of taming-transformers encodes and decodes, by their names there.

    Args:
        path (`str` or `os.PathLike`):
            A Lightning checkpoint, a file of `torch.save` with a state dict, or a `.safetensors` file. Code in it is
            never executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated or is not a checkpoint of a VQ-GAN.
    """
    content = read_checkpoint(path)
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    items = state.items() if isinstance(state, dict) else ()
    tensors = {n: t for n, t in items if isinstance(t, torch.Tensor) and n.split(".")[0] in MODULES}
    if not tensors:
        raise ValueError(f"'{path}' holds no VQ-GAN: expected tensors named {'.*, '.join(MODULES)}.*.")
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
    vq_tokenizer = CXRVQTokenizer(read_taming_config(config_path)).eval()
    expected, tensors = vq_tokenizer_to_taming(vq_tokenizer), read_taming_checkpoint(checkpoint_path)
    shapes = ((name, tensors[name].shape, expected[name].shape) for name in expected if name in tensors)
    if problem := format_mismatch(
        [name for name in expected if name not in tensors],
        [name for name in tensors if name not in expected],
        [(name, found, wanted) for name, found, wanted in shapes if found != wanted],
    ):
        raise ValueError(f"The config '{config_path}' does not match the weights in '{checkpoint_path}': {problem}.")
    # `expected` shares memory with the model.
    for name, tensor in expected.items():
        tensor.copy_(tensors[name])
    return vq_tokenizer


def vq_tokenizer_to_taming(vq_tokenizer: CXRVQTokenizer) -> dict[str, torch.Tensor]:
    """Return the weights by their names and in the shapes of taming-transformers. They share memory with the model."""
    last = len(vq_tokenizer.config.block_out_channels) - 1
    tensors = {}
    for name, tensor in vq_tokenizer.state_dict().items():
        for pattern, replacement in RENAMINGS:
            name = re.sub(pattern, replacement, name)
        # There the levels of the decoder are numbered by resolution, as in the encoder; in diffusers by order of
        # execution.
        name = re.sub(r"\.up\.(\d+)\.", lambda match: f".up.{last - int(match[1])}.", name)
        # The projections of attention are 1x1 convolutions there, and linear layers in diffusers.
        is_projection = tensor.ndim == 2 and ".attn" in name
        tensors[name] = tensor[:, :, None, None] if is_projection else tensor
    return tensors


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


def export_vq_gan(vq_tokenizer: CXRVQTokenizer, output: str | os.PathLike) -> None:
    """
    Write a VQ-GAN as a folder of `vq_gan.yaml` and `vq_gan.ckpt` for taming-transformers.

    Raises:
        FileExistsError: `output` exists.
        ValueError: taming-transformers does not have the architecture.
    """
    config = vq_tokenizer.config
    channels = tuple(config.block_out_channels)
    if config.norm_num_groups != NORM_NUM_GROUPS or config.patch_size != 1 or any(n % channels[0] for n in channels):
        raise ValueError(
            f"Expected `norm_num_groups={NORM_NUM_GROUPS}`, `patch_size=1` and multiples of the channels of the first "
            f"level for taming-transformers, got `norm_num_groups={config.norm_num_groups}`, "
            f"`patch_size={config.patch_size}` and `block_out_channels={channels}`."
        )
    params = {
        "embed_dim": config.codebook_dim,
        "n_embed": config.codebook_size,
        "ddconfig": taming_ddconfig(config),
        # Its model cannot be built without a loss. This one has no weights.
        "lossconfig": {"target": "taming.modules.losses.vqperceptual.DummyLoss"},
    }
    content = {"model": {"target": "taming.models.vqgan.VQModel", "params": params}}
    with atomic_write(output, overwrite=False) as partial:
        partial.mkdir()
        torch.save({"state_dict": vq_tokenizer_to_taming(vq_tokenizer)}, partial / "vq_gan.ckpt")
        (partial / "vq_gan.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


__all__ = [
    "convert_vq_gan",
    "export_vq_gan",
    "read_taming_checkpoint",
    "read_taming_config",
    "taming_ddconfig",
    "vq_tokenizer_from_taming",
    "vq_tokenizer_to_taming",
]
