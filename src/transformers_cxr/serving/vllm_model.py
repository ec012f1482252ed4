"""LLM-CXR in vLLM: the model of the Transformers backend, and the ids of images in its prompts."""

from __future__ import annotations

import torch
from torch import nn
from vllm.model_executor.models.transformers import TransformersMultiModalForCausalLM
from vllm.model_executor.models.transformers.multimodal import (
    MultiModalDummyInputsBuilder,
    MultiModalProcessingInfo,
    MultiModalProcessor,
)
from vllm.multimodal import MULTIMODAL_REGISTRY


class LlmCxrMultiModalProcessor(MultiModalProcessor):
    """Processor of prompts, in which an image has ids of the vocabulary in both layouts of an LLM-CXR."""

    def _apply_hf_processor_main(self, *args, **kwargs):
        inputs = super()._apply_hf_processor_main(*args, **kwargs)
        if "image_replacement_ids" in inputs:
            # The placeholders of the released LLM-CXR have no embeddings. A code stands for all codes of the image
            # until the model encodes it.
            processor = self.info.get_hf_processor()
            codes = [processor.image_token_offset] * processor.num_image_tokens
            image = [processor.boi_token_id, *codes, processor.eoi_token_id]
            inputs["image_replacement_ids"] = torch.tensor(image * len(inputs["image_replacement_sizes"]))
        return inputs


@MULTIMODAL_REGISTRY.register_processor(
    LlmCxrMultiModalProcessor, info=MultiModalProcessingInfo, dummy_inputs=MultiModalDummyInputsBuilder
)
class LlmCxrForVllm(TransformersMultiModalForCausalLM):
    """[`LlmCxrModel`] with vLLM's attention and head. Images are encoded in the server."""

    def recursive_replace(self):
        # Other convolutions than those of the checkpoint could change codes.
        vq_tokenizer, self.model.vq_tokenizer = self.model.vq_tokenizer, nn.Identity()
        super().recursive_replace()
        self.model.vq_tokenizer = vq_tokenizer

    def _create_hf_to_vllm_mapper(self):
        # The VQ-GAN can be loaded alone from a checkpoint, without the weights of the language model.
        self.model._keys_to_ignore_on_load_unexpected = None
        super()._create_hf_to_vllm_mapper()
