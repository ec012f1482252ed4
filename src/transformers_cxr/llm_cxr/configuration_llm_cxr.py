"""Configurations of LLM-CXR and of its image tokenizer."""

from __future__ import annotations

import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

LLM_CXR_CHECKPOINT = (
    "an LLM-CXR checkpoint, which `LlmCxrForCausalLM.from_language_model` builds from a language model and an image "
    "tokenizer"
)


def check_model_type(name: str, model_type: str | None, known: tuple[str, ...], expected: str) -> None:
    """Raise a `ValueError` if the type of a checkpoint is not among the known ones."""
    if model_type not in known:
        raise ValueError(f"'{name}' is a model of type '{model_type}': expected {expected}.")


def ignore_remote_code(config: Any) -> None:
    """Drop the entries for code in a checkpoint, unless this is that code: the package has registered its own."""
    if not __name__.startswith("transformers_modules."):
        for name in ("auto_map", "custom_pipelines"):
            config.pop(name, None)


@strict
class CXRVQTokenizerConfig(PreTrainedConfig):
    r"""
    Configuration of [`CXRVQTokenizer`]. The defaults are the VQ-GAN of LLM-CXR (arXiv 2305.11490):
    taming-transformers' f16 model with a codebook of 1,024 codes of 256 dimensions, for RGB images of 256x256 pixels.

    image_size (`int`, *optional*, defaults to 256):
        Height and width in pixels of the images that are encoded and decoded.
    in_channels (`int`, *optional*, defaults to 3):
        Number of image channels: 1 (gray) or 3 (RGB).
    patch_size (`int`, *optional*, defaults to 1):
        Side of the patches whose pixels become channels before the encoder, and pixels again after the decoder. Large
        patches keep the convolutions off the full resolution, where they are slow on CPUs.
    block_out_channels (`tuple[int, ...]`, *optional*, defaults to `(128, 128, 256, 256, 512)`):
        Channels of each resolution level. Every level but the last halves the resolution: `n` levels give a grid with
        `image_size / patch_size / 2 ** (n - 1)` codes per side.
    layers_per_block (`int`, *optional*, defaults to 2):
        Residual blocks of each level of the encoder; the decoder has one more.
    attention_levels (`tuple[int, ...]`, *optional*, defaults to `(4,)`):
        Indices of the levels whose residual blocks are followed by self-attention.
    latent_channels (`int`, *optional*, defaults to 256):
        Channels of the encoder's output.
    norm_num_groups (`int`, *optional*, defaults to 32):
        Groups of the group normalizations; must divide every number of channels.
    codebook_size (`int`, *optional*, defaults to 1024):
        Number of codes.
    codebook_dim (`int`, *optional*, defaults to 256):
        Dimensions of a code.
    fsq_levels (`tuple[int, ...]`, *optional*):
        Finite scalar quantization (arXiv 2309.15505) with this number of levels in each dimension instead of a learned
        codebook, such as `(4, 4, 4, 4, 4)`. It decides `codebook_size`, the product of the levels, and
        `codebook_dim`, their number.
    """

    model_type = "cxr_vq_tokenizer"
    base_model_fsdp_plan = None
    base_config_key = "vq_config"

    image_size: int = 256
    in_channels: int = 3
    patch_size: int = 1
    block_out_channels: list[int] | tuple[int, ...] = (128, 128, 256, 256, 512)
    layers_per_block: int = 2
    attention_levels: list[int] | tuple[int, ...] = (4,)
    latent_channels: int = 256
    norm_num_groups: int = 32
    codebook_size: int = 1024
    codebook_dim: int = 256
    fsq_levels: list[int] | tuple[int, ...] | None = None

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs) -> tuple[dict, dict]:
        # Transformers only warns, and initializes the weights that it does not find.
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        known = (cls.model_type, LlmCxrConfig.model_type)
        expected = "an image tokenizer or an LLM-CXR checkpoint"
        check_model_type(pretrained_model_name_or_path, config_dict.get("model_type"), known, expected)
        return config_dict, kwargs

    def __post_init__(self, **kwargs):
        if self.in_channels not in (1, 3):
            raise ValueError(f"`in_channels` must be 1 (gray) or 3 (RGB), got {self.in_channels}.")
        if not self.block_out_channels:
            raise ValueError("`block_out_channels` must name the channels of at least one level, got none.")
        if self.fsq_levels is not None:
            if not self.fsq_levels or min(self.fsq_levels) < 2:
                raise ValueError(f"`fsq_levels` must be numbers of at least 2, got {self.fsq_levels}.")
            self.codebook_size, self.codebook_dim = math.prod(self.fsq_levels), len(self.fsq_levels)
        sizes = (
            "image_size",
            "patch_size",
            "layers_per_block",
            "latent_channels",
            "norm_num_groups",
            "codebook_size",
            "codebook_dim",
        )
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        for level in self.attention_levels:
            if not 0 <= level < len(self.block_out_channels):
                raise ValueError(
                    f"`attention_levels` names level {level}, but `block_out_channels` has the levels 0 to "
                    f"{len(self.block_out_channels) - 1}."
                )
        if self.image_size % self.downsampling:
            raise ValueError(
                f"`image_size` {self.image_size} is not a multiple of {self.downsampling}, the downsampling of "
                f"`patch_size` {self.patch_size} and the {len(self.block_out_channels)} levels of "
                "`block_out_channels`."
            )
        for channels in self.block_out_channels:
            if channels % self.norm_num_groups:
                raise ValueError(
                    f"`norm_num_groups` {self.norm_num_groups} must divide every entry of `block_out_channels` "
                    f"{tuple(self.block_out_channels)}."
                )
        ignore_remote_code(kwargs)
        super().__post_init__(**kwargs)

    @property
    def downsampling(self) -> int:
        """Side in pixels of the square of each code; 16 by default."""
        return self.patch_size * 2 ** (len(self.block_out_channels) - 1)

    @property
    def grid_size(self) -> int:
        """Side of the square grid of codes; 16 by default."""
        return self.image_size // self.downsampling

    @property
    def num_image_tokens(self) -> int:
        """Number of codes of an image; 256 by default."""
        return self.grid_size**2


