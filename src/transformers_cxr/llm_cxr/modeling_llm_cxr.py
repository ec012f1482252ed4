"""The LLM-CXR model: a causal language model whose vocabulary also holds the codes of a chest X-ray tokenizer."""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForCausalLM, GenerationMixin, LogitsProcessorList, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_llm_cxr import LlmCxrConfig
from .generation_llm_cxr import ImageGrammarLogitsProcessor, LlmCxrImageGenerationMixin
from .modeling_cxr_vq_tokenizer import CXRVQTokenizer
from .processing_llm_cxr import LlmCxrProcessor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class LlmCxrForCausalLM(LlmCxrImageGenerationMixin, PreTrainedModel, GenerationMixin):
    """
    LLM-CXR (arXiv 2305.11490): any causal language model around which images are runs of tokens.

    `language_model` is the backbone, unchanged but for the new rows of its vocabulary, and `vq_tokenizer` the VQ-GAN, which
    stays in fp32 whatever the dtype of the backbone, and is not trained: its parameters require no gradients.
    """

    config: LlmCxrConfig
    config_class = LlmCxrConfig
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    output_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _keep_in_fp32_modules_strict = ["vq_tokenizer"]
    # Quantization looks at this one.
    _keep_in_fp32_modules = ["vq_tokenizer"]
    _skip_keys_device_placement = ["past_key_values"]
    # None of its own; a dictionary tells PEFT to look for those of the backbone.
    _tied_weights_keys = {}

    def __init__(self, config: LlmCxrConfig):
        super().__init__(config)
        # First, so that a `device_map` gives the small VQ-GAN a place before memory runs out and layers are offloaded.
        self.vq_tokenizer = CXRVQTokenizer(config.vq_config).requires_grad_(False)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()
        # Of a generation config that is marked as derived from the model's config, other settings are not loaded again.
        self.generation_config._from_model_config = False
        self.generation_config.image_generation = {}

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        loaded = super().from_pretrained(*args, **kwargs)
        # With `output_loading_info` it returns two things.
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        # Loading makes new parameters.
        model.vq_tokenizer.requires_grad_(False)
        if not hasattr(model.generation_config, "image_generation"):
            model.generation_config.image_generation = {}
        return loaded

    def _init_weights(self, module):
        # The backbone and the VQ-GAN initialise themselves; the wrapper has no weights of its own.
        pass

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
        Builds a multimodal model and its processor from a text-only model. The logits of the old tokens stay as they were;
        the vocabulary, and an untied head, get rows for the new ones.

        Args:
            language_model (`PreTrainedModel`, `str` or `os.PathLike`):
                The backbone, or where `AutoModelForCausalLM.from_pretrained` finds it. It becomes part of the new model.
            tokenizer (`PreTrainedTokenizerBase`):
                The backbone's tokenizer. Tokens are added to a copy.
            vq_tokenizer ([`CXRVQTokenizer`]):
                The image tokenizer. It becomes part of the new model.
            new_embeddings (`str`, *optional*, defaults to `"mean"`):
                What the new rows begin as, with the mean and standard deviation that each dimension has over the old rows:

                - `"mean"`: the mean, all rows alike. The new tokens then take hardly any probability from the old ones.
                - `"random"`: draws from the normal distribution of the two; for a backbone without training.
                - `"codebook"`: for the codes, a random projection of their vectors in the codebook, scaled to the two, so
                  that codes that look alike begin alike; for the other new tokens `"random"`.
            seed (`int`, *optional*, defaults to 0):
                Seed of the new rows.

        Returns:
            `tuple[LlmCxrForCausalLM, LlmCxrProcessor]`.

        Raises:
            ValueError: the backbone's vocabulary is smaller than the tokenizer's, or another `new_embeddings`.
        """
        if new_embeddings not in ("random", "mean", "codebook"):
            raise ValueError(f"`new_embeddings` must be 'random', 'mean' or 'codebook', got {new_embeddings!r}.")
        if not isinstance(language_model, PreTrainedModel):
            language_model = AutoModelForCausalLM.from_pretrained(language_model)
        rows = language_model.get_input_embeddings().weight.shape[0]
        if rows < len(tokenizer):
            raise ValueError(
                f"The tokenizer has {len(tokenizer)} tokens and the language model only {rows} embeddings: they do not "
                "belong together."
            )
        known_tokens = len(tokenizer)
        processor = LlmCxrProcessor.from_tokenizer(tokenizer, vq_tokenizer.config)
        language_model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
        tables = {language_model.get_input_embeddings().weight, language_model.get_output_embeddings().weight}
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for table in sorted(tables, key=lambda t: t is not language_model.get_input_embeddings().weight):
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

        config = LlmCxrConfig(
            text_config=language_model.config,
            vq_config=vq_tokenizer.config,
            **processor.token_layout,
        )
        config.dtype = language_model.dtype
        with torch.device("meta"):
            model = cls(config)
        model.language_model = language_model
        model.vq_tokenizer = vq_tokenizer.requires_grad_(False)
        model.generation_config = copy.deepcopy(language_model.generation_config)
        model.generation_config._from_model_config = False
        model.generation_config.image_generation = {}
        model.generation_config.eos_token_id = processor.eos_token_ids
        model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
        return model.eval(), processor

    @property
    def dtype(self) -> torch.dtype:
        """That of the backbone."""
        return self.language_model.dtype

    @property
    def _is_stateful(self) -> bool:
        # A recurrent state cannot be taken back, as assisted generation does.
        return self.language_model._is_stateful

    def get_input_embeddings(self):
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self):
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, value):
        self.language_model.set_output_embeddings(value)

    def get_image_tokens(self, pixel_values: torch.FloatTensor) -> torch.LongTensor:
        """
        Token ids of images.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(num_images, in_channels, image_size, image_size)`):
                Images in [-1, 1].

        Returns:
            `torch.LongTensor` of shape `(num_images, num_image_tokens)`: `image_token_offset + code`, in raster order.
        """
        return self.vq_tokenizer.encode(pixel_values.to(self.vq_tokenizer.device)) + self.config.image_token_offset

    def decode_image_tokens(self, image_tokens: torch.LongTensor) -> torch.FloatTensor:
        """
        Images of token ids, the inverse of `get_image_tokens`.

        Args:
            image_tokens (`torch.LongTensor` of shape `(num_images, num_image_tokens)`):
                `image_token_offset + code`, in raster order.

        Returns:
            `torch.FloatTensor` of shape `(num_images, in_channels, image_size, image_size)`: images in [-1, 1].
        """
        return self.vq_tokenizer.decode(image_tokens.to(self.vq_tokenizer.device) - self.config.image_token_offset)

    def replace_image_placeholders(
        self,
        input_ids: torch.LongTensor,
        pixel_values: torch.FloatTensor,
        labels: torch.LongTensor | None = None,
    ) -> tuple[torch.LongTensor, torch.LongTensor | None]:
        """
        Writes the codes of images where the processor left placeholders, in the ids and in the labels.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
                Ids with `num_image_tokens` placeholders an image.
            pixel_values (`torch.FloatTensor` of shape `(num_images, in_channels, image_size, image_size)`):
                The images in the order of their placeholders.
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Labels; only those that are placeholders change.

        Returns:
            `tuple[torch.LongTensor, torch.LongTensor | None]`: ids and labels.

        Raises:
            ValueError: the images and the placeholders do not match in number, or there are no ids.
        """
        if input_ids is None:
            raise ValueError("`pixel_values` needs `input_ids` with placeholders for the codes of the images.")
        placeholders = input_ids == self.config.image_token_id
        expected = pixel_values.shape[0] * self.config.vq_config.num_image_tokens
        if placeholders.sum() != expected:
            raise ValueError(
                f"{pixel_values.shape[0]} images give {expected} codes, but input_ids holds {int(placeholders.sum())} "
                f"placeholders (id {self.config.image_token_id}). Prepare both with the processor of this checkpoint."
            )
        image_tokens = self.get_image_tokens(pixel_values).to(input_ids.device)
        ids = input_ids.masked_scatter(placeholders, image_tokens)
        if labels is not None:
            labels = torch.where(labels == self.config.image_token_id, ids.to(labels.device), labels)
        return ids, labels

    def _with_prompt_images(
        self, input_ids: torch.LongTensor | None, pixel_values: torch.FloatTensor | None
    ) -> torch.LongTensor | None:
        """Prompts with the codes of their images in place of the placeholders; none may be left over."""
        if pixel_values is not None:
            return self.replace_image_placeholders(input_ids, pixel_values)[0]
        self._check_no_placeholders(input_ids)
        return input_ids

    def _check_no_placeholders(self, input_ids: torch.LongTensor | None) -> None:
        if input_ids is not None and (placeholders := int((input_ids == self.config.image_token_id).sum())):
            raise ValueError(f"`input_ids` holds {placeholders} image placeholders, but `pixel_values` is missing.")

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
        **kwargs,
    ) -> CausalLMOutputWithPast | tuple:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
                Text tokens, and either real codes or placeholders for the images in `pixel_values`.
            pixel_values (`torch.FloatTensor` of shape `(num_images, in_channels, image_size, image_size)`, *optional*):
                Images in [-1, 1], in the order of their placeholders.
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Targets over text and codes alike; -100 is ignored.
            use_cache (`bool`, *optional*):
                Return `past_key_values`; by default what the backbone's configuration says, and `False` where `labels` are
                given. With a cache the backbone cannot tell packed conversations, whose `position_ids` begin anew.
            logits_to_keep (`int` or `torch.Tensor`, *optional*, defaults to 0):
                Compute the logits of the last positions only; 0 is all.

        Returns:
            `CausalLMOutputWithPast` of the backbone, with logits over text and codes of shape
            `(batch_size, sequence_length, vocab_size)`.

        Raises:
            ValueError: the images and the placeholders do not match in number.
        """
        if pixel_values is not None:
            input_ids, labels = self.replace_image_placeholders(input_ids, pixel_values, labels)
        elif labels is not None and not torch.compiler.is_compiling():
            self._check_no_placeholders(input_ids)
        if labels is not None and use_cache is None:
            use_cache = False
        return self.language_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        generation_mode: str | None = None,
        logits_processor: LogitsProcessorList | None = None,
        **kwargs,
    ):
        """
        `GenerationMixin.generate` under the image grammar: images in the output are always whole, unless `max_time`,
        `stop_strings` or other `stopping_criteria` end one. The returned ids hold the real codes of the prompt's images.

        Args:
            inputs or input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
                Prompts, padded on the left.
            pixel_values (`torch.FloatTensor` of shape `(num_images, in_channels, image_size, image_size)`, *optional*):
                Images of the prompts, in the order of their placeholders.
            generation_mode (`str`, *optional*):
                `"text"` begins no image; by default the model writes text and images as it likes.
            **kwargs:
                All that `GenerationMixin.generate` takes.

        Raises:
            ValueError: another `generation_mode`, placeholders and images that do not match, a prompt that fills the
                context, or one that begins an image which does not fit into it or before generation ends.
        """
        if generation_mode not in (None, "text"):
            raise ValueError(
                f"`generation_mode` must be None (text and images) or 'text', got {generation_mode!r}. Use "
                "`generate_image` to draw."
            )
        input_ids = kwargs.pop("input_ids", inputs)
        input_ids = self._with_prompt_images(input_ids, pixel_values)
        grammar = ImageGrammarLogitsProcessor(self.config, allow_images=generation_mode is None)
        if input_ids is not None:
            grammar.min_length = input_ids.shape[1] + grammar.missing_codes(input_ids)
            self.check_context(max(input_ids.shape[1] + 1, grammar.min_length))
        return super().generate(
            input_ids, logits_processor=LogitsProcessorList([grammar, *(logits_processor or [])]), **kwargs
        )

    def _get_logits_processor(self, generation_config, *args, logits_processor=None, **kwargs):
        # Only here is the length known at which generation ends, whichever way it was given.
        for processor in logits_processor:
            # A draft model, which writes a few tokens at a time, is handed the grammar of the model that it drafts for.
            if isinstance(processor, ImageGrammarLogitsProcessor) and not generation_config.is_assistant:
                processor.max_length = generation_config.max_length
                if processor.min_length > processor.max_length:
                    raise ValueError(
                        f"The prompt begins an image that is whole after {processor.min_length} tokens, but generation ends "
                        f"after {processor.max_length}: give a larger `max_new_tokens`."
                    )
        return super()._get_logits_processor(generation_config, *args, logits_processor=logits_processor, **kwargs)

    def check_context(self, length: int) -> None:
        """Raises a `ValueError` where `length` tokens are more than the backbone has positions for."""
        limit = getattr(self.config.text_config, "max_position_embeddings", None)
        if limit is not None and length > limit:
            raise ValueError(
                f"The prompt and what is to be generated need at least {length} tokens, but the model has a context of "
                f"{limit}. Shorten the text or give fewer images."
            )

    def check_processor(self, processor: LlmCxrProcessor) -> None:
        """Raises a `ValueError` where the processor is not that of this model."""
        theirs = {
            **processor.token_layout,
            "codebook_size": processor.codebook_size,
            "num_image_tokens": processor.num_image_tokens,
        }
        mine = {name: getattr(self.config, name) for name in processor.token_layout} | {
            "codebook_size": self.config.vq_config.codebook_size,
            "num_image_tokens": self.config.vq_config.num_image_tokens,
        }
        if different := [name for name in mine if mine[name] != theirs[name]]:
            values = ", ".join(f"`{name}` is {theirs[name]} and not {mine[name]}" for name in different)
            raise ValueError(
                f"The processor does not belong to this model: its {values}. Load both from the same checkpoint."
            )


__all__ = ["LlmCxrForCausalLM"]
