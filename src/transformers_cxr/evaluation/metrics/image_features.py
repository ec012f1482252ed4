"""Feature spaces that sets of images are compared in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from ...classifiers import load_classifier
from ...llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor

RAD_DINO = "microsoft/rad-dino"


class ImageFeatures:
    """
    Features of images. All images are prepared alike, as for the model, before a network sees them: grey, shorter side resized
    to 256 pixels, centre crop, so that generated and real images differ in what they show only.

    Args:
        network (`Callable[[torch.FloatTensor], torch.FloatTensor]`):
            Takes images, `(batch_size, 1, 256, 256)` in [-1, 1], and gives features, `(batch_size, num_features)`.
            [`load_image_features`] has those of the field.
        batch_size (`int`, *optional*, defaults to 32):
            Images at once.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`):
            Where `network` is.
    """

    def __init__(
        self,
        network: Callable[[torch.FloatTensor], torch.FloatTensor],
        batch_size: int = 32,
        device: str | torch.device = "cpu",
    ):
        self.network = network
        self.image_processor = LlmCxrImageProcessor(do_convert_rgb=False)
        self.batch_size = batch_size
        self.device = device

    @torch.no_grad()
    def __call__(self, images: Sequence) -> np.ndarray:
        """
        Args:
            images (`Sequence`):
                PIL images, paths or arrays, as [`LlmCxrImageProcessor`] takes them.

        Returns:
            `np.ndarray` of shape `(len(images), num_features)` and dtype `float32`.

        Raises:
            ValueError: `network` does not take images of this size, or does not give one row of features an image.
        """
        features = []
        starts = range(0, len(images), self.batch_size)
        for start in tqdm(starts, desc="Features", unit="batch", leave=False):
            batch = list(images[start : start + self.batch_size])
            pixel_values = self.image_processor(batch, return_tensors="pt").pixel_values.to(self.device)
            try:
                output = self.network(pixel_values)
            except RuntimeError as error:
                raise ValueError(
                    f"The feature network does not take images of shape {tuple(pixel_values.shape)}: {error}"
                ) from error
            if output.ndim != 2 or len(output) != len(batch):
                raise ValueError(
                    f"Expected features of shape ({len(batch)}, num_features) of {len(batch)} images, got "
                    f"{tuple(output.shape)}."
                )
            features.append(output.float().cpu().numpy())
        return np.concatenate(features)


def load_image_features(
    name: str | nn.Module, batch_size: int = 32, device: str | torch.device | None = None
) -> ImageFeatures:
    """
    Features by name.

    Args:
        name (`str` or `nn.Module`):
            - `"inception"`: the 2,048 features of the Inception v3 that FID is of (torch-fidelity);
            - `"rad-dino"`: the class token of RadDINO (`microsoft/rad-dino`, 768 features);
            - a DenseNet of torchxrayvision, such as `"densenet121-res224-all"` (its 1,024 pooled features);
            - the folder of an image classifier of Transformers, as [`load_classifier`] takes it;
            - the folder or the name of any other vision model of Transformers, whose pooled output is taken;
            - a module that takes images, `(batch_size, 1, 256, 256)` in [-1, 1], and gives `(batch_size, num_features)`.
        batch_size (`int`, *optional*, defaults to 32):
            Images at once.
        device (`str` or `torch.device`, *optional*):
            Where the network runs; by default a GPU where there is one.

    Raises:
        ImportError: the package that has the network is not installed.
        OSError: its weights are neither there nor can be downloaded; the error says which and how to provide them.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(name, nn.Module):
        network = name
    elif name == "inception":
        network = _Inception()
    elif name.startswith("densenet121-") or _is_classifier(name):
        return ImageFeatures(load_classifier(name).to(device).features, batch_size=batch_size, device=device)
    else:
        network = _VisionModel(RAD_DINO if name == "rad-dino" else name)
    return ImageFeatures(network.to(device).eval(), batch_size=batch_size, device=device)


def _is_classifier(name: str) -> bool:
    if not Path(name).is_dir():
        return False
    architectures = AutoConfig.from_pretrained(name).architectures or []
    return any(architecture.endswith("ForImageClassification") for architecture in architectures)


class _Inception(nn.Module):
    def __init__(self):
        super().__init__()
        try:
            from torchmetrics.image.fid import NoTrainInceptionV3
        except ImportError as error:
            raise ImportError(
                "'inception' needs torchmetrics and torch-fidelity: `pip install transformers-cxr[evaluate]`."
            ) from error
        try:
            self.network = NoTrainInceptionV3(name="inception-v3-compat", features_list=["2048"])
        except OSError as error:
            raise OSError(
                f"The weights of torch-fidelity's Inception v3 could not be read or downloaded: {error}. Put "
                "'pt_inception-2015-12-05-6726825d.pth' into '~/.cache/torch/hub/checkpoints', or give another feature space."
            ) from error

    def forward(self, pixel_values: torch.FloatTensor) -> torch.FloatTensor:
        pixels = ((pixel_values + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return self.network(pixels.expand(-1, 3, -1, -1))


class _VisionModel(nn.Module):
    """A vision model of Transformers behind its image processor."""

    def __init__(self, name: str):
        super().__init__()
        try:
            self.model = AutoModel.from_pretrained(name)
            self.image_processor = AutoImageProcessor.from_pretrained(name)
        except OSError as error:
            raise OSError(
                f"'{name}' could not be read or downloaded. Give the folder of a vision model of Transformers (`hf download "
                f"{name} --local-dir FOLDER` where there is a network), or another feature space."
            ) from error

    def forward(self, pixel_values: torch.FloatTensor) -> torch.FloatTensor:
        pixels = ((pixel_values + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1)
        inputs = self.image_processor(images=list(pixels.cpu().numpy()), return_tensors="pt")
        return self.model(inputs.pixel_values.to(self.model.device)).pooler_output.flatten(1)
