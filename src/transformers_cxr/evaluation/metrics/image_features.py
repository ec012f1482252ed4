"""Feature spaces for the comparison of sets of images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from transformers import AutoConfig, AutoImageProcessor, AutoModel, BaseImageProcessor, PreTrainedModel

from ...checkpoints import find_device
from ...classifiers import load_classifier, load_efficientnet_lite0
from ...data.readers.image_folder import READ_ERRORS
from ...llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor

RAD_DINO = "microsoft/rad-dino"


class ImageFeatures:
    """
    Compute features, of shape `(len(images), num_features)`, of PIL images, paths or arrays. All images are first
    prepared as for the model (gray, shorter side resized to 256 pixels, center crop), so that real and generated ones
    differ only in content.

    Args:
        network (`Callable[[torch.FloatTensor], torch.FloatTensor]`):
            Maps images of shape `(batch_size, 1, 256, 256)` in [-1, 1] to features of shape `(batch_size,
            num_features)`.
        batch_size (`int`, *optional*, defaults to 32):
            Images per forward pass.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`):
            Device of `network`.
    """

    def __init__(
        self,
        network: Callable[[torch.FloatTensor], torch.FloatTensor],
        batch_size: int = 32,
        device: str | torch.device = "cpu",
    ):
        self.network, self.batch_size, self.device = network, batch_size, device
        self.image_processor = LlmCxrImageProcessor(do_convert_rgb=False)

    @torch.no_grad()
    def __call__(self, images: Sequence, skip_unreadable: bool = False) -> np.ndarray:
        batches = pixel_batches(
            self.image_processor, images, self.batch_size, self.device, "features", skip_unreadable
        )
        features = [self.network(pixel_values).float().cpu().numpy() for pixel_values in batches]
        if not features:
            raise ValueError(f"None of {len(images)} images can be read.")
        return np.concatenate(features)


def pixel_batches(
    image_processor: LlmCxrImageProcessor,
    images: Sequence,
    batch_size: int,
    device: str | torch.device,
    name: str,
    skip_unreadable: bool = False,
) -> Iterator[torch.FloatTensor]:
    """
    Yield the pixels of images in batches, under a progress bar called `name`. An unreadable image is an error, or is
    named on the standard error output and left out.
    """
    for start in tqdm(range(0, len(images), batch_size), desc=name, unit="batch", leave=False):
        pixel_values = []
        for image in images[start : start + batch_size]:
            try:
                pixel_values.append(image_processor(image, return_tensors="pt").pixel_values)
            except READ_ERRORS as error:
                if not skip_unreadable:
                    raise
                tqdm.write(f"Not read: {image}: {error}", file=sys.stderr)
        if pixel_values:
            yield torch.cat(pixel_values).to(device)


def load_image_features(name: str, batch_size: int = 32) -> ImageFeatures:
    """
    Load a feature space, on a GPU if there is one.

    Args:
        name (`str`):
            - `"inception"`: the 2,048 features of the Inception v3 of FID (torch-fidelity);
            - `"efficientnet-lite0"`: the 1,280 pooled ImageNet features of EfficientNet-Lite0, whose weights come in a
              package;
            - `"rad-dino"`: the class token of RadDINO (`microsoft/rad-dino`, 768 features);
            - a DenseNet of torchxrayvision, such as `"densenet121-res224-all"` (1,024 pooled features);
            - the folder of an image classifier of Transformers, see [`load_classifier`];
            - the folder or name of any other vision model of Transformers (its pooled output).
        batch_size (`int`, *optional*, defaults to 32):
            Images per forward pass.

    Raises:
        ImportError: the package of the network is not installed.
        OSError: the weights cannot be read or downloaded; the error names them and where they belong.
    """
    device = find_device()
    if name == "inception":
        network = _inception().to(device)

        def features(pixel_values: torch.FloatTensor) -> torch.FloatTensor:
            return network(_to_rgb_bytes(pixel_values))

    elif name == "efficientnet-lite0":
        network = load_efficientnet_lite0().eval().to(device)
        network.reset_classifier(0)

        def features(pixel_values: torch.FloatTensor) -> torch.FloatTensor:
            return network(pixel_values.expand(-1, 3, -1, -1))

    elif name.startswith("densenet121-") or _is_classifier(name):
        features = load_classifier(name).to(device).features
    else:
        model, image_processor = _vision_model(RAD_DINO if name == "rad-dino" else name)
        model.to(device)

        def features(pixel_values: torch.FloatTensor) -> torch.FloatTensor:
            images = list(_to_rgb_bytes(pixel_values).cpu().numpy())
            inputs = image_processor(images=images, return_tensors="pt")
            return model(inputs.pixel_values.to(device)).pooler_output.flatten(1)

    return ImageFeatures(features, batch_size, device)


def _is_classifier(name: str) -> bool:
    if not Path(name).is_dir():
        return False
    architectures = AutoConfig.from_pretrained(name).architectures or []
    return any(architecture.endswith("ForImageClassification") for architecture in architectures)


def _inception() -> nn.Module:
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3
    except ImportError as error:
        raise ImportError("'inception' needs `pip install transformers-cxr[evaluate]`.") from error
    try:
        return NoTrainInceptionV3(name="inception-v3-compat", features_list=["2048"]).eval()
    except OSError as error:
        raise OSError(
            f"The weights of torch-fidelity's Inception v3 could not be read or downloaded: {error}. Put "
            "'pt_inception-2015-12-05-6726825d.pth' into '~/.cache/torch/hub/checkpoints', or choose another "
            "feature space."
        ) from error


def _vision_model(name: str) -> tuple[PreTrainedModel, BaseImageProcessor]:
    try:
        return AutoModel.from_pretrained(name), AutoImageProcessor.from_pretrained(name)
    except OSError as error:
        raise OSError(
            f"'{name}' could not be read or downloaded. Give the folder of a vision model of Transformers (`hf "
            f"download {name} --local-dir FOLDER` on a machine with internet access), or choose another feature space."
        ) from error


def _to_rgb_bytes(pixel_values: torch.FloatTensor) -> torch.ByteTensor:
    return ((pixel_values + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1)
