"""Real X-rays and DICOM files in all formats, and damage to them, for `robustness.py`."""

from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import data_store
import imagecodecs
import numpy as np
import PIL.Image
import pydicom
from pydicom import uid
from pydicom.encaps import encapsulate, get_frame

from transformers_cxr import LlmCxrImageProcessor
from transformers_cxr.llm_cxr.dicom_llm_cxr import is_dicom

# A reader of hostile values must not refuse to write them.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE

IMAGE_FORMATS: dict[str, tuple[str, Callable[[PIL.Image.Image], PIL.Image.Image], dict]] = {
    "PNG": ("PNG", lambda image: image, {}),
    "PNG, 1 bit": ("PNG", lambda image: image.convert("1"), {}),
    "PNG, palette": ("PNG", lambda image: image.convert("P"), {}),
    "PNG, RGBA": ("PNG", lambda image: image.convert("RGBA"), {}),
    "PNG, 16 bits": ("PNG", lambda image: PIL.Image.fromarray(np.asarray(image).astype(np.uint16) << 4), {}),
    "TIFF": ("TIFF", lambda image: image, {}),
    "TIFF, 16 bits": ("TIFF", lambda image: PIL.Image.fromarray(np.asarray(image).astype(np.uint16) << 4), {}),
    "TIFF, float": (
        "TIFF",
        lambda image: PIL.Image.fromarray(np.asarray(image) / np.float32(255)),
        {"compression": "tiff_adobe_deflate"},
    ),
    "TIFF, LZW": ("TIFF", lambda image: image, {"compression": "tiff_lzw"}),
    "TIFF, JPEG": ("TIFF", lambda image: image, {"compression": "jpeg"}),
    "JPEG": (
        "JPEG",
        lambda image: image,
        {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\1\x12\0\3\0\0\0\1\0\3\0\0\0\0\0\0"},
    ),
    "JPEG, progressive": ("JPEG", lambda image: image.convert("RGB"), {"progressive": True}),
    "JPEG 2000": ("JPEG2000", lambda image: image, {}),
    "BMP": ("BMP", lambda image: image, {}),
    "WEBP": ("WEBP", lambda image: image, {}),
    "GIF": ("GIF", lambda image: image, {}),
    "PPM": ("PPM", lambda image: image, {}),
    # By default, the bytes depend on the number of cores.
    "AVIF": ("AVIF", lambda image: image, {"max_threads": 1}),
}

HOSTILE_VALUES = {
    "Rows": [0, 1, 16, 65535],
    "Columns": [0, 1, 16, 65535],
    "BitsAllocated": [1, 8, 12, 16, 32, 64],
    "BitsStored": [1, 8, 12, 16, 17],
    "HighBit": [0, 7, 11, 15],
    "PixelRepresentation": [0, 1, 2],
    "SamplesPerPixel": [0, 1, 3, 4],
    "PhotometricInterpretation": ["MONOCHROME1", "RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "X"],
    "PlanarConfiguration": [0, 1, 2],
    "NumberOfFrames": [0, 1, 2, 10**6],
    "WindowCenter": ["nan", "1e300", "-1e5", "5\\6", "40"],
    "WindowWidth": ["0", "-1", "0.5", "inf", "400"],
    "VOILUTFunction": ["SIGMOID", "LINEAR_EXACT", "X"],
    "RescaleSlope": ["0", "nan", "-1", "1e-9", "1e30"],
    "RescaleIntercept": ["inf", "-1024", "1e300"],
    "PixelPaddingValue": [0, 128, 65535],
    "PatientOrientation": ["R\\F", "F\\L", "X", "\\"],
    "PixelData": [b"", bytes(2), bytes(2**16)],
}
COMPRESSED_SYNTAXES = [
    uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless,
    uid.JPEGLSNearLossless, uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.RLELossless,
]  # fmt: skip
OTHER_SYNTAXES = [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian]


def encode_rle(pixels: np.ndarray) -> bytes:
    """Compress gray pixels of 8 or 16 bits as DICOM RLE: a segment of PackBits for each byte, the highest first."""
    planes = pixels.astype(pixels.dtype.newbyteorder(">")).view(np.uint8).reshape(*pixels.shape, -1)
    segments = [imagecodecs.packbits_encode(np.ascontiguousarray(plane)) for plane in np.moveaxis(planes, -1, 0)]
    segments = [segment + bytes(len(segment) % 2) for segment in segments]
    offsets = 64 + np.cumsum([0, *map(len, segments[:-1])])
    header = np.zeros(16, "<u4")
    header[: len(segments) + 1] = len(segments), *offsets
    return header.tobytes() + b"".join(segments)


ENCODERS = {
    uid.ExplicitVRLittleEndian: lambda pixels: pixels.tobytes(),
    uid.DeflatedExplicitVRLittleEndian: lambda pixels: pixels.tobytes(),
    uid.RLELossless: encode_rle,
    uid.JPEGLosslessSV1: lambda pixels: imagecodecs.ljpeg_encode(pixels),
    uid.JPEGLSLossless: lambda pixels: imagecodecs.jpegls_encode(pixels),
    uid.JPEG2000Lossless: lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True),
}


def make_dicom(pixels: np.ndarray, syntax: uid.UID) -> bytes:
    """Return a DICOM chest X-ray of gray pixels of 8 or 16 bits."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID, dataset.SOPInstanceUID = uid.DigitalXRayImageStorageForPresentation, "1.2.3.4"
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "DX", "CHEST", "PA"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    content = ENCODERS[syntax](pixels)
    dataset.add_new("PixelData", "OB" if syntax.is_compressed else "OW", content)
    if syntax.is_encapsulated:
        dataset.PixelData = encapsulate([content])
        dataset["PixelData"].is_undefined_length = True
    return write(dataset)


def write(dataset: pydicom.Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def image_seeds(xrays: list[Path]) -> list[bytes]:
    """Return X-rays of 256x256 pixels in every image format."""
    seeds = []
    for path in xrays:
        xray = PIL.Image.open(path).convert("L").resize((256, 256))
        for name, convert, options in IMAGE_FORMATS.values():
            buffer = BytesIO()
            convert(xray).save(buffer, name, **options)
            seeds.append(buffer.getvalue())
    return seeds


def dicom_seeds(xrays: list[Path]) -> list[bytes]:
    """Return X-rays of 256x256 pixels in transfer syntaxes of all kinds."""
    seeds = []
    for path in xrays:
        pixels = np.asarray(PIL.Image.open(path).convert("L").resize((256, 256))).astype(np.uint16) << 4
        seeds += [make_dicom(pixels, syntax) for syntax in ENCODERS]
    return seeds


def pydicom_seeds() -> list[bytes]:
    """Return the files of pydicom and pydicom-data that are read as X-rays, up to 1 MiB."""
    processor, seeds = LlmCxrImageProcessor(), []
    for root in (Path(pydicom.__file__).parent / "data", Path(data_store.__file__).parent):
        for path in filter(is_dicom, sorted(root.rglob("*.dcm"))):
            if path.stat().st_size > 2**20:
                continue
            try:
                dataset = pydicom.dcmread(path)
                dataset.Modality, dataset.BodyPartExamined = "DX", "CHEST"
                processor(seed := write(dataset))
            # Files without an image, and those that pydicom cannot write again.
            except Exception:
                continue
            seeds.append(seed)
    return seeds


def damage(seeds: list[bytes], generator: np.random.Generator) -> bytes:
    """Return a seed with hostile DICOM elements, changed bytes, or both."""
    content = seeds[generator.integers(len(seeds))]
    if is_dicom(content) and generator.random() < 0.5:
        # pydicom cannot write all combinations, and raises errors of many types.
        with suppress(Exception):
            content = _set_hostile_values(content, generator)
            if generator.random() < 0.5:
                return content
    return _change_bytes(content, seeds, generator)


def _set_hostile_values(content: bytes, generator: np.random.Generator) -> bytes:
    dataset = pydicom.dcmread(BytesIO(content))
    is_encapsulated = dataset.file_meta.TransferSyntaxUID.is_encapsulated
    for _ in range(generator.integers(1, 4)):
        keyword = generator.choice([*HOSTILE_VALUES, "TransferSyntaxUID"])
        if keyword == "TransferSyntaxUID":
            syntaxes = COMPRESSED_SYNTAXES if is_encapsulated else OTHER_SYNTAXES
            dataset.file_meta.TransferSyntaxUID = syntaxes[generator.integers(len(syntaxes))]
        elif keyword == "PixelData" and is_encapsulated:
            frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
            dataset.PixelData = encapsulate([_change_bytes(frame, [frame], generator) or b"\0"])
        else:
            values = HOSTILE_VALUES[keyword]
            setattr(dataset, keyword, values[generator.integers(len(values))])
    return write(dataset)


def _change_bytes(content: bytes, seeds: list[bytes], generator: np.random.Generator) -> bytes:
    # Half of the damage is to the header.
    reach = len(content) if generator.random() < 0.5 else min(len(content), 1024)
    begin = int(generator.integers(reach))
    end = begin + int(generator.integers(1, 65))
    run, other = content[begin:end], seeds[generator.integers(len(seeds))]
    match generator.integers(7):
        case 0:
            damaged = bytearray(content)
            for position in generator.integers(0, reach, generator.integers(1, 17)):
                damaged[position] ^= 1 << generator.integers(8)
            return bytes(damaged)
        case 1:
            return content[:begin] + generator.bytes(len(run)) + content[end:]
        case 2:
            return content[:begin] + (b"\0", b"\xff")[generator.integers(2)] * len(run) + content[end:]
        case 3:
            return content[:begin]
        case 4:
            return content[:begin] + content[end:]
        case 5:
            return content[:end] + run * int(generator.integers(1, 65)) + content[end:]
        case _:
            return content[:begin] + other[begin:]
