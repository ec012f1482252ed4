"""The conversation of the command `chat`."""

from __future__ import annotations

from typing import Any

import PIL.Image
import torch
from transformers.generation.streamers import BaseStreamer

from ..llm_cxr.generation_llm_cxr import generate_image, generate_text
from ..llm_cxr.likelihood_llm_cxr import warn_about_other_images
from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
from ..llm_cxr.processing_llm_cxr import LlmCxrProcessor


class Conversation:
    """
    A conversation with a checkpoint over several turns.

    Args:
        model ([`LlmCxrForCausalLM`]), processor ([`LlmCxrProcessor`]):
            The checkpoint.
        generate_kwargs (`dict`):
            Keyword arguments of [`generate_text`].
    """

    def __init__(self, model: LlmCxrForCausalLM, processor: LlmCxrProcessor, generate_kwargs: dict[str, Any]):
        self.model = model
        self.processor = processor
        self.generate_kwargs = generate_kwargs
        self.reset()

    def reset(self) -> None:
        """Forget all turns and images."""
        self.messages: list[dict] = []
        self.codes: list[list[int]] = []
        self.new_codes: list[list[int]] = []

    @torch.no_grad()
    def add_image(self, image: str) -> None:
        """Add an X-ray to the next message of the user."""
        pixel_values = self.processor.image_processor(image, return_tensors="pt").pixel_values
        codes = self.model.vq_tokenizer.encode(pixel_values.to(self.model.device))
        warn_about_other_images(self.model, self.processor, codes, [image])
        self.new_codes += codes.tolist()

    def generate_image(self, text: str, seed: int) -> PIL.Image.Image:
        """Generate an X-ray and add it to the next message of the user."""
        codes = generate_image(self.model, self.processor, text, seed=seed, output_type="codes")
        self.new_codes += codes.tolist()
        return self.processor.decode_codes(codes)[0]

    def ask(self, text: str, streamer: BaseStreamer | None = None) -> str:
        """Return the answer to a message. A turn that fails or is interrupted leaves the conversation unchanged."""
        codes = self.codes + self.new_codes
        (answer,) = generate_text(
            self.model,
            self.processor,
            instruction=text,
            image_codes=[codes],
            history=self.messages,
            streamer=streamer,
            **self.generate_kwargs,
        )
        content = [{"type": "text", "text": text}, *({"type": "image"} for _ in self.new_codes)]
        self.messages += [
            {"role": "user", "content": content},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ]
        self.codes, self.new_codes = codes, []
        return answer
