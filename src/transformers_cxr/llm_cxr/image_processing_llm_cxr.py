"""Image processor of LLM-CXR: images of any kind to pixels of the VQ-GAN and back."""

from __future__ import annotations

import base64
import os
from contextlib import suppress
from io import BytesIO
from typing import BinaryIO

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import get_session
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import ChannelDimension, PILImageResampling, SizeDict, infer_channel_dimension_format
from transformers.processing_utils import ImagesKwargs, Unpack

from .configuration_llm_cxr import ignore_remote_code
from .dicom_llm_cxr import is_dicom, is_dicom_dataset, read_dicom

MIN_SIDE = 16
MAX_ASPECT_RATIO = 20
# Pillow's other formats are not photographs, or run a program on the file, as EPS does.
FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "WEBP", "GIF", "PPM", "AVIF")
# In seconds.
DOWNLOAD_TIMEOUT = 30
# In characters; a shorter string is a path.
MIN_BASE64 = 64


def _read_source(source) -> tuple[bytes | str, str]:
    """Return the path or the bytes of a file, and its name for errors."""
    # Open files, temporary files and those of fsspec have no common class.
    if hasattr(source, "read"):
        source = source.read()
    if isinstance(source, bytes):
        return source, f"image of {len(source)} bytes"
    source = os.fspath(source)
    if source.startswith(("http://", "https://")):
        try:
            response = get_session().get(source, follow_redirects=True, timeout=DOWNLOAD_TIMEOUT)
            return response.raise_for_status().content, source
        except HTTPError as error:
            raise ConnectionError(f"Cannot download '{source}': {error or type(error).__name__}.") from error
    is_data_uri = source.startswith("data:image/")
    if not is_data_uri and os.path.isfile(source):
        return source, source
    if is_data_uri or len(source) >= MIN_BASE64:
        with suppress(ValueError):
            # Base64 from mails and from the shell is broken into lines.
            return base64.b64decode("".join(source.rpartition(",")[2].split()), validate=True), "base64 image"
    shown = source if len(source) <= 200 else f"{source[:100]}..."
    raise FileNotFoundError(
        f"No image file at '{shown}'. Give a path, an http(s) URL, a `data:image/` string or valid base64."
    )


def open_image(source: str | bytes | os.PathLike | BinaryIO) -> PIL.Image.Image:
    """
    Open an image with its EXIF orientation applied and its bit depth kept, or a DICOM image as [`read_dicom`] does.

    Args:
        source (`str`, `bytes`, `os.PathLike`, binary file object or `pydicom.Dataset`):
            Path, http(s) URL, `data:image/...;base64,` string, base64, bytes of an image file, open file, or DICOM
            dataset. DICOM files are recognized by their content. A damaged EXIF block is ignored.

    Raises:
        FileNotFoundError: The file does not exist.
        ConnectionError: The URL cannot be downloaded.
        ValueError: The file is empty, truncated, not an image, larger than `PIL.Image.MAX_IMAGE_PIXELS`, or a DICOM
            file that [`read_dicom`] refuses.
    """
    if is_dicom_dataset(source):
        return read_dicom(source)
    file, name = _read_source(source)
    if is_dicom(file):
        return read_dicom(file, name=name)
    try:
        image = PIL.Image.open(BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS)
        limit = PIL.Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise ValueError(f"{image.width}x{image.height} pixels exceed {limit}, could be a decompression bomb")
        return _normalize(image)
    # The error of Pillow on a broken file depends on the format.
    except Exception as error:
        raise ValueError(f"Cannot read '{name}' as an image: {error}.") from error


def _normalize(image: PIL.Image.Image) -> PIL.Image.Image:
    """Apply the EXIF orientation of an image, and invert 16-bit TIFFs whose white is 0; Pillow inverts those of 8."""
    image.load()
    white_is_zero = image.mode == "I;16" and getattr(image, "tag_v2", {}).get(PHOTOMETRIC_INTERPRETATION) == 0
    # The pixels are intact where the EXIF block is damaged, for which Pillow raises errors of many types.
    with suppress(Exception):
        image = PIL.ImageOps.exif_transpose(image)
    return PIL.Image.fromarray(np.iinfo(np.uint16).max - np.asarray(image)) if white_is_zero else image


