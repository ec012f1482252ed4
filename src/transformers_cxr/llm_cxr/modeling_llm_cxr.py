"""LLM-CXR: a causal language model whose vocabulary includes the codes of a chest X-ray tokenizer."""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
)
from transformers.utils import can_return_tuple, torch_compilable_check

from .configuration_llm_cxr import LlmCxrConfig
from .generation_llm_cxr import LlmCxrGenerationMixin
from .modeling_cxr_vq_tokenizer import CXRVQTokenizer, SafetensorsMixin
from .processing_llm_cxr import LlmCxrProcessor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class LlmCxrPreTrainedModel(SafetensorsMixin, PreTrainedModel):
    """Base class: conversion between images and token ids, for the model with and without its head."""

    config: LlmCxrConfig
    config_class = LlmCxrConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _keep_in_fp32_modules_strict = ["vq_tokenizer"]
    _skip_keys_device_placement = ["past_key_values"]

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        loaded = super().from_pretrained(*args, **kwargs)
        # Loading creates new parameters. With `output_loading_info` the model is the first of two results.
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.vq_tokenizer.requires_grad_(False)
        return loaded

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the backbone; the VQ-GAN is always in fp32."""
        return self.get_input_embeddings().weight.dtype

    def get_image_tokens(self, pixel_values: torch.FloatTensor) -> torch.LongTensor:
        """
        Return the token ids of images.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(num_images, in_channels, image_size, image_size)`):
                Images in [-1, 1].

        Returns:
            `torch.LongTensor` of shape `(num_images, num_image_tokens)`: `image_token_offset + code`, in raster order.
        """
        return self.vq_tokenizer.encode(pixel_values.to(self.vq_tokenizer.device)) + self.config.image_token_offset

    @can_return_tuple
    def get_image_features(self, pixel_values: torch.FloatTensor, **kwargs) -> BaseModelOutputWithPooling | tuple:
        """
        Return the embeddings of the codes of images.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(num_images, in_channels, image_size, image_size)`):
                Images in [-1, 1].

        Returns:
            `BaseModelOutputWithPooling` whose `pooler_output` holds the embeddings, of shape `(num_images,
            num_image_tokens, hidden_size)`.
        """
        embeddings = self.get_input_embeddings()
        features = embeddings(self.get_image_tokens(pixel_values).to(embeddings.weight.device))
        return BaseModelOutputWithPooling(pooler_output=features)

    def decode_image_tokens(self, image_tokens: torch.LongTensor) -> torch.FloatTensor:
        """
        Return the images of token ids.

        Args:
            image_tokens (`torch.LongTensor` of shape `(num_images, sequence_length)`):
                Rows with one image, `image_token_offset + code` in raster order, as `generate` returns them. Other
                tokens are ignored; of several images the last one is decoded.

        Returns:
            `torch.FloatTensor` of shape `(num_images, in_channels, image_size, image_size)`: images in [-1, 1].
        """
        codes = image_tokens.to(self.vq_tokenizer.device) - self.config.image_token_offset
        is_code = (codes >= 0) & (codes < self.config.vq_config.codebook_size)
        length = self.config.vq_config.num_image_tokens
        return self.vq_tokenizer.decode(torch.stack([row[kept][-length:] for row, kept in zip(codes, is_code)]))

    def replace_image_placeholders(
        self,
        pixel_values: torch.FloatTensor,
        input_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        shift_labels: torch.LongTensor | None = None,
    ) -> tuple[torch.Tensor | None, ...]:
        """
        Replace the placeholders of images by their codes.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(num_images, in_channels, image_size, image_size)`):
                Images in the order of their placeholders.
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Ids with `num_image_tokens` placeholders per image.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`, *optional*):
                Embeddings of such ids, in place of `input_ids`.
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Labels; only placeholders in them change.
            shift_labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Labels that are shifted by one position; only placeholders in them change.

        Returns:
            `tuple`: `input_ids`, `inputs_embeds`, `labels` and `shift_labels`, each `None` if it was not given.

        Raises:
            ValueError: The numbers of images and placeholders do not match.
        """
        placeholder = self.config.image_token_id
        embeddings = self.get_input_embeddings()
        if input_ids is not None:
            is_placeholder = input_ids == placeholder
        else:
            embedded = embeddings(torch.tensor(placeholder, device=embeddings.weight.device))
            is_placeholder = (inputs_embeds == embedded.to(inputs_embeds)).all(-1)
        expected = len(pixel_values) * self.config.vq_config.num_image_tokens
        torch_compilable_check(
            is_placeholder.sum() == expected,
            lambda: (
                f"Expected {expected} placeholders (id {placeholder}) for {len(pixel_values)} images, got "
                f"{int(is_placeholder.sum())}. Prepare text and images with the processor of this checkpoint."
            ),
        )
        image_tokens = self.get_image_tokens(pixel_values).to(is_placeholder.device)
        codes = torch.zeros_like(is_placeholder, dtype=torch.long).masked_scatter(is_placeholder, image_tokens)
        if input_ids is not None:
            input_ids = torch.where(is_placeholder, codes, input_ids)
        if inputs_embeds is not None:
            features = embeddings(codes.to(embeddings.weight.device)).to(inputs_embeds)
            inputs_embeds = torch.where(is_placeholder[..., None], features, inputs_embeds)
        if labels is not None:
            labels = torch.where(labels == placeholder, codes.to(labels.device), labels)
        if shift_labels is not None:
            codes = F.pad(codes, (0, 1))[..., 1:].to(shift_labels.device)
            shift_labels = torch.where(shift_labels == placeholder, codes, shift_labels)
        return input_ids, inputs_embeds, labels, shift_labels


class LlmCxrModel(LlmCxrPreTrainedModel):
    """
    LLM-CXR without its head: the image tokenizer `vq_tokenizer`, which is frozen and stays in fp32, and the backbone
    `language_model`.
    """

    def __init__(self, config: LlmCxrConfig):
        super().__init__(config)
        # First, so that a `device_map` places the small VQ-GAN before memory runs out and layers are offloaded.
        self.vq_tokenizer = CXRVQTokenizer(config.vq_config).requires_grad_(False)  # type: ignore[arg-type]
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values=None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast | tuple:
        """
        Compute the hidden states of text and images.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Text tokens, and either codes or placeholders for the images in `pixel_values`.
            pixel_values (`torch.FloatTensor` of shape `(num_images, channels, image_size, image_size)`, *optional*):
                Images in [-1, 1], in the order of their placeholders.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`, *optional*):
                Embeddings in place of `input_ids`.
            **kwargs:
                Other arguments of the backbone.
        """
        if pixel_values is not None:
            input_ids, inputs_embeds, *_ = self.replace_image_placeholders(pixel_values, input_ids, inputs_embeds)
        return self.language_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )


class LlmCxrForCausalLM(LlmCxrGenerationMixin, LlmCxrPreTrainedModel):
    """LLM-CXR (arXiv 2305.11490): any causal language model that reads and writes images as runs of tokens."""

    output_modalities = ("image", "text")

    def __init__(self, config: LlmCxrConfig):
        super().__init__(config)
        self.model = LlmCxrModel(config)
        embeddings = self.get_input_embeddings()
        # Some backbones embed tokens in fewer dimensions than their hidden states have, and project the last ones
        # back.
        self.lm_head = nn.Linear(
            embeddings.embedding_dim, config.text_config.vocab_size, bias=config.lm_head_bias, dtype=self.dtype
        )
        name = next(name for name, module in self.named_modules() if module is embeddings)
        self._tied_weights_keys = {"lm_head.weight": f"{name}.weight"}
        # A recurrent state cannot be rolled back, which assisted generation needs.
        self._is_stateful = self.model.language_model._is_stateful
        self.post_init()
        # Transformers loads additional settings only from a generation config that is not derived from the model's
        # config.
        self.generation_config._from_model_config = False

    @classmethod
    def from_language_model(
        cls,
        language_model: PreTrainedModel | str | os.PathLike,
        tokenizer: PreTrainedTokenizerBase,
        vq_tokenizer: CXRVQTokenizer,
        new_embeddings: str = "mean",
        seed: int = 0,
    ) -> tuple[LlmCxrForCausalLM, LlmCxrProcessor]:
        """
        Build a multimodal model and its processor from a text-only model. The logits of the old tokens do not change;
        the vocabulary, and an untied head, get rows for the new ones.

        Args:
            language_model (`PreTrainedModel`, `str` or `os.PathLike`):
                Causal language model, or its name or path. Its weights become part of the new model.
            tokenizer (`PreTrainedTokenizerBase`):
                Tokenizer of the language model. Tokens are added to a copy.
            vq_tokenizer ([`CXRVQTokenizer`]):
                Image tokenizer. It becomes part of the new model.
            new_embeddings (`str`, *optional*, defaults to `"mean"`):
                Initial values of the new rows, from the mean and standard deviation of each dimension over the old
                rows:

                - `"mean"`: the mean, all rows alike. The new tokens then take hardly any probability from the old
                  ones.
                - `"random"`: samples from the normal distribution of the two; for a backbone without training.
                - `"codebook"`: for the codes, a random projection of their vectors in the codebook, scaled to the two,
                  so that similar codes start with similar embeddings; for the other new tokens `"random"`.
            seed (`int`, *optional*, defaults to 0):
                Seed of the new rows.

        Returns:
            `tuple[LlmCxrForCausalLM, LlmCxrProcessor]`.

        Raises:
            ValueError: The vocabulary of the language model is smaller than that of the tokenizer, its logits are not
                a linear layer of its last hidden states, or `new_embeddings` is unknown.
        """
        if new_embeddings not in ("random", "mean", "codebook"):
            raise ValueError(f"`new_embeddings` must be 'random', 'mean' or 'codebook', got {new_embeddings!r}.")
        if not isinstance(language_model, PreTrainedModel):
            language_model = AutoModelForCausalLM.from_pretrained(language_model)
        known_tokens, rows = len(tokenizer), language_model.get_input_embeddings().weight.shape[0]
        if rows < known_tokens:
            raise ValueError(
                f"Expected an embedding for each of the {known_tokens} tokens of the tokenizer, got {rows}: the "
                "tokenizer and the language model do not belong together."
            )
        language_model.eval()
        _check_linear_head(language_model)
        processor = LlmCxrProcessor.from_tokenizer(tokenizer, vq_tokenizer.config)
        language_model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
        _initialize_new_embeddings(language_model, known_tokens, processor, vq_tokenizer, new_embeddings, seed)

        head, text_config = language_model.get_output_embeddings(), language_model.config
        text_config.bos_token_id, text_config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        # These name where the parts were loaded from, such as a folder of this machine.
        text_config._name_or_path = vq_tokenizer.config._name_or_path = ""
        config = LlmCxrConfig(
            text_config=text_config,
            vq_config=vq_tokenizer.config,
            lm_head_bias=head.bias is not None,
            **processor.token_layout,
        )
        config.dtype = language_model.dtype
        with torch.device("meta"):
            model = cls(config)
        model.model.language_model, model.lm_head = language_model.base_model, head
        model.model.vq_tokenizer = vq_tokenizer.requires_grad_(False)
        generation_config = copy.deepcopy(language_model.generation_config)
        generation_config._from_model_config = False
        generation_config.bos_token_id = tokenizer.bos_token_id
        generation_config.eos_token_id = processor.eos_token_ids
        generation_config.pad_token_id = processor.tokenizer.pad_token_id
        model.generation_config = generation_config
        return model.eval(), processor

    def to_language_model(self) -> PreTrainedModel:
        """
        Return the backbone with its head as a causal language model of Transformers: the inverse of
        `from_language_model`. It shares its weights with this model.
        """
        with torch.device("meta"):
            language_model = AutoModelForCausalLM.from_config(self.config.text_config)
        setattr(language_model, language_model.base_model_prefix, self.model.language_model)
        language_model.set_output_embeddings(self.lm_head)
        return language_model.eval()

    @property
    def vq_tokenizer(self) -> CXRVQTokenizer:
        """The image tokenizer."""
        return self.model.vq_tokenizer

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values=None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: int | torch.Tensor | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast | tuple:
        """
        Compute the logits of text and codes, and the loss.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Text tokens, and either codes or placeholders for the images in `pixel_values`.
            pixel_values (`torch.FloatTensor` of shape `(num_images, channels, image_size, image_size)`, *optional*):
                Images in [-1, 1], in the order of their placeholders.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`, *optional*):
                Embeddings in place of `input_ids`.
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Targets over text and codes alike; -100 is ignored. Placeholders are replaced as in `input_ids`.
            use_cache (`bool`, *optional*):
                Whether to return `past_key_values`. The default is that of the backbone, and `False` with labels: with
                a cache the backbone cannot tell packed conversations, whose `position_ids` start anew.
            logits_to_keep (`int` or `torch.Tensor`, *optional*, defaults to 0):
                Number of last positions, or positions, whose logits are computed; 0 is all.
            num_items_in_batch (`int` or `torch.Tensor`, *optional*):
                Number of targets by which the loss is divided, if it is not that of this call.
            **kwargs:
                `shift_labels`, targets that are already shifted by one position, and other arguments of the backbone.

        Returns:
            `CausalLMOutputWithPast` with logits of shape `(batch_size, sequence_length, vocab_size)`.

        Raises:
            ValueError: The numbers of images and placeholders do not match.
        """
        # Not a parameter, because the Trainer requires each parameter with "labels" in its name in a batch.
        shift_labels = kwargs.pop("shift_labels", None)
        has_labels = labels is not None or shift_labels is not None
        if pixel_values is not None:
            input_ids, inputs_embeds, labels, shift_labels = self.replace_image_placeholders(
                pixel_values, input_ids, inputs_embeds, labels, shift_labels
            )
        elif has_labels:
            self._check_no_placeholders(input_ids)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=False if has_labels and use_cache is None else use_cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept, :])
        loss = None
        if has_labels:
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                vocab_size=self.config.text_config.vocab_size,
                num_items_in_batch=num_items_in_batch,
                shift_labels=shift_labels,
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.get("past_key_values"),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )

    def check_processor(self, processor: LlmCxrProcessor) -> None:
        """Raise a `ValueError` if the processor is not that of this model."""
        names = [*processor.token_layout, "codebook_size", "num_image_tokens"]
        config, vq_config = self.config, self.config.vq_config
        expected = [getattr(config if name in processor.token_layout else vq_config, name) for name in names]
        found = [getattr(processor, name) for name in names]
        if different := [f"`{n}` is {f} and not {e}" for n, e, f in zip(names, expected, found) if e != f]:
            raise ValueError(
                f"The processor does not belong to this model: its {', '.join(different)}. Load both from the same "
                "checkpoint."
            )


@torch.no_grad()
def _check_linear_head(language_model: PreTrainedModel) -> None:
    """Raise a `ValueError` if the logits are not a linear layer of the last hidden states."""
    name, backbone = type(language_model).__name__, language_model.base_model
    if type(backbone) is not AutoModel._model_mapping[type(language_model.config)]:
        raise ValueError(f"`AutoModel` does not load the backbone of {name}, a {type(backbone).__name__}.")
    input_ids = torch.arange(4, device=language_model.device)[None]
    head, expected = language_model.get_output_embeddings(), language_model(input_ids).logits
    logits = head(backbone(input_ids).last_hidden_state)
    if not isinstance(head, nn.Linear) or not torch.equal(logits.float(), expected.float()):
        raise ValueError(
            f"Expected logits that are a linear layer of the last hidden states. Those of {name} are not: it scales "
            "or soft-caps them, for example."
        )


@torch.no_grad()
def _initialize_new_embeddings(
    language_model: PreTrainedModel,
    known_tokens: int,
    processor: LlmCxrProcessor,
    vq_tokenizer: CXRVQTokenizer,
    new_embeddings: str,
    seed: int,
) -> None:
    """Initialize the rows from `known_tokens` on in the embeddings, and in an untied head."""
    tables = [language_model.get_input_embeddings().weight, language_model.get_output_embeddings().weight]
    generator = torch.Generator().manual_seed(seed)
    for table in tables[:1] if tables[0] is tables[1] else tables:
        known = table[:known_tokens].float()
        deviations = torch.zeros(table[known_tokens:].shape)
        if new_embeddings != "mean":
            deviations.normal_(generator=generator)
        if new_embeddings == "codebook" and len(deviations):
            codebook = vq_tokenizer.codebook.float().cpu()
            projected = codebook @ torch.randn(codebook.shape[1], table.shape[1], generator=generator)
            first = processor.image_token_offset - known_tokens
            deviations[first : first + len(codebook)] = (projected - projected.mean(0)) / projected.std(0)
        table[known_tokens:] = (known.mean(0) + known.std(0) * deviations.to(table.device)).to(table.dtype)


__all__ = ["LlmCxrForCausalLM", "LlmCxrModel", "LlmCxrPreTrainedModel"]
