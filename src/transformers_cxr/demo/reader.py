"""What the demo page does with the model: look at an X-ray, write about it, draw one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import PIL.Image
import torch

from ..llm_cxr.generation_llm_cxr import generate_image
from .streaming import Worker

if TYPE_CHECKING:
    from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
    from ..llm_cxr.processing_llm_cxr import LlmCxrProcessor

MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class Xray:
    """
    codes (`list[int]`): the image as the language model gets it, each in `[0, codebook_size)`.
    pixels (`PIL.Image.Image`): the image as the VQ-GAN gets it.
    reconstruction (`PIL.Image.Image`): the image that the VQ-GAN makes of the codes.
    """

    codes: list[int]
    pixels: PIL.Image.Image
    reconstruction: PIL.Image.Image


class Reader:
    """
    A checkpoint that several users read and draw with. Every method may be called from any thread.

    Args:
        model ([`LlmCxrForCausalLM`]), processor ([`LlmCxrProcessor`]):
            A checkpoint.

    Raises:
        ValueError: the processor and the model do not belong together.
    """

    def __init__(self, model: LlmCxrForCausalLM, processor: LlmCxrProcessor):
        model.check_processor(processor)
        self.model = model
        self.processor = processor
        self._worker = Worker()
        self._special_tokens = [
            token.content for token in processor.tokenizer.added_tokens_decoder.values() if token.special
        ]

    def look(self, path: Path) -> Xray:
        """
        Reads and encodes an image file.

        Raises:
            ValueError or OSError: the file is none that [`LlmCxrImageProcessor`] reads. The message names the file without
                its folder.
        """
        try:
            pixel_values = self.processor.image_processor(path, return_tensors="pt").pixel_values
        except (ValueError, OSError) as error:
            raise ValueError(str(error).replace(str(path), path.name)) from error
        return self._worker.run(self._encode, pixel_values)

    @torch.no_grad()
    def _encode(self, pixel_values: torch.FloatTensor) -> Xray:
        vq_tokenizer = self.model.vq_tokenizer
        codes = vq_tokenizer.encode(pixel_values.to(vq_tokenizer.device))
        return Xray(
            codes=codes[0].tolist(),
            pixels=self.processor.image_processor.postprocess(pixel_values)[0],
            reconstruction=self.processor.postprocess(vq_tokenizer.decode(codes))[0],
        )

    def write(self, codes: Sequence[int], turns: Sequence[str]) -> Iterator[str]:
        """
        Writes the next turn of a conversation about an X-ray, greedily.

        Args:
            codes (`Sequence[int]`):
                The X-ray, which is part of the first turn.
            turns (`Sequence[str]`):
                Texts of the user and of the model by turns; the last is the user's.

        Returns:
            `Iterator[str]`: the text so far, after every token.

        Raises:
            ValueError: a text holds a special token, or the conversation fills the context.
        """
        messages = [
            {"role": role, "content": [{"type": "text", "text": text}]}
            for role, text in zip(["user", "assistant"] * len(turns), turns)
        ]
        self._check_no_special_token(turns[-1])
        messages[0]["content"].append({"type": "image"})
        prompt = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        inputs = self.processor(text=[prompt], image_codes=[codes], return_tensors="pt").to(self.model.device)
        length = inputs.input_ids.shape[1]
        self.model.check_context(length + 1)
        context = getattr(self.model.config.text_config, "max_position_embeddings", None)
        max_new_tokens = MAX_NEW_TOKENS if context is None else min(MAX_NEW_TOKENS, context - length)

        def generate(streamer):
            self.model.generate(
                **inputs, generation_mode="text", do_sample=False, max_new_tokens=max_new_tokens, streamer=streamer
            )

        tokens = self._worker.stream(generate)
        next(tokens)  # `generate` puts the prompt first
        written: list[int] = []
        for token in tokens:
            written += token.tolist()
            text = self.processor.post_process_multimodal_output(torch.tensor([written]), generation_mode="text")[0]
            # A character of several tokens is shown when it is whole.
            yield text.strip().removesuffix("\N{REPLACEMENT CHARACTER}")

    def draw(
        self, text: str, num_images: int = 1, seed: int = 0, guidance_scale: float | None = None
    ) -> Iterator[list[PIL.Image.Image]]:
        """
        Draws X-rays for a text.

        Args:
            text (`str`):
                Report, findings or impression to draw.
            num_images, seed, guidance_scale:
                As in [`generate_image`].

        Returns:
            `Iterator[list[PIL.Image.Image]]`: `num_images` images, marked as generated, after every row of codes; what is
            not yet drawn is black.

        Raises:
            ValueError: the text holds a special token, or does not fit into the context.
        """
        self._check_no_special_token(text)
        grid = self.model.config.vq_config.grid_size
        drawn: list[torch.LongTensor] = []

        def generate(streamer):
            generate_image(
                self.model,
                self.processor,
                text,
                num_images=num_images,
                seed=seed,
                guidance_scale=guidance_scale,
                streamer=streamer,
            )

        for codes in self._worker.stream(generate):
            drawn.append(codes)
            if len(drawn) % grid == 0:
                yield self._decode_rows(torch.stack(drawn, dim=1))

    @torch.no_grad()
    def _decode_rows(self, codes: torch.LongTensor) -> list[PIL.Image.Image]:
        """Images of the first rows of codes, `torch.LongTensor` of shape `(num_images, num_rows * grid_size)`."""
        config, vq_tokenizer = self.model.config.vq_config, self.model.vq_tokenizer
        num_rows = codes.shape[1] // config.grid_size
        # The last row stands in for those to come: the decoder's normalisation looks at the whole image.
        filled = torch.cat([codes, codes[:, -config.grid_size :].repeat(1, config.grid_size - num_rows)], dim=1)
        pixel_values = vq_tokenizer.decode(filled.to(vq_tokenizer.device))
        pixel_values[:, :, num_rows * config.image_size // config.grid_size :] = -1
        return self.processor.postprocess(pixel_values)

    def _check_no_special_token(self, text: str) -> None:
        for token in self._special_tokens:
            if token in text:
                raise ValueError(f"The text holds {token!r}, which the model does not take as text. Leave it out.")
