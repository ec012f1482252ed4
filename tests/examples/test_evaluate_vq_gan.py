"""`examples/evaluate_vq_gan.py` on a tiny random tokenizer."""

import json

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

from transformers_cxr import LlmCxrImageProcessor
from transformers_cxr.classifiers import load_classifier
from transformers_cxr.evaluation.metrics import load_image_features
from transformers_cxr.evaluation.metrics.image_distribution import frechet_distance


@pytest.fixture(scope="module")
def script(load_script):
    with load_script("examples/evaluate_vq_gan.py") as module:
        yield module


@pytest.fixture
def evaluate(script, vq_tokenizer, tmp_path):
    """`evaluate(**arguments)`: the metrics of six images in two folders."""
    vq_tokenizer.save_pretrained(tmp_path / "model")
    square = {"height": 32, "width": 32}
    processor = LlmCxrImageProcessor(size={"shortest_edge": 32}, crop_size=square, do_convert_rgb=False)
    processor.save_pretrained(tmp_path / "model")
    rng = np.random.default_rng(0)
    for source in ("ct", "mri"):
        (tmp_path / "data" / source).mkdir(parents=True)
        for i in range(3):
            image = PIL.Image.fromarray((rng.random((6, 6)) * 255).astype(np.uint8)).resize((40, 40))
            image.save(tmp_path / "data" / source / f"{i}.png")
    paths = {"records": tmp_path / "data", "output_dir": tmp_path / "out", "model": tmp_path / "model"}

    def run(**arguments):
        script.main(script.Arguments(**{name: str(path) for name, path in paths.items()}, batch_size=2, **arguments))
        return json.loads((tmp_path / "out" / "metrics.json").read_text())["validation"]

    return run


def pixels_of(folder):
    """The images of a folder as the tokenizer sees them."""
    processor = LlmCxrImageProcessor.from_pretrained(folder.parents[1] / "model")
    return processor(sorted(folder.glob("*.png")), return_tensors="pt").pixel_values


def reconstructed(vq_tokenizer, pixel_values):
    with torch.no_grad():
        return vq_tokenizer.decode(vq_tokenizer.encode(pixel_values))


def test_scores_are_means_over_the_images_of_each_source(evaluate, vq_tokenizer, tmp_path):
    metrics = evaluate()
    assert list(metrics) == ["all", "ct", "mri"]
    pixel_values = pixels_of(tmp_path / "data/mri")
    error = (reconstructed(vq_tokenizer, pixel_values) - pixel_values).square().mean(dim=(1, 2, 3))
    assert metrics["mri"]["images"] == 3 and metrics["all"]["images"] == 6
    assert metrics["mri"]["psnr"] == pytest.approx((10 * torch.log10(4 / error)).mean().item(), rel=1e-5)
    assert metrics["mri"]["codebook_usage"] == vq_tokenizer.encode(pixel_values).unique().numel() / 32
    assert metrics["all"]["psnr"] == pytest.approx((metrics["ct"]["psnr"] + metrics["mri"]["psnr"]) / 2)
    spectrum = list(metrics["ct"]["spectrum"].values())
    assert len(spectrum) == 8 and metrics["ct"]["spectral_ratio_min"] == min(spectrum)
    table = (tmp_path / "out" / "metrics.md").read_text()
    assert "| psnr (dB) |" in table and "| validation, mri |" in table
    assert PIL.Image.open(tmp_path / "out" / "images.png").size == (3 * 32, 2 * 32)


def test_unreadable_images_are_skipped_and_named(evaluate, tmp_path, capsys):
    (tmp_path / "data/ct/1.png").write_bytes(b"text")
    metrics = evaluate()
    assert [metrics[source]["images"] for source in ("all", "ct", "mri")] == [5, 2, 3]
    output = capsys.readouterr().out
    assert "1.png" in output and "1 of 6 images could not be read." in output