@strict
class LlmCxrConfig(PreTrainedConfig):
    r"""
    Configuration of [`LlmCxrForCausalLM`].

    text_config (`PreTrainedConfig` or `dict`, *optional*):
        Configuration of the backbone, any causal language model. Its `vocab_size` includes the image codes. The
        default is a GPT-NeoX, as in LLM-CXR.
    vq_config (`CXRVQTokenizerConfig` or `dict`, *optional*):
        Configuration of the image tokenizer.
    image_token_id (`int`, *optional*, defaults to 50281):
        Id of the placeholder of a code before the image is encoded.
    boi_token_id (`int`, *optional*, defaults to 50282):
        Id that begins an image.
    eoi_token_id (`int`, *optional*, defaults to 50283):
        Id that ends an image.
    image_token_offset (`int`, *optional*, defaults to 50284):
        Id of code 0; code `c` has the id `image_token_offset + c`.
    text_image_markers (`bool`, *optional*, defaults to `False`):
        Layout of the released LLM-CXR: an image begins and ends with the text tokens `<` and `>`, which also occur in
        text. The codes are the last rows of the vocabulary, and the placeholder is the id after them. It has no
        embedding: the model replaces it before the backbone sees it.
    lm_head_bias (`bool`, *optional*, defaults to `False`):
        Whether the head has a bias.
    min_chest_xray_score (`float`, *optional*):
        Lowest of the [`chest_xray_scores`] of chest X-rays. An image below it gets a warning, and on the demo page no
        report. By default no image is checked.
    """

    model_type = "llm_cxr"
    base_model_fsdp_plan = None  # that of the backbone holds
    sub_configs_defaults = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="gpt_neox"),
        "vq_config": CXRVQTokenizerConfig,
    }
    keys_to_ignore_at_inference = ["past_key_values"]

    text_config: dict | PreTrainedConfig | None = None
    vq_config: dict | PreTrainedConfig | None = None
    image_token_id: int = 50281
    boi_token_id: int = 50282
    eoi_token_id: int = 50283
    image_token_offset: int = 50284
    text_image_markers: bool = False
    lm_head_bias: bool = False
    min_chest_xray_score: float | None = None
    # Copied from `text_config`.
    tie_word_embeddings: bool = False

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs) -> tuple[dict, dict]:
        # Transformers only warns, and initializes the weights that it does not find.
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        check_model_type(
            pretrained_model_name_or_path, config_dict.get("model_type"), (cls.model_type,), LLM_CXR_CHECKPOINT
        )
        return config_dict, kwargs

    def __post_init__(self, **kwargs):
        if self.text_config is None:
            self.text_config = AutoConfig.for_model("gpt_neox", vocab_size=self.image_token_offset + 1024)
        ignore_remote_code(kwargs)
        # TRL reads it from every configuration.
        kwargs.setdefault("auto_map", {})
        super().__post_init__(**kwargs)
        self.tie_word_embeddings = self.text_config.tie_word_embeddings
        end = self.image_token_offset + self.vq_config.codebook_size
        if end > self.text_config.vocab_size:
            raise ValueError(
                f"The {self.vq_config.codebook_size} codes from id {self.image_token_offset} on end at {end}, beyond "
                f"the backbone's vocabulary of {self.text_config.vocab_size}. "
                "`LlmCxrForCausalLM.from_language_model` extends a vocabulary."
            )


__all__ = ["CXRVQTokenizerConfig", "LlmCxrConfig", "ignore_remote_code"]