def _to_uint8(array: np.ndarray) -> np.ndarray:
    """
    Convert pixels of any dtype to 8 bits. Floats in [0, 1] are scaled by 255, values in [0, 255] are kept, and wider
    ranges, such as 12- and 16-bit radiographs, are windowed from their minimum to their maximum.
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype.kind not in "iuf":
        raise ValueError(f"Expected pixels that are integers, floats or booleans, got an array of {array.dtype}.")
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("The image holds NaN or infinite pixels.")
    offset, scale = 0.0, 1.0
    if array.dtype.kind == "f" and low >= 0 and high <= 1:
        scale = 255.0
    elif low < 0 or high > 255:
        offset, scale = low, 255 / (high - low) if high > low else 0.0
    # By rows, because 64 bits of each pixel take much memory.
    pixels = np.stack([((row.astype(np.float64) - offset) * scale).round().astype(np.uint8) for row in array])
    if high > low and pixels.min() == pixels.max():
        raise ValueError(f"All pixels become the same gray in 8 bits: they are between {low:g} and {high:g}.")
    return pixels


class LlmCxrImageProcessorKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """
    round_to_nearest (`bool`, *optional*, defaults to `False`):
        Round the longer side and the position of the crop to the nearest pixel instead of down.
    """

    round_to_nearest: bool


class LlmCxrImageProcessor(PilBackend):
    r"""
    Prepare chest X-rays for [`CXRVQTokenizer`] as LLM-CXR does (arXiv 2305.11490, section 3.1): resize the shorter
    side to 256 pixels (Lanczos), crop the center, and scale pixels to [-1, 1].

    Images are PIL images of any mode, paths, URLs, bytes, `{"bytes", "path"}` of `datasets`, open files,
    `pydicom.Dataset`s, numpy arrays or torch tensors (`(height, width)`, `(height, width, channels)` or `(channels,
    height, width)`), of 8 or 16 bits or floating point. Files and bytes may be DICOM.

    do_convert_rgb (`bool`, *optional*, defaults to `True`):
        Return three channels; `False` returns one, gray.
    round_to_nearest (`bool`, *optional*, defaults to `False`):
        Round the longer side and the position of the crop to the nearest pixel, as the released LLM-CXR does; `False`
        rounds down, as Transformers does. They differ by at most one pixel.
    """

    valid_kwargs = LlmCxrImageProcessorKwargs

    resample = PILImageResampling.LANCZOS
    size = {"shortest_edge": 256}
    default_to_square = False
    crop_size = {"height": 256, "width": 256}
    do_resize = True
    do_center_crop = True
    do_rescale = True
    rescale_factor = 1 / 127.5
    do_normalize = True
    image_mean = 1.0
    image_std = 1.0
    do_convert_rgb = True
    round_to_nearest = False

    def __init__(self, **kwargs: Unpack[LlmCxrImageProcessorKwargs]):
        ignore_remote_code(kwargs)
        super().__init__(**kwargs)

    def fetch_images(self, images):
        """Open paths, URLs, bytes, files and DICOM datasets; return other images as they are."""
        if isinstance(images, (list, tuple)):
            return [self.fetch_images(image) for image in images]
        # Of `datasets.Image(decode=False)`.
        if isinstance(images, dict) and images.keys() == {"bytes", "path"}:
            images = images["path"] if images["bytes"] is None else images["bytes"]
        if isinstance(images, (str, bytes, os.PathLike)) or hasattr(images, "read") or is_dicom_dataset(images):
            return open_image(images)
        if not isinstance(images, (PIL.Image.Image, np.ndarray, torch.Tensor)):
            raise TypeError(
                "Expected an image as a PIL image, path, URL, bytes, file, DICOM dataset, numpy array or torch "
                f"tensor, got {type(images).__name__}."
            )
        # The base class does not take arrays of two dimensions for images.
        if not isinstance(images, PIL.Image.Image) and images.ndim == 2:
            return self._array_to_pil(images)
        return images

    def process_image(self, image, do_convert_rgb=None, input_data_format=None, **kwargs) -> np.ndarray:
        """Convert an image of any kind to `np.uint8` of shape `(channels, height, width)`, with 1 or 3 channels."""
        if isinstance(image, PIL.Image.Image):
            image = _normalize(image)
        else:
            image = self._array_to_pil(image, input_data_format)
        if image.mode in ("F", "I") or image.mode.startswith("I;16"):
            image = PIL.Image.fromarray(_to_uint8(np.asarray(image)))
        if min(image.size) < MIN_SIDE or max(image.size) > MAX_ASPECT_RATIO * min(image.size):
            raise ValueError(
                f"An image of {image.width}x{image.height} pixels cannot be a chest X-ray: both sides need at least "
                f"{MIN_SIDE} pixels, and the longer one at most {MAX_ASPECT_RATIO} times the shorter."
            )
        if image.mode in ("P", "PA", "LA", "RGBA"):
            background = PIL.Image.new("RGBA", image.size, "black")
            image = PIL.Image.alpha_composite(background, image.convert("RGBA"))
        array = np.asarray(image.convert("RGB" if do_convert_rgb else "L"))
        return np.moveaxis(array, -1, 0) if do_convert_rgb else array[None]

    def _array_to_pil(self, array: np.ndarray | torch.Tensor, input_data_format=None) -> PIL.Image.Image:
        if isinstance(array, torch.Tensor):
            array = array.detach().cpu()
            array = (array.float() if array.dtype.is_floating_point else array).numpy()
        if array.ndim != 2:
            if array.ndim != 3 or (input_data_format is None and not {array.shape[0], array.shape[-1]} & {1, 3, 4}):
                raise ValueError(
                    "Expected an image as (height, width), (height, width, channels) or (channels, height, width), of "
                    f"1, 3 or 4 channels, got an array of shape {array.shape}."
                )
            layout = input_data_format or infer_channel_dimension_format(array, num_channels=(1, 3, 4))
            if layout == ChannelDimension.FIRST:
                array = np.moveaxis(array, 0, -1)
            if array.shape[-1] == 1:
                array = array[..., 0]
        return PIL.Image.fromarray(np.ascontiguousarray(_to_uint8(array)))

    def _preprocess(
        self, images, do_resize, size, resample, do_center_crop, crop_size, round_to_nearest, **kwargs
    ) -> BatchFeature:
        if round_to_nearest and do_resize:
            images = [self._resize_to_nearest(image, size.shortest_edge, resample) for image in images]
            do_resize = False
        if round_to_nearest and do_center_crop:
            images = [self._crop_at_nearest(image, crop_size) for image in images]
            do_center_crop = False
        return super()._preprocess(images, do_resize, size, resample, do_center_crop, crop_size, **kwargs)

    def _resize_to_nearest(self, image: np.ndarray, shortest_edge: int, resample) -> np.ndarray:
        scale = shortest_edge / min(image.shape[-2:])
        height, width = (round(scale * side) for side in image.shape[-2:])
        return self.resize(image, SizeDict(height=height, width=width), resample=resample)

    def _crop_at_nearest(self, image: np.ndarray, size: SizeDict) -> np.ndarray:
        top, left = round((image.shape[-2] - size.height) / 2), round((image.shape[-1] - size.width) / 2)
        return image[:, top : top + size.height, left : left + size.width]

    def postprocess(self, pixel_values: torch.FloatTensor) -> list[PIL.Image.Image]:
        """
        Convert decoded pixels to images.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, channels, height, width)`):
                Images in [-1, 1], of 1 or 3 channels.

        Returns:
            `list[PIL.Image.Image]`: images of mode "L" or "RGB".
        """
        pixels = ((pixel_values.detach().float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return [PIL.Image.fromarray(p[0].numpy() if len(p) == 1 else p.permute(1, 2, 0).numpy()) for p in pixels]


def save_image(image: PIL.Image.Image, path: str | os.PathLike, **options) -> None:
    """
    Save an image with its `image.info["comment"]`, which marks a generated X-ray, in the metadata of the file. Pillow
    itself writes the comment to JPEG files, but not to PNG files. `options` are those of `PIL.Image.Image.save`.
    """
    pnginfo = PngInfo()
    if comment := image.info.get("comment"):
        pnginfo.add_text("Comment", comment)
    image.save(path, pnginfo=pnginfo, **options)


__all__ = ["LlmCxrImageProcessor", "open_image", "save_image"]
