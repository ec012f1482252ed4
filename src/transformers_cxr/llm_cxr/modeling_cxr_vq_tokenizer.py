"""VQ-GAN between chest X-rays and discrete codes."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import VQModel
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, torch_compilable_check

from .configuration_llm_cxr import CXRVQTokenizerConfig


@dataclass
class CXRVQTokenizerOutput(ModelOutput):
    """
    Output of the training forward of [`CXRVQTokenizer`].

    reconstruction (`torch.FloatTensor` of shape `(batch_size, in_channels, image_size, image_size)`):
        Decoded images, about in [-1, 1], not clipped. Gradients reach the encoder by the straight-through estimator.
    commitment_loss (`torch.FloatTensor` of shape `()`):
        Codebook and commitment terms of VQ-VAE (arXiv 1711.00937, eq. 3) in taming-transformers' weighting: 1.0 for
        the encoder and 0.25 for the codebook. Zero with `fsq_levels`.
    codes (`torch.LongTensor` of shape `(batch_size, num_image_tokens)`):
        Codes in raster order, each in `[0, codebook_size)`.
    latents (`torch.FloatTensor` of shape `(batch_size, codebook_dim, grid_size, grid_size)`):
        Output of the encoder before quantization.
    codebook_usage (`torch.FloatTensor` of shape `()`):
        Fraction of the codebook that this batch uses, in [0, 1].
    codebook_perplexity (`torch.FloatTensor` of shape `()`):
        Exponential of the entropy of the codes in this batch, in [1, codebook_size].
    """

    reconstruction: torch.FloatTensor | None = None
    commitment_loss: torch.FloatTensor | None = None
    codes: torch.LongTensor | None = None
    latents: torch.FloatTensor | None = None
    codebook_usage: torch.FloatTensor | None = None
    codebook_perplexity: torch.FloatTensor | None = None


class _Projection(nn.Module):
    """A linear layer that PEFT's `all-linear` and quantization, which look for `nn.Linear`, leave alone."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, hidden_states: torch.FloatTensor) -> torch.FloatTensor:
        return F.linear(hidden_states, self.weight, self.bias)


def fsq_codebook(levels: Sequence[int]) -> torch.FloatTensor:
    """
    Return finite scalar quantization (arXiv 2309.15505) as a codebook, of shape `(prod(levels), len(levels))`: the
    nearest code vector of a latent `z` has the levels of `tanh(z)`, which divide [-1, 1] evenly in each dimension.
    """
    axes = []
    for count in levels:
        # Each boundary between two levels is halfway between their points.
        boundaries = [math.atanh(k / count) for k in range(count % 2, count, 2)]
        point = 0.0 if count % 2 else -(boundaries[1] / 2 if count > 2 else 0.5)
        positive = [point := 2 * boundary - point for boundary in boundaries]
        axes.append(torch.tensor([-each for each in reversed(positive)] + [0.0] * (count % 2) + positive))
    return torch.cartesian_prod(*axes).view(-1, len(levels))


def _without_autocast(tensor: torch.Tensor) -> torch.autocast:
    return torch.autocast(device_type=tensor.device.type, enabled=False)


def share_weights(folder: str | os.PathLike) -> None:
    """Give saved weights the permissions of their configuration: safetensors lets only their owner read them."""
    for file in Path(folder).glob("*.safetensors"):
        shutil.copymode(next(Path(folder).glob("*config.json")), file)


class SafetensorsMixin:
    """Weights are safetensors that others can read, never a pickle."""

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        return super().from_pretrained(*args, **{"use_safetensors": True, **kwargs})

    def save_pretrained(self, save_directory, is_main_process=True, **kwargs):
        super().save_pretrained(save_directory, is_main_process, **kwargs)
        if is_main_process:
            share_weights(save_directory)


