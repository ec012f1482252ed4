import numpy as np
import PIL.Image
import pytest
import torch
from prdc import compute_prdc
from scipy.stats import mannwhitneyu
from torch import nn
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from transformers_cxr.evaluation.metrics import (
    ImageDistribution,
    ImageFeatures,
    PromptDiversity,
    TrainingImageDistance,
)
from transformers_cxr.evaluation.metrics.image_distribution import frechet_distance


class Given(nn.Module):
    """For torchmetrics: its images are features already."""

    def __init__(self, num_features):
        super().__init__()
        self.num_features = num_features

    def forward(self, features):
        return features


def features_of(num_images, num_features=6, seed=0, shift=0.0):
    mixing = np.random.default_rng(9).normal(size=(num_features, num_features))
    return (np.random.default_rng(seed).normal(size=(num_images, num_features)) @ mixing + shift).astype(np.float32)


def images_of(count, seed=0, low=0):
    rng = np.random.default_rng(seed)
    return [PIL.Image.fromarray(rng.integers(low, 256, (256, 256), dtype=np.uint8)) for _ in range(count)]


def quarters(pixel_values):
    """The mean gray value of each quarter."""
    return nn.functional.adaptive_avg_pool2d(pixel_values, 2).flatten(1)


@pytest.fixture
def metric():
    return ImageDistribution(ImageFeatures(quarters), nearest_k=2)


@pytest.mark.parametrize(("num_first", "num_second"), [(50, 50), (50, 30), (40, 4)])
def test_frechet_distance_equals_that_of_torchmetrics(num_first, num_second):
    first, second = features_of(num_first), features_of(num_second, seed=1, shift=0.5)
    torchmetric = FrechetInceptionDistance(feature=Given(6)).set_dtype(torch.float64)
    torchmetric.update(torch.from_numpy(first), real=True)
    torchmetric.update(torch.from_numpy(second), real=False)
    assert frechet_distance(first, second) == pytest.approx(torchmetric.compute().item(), rel=1e-4)


def test_kid_and_prdc_are_those_of_torchmetrics_and_prdc(metric):
    generated, real = features_of(20, seed=2, shift=0.3), features_of(20, seed=3)
    scores = metric.aggregate(list(np.stack([generated, real], axis=1)))
    kid = KernelInceptionDistance(feature=Given(6), subsets=1, subset_size=20)
    kid.update(torch.from_numpy(real), real=True)
    kid.update(torch.from_numpy(generated), real=False)
    assert scores["kid"] == pytest.approx(kid.compute()[0].item(), rel=1e-4)
    for name, value in compute_prdc(real, generated, 2).items():
        assert scores[name] == pytest.approx(value)
    assert scores["fid"] == pytest.approx(frechet_distance(generated, real))


def test_equal_sets_have_no_distance_and_other_images_are_far(metric, capsys):
    sample = images_of(8)
    scores = metric.compute(predictions=sample, references=sample[::-1])
    assert scores["fid"] == pytest.approx(0, abs=1e-6)
    # The estimate of KID is unbiased, so that of equal sets is negative.
    assert -0.1 < scores["kid"] <= 1e-9
    assert scores["precision"] == scores["recall"] == scores["coverage"] == 1
    scores = metric.compute(predictions=images_of(6, low=128), references=images_of(6, seed=1))
    assert scores["fid"] > 0.1 and scores["kid"] > 0.1
    assert scores["precision"] == scores["recall"] == scores["coverage"] == 0
    assert capsys.readouterr().out == ""


def test_too_few_images_are_nan(metric):
    units = [np.stack([one, other]) for one, other in zip(features_of(4), features_of(4, seed=1))]
    assert np.isnan(list(metric.aggregate(units[:1]).values())).all()
    assert not np.isnan(metric.aggregate(units[:2])["fid"])
    # Each image needs `nearest_k` others and itself.
    assert np.isnan(metric.aggregate(units[:3])["recall"]) and not np.isnan(metric.aggregate(units)["recall"])


def test_reconstructions_are_compared_with_the_same_real_images(metric):
    real, generated, reconstructed = images_of(6, seed=1), images_of(6, low=128), images_of(6, low=40)
    measurement = metric.measure(generated, real, "name_", reconstructed)
    scores = measurement.aggregate(measurement.units)
    assert scores["fid"] == pytest.approx(metric.compute(predictions=generated, references=real)["fid"])
    expected = metric.compute(predictions=reconstructed, references=real)["fid"]
    assert scores["reconstructed_fid"] == pytest.approx(expected)
    assert scores["fid_ratio"] == pytest.approx(scores["fid"] / expected) and scores["fid_ratio"] > 1
    assert measurement.distinct and measurement.prefix == "name_"


def test_diversity_is_the_mean_similarity_of_the_pairs_of_a_prompt():
    smooth = [PIL.Image.fromarray(np.full((256, 256), value, np.uint8)) for value in (80, 120)]
    noise = images_of(1)
    metric = PromptDiversity()
    units = metric.prepare([[*smooth, *noise], [noise[0], noise[0]], noise])
    pixels = [torch.from_numpy(np.array(image)).float().view(1, 1, 256, 256) / 127.5 - 1 for image in smooth + noise]
    pairs = [
        multiscale_structural_similarity_index_measure(pixels[i], pixels[j], data_range=2.0).item()
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    similarities = [unit["ms_ssim"] for unit in units]
    assert similarities == pytest.approx([np.mean(pairs), 1, np.nan], abs=1e-4, nan_ok=True)
    assert metric.aggregate(units) == {"ms_ssim": pytest.approx(np.mean(similarities[:2]))}


def test_copies_of_training_images_are_found_and_other_images_are_none():
    training, held_out = images_of(5), images_of(3, seed=7)
    metric = TrainingImageDistance(ImageFeatures(quarters), training)
    scores = metric.compute(predictions=[training[3], training[0], training[3]], references=held_out)
    assert scores["nearest_distance"] == pytest.approx(0, abs=1e-6) and scores["nearest_distance_real"] > 1e-3
    assert scores["closer_than_real"] == scores["share_below_real"] == 1
    scores = metric.compute(predictions=held_out[::-1], references=held_out)
    assert scores["closer_than_real"] == pytest.approx(0.5) and scores["share_below_real"] == 0


def test_closer_than_real_is_the_statistic_of_mann_and_whitney():
    generated, real = features_of(12, 1)[:, 0], features_of(12, 1, seed=1)[:, 0]
    units = list(np.stack([generated, real], axis=1))
    metric = TrainingImageDistance(ImageFeatures(quarters), images_of(1))
    expected = mannwhitneyu(real, generated).statistic / (12 * 12)
    assert metric.aggregate(units)["closer_than_real"] == pytest.approx(expected)
