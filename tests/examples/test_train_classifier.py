"""`examples/train_classifier.py`, and the classes, losses and metrics that it shares with the classifier of codes."""

import json

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification, EvalPrediction, TrainingArguments

from transformers_cxr.data import open_records
from transformers_cxr.training.classification import balanced_accuracies, select_pneumonia_records


@pytest.fixture
def train(load_script, data_dir):
    def train(**settings):
        model = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
        training_args = TrainingArguments(
            output_dir=str(data_dir / "run"), save_strategy="no", report_to="none", remove_unused_columns=False,
            use_cpu=True, disable_tqdm=True, **settings,
        )  # fmt: skip
        script.main(script.ScriptArguments(str(data_dir), 32, model), training_args)

    with load_script("examples/train_classifier.py") as script:
        train.script = script
        yield train


def test_a_classifier_is_trained_evaluated_and_saved_for_transformers(train, data_dir):
    train(max_steps=2, per_device_train_batch_size=6, learning_rate=0.01)
    classifier = AutoModelForImageClassification.from_pretrained(data_dir / "run/final")
    processor = AutoImageProcessor.from_pretrained(data_dir / "run/final")
    images = [PIL.Image.open(data_dir / f"{number}.png") for number in range(6, 12)]
    with torch.no_grad():
        logits = classifier(processor(images, return_tensors="pt").pixel_values).logits
    expected = balanced_accuracies(EvalPrediction(logits.numpy(), np.array([0, 1, 2, 0, 1, 2])))
    assert json.loads((data_dir / "run/metrics.json").read_text()) == pytest.approx(expected, abs=1e-4)
    assert [classifier.config.id2label[i] for i in range(3)] == ["normal", "bacterial", "viral"]


def test_every_batch_of_training_is_augmented_and_none_of_evaluation(train, monkeypatch):
    augmented, augment = [], train.script.augment
    monkeypatch.setattr(train.script, "augment", lambda pixels: augmented.append(len(pixels)) or augment(pixels))
    train(num_train_epochs=2, per_device_train_batch_size=4, eval_strategy="epoch")
    assert augmented == [4, 2] * 2


def test_balanced_accuracies_are_mean_recalls():
    logits = np.eye(3)[[0, 0, 1, 2, 0, 2]]
    found = balanced_accuracies(EvalPrediction(logits, np.array([0, 0, 1, 1, 1, 2])))
    assert found == pytest.approx(
        {
            "classes_balanced_accuracy": (1 + 1 / 3 + 1) / 3,
            "finding_balanced_accuracy": (1 + 3 / 4) / 2,
            "etiology_balanced_accuracy": (2 / 3 + 1) / 2,
        }
    )


def test_records_are_those_of_datasets_with_all_classes(data_dir):
    table = (data_dir / "metadata.csv").read_text()
    (data_dir / "metadata.csv").write_text(table + "0.png,train,nih64,p0,PA,F,adult,No Finding,\n")
    records = open_records(data_dir, "train")
    assert len(records) == 7 and {record.source for record in select_pneumonia_records(records)} == {"kermany"}
    with pytest.raises(ValueError, match=r"Expected X-rays of each class, got none of \['viral'\]"):
        select_pneumonia_records([record for record in records if record.etiology != "viral"])
