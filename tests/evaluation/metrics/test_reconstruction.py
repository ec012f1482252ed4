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


def ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Mean SSIM of two gray images of range 2, with reflected borders."""
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    a, b = (np.lib.stride_tricks.sliding_window_view(np.pad(i, 5, mode="reflect"), (11, 11)) for i in (first, second))

    def mean(values: np.ndarray) -> np.ndarray:
        return np.einsum("rcij,ij->rc", values, weights / weights.sum())

    mean_a, mean_b, c1, c2 = mean(a), mean(b), (0.01 * 2) ** 2, (0.03 * 2) ** 2
    covariance, variances = mean(a * b) - mean_a * mean_b, mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return float((luminance * (2 * covariance + c2) / (variances + c2)).mean())


def test_psnr_and_ssim_equal_numpy():
    first, second = images(24), images(24) * 0.9 + 0.05 * images(24, seed=1)
    distances = image_distances(first, second)
    assert set(distances) == {"psnr", "ssim"}
    for i in range(2):
        a, b = first[i, 0].double().numpy(), second[i, 0].double().numpy()
        assert distances["psnr"][i].item() == pytest.approx(10 * np.log10(4 / ((a - b) ** 2).mean()), rel=1e-5)
        assert distances["ssim"][i].item() == pytest.approx(ssim(a, b), rel=1e-3)


def test_ms_ssim_needs_five_scales_of_its_window():
    assert "ms_ssim" not in image_distances(images(175), images(175))
    distances = image_distances(images(176), images(176) * 0.8)
    assert (distances["ssim"] < distances["ms_ssim"]).all() and (distances["ms_ssim"] < 1).all()


def test_radial_energy_equals_a_loop_over_the_coefficients():
    pixel_values = images(20, channels=3)
    rings = [[[] for _ in range(5)] for _ in range(2)]
    window = np.hanning(20)
    for i in range(2):
        gray = pixel_values[i].double().numpy().mean(axis=0)
        coefficients = np.fft.fft2((gray - gray.mean()) * window[:, None] * window[None])
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
