import sys

import numpy as np
import pytest
import torch

from transformers_cxr.evaluation.metrics.reconstruction import (
    aggregate_reconstructions,
    codebook_statistics,
    image_distances,
    radial_energy,
    reconstruction_picture,
    reconstruction_units,
    spectral_ratio,
)


def images(size: int, channels: int = 1, seed: int = 0) -> torch.Tensor:
    """Smooth random images in [-1, 1]."""
    coarse = torch.rand(2, channels, 12, 12, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1) * 2 - 1


def ssim_terms(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Mean SSIM, with reflected borders, and mean contrast term, without borders, of two gray images of range 2."""
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()

    def mean(values: np.ndarray) -> np.ndarray:
        return np.einsum("rcij,ij->rc", values, weights)

    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    a, b = (np.lib.stride_tricks.sliding_window_view(np.pad(i, 5, mode="reflect"), (11, 11)) for i in (first, second))
    mean_a, mean_b = mean(a), mean(b)
    covariance = mean((a - mean_a[..., None, None]) * (b - mean_b[..., None, None]))
    var_a, var_b = mean((a - mean_a[..., None, None]) ** 2), mean((b - mean_b[..., None, None]) ** 2)
    contrast = (2 * covariance + c2) / (var_a + var_b + c2)
    similarity = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1) * contrast
    return float(similarity.mean()), float(contrast[5:-5, 5:-5].mean())


def test_psnr_and_ssim_equal_numpy():
    first, second = images(24), images(24) * 0.9 + 0.05 * images(24, seed=1)
    distances = image_distances(first, second)
    assert set(distances) == {"psnr", "ssim"}
    for i in range(2):
        a, b = first[i, 0].double().numpy(), second[i, 0].double().numpy()
        assert distances["psnr"][i].item() == pytest.approx(
            20 * np.log10(2 / np.sqrt(((a - b) ** 2).mean())), rel=1e-5
        )
        assert distances["ssim"][i].item() == pytest.approx(ssim_terms(a, b)[0], rel=1e-3)


def test_ms_ssim_equals_numpy():
    first, second = images(176), images(176) * 0.8 + 0.1 * images(176, seed=1)
    expected = []
    for a, b in zip(first[:1, 0].double().numpy(), second[:1, 0].double().numpy()):
        product = 1.0
        for scale, exponent in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
            similarity, contrast = ssim_terms(a, b)
            product *= (similarity if scale == 4 else contrast) ** exponent
            a, b = (
                (image.reshape(len(image) // 2, 2, -1, 2).mean(axis=(1, 3)) for image in (a, b))
                if scale < 4
                else (a, b)
            )
        expected.append(product)
    assert image_distances(first, second)["ms_ssim"][0].item() == pytest.approx(expected[0], rel=2e-3)


def test_without_torchmetrics_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    with pytest.raises(ImportError, match=r"transformers-cxr\[evaluate\]"):
        image_distances(images(24), images(24))


def test_radial_energy_equals_a_loop_over_the_coefficients():
    pixel_values = images(20, channels=3)
    rings = [[[] for _ in range(5)] for _ in range(2)]
    window = np.hanning(20)
    for i in range(2):
        grey = pixel_values[i].double().numpy().mean(axis=0)
        coefficients = np.fft.fft2((grey - grey.mean()) * window[:, None] * window[None])
        for row in range(20):
            for column in range(20):
                radius = np.hypot(min(row, 20 - row), min(column, 20 - column)) / 20
                for ring in range(5):
                    if ring / 20 < radius <= (ring + 1) / 20:
                        rings[i][ring].append(abs(coefficients[row, column]) ** 2)
    expected = [[np.mean(values) for values in of] for of in rings]
    np.testing.assert_allclose(radial_energy(pixel_values, num_rings=5).numpy(), expected, rtol=1e-6)


def test_blur_lowers_the_spectral_ratio_and_contrast_scales_it_by_the_square():
    sharp = torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(radial_energy(sharp * 0.5), radial_energy(sharp) / 4)
    units = reconstruction_units(torch.nn.functional.avg_pool2d(sharp, 3, stride=1, padding=1), sharp)
    ratio = spectral_ratio(units)
    assert ratio[-1] < 0.5 < ratio[0] and (np.diff(ratio[2:]) < 0).all()
    scores = aggregate_reconstructions(units)
    assert scores["spectral_ratio_min"] == pytest.approx(min(ratio))
    assert scores["psnr"] == pytest.approx(np.mean([unit["psnr"] for unit in units]))


def test_codebook_statistics_are_those_of_the_counts():
    assert codebook_statistics(torch.tensor([[0, 0, 1, 1], [2, 2, 3, 3]]), 8) == pytest.approx(
        {"codebook_usage": 0.5, "codebook_perplexity": 4}
    )
    skewed = codebook_statistics(torch.tensor([0, 0, 0, 1]), 2)
    assert skewed["codebook_perplexity"] == pytest.approx(np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)))


def test_a_picture_has_the_images_above_their_reconstructions(vq_tokenizer):
    pixel_values = images(32)
    picture = reconstruction_picture(vq_tokenizer, pixel_values)
    assert picture.size == (64, 64) and picture.mode == "L"
    assert "not for clinical use" in picture.info["comment"]
    pixels = torch.from_numpy(np.array(picture)).float() / 127.5 - 1
    torch.testing.assert_close(pixels[:32, 32:], pixel_values[1, 0], rtol=0, atol=0.5 / 127.5 + 1e-6)
    decoded = vq_tokenizer.decode(vq_tokenizer.encode(pixel_values))
    torch.testing.assert_close(pixels[32:, :32], decoded[0, 0], rtol=0, atol=0.5 / 127.5 + 1e-6)
