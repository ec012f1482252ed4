"""Training of multi-label classifiers of chest X-rays."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F
from transformers import Trainer

from ..data.records import StudyRecord
from .resuming import ResumedTrainerMixin

XRAY_LABELS = ("Pneumonia", "Bacterial Pneumonia", "PA", "Adult")


def label_targets(records: Sequence[StudyRecord]) -> torch.FloatTensor:
    """
    Return the targets of the `XRAY_LABELS`, of shape `(len(records), 4)`: 1, 0, or NaN if the record does not tell.

    "Pneumonia" is only known in datasets (`source`) with an etiology, so that normal and other X-rays come from the
    same patients. "Bacterial Pneumonia" is 0 for viral pneumonia and unknown without pneumonia.
    """
    sources = {record.source for record in records if record.etiology}

    def targets(record: StudyRecord) -> list[float]:
        is_normal, has_pneumonia = record.present_labels == ("No Finding",), "Pneumonia" in record.present_labels
        knows_pneumonia = record.source in sources and (is_normal or has_pneumonia)
        return [
            float(has_pneumonia) if knows_pneumonia else torch.nan,
            {"bacterial": 1.0, "viral": 0.0}.get(record.etiology, torch.nan),
            {"PA": 1.0, "AP": 0.0}.get(record.view, torch.nan),
            {"adult": 1.0, "child": 0.0}.get(record.age_group, torch.nan),
        ]

    return torch.tensor([targets(record) for record in records]).view(-1, len(XRAY_LABELS))


def label_weights(targets: torch.FloatTensor) -> torch.FloatTensor:
    """
    Return weights, of shape `(2, num_labels)`, of the values 0 and 1 of each label. They balance both values, with a
    mean of 1 over the known `targets`, of shape `(num_records, num_labels)`.
    """
    counts = torch.stack([(targets == value).sum(dim=0) for value in (0, 1)])
    return counts.sum(dim=0) / (2 * counts)


class ClassificationTrainer(ResumedTrainerMixin, Trainer):
    """
    Trainer of a multi-label classifier of RGB images, with label weights, label smoothing, unknown labels, and
    augmentation of whole batches.

    Args:
        label_weights (`torch.FloatTensor` of shape `(2, num_labels)`):
            Weights of the values 0 and 1 of each label in the binary cross-entropy.
        augment (`Callable[[torch.FloatTensor], torch.FloatTensor]`):
            Augmentation of the images during training.
        **kwargs:
            Arguments of `Trainer`. A batch has `pixel_values` of shape `(batch_size, 1, height, width)` and `labels`
            of shape `(batch_size, num_labels)`: 1, 0, or NaN for unknown.
    """

    def __init__(
        self,
        label_weights: torch.FloatTensor,
        augment: Callable[[torch.FloatTensor], torch.FloatTensor],
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.label_weights, self.augment = label_weights, augment

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        pixel_values, labels = inputs["pixel_values"], inputs["labels"]
        if model.training:
            # Not in the collator: workers do not know whether the model is trained or evaluated.
            pixel_values = self.augment(pixel_values)
        rgb = pixel_values.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        outputs = model(pixel_values=rgb)
        known = ~labels.isnan()
        weights = torch.where(labels == 1, *self.label_weights.to(labels.device).flip(0))
        smooth = 0.95 * labels + 0.025
        loss = F.binary_cross_entropy_with_logits(outputs.logits[known], smooth[known], weights[known])
        return (loss, outputs) if return_outputs else loss


def balanced_accuracies(
    predicted: torch.BoolTensor, targets: torch.FloatTensor, names: Sequence[str]
) -> dict[str, float]:
    """
    Return the balanced accuracy of each label, in [0, 1]: the mean of sensitivity and specificity over its known
    targets. A label without images of one value is left out.

    Args:
        predicted (`torch.BoolTensor` of shape `(num_images, num_labels)`): which labels are predicted.
        targets (`torch.FloatTensor` of shape `(num_images, num_labels)`): 1, 0, or NaN for unknown.
        names (`Sequence[str]`): names of the labels.
    """
    scores = {}
    for name, own, target in zip(names, predicted.T, targets.T):
        recalls = [(own[target == value] == value).double().mean() for value in (0, 1)]
        if not any(recall.isnan() for recall in recalls):
            scores[f"{name.lower().replace(' ', '_')}_balanced_accuracy"] = float(sum(recalls) / 2)
    return scores
