"""`examples/evaluate_vq_gan.py`, run on a tiny random tokenizer."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

from transformers_cxr import LlmCxrImageProcessor
from transformers_cxr.classifiers import XrayClassifier


@pytest.fixture(scope="module")
def script(load_script):
    with load_script("examples/evaluate_vq_gan.py") as module:
        yield module


@pytest.fixture
def args(script, vq_tokenizer, tmp_path):
    vq_tokenizer.save_pretrained(tmp_path / "model")
    size = {"height": 32, "width": 32}
    LlmCxrImageProcessor(size={"shortest_edge": 32}, crop_size=size, do_convert_rgb=False).save_pretrained(
        tmp_path / "model"
    )
    rng = np.random.default_rng(0)
    for source in ("ct", "mri"):
        (tmp_path / "data" / source).mkdir(parents=True)
        for i in range(3):
            image = PIL.Image.fromarray((rng.random((6, 6)) * 255).astype(np.uint8)).resize((40, 40))
            image.save(tmp_path / "data" / source / f"{i}.png")
    return script.Arguments(
        data_dir=str(tmp_path / "data"), output_dir=str(tmp_path / "out"), model=str(tmp_path / "model"), batch_size=2
    )


def test_metrics_are_the_means_of_the_images_of_each_source(script, args, vq_tokenizer):
    script.main(args)
    metrics = json.loads((Path(args.output_dir) / "metrics.json").read_text())["validation"]
    assert list(metrics) == ["all", "ct", "mri"]
    processor = LlmCxrImageProcessor.from_pretrained(args.model)
    pixel_values = processor(
        [Path(args.data_dir) / "mri" / f"{i}.png" for i in range(3)], return_tensors="pt"
    ).pixel_values
    codes = vq_tokenizer.encode(pixel_values)
    with torch.no_grad():
        error = (vq_tokenizer.decode(codes) - pixel_values).square().mean(dim=(1, 2, 3))
    assert metrics["mri"]["images"] == 3 and metrics["all"]["images"] == 6
    assert metrics["mri"]["psnr"] == pytest.approx((10 * torch.log10(4 / error)).mean().item(), rel=1e-5)
    assert metrics["mri"]["codebook_usage"] == codes.unique().numel() / 32
    assert metrics["all"]["psnr"] == pytest.approx((metrics["ct"]["psnr"] + metrics["mri"]["psnr"]) / 2)
    spectrum = list(metrics["ct"]["spectrum"].values())
    assert len(spectrum) == 8 and np.isfinite(spectrum).all()
    assert metrics["ct"]["spectral_ratio_min"] == min(spectrum)
    table = (Path(args.output_dir) / "metrics.md").read_text()
    assert "| psnr (dB) |" in table and "| validation, mri |" in table
    assert PIL.Image.open(Path(args.output_dir) / "images.png").size == (3 * 32, 2 * 32)


def test_unreadable_images_are_left_out_and_named(script, args, capsys):
    (Path(args.data_dir) / "ct" / "1.png").write_bytes(b"text")
    script.main(args)
    metrics = json.loads((Path(args.output_dir) / "metrics.json").read_text())["validation"]
    assert [metrics[source]["images"] for source in ("all", "ct", "mri")] == [5, 2, 3]
    output = capsys.readouterr().out
    assert "1.png" in output and "1 of 6 images could not be read." in output


def test_a_classifier_gives_the_distance_of_features_and_the_agreement_of_labels(
    script, args, monkeypatch, vq_tokenizer
):
    torch.manual_seed(0)
    classifier = XrayClassifier(nn.Conv2d(1, 3, 5), image_size=16, value_range=(0, 1), head=nn.Identity(), label_names="abc")
    monkeypatch.setattr(script, "load_classifier", lambda name: classifier)
    script.main(script.Arguments(**vars(args) | {"clinical_classifier": "any"}))
    metrics = json.loads((Path(args.output_dir) / "metrics.json").read_text())["validation"]["all"]
    processor = LlmCxrImageProcessor.from_pretrained(args.model)
    paths = sorted(Path(args.data_dir).rglob("*.png"))
    pixel_values = processor(paths, return_tensors="pt").pixel_values
    with torch.no_grad():
        reconstruction = vq_tokenizer.decode(vq_tokenizer.encode(pixel_values))
    assert metrics["clinical_distance"] == pytest.approx(
        classifier.distance(reconstruction, pixel_values).item(), rel=1e-4
    )
    same = classifier(reconstruction).argmax(dim=1) == classifier(pixel_values).argmax(dim=1)
    assert metrics["label_agreement"] == pytest.approx(same.float().mean().item())


@pytest.fixture
def classifier_of_pneumonia(tmp_path):
    """A random classifier, saved as `train_classifier.py` does."""
    torch.manual_seed(0)
    config = ResNetConfig(
        num_channels=1, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic",
        id2label={0: "normal", 1: "bacterial", 2: "viral"},
    )  # fmt: skip
    model = ResNetForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "classifier")
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16}, image_mean=[0.5], image_std=[0.5])
    processor.save_pretrained(tmp_path / "classifier")
    return tmp_path / "classifier"


def test_a_classifier_of_pneumonia_gives_its_balanced_accuracy_on_images_and_reconstructions(
    script, args, classifier_of_pneumonia, vq_tokenizer
):
    # Of the last dataset it is not known which normal image is of the same kind of patients.
    rows = [("ct", "No Finding", ""), ("ct", "Pneumonia", "viral"), ("ct", "Pneumonia", "bacterial")]
    rows += [("mri", "No Finding", ""), ("mri", "", ""), ("mri", "No Finding", "")]
    lines = ["file_name,split,source,patient_id,view,age_group,sex,finding_labels,etiology"]
    for number, (source, findings, etiology) in enumerate(rows):
        lines.append(f"{source}/{number % 3}.png,validation,{source},p{number},AP,child,,{findings},{etiology}")
    (Path(args.data_dir) / "metadata.csv").write_text("\n".join(lines))
    script.main(script.Arguments(**vars(args) | {"clinical_classifier": str(classifier_of_pneumonia)}))
    metrics = json.loads((Path(args.output_dir) / "metrics.json").read_text())["validation"]

    processor = LlmCxrImageProcessor.from_pretrained(args.model)
    images = processor([Path(args.data_dir) / "ct" / f"{i}.png" for i in range(3)], return_tensors="pt").pixel_values
    classifier = script.load_classifier(str(classifier_of_pneumonia))
    with torch.no_grad():
        reconstructions = vq_tokenizer.decode(vq_tokenizer.encode(images))
        for of, pixel_values in (("images", images), ("reconstructions", reconstructions)):
            right = classifier(pixel_values).argmax(dim=1) == torch.tensor([0, 2, 1])
            assert metrics["ct"][f"classes_balanced_accuracy_of_{of}"] == pytest.approx(right.double().mean().item())
            assert metrics["all"][f"classes_balanced_accuracy_of_{of}"] == pytest.approx(right.double().mean().item())
    assert not any("balanced_accuracy" in name for name in metrics["mri"])
    table = (Path(args.output_dir) / "metrics.md").read_text()
    assert "| finding_balanced_accuracy_of_reconstructions |" in table


def test_lpips_is_measured_where_it_is_asked_for(script, args, monkeypatch):
    def squared(first, second):
        assert first.shape == second.shape and first.shape[1:] == (3, 32, 32)
        return (first - second).square().mean(dim=(1, 2, 3), keepdim=True)

    monkeypatch.setattr(script, "load_lpips", lambda: squared)
    script.main(script.Arguments(**vars(args) | {"lpips": True}))
    metrics = json.loads((Path(args.output_dir) / "metrics.json").read_text())["validation"]["ct"]
    assert metrics["lpips"] == pytest.approx(4 / 10 ** (metrics["psnr"] / 10), rel=0.05)
