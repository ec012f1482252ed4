"""Pipeline that generates chest X-rays."""

from __future__ import annotations

from collections.abc import Sequence

import PIL.Image

from ..llm_cxr.generation_llm_cxr import generate_image, image_seeds
from .cxr import CxrPipeline


class CxrGenerationPipeline(CxrPipeline):
    """
    `pipeline("cxr-generation")`: generate chest X-rays from text. Synthetic images, for research only.

    ```python
    >>> pipeline("cxr-generation")("Normal chest X-ray of a child.", seed=0)
    [{'image': <PIL.Image.Image image mode=L size=256x256>}]
    ```
    """

    output_key = "image"

    def __call__(self, text, **kwargs):
        """
        Args:
            text (`str` or iterable of `str`):
                Report, findings or impression; or a list, column of a dataset, dataset or generator of these.
            instruction (`str`, *optional*):
                Instruction instead of the default of [`generate_image`].
            generate_kwargs (`dict`, *optional*):
                Arguments of [`generate_image`] such as `num_images`, `seed`, `guidance_scale`, `temperature`, which
                can also be passed directly. A list of seeds has one for each image of a text.

        Returns:
            `list[dict]`: `[{"image": PIL.Image.Image}]` with `num_images` entries for a text, a list of such lists for
            several.
        """
        return super().__call__(text, **kwargs)

    def preprocess(self, text: str) -> dict[str, str]:
        return {"text": text}

    def generate(self, texts: list[str], pixel_values=None, **generate_kwargs) -> list[PIL.Image.Image]:
        seeds = image_seeds(generate_kwargs.get("seed"), generate_kwargs.get("num_images", 1))
        if isinstance(seeds, Sequence):
            # The images of a text do not depend on its batch.
            generate_kwargs["seed"] = [*seeds] * len(texts)
        return generate_image(self.model, self.processor, texts, **generate_kwargs)
