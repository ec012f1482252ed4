import io

import numpy as np
import PIL.Image
import pytest
import torch

from transformers_cxr.evaluation.corruptions import CORRUPTIONS, corrupt


@pytest.fixture(scope="module")
def image():
    coarse = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, 64, mode="bicubic")[0].clamp(0, 1) * 1.6 - 0.8


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_a_higher_level_changes_the_image_more_and_a_seed_fixes_it(image, name):
    assert torch.equal(corrupt(image, name, 0), image)
    distances = []
    for level in range(1, 6):
        corrupted = corrupt(image, name, level, seed=3)
        assert corrupted.shape == image.shape and corrupted.dtype == image.dtype
        assert corrupted.min() >= -1 and corrupted.max() <= 1
        assert torch.equal(corrupted, corrupt(image, name, level, seed=3))
        # The mean over random directions and places.
        distances.append(np.mean([(corrupt(image, name, level, seed=s) - image).square().mean() for s in range(8)]))
    assert all(first < second for first, second in zip(distances, distances[1:]))


def test_jpeg_is_that_of_pillow(image):
    gray = ((image[0].double().numpy() + 1) / 2 * 255).round().astype(np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(gray).save(file, "JPEG", quality=20)
    expected = np.asarray(PIL.Image.open(file)) / 127.5 - 1
    np.testing.assert_allclose(corrupt(image, "jpeg", 3)[0].numpy(), expected, atol=1e-6)


def test_blur_is_a_gaussian_in_frequency_space():
    wave = torch.sin(2 * torch.pi * 6 * torch.arange(256) / 256).expand(1, 256, 256) * 0.5
    expected = wave * np.exp(-2 * (np.pi * 6 / 256 * 3.0) ** 2)
    inside = slice(32, -32)
    torch.testing.assert_close(corrupt(wave, "blur", 4)[:, :, inside], expected[:, :, inside], atol=2e-3, rtol=0)
