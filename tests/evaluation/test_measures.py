"""What is measured of drawings, with a tiny random classifier."""

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

from transformers_cxr.evaluation.examples import Example
from transformers_cxr.evaluation.measures import image_measures, reconstructed
from transformers_cxr.evaluation.metrics.image_distribution import frechet_distance
from transformers_cxr.evaluation.metrics.image_features import load_image_features
from transformers_cxr.evaluation.runner import EvaluationArguments


@pytest.fixture
def classifier(tmp_path):
    torch.manual_seed(0)
    names = dict(enumerate(("normal", "bacterial", "viral")))
    config = ResNetConfig(
        num_channels=1, embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", id2label=names
    )
    ResNetForImageClassification(config).save_pretrained(tmp_path / "tiny-resnet")
    size = {"height": 32, "width": 32}
    ViTImageProcessorPil(size=size, image_mean=[0.5], image_std=[0.5]).save_pretrained(tmp_path / "tiny-resnet")
    return str(tmp_path / "tiny-resnet")


@pytest.fixture
def examples(tmp_path):
    rng, found = np.random.default_rng(0), []
    for i in range(5):
        path = tmp_path / f"{i}.png"
        PIL.Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)).save(path)
        found.append(Example(str(i), str(i), "", path, "Viral pneumonia." if i % 2 else "Normal chest X-ray."))
    return found


def test_drawings_are_measured_beside_reconstructions_and_real_images(classifier, examples, tiny_model):
    model, processor = tiny_model
    reconstructions = reconstructed(examples, model, processor, batch_size=2)
    assert [image.size for image in reconstructions] == [(32, 32)] * 5
    drawn = [str(example.image_path) for example in examples[1:] + examples[:1]]
    arguments = EvaluationArguments("", data_dir="data", classifier=classifier, features=[classifier])
    measures = image_measures(examples, drawn, arguments, reconstructions)
    values = {m.prefix + name: value for m in measures for name, value in m.aggregate(m.units).items()}
    assert {"f1_macro", "reconstructed_f1_macro"} <= values.keys()
    assert {p + "finding_balanced_accuracy" for p in ("", "reconstructed_", "real_")} <= values.keys()
    # The drawings are the real images in another order: the same distribution.
    assert values["tiny-resnet_fid"] == pytest.approx(0, abs=1e-5)
    features = load_image_features(classifier, device="cpu")
    distance = frechet_distance(features(reconstructions), features([str(e.image_path) for e in examples]))
    assert values["tiny-resnet_reconstructed_fid"] == pytest.approx(distance, rel=1e-4) and distance > 0
    assert values["tiny-resnet_fid_ratio"] == pytest.approx(0, abs=1e-3)
    assert [m.distinct for m in measures] == [False] * 5 + [True]


def test_of_real_reports_and_two_runs_there_are_only_the_labels_and_distances(classifier, examples):
    drawn = [str(example.image_path) for example in examples]
    arguments = EvaluationArguments("", reports="reports.json", classifier=classifier, features=[classifier])
    names = [name for m in image_measures(examples, drawn, arguments) for name in m.aggregate(m.units)]
    assert "f1_macro" in names and "fid" in names
    assert not any("reconstructed" in name or "balanced_accuracy" in name for name in names)
