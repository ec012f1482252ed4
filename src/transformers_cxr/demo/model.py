"""Model behind the demo page: encode an X-ray, write text about it, generate one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
import torch

from ..data.readers.image_folder import READ_ERRORS
from ..data.wording import LABEL_NAMES, LABEL_QUESTIONS
from ..llm_cxr.generation_llm_cxr import generate_image, generate_text
from ..llm_cxr.image_processing_llm_cxr import open_image
from ..llm_cxr.likelihood_llm_cxr import answer_log_likelihoods, not_chest_xrays, occlusion_map
from .streaming import Worker

if TYPE_CHECKING:
    from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
    from ..llm_cxr.processing_llm_cxr import LlmCxrProcessor

MAX_NEW_TOKENS = 256
# Pixels of a side of an X-ray on the page.
MAX_SIDE = 1024
DICOM_ELEMENTS = ("Modality", "BodyPartExamined", "ViewPosition", "Window")
FINDINGS = tuple(dict.fromkeys(name for label, name in LABEL_NAMES.items() if label != "Support Devices"))
# A finding is known if the model answers yes or no to it at least as often as something else.
MIN_KNOWN = 0.5
SUPPORTS, OPPOSES = (255, 170, 40), (70, 160, 255)


@dataclass
class OpenedXray:
    """
    An X-ray that the page shows.

    Args:
        codes (`list[int]`): Its codes, each in `[0, codebook_size)`.
        image (`PIL.Image.Image`): The square that the model reads, in the resolution of the file.
        reconstruction (`PIL.Image.Image`): What the codes hold of it.
        description (`str`): Size, and what the file says about it.
        is_other (`bool`): Whether it does not look like a chest X-ray.
    """

    codes: list[int]
    image: PIL.Image.Image
    reconstruction: PIL.Image.Image
    description: str
    is_other: bool


class DemoModel:
    """
    A checkpoint that serves several users. All methods are thread-safe.

    Args:
        model ([`LlmCxrForCausalLM`]), processor ([`LlmCxrProcessor`]):
            Model and processor of a checkpoint.
    """

    def __init__(self, model: LlmCxrForCausalLM, processor: LlmCxrProcessor):
        model.check_processor(processor)
        self.model = model
        self.processor = processor
        self._worker = Worker()

    def open(self, path: Path) -> OpenedXray:
        """
        Read and encode an image file.

        Raises:
            ValueError: the file is unreadable. The message names it without its folder.
        """
        processor = self.processor.image_processor
        try:
            image = open_image(path)
            pixel_values = processor(image, return_tensors="pt").pixel_values
        except READ_ERRORS as error:
            raise ValueError(str(error).replace(str(path), path.name)) from error
        codes, decoded = self._worker.run(self._reconstruct, pixel_values)
        side = min(MAX_SIDE, *image.size)
        square = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        shown = processor.postprocess(processor(image, return_tensors="pt", **square).pixel_values)[0]
        description = f"{image.width}x{image.height} pixels"
        elements = [image.info[name] for name in DICOM_ELEMENTS if name in image.info]
        if elements:
            description += f", DICOM: {', '.join(elements)}"
        if str(image.info.get("Comment", "")).startswith("Generated"):
            description += f". {image.info['Comment']}"
        (is_other,) = self._worker.run(not_chest_xrays, self.model, self.processor, codes)
        return OpenedXray(codes[0].tolist(), shown, self.processor.postprocess(decoded)[0], description, is_other)

    @torch.no_grad()
    def _reconstruct(self, pixel_values: torch.FloatTensor) -> tuple[torch.LongTensor, torch.FloatTensor]:
        vq_tokenizer = self.model.vq_tokenizer
        codes = vq_tokenizer.encode(pixel_values.to(vq_tokenizer.device))
        return codes, vq_tokenizer.decode(codes)

    def sureness(self, codes: Sequence[int]) -> dict[str, tuple[float, float]]:
        """Return the probabilities of "Yes." and "No." for each finding that the model knows, the surest yes first."""
        questions = [LABEL_QUESTIONS[0].format(label=name) for name in FINDINGS]
        rows = [codes] * len(questions)
        answers = ("Yes.", "No.")
        log_likelihoods = self._worker.run(
            answer_log_likelihoods, self.model, self.processor, rows, questions, answers
        )
        probabilities = zip(FINDINGS, map(tuple, log_likelihoods.exp().tolist()))
        known = [(name, both) for name, both in probabilities if sum(both) > MIN_KNOWN]
        return dict(sorted(known, key=lambda item: item[1], reverse=True))

    def look(self, codes: Sequence[int], question: str) -> tuple[str, PIL.Image.Image]:
        """
        Answer a question about an X-ray, and show what the answer depends on.

        Returns:
            `tuple[str, PIL.Image.Image]`: the answer, and a transparent image: amber where the X-ray supports it, blue
            where it speaks against it.
        """
        *_, answer = self.write(codes, [question])
        changes = self._worker.run(occlusion_map, self.model, self.processor, codes, question, answer).numpy()
        changes = changes / max(np.abs(changes).max(), 1e-9)
        pixels = np.where(changes[..., None] > 0, SUPPORTS, OPPOSES)
        pixels = np.concatenate([pixels, 200 * np.abs(changes[..., None])], axis=-1).round().astype(np.uint8)
        side = self.model.config.vq_config.image_size
        return answer, PIL.Image.fromarray(pixels).resize((side, side), PIL.Image.Resampling.BICUBIC)

    def write(self, codes: Sequence[int], turns: Sequence[str]) -> Iterator[str]:
        """
        Write the next turn of a conversation about an X-ray, greedily.

        Args:
            codes (`Sequence[int]`): Codes of the X-ray, which is part of the first turn.
            turns (`Sequence[str]`): Alternating turns of the user and the model; the last is of the user.

        Returns:
            `Iterator[str]`: the text so far after every token, at last the whole text.

        Raises:
            ValueError: the conversation does not fit into the context.
        """
        *earlier, text = turns
        roles = ["user", "assistant"] * len(turns)
        history = [{"role": role, "content": [{"type": "text", "text": turn}]} for role, turn in zip(roles, earlier)]
        if history:
            history[0]["content"].append({"type": "image"})
        texts: list[str] = []

        def generate(streamer):
            texts.extend(
                generate_text(
                    self.model,
                    self.processor,
                    instruction=text,
                    image_codes=[codes],
                    history=history,
                    streamer=streamer,
                    max_new_tokens=MAX_NEW_TOKENS,
                    do_sample=False,
                )
            )

        stream = self._worker.stream(generate)
        next(stream)  # the prompt
        token_ids: list[int] = []
        for new_ids in stream:
            token_ids += new_ids.tolist()
            (so_far,) = self.processor.post_process_multimodal_output([token_ids], generation_mode="text")
            # A character of several tokens is shown when it is complete.
            yield so_far.strip().removesuffix("\N{REPLACEMENT CHARACTER}")
        yield texts[0]

    def generate(
        self, text: str, num_images: int = 1, seed: int = 0, guidance_scale: float | None = None
    ) -> Iterator[list[PIL.Image.Image]]:
        """
        Generate X-rays row by row.

        Args:
            text (`str`): Report, findings or impression.
            num_images, seed, guidance_scale: As in [`generate_image`].

        Returns:
            `Iterator[list[PIL.Image.Image]]`: the images after every row of codes, black below it.

        Raises:
            ValueError: the text does not fit into the context.
        """
        grid_size = self.model.config.vq_config.grid_size
        codes: list[torch.LongTensor] = []

        def generate(streamer):
            generate_image(
                self.model,
                self.processor,
                text,
                num_images,
                seed=seed,
                guidance_scale=guidance_scale,
                streamer=streamer,
                output_type="codes",
            )

        for new_codes in self._worker.stream(generate):
            codes.append(new_codes)
            if len(codes) % grid_size == 0:
                yield self._decode_rows(torch.stack(codes, dim=1))

    @torch.no_grad()
    def _decode_rows(self, codes: torch.LongTensor) -> list[PIL.Image.Image]:
        """Decode the first rows of images, codes of shape `(num_images, num_rows * grid_size)`."""
        config, vq_tokenizer = self.model.config.vq_config, self.model.vq_tokenizer
        num_rows = codes.shape[1] // config.grid_size
        # The normalization of the decoder depends on the whole image: repeat the last row instead of an arbitrary
        # code.
        filled = torch.cat([codes, codes[:, -config.grid_size :].repeat(1, config.grid_size - num_rows)], dim=1)
        pixel_values = vq_tokenizer.decode(filled.to(vq_tokenizer.device))
        pixel_values[:, :, num_rows * config.image_size // config.grid_size :] = -1
        return self.processor.postprocess(pixel_values)
