"""The clinical network of LLM-CXR's VQ-GAN: what a classifier of X-rays sees should survive the reconstruction."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoModelForImageClassification


class ClinicalClassifier(nn.Module):
    """
    A frozen classifier behind the pixels of [`CXRVQTokenizer`]: it resizes them, makes them grey, maps them to the values
    that the network was trained on, and gives its pooled features. Gradients reach the pixels, never the network.

    Args:
        features (`nn.Module`):
            Takes `(batch_size, 1, image_size, image_size)` and gives features, `(batch_size, num_features)` or
            `(batch_size, num_features, rows, columns)`; the latter are averaged over rows and columns.
        image_size (`int`):
            Height and width in pixels that `features` wants.
        value_range (`tuple[float, float]`):
            The values of black and white that `features` wants, such as `(-1024, 1024)` for torchxrayvision.
        head (`nn.Module`, *optional*):
            Takes the pooled features and gives logits, `(batch_size, num_labels)`.
        thresholds (`torch.FloatTensor` of shape `(num_labels,)`, *optional*):
            Probability from which on a label is there. Without it the labels exclude each other.
    """

    def __init__(
        self,
        features: nn.Module,
        image_size: int,
        value_range: tuple[float, float],
        head: nn.Module | None = None,
        thresholds: torch.FloatTensor | None = None,
    ):
        super().__init__()
        self.features = features
        self.image_size = image_size
        self.value_range = value_range
        self.head = head
        self.register_buffer("thresholds", thresholds)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True):
        # Batch normalisation and dropout of a frozen network stay in evaluation.
        return super().train(False)

    def forward(self, pixel_values: torch.FloatTensor) -> torch.FloatTensor:
        """
        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, 1 or 3, height, width)`):
                Images in [-1, 1]; values beyond are not clipped.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_features)`.
        """
        low, high = self.value_range
        grey = pixel_values.mean(dim=1, keepdim=True)
        if grey.shape[-2:] != (self.image_size, self.image_size):
            grey = F.interpolate(grey, (self.image_size, self.image_size), mode="bilinear", antialias=True)
        features = self.features(low + (grey + 1) * ((high - low) / 2))
        return features.mean(dim=(2, 3)) if features.ndim == 4 else features

    def distance(self, reconstruction: torch.FloatTensor, pixel_values: torch.FloatTensor) -> torch.FloatTensor:
        """
        The clinical term: the mean squared difference of the features of two batches of images, of shape `()`
        (arXiv 2305.11490, section 3.1, which leaves the layer and the reduction open).
        """
        with torch.no_grad():
            target = self(pixel_values)
        return F.mse_loss(self(reconstruction), target)

    def labels(self, logits: torch.FloatTensor) -> torch.LongTensor:
        """
        What the head's logits, `(batch_size, num_labels)`, say: 0 or 1 for each label, `(batch_size, num_labels)`, where
        there are thresholds, and otherwise the most probable label, `(batch_size, 1)`.
        """
        if self.thresholds is None:
            return logits.argmax(dim=-1, keepdim=True)
        return (logits.sigmoid() >= self.thresholds).long()


class _TransformersFeatures(nn.Module):
    """The pooled features of a model of Transformers for grey images in [0, 1]."""

    def __init__(self, model: nn.Module, num_channels: int, mean: list[float], std: list[float]):
        super().__init__()
        self.model = model
        self.num_channels = num_channels
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, grey: torch.FloatTensor) -> torch.FloatTensor:
        pixel_values = (grey.expand(-1, self.num_channels, -1, -1) - self.mean) / self.std
        return self.model(pixel_values).pooler_output


def load_clinical_classifier(name_or_path: str) -> ClinicalClassifier:
    """
    Loads a classifier of X-rays.

    Args:
        name_or_path (`str`):
            The folder of an image classifier of Transformers with its image processor, a convolutional one whose head is
            `classifier` (ResNet, ConvNeXt, EfficientNet, RegNet ...), or the name of a DenseNet of torchxrayvision, such as
            `"densenet121-res224-all"`, the paper's (arXiv 2305.11490, section 3.1).

    Raises:
        ImportError: torchxrayvision is not installed.
        OSError: its weights are neither there nor can be downloaded.
        ValueError: there is no such folder or name.
    """
    if Path(name_or_path).is_dir():
        model = AutoModelForImageClassification.from_pretrained(name_or_path)
        processor = AutoImageProcessor.from_pretrained(name_or_path)
        normalize = (processor.image_mean, processor.image_std) if processor.do_normalize else ([0.0], [1.0])
        features = _TransformersFeatures(model.base_model, model.config.num_channels, *normalize)
        several = model.config.problem_type == "multi_label_classification"
        return ClinicalClassifier(
            features,
            image_size=processor.size["height"] if "height" in processor.size else processor.size["shortest_edge"],
            value_range=(0.0, 1.0),
            head=model.classifier,
            thresholds=torch.full((model.config.num_labels,), 0.5) if several else None,
        )
    try:
        from torchxrayvision.models import DenseNet, model_urls
    except ImportError as error:
        raise ImportError(
            f"'{name_or_path}' is no folder, and torchxrayvision, which has classifiers by name, is not installed: `pip "
            "install transformers-cxr[clinical]`."
        ) from error
    names = [name for name in model_urls if name.startswith("densenet")]
    if name_or_path not in names:
        raise ValueError(
            f"'{name_or_path}' is neither a folder nor a DenseNet of torchxrayvision: {', '.join(names)}."
        )
    try:
        model = DenseNet(weights=name_or_path)
    except OSError as error:
        raise OSError(
            f"The weights of torchxrayvision's '{name_or_path}' could not be read or downloaded: {error}. Put them into "
            "'~/.torchxrayvision/models_data', or give the folder of another classifier."
        ) from error
    return ClinicalClassifier(
        # The network's own pooling comes after this activation.
        nn.Sequential(model.features, nn.ReLU()),
        image_size=224,
        value_range=(-1024.0, 1024.0),
        head=model.classifier,
        # Labels that these weights do not know have no operating point.
        thresholds=model.op_threshs.nan_to_num(0.5),
    )
