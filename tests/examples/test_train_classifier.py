"""The classifier of X-rays, end to end on invented ones."""

import json

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification, TrainingArguments

KINDS = [("No Finding", ""), ("Pneumonia", "bacterial"), ("Pneumonia", "viral")]


@pytest.fixture
def script(load_script):
    with load_script("examples/train_classifier.py") as module:
        yield module


@pytest.fixture
def data_dir(tmp_path):
    """Of both splits six X-rays, each brighter than those of the kind before, and one of a dataset without etiologies."""
    lines = ["file_name,split,source,patient_id,view,sex,age_group,finding_labels,etiology"]
    for number in range(12):
        finding, etiology = KINDS[number % 3]
        split = "train" if number < 6 else "validation"
        lines.append(f"{number}.png,{split},kermany,p{number},AP,M,child,{finding},{etiology}")
        PIL.Image.fromarray(np.full((40, 40), 20 + 100 * (number % 3), np.uint8)).save(tmp_path / f"{number}.png")
    lines.append("missing.png,train,nih64,p0,PA,F,adult,No Finding,")
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def train(script, data_dir, **settings):
    model = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
    training_args = TrainingArguments(
        output_dir=str(data_dir / "run"), save_strategy="no", report_to="none", remove_unused_columns=False, use_cpu=True,
        disable_tqdm=True, **settings,
    )  # fmt: skip
    script.main(script.ScriptArguments(str(data_dir), 32, model), training_args)


def test_a_classifier_is_trained_measured_and_saved_for_transformers(script, data_dir):
    train(script, data_dir, max_steps=2, per_device_train_batch_size=6, learning_rate=0.01)
    classifier = AutoModelForImageClassification.from_pretrained(data_dir / "run/final")
    processor = AutoImageProcessor.from_pretrained(data_dir / "run/final")
    images = [PIL.Image.open(data_dir / f"{number}.png") for number in range(6, 12)]
    with torch.no_grad():
        logits = classifier(processor(images, return_tensors="pt").pixel_values).logits
    labels = np.array([0, 1, 2, 0, 1, 2])
    expected = script.balanced_accuracies(script.EvalPrediction(logits.numpy(), labels))
    assert json.loads((data_dir / "run/metrics.json").read_text()) == pytest.approx(expected, abs=1e-4)
    assert [classifier.config.id2label[i] for i in range(3)] == ["normal", "bacterial", "viral"]


@pytest.mark.parametrize("workers", [0, 1])
def test_every_batch_of_training_is_augmented_and_none_of_evaluation(script, data_dir, monkeypatch, workers):
    augmented, augment = [], script.augment
    monkeypatch.setattr(script, "augment", lambda pixels: augmented.append(len(pixels)) or augment(pixels))
    settings = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "eval_strategy": "epoch"}
    train(script, data_dir, **settings, dataloader_num_workers=workers)
    assert augmented == [4, 2] * 2


def test_balanced_accuracies_are_mean_recalls(script):
    logits = np.eye(3)[[0, 0, 1, 2, 0, 2]]
    # Of two normal X-rays both are known, of three bacterial ones one, and a second as normal; the viral one is known.
    found = script.balanced_accuracies(script.EvalPrediction(logits, np.array([0, 0, 1, 1, 1, 2])))
    assert found == pytest.approx(
        {
            "classes_balanced_accuracy": (1 + 1 / 3 + 1) / 3,
            "finding_balanced_accuracy": (1 + 3 / 4) / 2,
            # Of what is neither more probable, the first is taken.
            "etiology_balanced_accuracy": (2 / 3 + 1) / 2,
        }
    )


def test_a_class_without_a_study_is_named(script, data_dir):
    table = (data_dir / "metadata.csv").read_text()
    (data_dir / "metadata.csv").write_text(table.replace("viral", "bacterial"))
    with pytest.raises(ValueError, match=r"split 'train' of '.*' has no study of \['viral'\]"):
        script.classified_studies(str(data_dir), "train")
