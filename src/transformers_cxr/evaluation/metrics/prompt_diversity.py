"""Similarity of the images generated from one prompt."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from datasets import Features, Image, List

from ...llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor
from .metric import CxrMetric, Score
from .reconstruction import image_distances


class PromptDiversity(CxrMetric):
    """
    `ms_ssim`: MS-SSIM (Wang et al. 2003) of the pairs of images generated from one prompt, mean over pairs, then over
    prompts; at most 1, lower is more diverse. NaN for prompts with fewer than two images. There are no references: a
    prediction is the list of images of a prompt. A unit is a `dict` of the mean of a prompt.
    """

    FEATURES = Features({"predictions": List(Image())})
    SCORES = {
        "ms_ssim": Score(
            "Similarity of images of one report",
            "MS-SSIM of pairs of generated images of a report, at most 1; lower is more diverse.",
            higher_is_better=False,
        )
    }

    def prepare(self, predictions: Sequence[Sequence], references: None = None) -> list[dict[str, float]]:
        processor = LlmCxrImageProcessor(do_convert_rgb=False)
        units = []
        for images in predictions:
            similarity = float("nan")
            if len(images) > 1:
                pixel_values = processor(list(images), return_tensors="pt").pixel_values
                first, second = map(list, zip(*combinations(range(len(images)), 2)))
                similarity = image_distances(pixel_values[first], pixel_values[second])["ms_ssim"].mean().item()
            units.append({"ms_ssim": similarity})
        return units
