"""Texts with images for a model."""

import numpy as np
import pytest


@pytest.fixture
def pixel_inputs():
    """`pixel_inputs(processor, texts)` -> inputs with pixel values."""

    def make(processor, texts=("Report: <image> and", "Two <image> then <image> end.")):
        generator = np.random.default_rng(0)
        count = "".join(texts).count("<image>")
        images = [generator.integers(0, 256, (40, 48), dtype=np.uint8) for _ in range(count)]
        return processor(text=list(texts), images=images, return_tensors="pt", padding=True)

    return make