class CXRVQTokenizer(SafetensorsMixin, PreTrainedModel):
    """
    Image tokenizer of LLM-CXR: a VQ-GAN (arXiv 2012.09841) around [`diffusers.VQModel`].

    [`~CXRVQTokenizer.encode`] and [`~CXRVQTokenizer.decode`] always compute in fp32, also inside an autocast and after
    `.to(torch.bfloat16)`, as a lower precision changes codes.
    """

    config: CXRVQTokenizerConfig
    config_class = CXRVQTokenizerConfig
    main_input_name = "pixel_values"
    # Its place in an LLM-CXR checkpoint, from which it is loaded too.
    base_model_prefix = "model.vq_tokenizer"
    input_modalities = ("image",)
    output_modalities = ("image",)
    _keep_in_fp32_modules_strict = ["vq_model", "to_pixels"]
    _keys_to_ignore_on_load_unexpected = [r"^model\.language_model\.", r"^lm_head\."]
    _no_split_modules = ["VQModel"]
    supports_gradient_checkpointing = False
    # The attention implementation is for the backbone; the VQ-GAN has that of diffusers.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(self, config: CXRVQTokenizerConfig):
        super().__init__(config)
        levels = range(len(config.block_out_channels))
        attention = [level in config.attention_levels for level in levels]
        is_patched = config.patch_size > 1
        channels_per_pixel = 8 if is_patched else config.in_channels
        self.vq_model = VQModel(
            in_channels=config.in_channels * config.patch_size**2,
            out_channels=channels_per_pixel * config.patch_size**2,
            down_block_types=tuple("AttnDownEncoderBlock2D" if a else "DownEncoderBlock2D" for a in attention),
            up_block_types=tuple("AttnUpDecoderBlock2D" if a else "UpDecoderBlock2D" for a in reversed(attention)),
            block_out_channels=tuple(config.block_out_channels),
            layers_per_block=config.layers_per_block,
            latent_channels=config.latent_channels,
            sample_size=config.image_size,
            norm_num_groups=config.norm_num_groups,
            num_vq_embeddings=config.codebook_size,
            vq_embed_dim=config.codebook_dim,
        )
        self.to_pixels = nn.Sequential()
        if is_patched:
            # A convolution at full resolution hides the borders of the patches.
            convolution = nn.Conv2d(channels_per_pixel, config.in_channels, 3, padding=1)
            self.to_pixels.extend([nn.PixelShuffle(config.patch_size), nn.SiLU(), convolution])
        for module in (self.vq_model, self.to_pixels):
            module.float()  # `from_config(dtype=...)` sets another default dtype
        self.codebook.requires_grad_(config.fsq_levels is None)
        for module in list(self.vq_model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear):
                    module.register_module(name, _Projection(child))
        self.post_init()

    def _init_weights(self, module: nn.Module):
        # The generic N(0, 0.02) is far too small for a convolutional network.
        if isinstance(module, (nn.Conv2d, _Projection)):
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding) and self.config.fsq_levels:
            init.copy_(module.weight, fsq_codebook(self.config.fsq_levels))
        elif isinstance(module, nn.Embedding):
            bound = 1 / self.config.codebook_size
            nn.init.uniform_(module.weight, -bound, bound)

    def _apply(self, fn, recurse=True):
        def keep_fp32(tensor: torch.Tensor) -> torch.Tensor:
            applied = fn(tensor)
            if applied.is_floating_point() and applied.dtype != tensor.dtype:
                return tensor.to(applied.device)
            return applied

        return super()._apply(keep_fp32, recurse)

    @property
    def codebook(self) -> torch.Tensor:
        """Code vectors, `torch.FloatTensor` of shape `(codebook_size, codebook_dim)`."""
        return self.vq_model.quantize.embedding.weight

    @property
    def last_weight(self) -> nn.Parameter:
        """Weight of the last layer of the decoder, for the adaptive weight of the adversarial loss."""
        return (self.to_pixels[-1] if self.to_pixels else self.vq_model.decoder.conv_out).weight

    @torch.no_grad()
    def encode(self, pixel_values: torch.FloatTensor) -> torch.LongTensor:
        """
        Encode images as codes.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, in_channels, image_size, image_size)`):
                Images in [-1, 1], prepared by [`LlmCxrImageProcessor`].

        Returns:
            `torch.LongTensor` of shape `(batch_size, num_image_tokens)`: codes in raster order, each in
            `[0, codebook_size)`.

        Raises:
            ValueError: The shape is wrong, or the pixels are not finite floating-point numbers.
        """
        self._check_pixel_values(pixel_values)
        with _without_autocast(pixel_values):
            latents = self._encode(pixel_values)
            _, _, (_, _, codes) = self.vq_model.quantize(latents)
        return codes.view(pixel_values.shape[0], self.config.num_image_tokens)

    def decode(self, codes: torch.LongTensor) -> torch.FloatTensor:
        """
        Decode codes to images.

        Args:
            codes (`torch.LongTensor` of shape `(batch_size, num_image_tokens)`):
                Codes in raster order, each in `[0, codebook_size)`.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, in_channels, image_size, image_size)`: images in [-1, 1].

        Raises:
            ValueError: The number of codes is wrong, or a code is outside the codebook.
        """
        self.check_codes(codes)
        shape = (codes.shape[0], self.config.grid_size, self.config.grid_size, self.config.codebook_dim)
        with _without_autocast(codes):
            quantized = self.vq_model.quantize.get_codebook_entry(codes.reshape(-1).long(), shape)
            return self._decode_quantized(quantized).clamp(-1, 1)

    def forward(
        self, pixel_values: torch.FloatTensor, return_dict: bool | None = None, follow_autocast: bool = False
    ) -> CXRVQTokenizerOutput | tuple[torch.Tensor, ...]:
        """
        Encode, quantize and decode images, for training.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, in_channels, image_size, image_size)`):
                Images in [-1, 1].
            follow_autocast (`bool`, *optional*, defaults to `False`):
                Run the encoder and the decoder in the precision of a surrounding autocast, which makes training
                faster. The quantizer and the output are always in fp32.
        """
        self._check_pixel_values(pixel_values)
        with nullcontext() if follow_autocast else _without_autocast(pixel_values):
            latents = self._encode(pixel_values).float()
            with _without_autocast(pixel_values):
                quantized, commitment_loss, (_, _, codes) = self.vq_model.quantize(latents)
                if self.config.fsq_levels:
                    # Straight through the tanh, whose small gradients far out keep the latents bounded.
                    bounded = latents.tanh()
                    quantized = quantized.detach() + bounded - bounded.detach()
                    commitment_loss = torch.zeros_like(commitment_loss)
            reconstruction = self._decode_quantized(quantized).float()
        counts = torch.bincount(codes.flatten(), minlength=self.config.codebook_size)
        frequencies = counts / counts.sum()
        output = CXRVQTokenizerOutput(
            reconstruction=reconstruction,
            commitment_loss=commitment_loss,
            codes=codes.view(pixel_values.shape[0], -1),
            latents=latents,
            codebook_usage=(counts > 0).float().mean(),
            codebook_perplexity=torch.special.entr(frequencies).sum().exp(),
        )
        return output.to_tuple() if return_dict is False else output

    def _encode(self, pixel_values: torch.FloatTensor) -> torch.FloatTensor:
        # CPUs convolve faster in this memory format.
        patches = F.pixel_unshuffle(pixel_values.float(), self.config.patch_size)
        return self.vq_model.encode(patches.contiguous(memory_format=torch.channels_last)).latents

    def _decode_quantized(self, quantized: torch.FloatTensor) -> torch.FloatTensor:
        quantized = quantized.contiguous(memory_format=torch.channels_last)
        return self.to_pixels(self.vq_model.decoder(self.vq_model.post_quant_conv(quantized)))

    def check_codes(self, codes: torch.LongTensor) -> None:
        """Raise a `ValueError` unless `codes` are `(batch_size, num_image_tokens)` integers of the codebook."""
        expected, grid = self.config.num_image_tokens, self.config.grid_size
        if codes.ndim != 2 or codes.shape[1] != expected:
            raise ValueError(
                f"Expected {expected} codes for an image of {grid}x{grid} codes, in a tensor of shape "
                f"(batch_size, {expected}), got shape {tuple(codes.shape)}."
            )
        if codes.dtype.is_floating_point or codes.dtype == torch.bool:
            raise ValueError(f"Codes must be integers, got {codes.dtype}.")
        codes = codes.long()  # torch cannot compare the unsigned integers of code datasets
        if codes.numel() and (codes.min() < 0 or codes.max() >= self.config.codebook_size):
            wrong = codes[(codes < 0) | (codes >= self.config.codebook_size)][0].item()
            raise ValueError(f"Code {wrong} is outside the codebook: codes are in [0, {self.config.codebook_size}).")

    def _check_pixel_values(self, pixel_values: torch.FloatTensor) -> None:
        expected = (self.config.in_channels, self.config.image_size, self.config.image_size)
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != expected:
            raise ValueError(
                f"Expected pixel_values of shape (batch_size, {', '.join(map(str, expected))}), got "
                f"{tuple(pixel_values.shape)}. Prepare images with the LlmCxrImageProcessor of this checkpoint."
            )
        if not pixel_values.is_floating_point():
            raise ValueError(f"Expected pixel_values in [-1, 1], got {pixel_values.dtype}.")
        torch_compilable_check(torch.isfinite(pixel_values).all(), "pixel_values holds NaN or infinite values.")


__all__ = ["CXRVQTokenizer", "CXRVQTokenizerOutput", "SafetensorsMixin", "share_weights"]