def test_a_classifier_measures_the_clinical_content(evaluate, vq_tokenizer, tmp_path):
    torch.manual_seed(0)
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
    names = {0: "Bacterial Pneumonia", 1: "Edema", 2: "Pneumonia"}
    folder, pixel_values = tmp_path / "classifier", pixels_of(tmp_path / "data/ct")
    config = ResNetConfig(num_channels=1, id2label=names, problem_type="multi_label_classification", **sizes)
    model = ResNetForImageClassification(config).eval()
    model.classifier[1].bias.data = -model(pixel_values).logits.mean(dim=0)  # so that predictions differ
    model.save_pretrained(folder)
    size = {"height": 16, "width": 16}
    ViTImageProcessorPil(size=size, image_mean=[0.5], image_std=[0.5]).save_pretrained(folder)
    # The last dataset has no bacterial or viral pneumonia: whether its normal images are of such patients is unknown.
    rows = [("ct", "No Finding", ""), ("ct", "Pneumonia", "viral"), ("ct", "Pneumonia", "bacterial")]
    rows += [("mri", "No Finding", ""), ("mri", "", ""), ("mri", "No Finding", "")]
    lines = ["file_name,split,source,patient_id,view,age_group,sex,finding_labels,etiology"]
    for number, (source, labels, etiology) in enumerate(rows):
        lines.append(f"{source}/{number % 3}.png,validation,{source},p{number},AP,child,,{labels},{etiology}")
    (tmp_path / "data/metadata.csv").write_text("\n".join(lines))
    metrics = evaluate(clinical_classifier=str(folder))

    classifier = load_classifier(str(folder))
    images = {"images": pixel_values, "reconstructions": reconstructed(vq_tokenizer, pixel_values)}
    with torch.no_grad():
        predicted = {name: classifier.predict(classifier(own)) for name, own in images.items()}
        distance = classifier.distance(images["reconstructions"], images["images"]).item()
    for name, own in predicted.items():
        (_, _, normal), (viral, _, found), (bacterial, _, also_found) = own.tolist()
        accuracies = {
            f"pneumonia_balanced_accuracy_of_{name}": ((not normal) + (found + also_found) / 2) / 2,
            f"bacterial_pneumonia_balanced_accuracy_of_{name}": ((not viral) + bacterial) / 2,
        }
        assert accuracies.items() <= metrics["ct"].items() and accuracies.items() <= metrics["all"].items()
    assert not any("balanced_accuracy" in name for name in metrics["mri"])
    assert metrics["ct"]["clinical_distance"] == pytest.approx(distance, rel=1e-4)
    agreement = (predicted["images"] == predicted["reconstructions"]).double().mean().item()
    assert metrics["ct"]["label_agreement"] == pytest.approx(agreement)
    assert "| pneumonia_balanced_accuracy_of_reconstructions |" in (tmp_path / "out" / "metrics.md").read_text()


def test_frechet_distances_compare_reconstructions_and_images(evaluate, vq_tokenizer, tmp_path):
    metrics = evaluate(features=["efficientnet-lite0"])
    pixel_values = pixels_of(tmp_path / "data/ct")
    network = load_image_features("efficientnet-lite0").network
    with torch.no_grad():
        decoded = reconstructed(vq_tokenizer, pixel_values).clamp(-1, 1)
        pairs = [network(own).numpy() for own in (decoded, pixel_values)]
    assert metrics["ct"]["fid_efficientnet-lite0"] == pytest.approx(frechet_distance(*pairs), rel=1e-3)


def test_lpips_is_computed_on_request(script, evaluate, monkeypatch):
    def squared(first, second):
        assert first.shape == second.shape and first.shape[1:] == (3, 32, 32)
        return (first - second).square().mean(dim=(1, 2, 3), keepdim=True)

    monkeypatch.setattr(script, "load_lpips", lambda: squared)
    metrics = evaluate(lpips=True)["ct"]
    assert metrics["lpips"] == pytest.approx(4 / 10 ** (metrics["psnr"] / 10), rel=0.05)
