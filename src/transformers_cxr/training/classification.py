"""Training of classifiers of normal X-rays, bacterial pneumonia and viral pneumonia."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional as F
from transformers import EvalPrediction, Trainer

from ..data.records import StudyRecord

PNEUMONIA_CLASSES = ("normal", "bacterial", "viral")


def pneumonia_class(record: StudyRecord) -> str | None:
    """Return one of `PNEUMONIA_CLASSES`, or `None` if the labels of the record give none."""
    return "normal" if record.present_labels == ("No Finding",) else record.etiology or None


def select_pneumonia_records(records: Sequence[StudyRecord]) -> list[StudyRecord]:
    """
    Select the records with one of the `PNEUMONIA_CLASSES`, from datasets that know the etiology, so that all classes
    come from the same patients.

    Raises:
        ValueError: a class has no record.
    """
    sources = {record.source for record in records if record.etiology}
    selected = [record for record in records if record.source in sources and pneumonia_class(record)]
    if missing := sorted(set(PNEUMONIA_CLASSES) - set(map(pneumonia_class, selected))):
        raise ValueError(
            f"Expected X-rays of each class, got none of {missing}. The classes are the only label 'No Finding', and "
            "the etiologies 'bacterial' and 'viral', in one dataset (`source`)."
        )
    return selected


class ClassificationTrainer(Trainer):
    """
    Trainer with class weights, label smoothing, and augmentation of whole batches.

    Args:
        class_weights (`torch.FloatTensor` of shape `(num_classes,)`):
            Weights of the classes in the cross-entropy.
        augment (`Callable[[torch.Tensor], torch.Tensor]`):
            Augmentation of the inputs of the model during training.
        **kwargs:
            Arguments of `Trainer`. A batch has one input of the model and `labels`.
    """

    def __init__(self, class_weights: torch.FloatTensor, augment: Callable[[torch.Tensor], torch.Tensor], **kwargs):
        super().__init__(**kwargs)
        self.class_weights, self.augment = class_weights, augment

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        if model.training:
            # Not in the collator: workers do not know whether the model is trained or evaluated.
            inputs = {name: self.augment(values) for name, values in inputs.items()}
        outputs = model(**inputs)
        weights = self.class_weights.to(outputs.logits.device)
        loss = F.cross_entropy(outputs.logits, labels, weights, label_smoothing=0.05)
        return (loss, outputs) if return_outputs else loss


def balanced_accuracies(prediction: EvalPrediction) -> dict[str, float]:
    """
    Return the balanced accuracies (mean recalls), each in [0, 1], of the three classes (`classes`), of normal against
    pneumonia (`finding`), and of bacterial against viral in images with pneumonia (`etiology`).
    """
    labels, logits = prediction.label_ids, prediction.predictions
    predicted, etiology = logits.argmax(-1), logits[:, 1:].argmax(-1) + 1

    def mean_recall(classes: np.ndarray, is_correct: np.ndarray) -> float:
        return float(np.mean([is_correct[classes == label].mean() for label in np.unique(classes)]))

    is_pneumonia = labels > 0
    return {
        "classes_balanced_accuracy": mean_recall(labels, predicted == labels),
        "finding_balanced_accuracy": mean_recall(is_pneumonia, (predicted > 0) == is_pneumonia),
        "etiology_balanced_accuracy": mean_recall(labels[is_pneumonia], (etiology == labels)[is_pneumonia]),
    }
