"""The metrics of reports and of generated images, and the arguments that select them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..arguments import argument

if TYPE_CHECKING:
    from .metric import CxrMetric, Measurement

# Metrics are imported when they are used, so that a command's `--help` is immediate.


@dataclass
class ReportMetricArguments:
    """Metrics of reports."""

    labeler: Literal["rules", "chexbert"] = argument("rules", "Labeler of reports. chexbert needs its weights.")
    radeval: list[str] = argument(
        [], "Metrics of radeval: radgraph, radcliq, green, ratescore, bertscore. Each needs its weights."
    )


@dataclass
class ImageMetricArguments:
    """Metrics of generated images."""

    classifier: str = argument("", "Classifier for labels of generated images: a folder or a torchxrayvision name.")
    features: list[str] = argument(
        [], "Feature spaces of generated images: inception, rad-dino, torchxrayvision names, folders."
    )
    training_split: str = argument("", "Split of the records to search for copies among the generated images.")


def report_metrics(arguments: ReportMetricArguments, label_derived: bool = False) -> list[CxrMetric]:
    """Return the metrics of reports; `label_derived` tells that all references were written from labels."""
    from .chexpert_labels import CheXpertLabels
    from .meteor import Meteor
    from .radeval_score import RadEvalScore
    from .report_pneumonia_accuracy import ReportPneumoniaAccuracy
    from .text_overlap import TextOverlap

    metrics = [ReportPneumoniaAccuracy()] if label_derived else []
    metrics += [CheXpertLabels(arguments.labeler), TextOverlap(), Meteor()]
    return metrics + [RadEvalScore(name) for name in arguments.radeval]


def label_measurements(
    images: dict[str, Sequence], reports: Sequence[str], classifier_name: str, batch_size: int, label_derived: bool
) -> list[Measurement]:
    """
    Measure what a classifier, see [`load_classifier`], predicts for images.

    `images` has the images of the reports by the prefix of their scores: generated (""), optionally reconstructed
    ("reconstructed_"), and real ("real_"), the reference. `label_derived` tells that all reports were written from
    labels.
    """
    import torch

    from ...classifiers import load_classifier
    from .image_labels import ImageLabels
    from .image_pneumonia_accuracy import ImagePneumoniaAccuracy
    from .metric import Measurement

    classifier = load_classifier(classifier_name).to("cuda" if torch.cuda.is_available() else "cpu")
    probabilities = {prefix: classifier.probabilities(own, batch_size) for prefix, own in images.items()}
    units: list[tuple[str, CxrMetric, list[Any]]] = []
    if label_derived and set(classifier.label_names) == ImagePneumoniaAccuracy.CLASSES:
        pneumonia = ImagePneumoniaAccuracy(classifier)
        units += [(prefix, pneumonia, pneumonia.units_of(own, reports)) for prefix, own in probabilities.items()]
    labels, real = ImageLabels(classifier), probabilities.pop("real_")
    units += [(prefix, labels, labels.units_of(own, real)) for prefix, own in probabilities.items()]
    return [Measurement(own, metric.aggregate, prefix) for prefix, metric, own in units]


def feature_measurements(
    images: dict[str, Sequence], training_images: Sequence | None, names: Sequence[str], batch_size: int
) -> list[Measurement]:
    """
    Measure images (as in [`label_measurements`]) in the feature spaces of `names`, and search for copies of training
    images.
    """
    from .image_distribution import ImageDistribution
    from .image_features import load_image_features
    from .training_image_distance import TrainingImageDistance

    generated, reconstructed, real = (images.get(prefix) for prefix in ("", "reconstructed_", "real_"))
    measurements = []
    for name in names:
        features, prefix = load_image_features(name, batch_size), f"{Path(name).name}_"
        measurements.append(ImageDistribution(features).measure(generated, real, prefix, reconstructed))
        if training_images:
            measurements.append(TrainingImageDistance(features, training_images).measure(generated, real, prefix))
    return measurements
