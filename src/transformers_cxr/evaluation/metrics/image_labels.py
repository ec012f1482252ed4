"""Whether generated images show what the real ones of the same report show, as a classifier of X-rays sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Features, Image
from torch import nn
from tqdm import tqdm
from transformers import AutoConfig

from ...classifiers import load_clinical_classifier
from ...llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor
from .classification import classification_scores
from .metric import CxrMetric

# The labels of CheXpert that torchxrayvision's classifiers know: the eleven of arXiv 2305.11490, table 4, by their number.
ELEVEN_LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "Pneumonia",
    "Pneumothorax",
)


class ImageClassifier:
    """
    Probabilities of the labels of images. All images are prepared alike, as for the model, before the network sees them.

    Args:
        classifier (`nn.Module` or `str`):
            A module that takes images, `(batch_size, 1, 256, 256)` in [-1, 1], and gives logits, `(batch_size, num_labels)`; or
            what [`load_clinical_classifier`] takes: a folder, or a name such as `"densenet121-res224-all"`.
        label_names (`Sequence[str]`, *optional*):
            The names of the labels of a module, in its order; of a classifier by name the labels to use, such as
            `ELEVEN_LABELS`, all by default.
        thresholds (`Sequence[float]`, *optional*):
            Probability from which on each label of a module is there; 0.5 by default. A classifier by name has its own.
        batch_size (`int`, *optional*, defaults to 32):
            Images at once.
        device (`str` or `torch.device`, *optional*):
            Where the classifier runs; by default a GPU where there is one.

    Attributes:
        label_names (`list[str]`): of the columns of the probabilities.
        thresholds (`np.ndarray`, *optional*): `None` where the labels exclude each other.

    Raises:
        ValueError: the classifier does not have these labels, or as many.
        ImportError: torchxrayvision is not installed.
        OSError: the weights of the classifier are neither there nor can be downloaded.
    """

    def __init__(
        self,
        classifier: nn.Module | str,
        label_names: Sequence[str] | None = None,
        thresholds: Sequence[float] | None = None,
        batch_size: int = 32,
        device: str | torch.device | None = None,
    ):
        if isinstance(classifier, str):
            network = load_clinical_classifier(classifier)
            known = _label_names(classifier)
            missing = sorted(set(label_names or ()) - set(known))
            if missing:
                raise ValueError(f"'{classifier}' has no label {missing}; it has {[name for name in known if name]}.")
            # torchxrayvision leaves the names of labels empty that its weights do not know.
            self.columns = [known.index(name) for name in label_names or filter(None, known)]
            self.label_names = [known[i] for i in self.columns]
            self.thresholds = None if network.thresholds is None else network.thresholds[self.columns].numpy()
            network = nn.Sequential(network, network.head)
        else:
            if not label_names:
                raise ValueError(
                    "The names of the labels of a module must be given, in its order: `label_names=[...]`."
                )
            self.label_names = list(label_names)
            self.columns = list(range(len(self.label_names)))
            self.thresholds = np.full(len(self.columns), 0.5) if thresholds is None else np.asarray(thresholds)
            if len(self.thresholds) != len(self.label_names):
                raise ValueError(f"Expected {len(self.label_names)} thresholds, got {len(self.thresholds)}.")
            network = classifier
        self.batch_size = batch_size
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.network = network.to(self.device).eval()

    @torch.no_grad()
    def __call__(self, images: Sequence) -> np.ndarray:
        """
        Args:
            images (`Sequence`):
                PIL images, paths or arrays, as [`LlmCxrImageProcessor`] takes them.

        Returns:
            `np.ndarray` of shape `(len(images), len(label_names))` and dtype `float32`.

        Raises:
            ValueError: there are no images, or a module does not give as many logits as there are names.
        """
        if not len(images):
            raise ValueError("Expected at least one image to classify, got none.")
        processor, rows = LlmCxrImageProcessor(do_convert_rgb=False), []
        for start in tqdm(range(0, len(images), self.batch_size), desc="Labels", unit="batch", leave=False):
            batch = list(images[start : start + self.batch_size])
            logits = self.network(processor(batch, return_tensors="pt").pixel_values.to(self.device))
            if logits.ndim != 2 or logits.shape[1] <= max(self.columns):
                raise ValueError(
                    f"Expected logits of {len(self.label_names)} labels, got an output of shape {tuple(logits.shape)}."
                )
            probabilities = logits.softmax(dim=-1) if self.thresholds is None else logits.sigmoid()
            rows.append(probabilities[:, self.columns].float().cpu().numpy())
        return np.concatenate(rows)


class ImageLabels(CxrMetric):
    """
    F1 and AUROC of the labels of generated images against those of real images, both given by a classifier (arXiv 2305.11490,
    table 4).

    Names of the numbers are `{f1, auroc, jaccard}_{micro, macro, weighted}`, `classes` and `{f1, auroc, jaccard}_{label}`, see
    [`classification_scores`]. The reference is the label of the real image; AUROC is of the probability of the generated one.
    All are in [0, 1], higher is better. They say as much as the classifier is right.

    A unit is a `np.ndarray` of shape `(2, num_labels)`: the probabilities of the generated and of the real image.

    Args:
        classifier ([`ImageClassifier`]):
            What gives the labels.
    """

    FEATURES = Features({"predictions": Image(), "references": Image()})

    def __init__(self, classifier: ImageClassifier, **kwargs):
        super().__init__(**kwargs)
        self.classifier = classifier

    def _units(self, predictions: Sequence, references: Sequence) -> list[np.ndarray]:
        return self.units_of(self.classifier(predictions), self.classifier(references))

    @staticmethod
    def units_of(generated: np.ndarray, real: np.ndarray) -> list[np.ndarray]:
        """The units of images whose probabilities, `(num_images, num_labels)` each, the classifier has given before."""
        return list(np.stack([generated, real], axis=1))

    def aggregate(self, units: Sequence[np.ndarray]) -> dict[str, float]:
        probabilities = np.stack(units)
        if self.classifier.thresholds is None:
            labels = probabilities == probabilities.max(axis=-1, keepdims=True)
        else:
            labels = probabilities >= self.classifier.thresholds
        averages, per_class = classification_scores(labels[:, 0], labels[:, 1], scores=probabilities[:, 0])
        for name, values in per_class.items():
            averages |= {
                f"{name}_{label.lower().replace(' ', '_')}": float(value)
                for label, value in zip(self.classifier.label_names, values)
            }
        return averages


def _label_names(classifier: str) -> list[str]:
    if Path(classifier).is_dir():
        return list(AutoConfig.from_pretrained(classifier).id2label.values())
    from torchxrayvision.models import model_urls

    return list(model_urls[classifier.removeprefix("densenet121-res224-")]["labels"])
