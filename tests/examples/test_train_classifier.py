"""`examples/train_classifier.py`, and the targets, weights and metrics of its labels."""

import json
import re
from dataclasses import replace

import PIL.Image
import pytest
import torch
from torch import nan
from transformers import AutoImageProcessor, AutoModelForImageClassification, TrainingArguments

from transformers_cxr.classifiers import load_efficientnet_lite0
from transformers_cxr.data import open_records
from transformers_cxr.training.classification import balanced_accuracies, label_targets, label_weights


@pytest.fixture
def train(load_script, data_dir):
    def train(**settings):
        training_args = TrainingArguments(
            output_dir=str(data_dir / "run"), save_strategy="no", report_to="none", remove_unused_columns=False,
            use_cpu=True, disable_tqdm=True, **settings,
        )  # fmt: skip
        script.main(script.ScriptArguments(str(data_dir), 32), training_args)

    with load_script("examples/train_classifier.py") as script:
        train.script = script
        yield train


def test_a_classifier_is_trained_evaluated_and_saved_for_transformers(train, data_dir):
    # Enough steps for logits that rounding does not move across zero.
    train(max_steps=10, per_device_train_batch_size=6, learning_rate=0.01)
    classifier = AutoModelForImageClassification.from_pretrained(data_dir / "run/final", dtype=torch.float32)
    processor = AutoImageProcessor.from_pretrained(data_dir / "run/final")
    images = [PIL.Image.open(data_dir / f"{number}.png").convert("RGB") for number in range(6, 12)]
    with torch.no_grad():
        logits = classifier(processor(images, return_tensors="pt").pixel_values).logits
    # All X-rays are AP and of children, so the classifier does not have these labels.
    names = ["Pneumonia", "Bacterial Pneumonia"]
    assert list(classifier.config.id2label.values()) == names
    targets = torch.tensor([[0, nan], [1, 1], [1, 0]] * 2)
    expected = balanced_accuracies(logits > 0, targets, names)
    assert json.loads((data_dir / "run/metrics.json").read_text()) == pytest.approx(expected, abs=1e-4)


def test_the_weights_of_imagenet_are_fine_tuned(train, data_dir):
    train(max_steps=1, learning_rate=1e-6)
    trained = AutoModelForImageClassification.from_pretrained(data_dir / "run/final").timm_model.conv_stem.weight
    assert trained.dtype == torch.bfloat16
    expected = load_efficientnet_lite0().conv_stem.weight
    torch.testing.assert_close(trained.float(), expected, atol=1e-5, rtol=0.01)


def test_every_batch_of_training_is_augmented_and_none_of_evaluation(train, monkeypatch):
    augmented, augment = [], train.script.augment
    monkeypatch.setattr(train.script, "augment", lambda pixels: augmented.append(len(pixels)) or augment(pixels))
    train(num_train_epochs=2, per_device_train_batch_size=4, eval_strategy="epoch")
    assert augmented == [4, 2] * 2


def test_the_loss_balances_the_known_values_of_each_label(train):
    targets = torch.tensor([[1, nan], [1, 0], [1, nan], [0, 1]])
    weights = label_weights(targets)
    torch.testing.assert_close(weights, torch.tensor([[2, 1], [2 / 3, 1]]))
    trainer = object.__new__(train.script.ClassificationTrainer)
    trainer.label_weights = weights

    class Model(torch.nn.Module):
        def forward(self, pixel_values):
            assert pixel_values.shape == (4, 3, 8, 8)
            return type("Output", (), {"logits": logits})

    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = trainer.compute_loss(Model().eval(), {"pixel_values": torch.zeros(4, 1, 8, 8), "labels": targets})
    log_p, log_q = logits.sigmoid().log(), (-logits).sigmoid().log()
    losses = [2 / 3 * (0.975 * log_p[i, 0] + 0.025 * log_q[i, 0]) for i in range(3)]
    losses += [2 * (0.025 * log_p[3, 0] + 0.975 * log_q[3, 0])]
    losses += [0.025 * log_p[1, 1] + 0.975 * log_q[1, 1], 0.975 * log_p[3, 1] + 0.025 * log_q[3, 1]]
    torch.testing.assert_close(loss, -sum(losses) / 6)
    loss.backward()
    assert logits.grad[[0, 2], 1].tolist() == [0, 0] and logits.grad.isfinite().all()


def test_balanced_accuracies_are_mean_recalls_of_known_labels():
    predicted = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 1, 0], [0, 1, 1]]).bool()
    targets = torch.tensor([[1, nan, 0], [1, 0, nan], [0, 1, 0], [0, 0, 0]])
    found = balanced_accuracies(predicted, targets, ["PA", "Bacterial Pneumonia", "Adult"])
    assert found == {"pa_balanced_accuracy": 0.5, "bacterial_pneumonia_balanced_accuracy": (1 + 1 / 2) / 2}


def test_targets_are_unknown_where_the_record_or_its_dataset_does_not_tell(data_dir):
    records = open_records(data_dir, "train")[:3]
    records += [replace(records[0], source="nih64", view="PA", age_group="adult")]
    records += [replace(records[1], source="nih64", view="LATERAL", age_group="", labels={"Pneumonia": 1})]
    records += [replace(records[1], labels={"Edema": 1})]
    expected = [
        [0, nan, 0, 0],
        [1, 1, 0, 0],
        [1, 0, 0, 0],
        [nan, nan, 1, 1],
        [nan, nan, nan, nan],
        [nan, nan, 0, 0],
    ]
    torch.testing.assert_close(label_targets(records), torch.tensor(expected), equal_nan=True)


def test_labels_of_one_value_only_are_an_error(train, data_dir):
    table = (data_dir / "metadata.csv").read_text().replace("bacterial", "").replace("viral", "")
    (data_dir / "metadata.csv").write_text(table)
    with pytest.raises(ValueError, match="with and without one of .*'Adult'.* in the train split, got none"):
        train(max_steps=1)


def test_the_loss_of_accumulated_gradients_is_their_mean(train, monkeypatch, capsys):
    monkeypatch.setattr(train.script, "augment", lambda pixels: pixels)
    losses = []
    for size in (6, 3):
        train(max_steps=1, per_device_train_batch_size=size, gradient_accumulation_steps=6 // size, logging_steps=1)
        losses.append(float(re.search(r"'loss': '?([\d.]+)", capsys.readouterr().out)[1]))
    assert losses[1] == pytest.approx(losses[0], rel=0.3)
