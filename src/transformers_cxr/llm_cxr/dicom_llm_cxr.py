"""
DICOM radiographs as images.

For privacy, only the elements that describe the image are read, none that identifies a patient. Warnings, log records
and errors of pydicom, which quote values, are suppressed.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import warnings
import zlib
from io import BytesIO

import numpy as np
import PIL.Image
from transformers.utils.logging import get_logger

from .dicom_decoders_llm_cxr import UnreadableDicomError, check_compressed, get_decoder

try:
    import pydicom
    import pydicom.filereader
except ImportError:
    pydicom = None  # type: ignore[assignment]

logger = get_logger(__name__)

MODALITIES = ("CR", "DX", "DR", "XR", "RG", "SC", "OT")
BODY_PARTS = ("CHEST", "THORAX", "TORAX", "LUNG")
UNSPECIFIED = ("", "UNKNOWN", "OTHER", "NONE")
# SNOMED CT and SNOMED RT codes of the chest, alone or with adjacent regions, and of the lung (PS3.16, CID 4).
CHEST_REGIONS = {
    "816094009", "51185008", "T-D3000", "416550000", "R-FAB55", "416775004", "R-FAB56", "417437006", "R-FAB52",
    "416152001", "R-FAB53", "416319003", "R-FAB54", "39607008", "T-28000",
}  # fmt: skip

REQUIRED = (
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored",
    "PixelRepresentation", "PixelData",
)  # fmt: skip
ELEMENTS = (
    *REQUIRED, "Modality", "BodyPartExamined", "AnatomicRegionSequence", "ViewPosition", "ImageLaterality",
    "Laterality", "PatientOrientation", "PlanarConfiguration", "NumberOfFrames", "HighBit", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "ModalityLUTSequence", "RescaleIntercept", "RescaleSlope", "VOILUTSequence",
    "WindowCenter", "WindowWidth", "VOILUTFunction", "PresentationLUTShape", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)  # fmt: skip

# Bytes of a deflated dataset that may precede its pixels.
MAX_HEADER = 2**20

_PYDICOM_LOCK = threading.Lock()


def is_dicom_dataset(source) -> bool:
    """Return whether `source` is a `pydicom.Dataset`."""
    return pydicom is not None and isinstance(source, pydicom.Dataset)


def is_dicom(source: bytes | str | os.PathLike) -> bool:
    """Return whether bytes, or the file at a path, have "DICM" after 128 bytes (PS3.10, section 7.1)."""
    if isinstance(source, bytes):
        return source[128:132] == b"DICM"
    with open(source, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_dicom(source, force: bool = False, name: str | None = None) -> PIL.Image.Image:
    """
    Read a chest X-ray from DICOM in 8 bits with white bones, after modality LUT or rescale, VOI LUT or window, and
    inversion (PS3.3, C.11.1, C.11.2, C.7.6.3.1.2).

    The first VOI LUT is applied, scaled by the bits of its entries, or else the first window. Without either, images
    of more than 8 bits are windowed from their lowest to their highest value, as 16-bit PNGs are. Tables, rescales and
    windows that are not valid are ignored with a warning. Padding is black. Rows run to the patient's left and columns
    to the feet, if the patient orientation is known (C.7.6.1.1.1).

    Args:
        source (`str`, `os.PathLike`, `bytes` or `pydicom.Dataset`):
            A file, its content, or a dataset, which is not changed.
        force (`bool`, *optional*, defaults to `False`):
            Also read images of other modalities and body parts.
        name (`str`, *optional*):
            Name of the source in errors.

    Returns:
        `PIL.Image.Image`: image of mode "L", or "RGB" for color. Its `info` has the "Modality", "BodyPartExamined",
        "ViewPosition" and "ImageLaterality" that the file has, and the "Window" that is applied, such as "center 2048,
        width 4096" or "VOI LUT".

    Raises:
        ImportError: pydicom, or the decoder of a compressed transfer syntax, is not installed.
        ValueError: The file is truncated, damaged, not an image or too large, the image has several frames, all of its
            pixels become the same gray, or it is not a chest X-ray and `force` is `False`. Errors quote no values but
            modality, body part, number of frames, size and kind of pixels.
    """
    if pydicom is None:
        raise ImportError("Reading DICOM needs pydicom: `pip install pydicom`.")
    is_dataset = isinstance(source, pydicom.Dataset)
    if name is None:
        name = "DICOM image" if is_dataset or isinstance(source, bytes) else os.fspath(source)
    if not is_dataset and not is_dicom(source):
        raise ValueError(f"'{name}' is not a DICOM file: expected 'DICM' after 128 bytes.")
    dataset, info, decoder = _call_pydicom(_read_elements, name, source)
    if not force:
        _check_is_chest(info, name)
    _call_pydicom(_check_pixels, name, dataset)
    if not decoder.is_available:
        raise ImportError(
            f"The pixels of '{name}' are compressed as {decoder.UID.name}, for which no decoder is installed. "
            "`pip install transformers-cxr[dicom]` brings it."
        )
    image = PIL.Image.fromarray(_call_pydicom(_render, name, dataset, decoder))
    # Rendering has deleted what is not valid.
    image.info.update(info | _call_pydicom(_describe_window, name, dataset))
    if not force:
        _warn_about_view(info)
    return image


def _call_pydicom(function, name: str, *args):
    """Call a function that uses pydicom without its warnings, log records and errors, which quote private values."""
    pydicom_logger = logging.getLogger("pydicom")
    # The lock, because warning filters are global.
    with _PYDICOM_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = pydicom_logger.level
        pydicom_logger.setLevel(logging.CRITICAL + 1)
        try:
            return function(*args)
        except UnreadableDicomError as error:
            reason = str(error)
        # On a broken file pydicom and its decoders raise errors of any type.
        except Exception as error:
            reason = f"it is truncated or damaged ({type(error).__name__} while it was read)"
        finally:
            pydicom_logger.setLevel(level)
    # Outside of the `except` block, so that pydicom's error is not the context of this one.
    raise ValueError(f"Cannot read '{name}' as a DICOM image: {reason}.")


def _read_elements(source) -> tuple:
    """Return a dataset of the `ELEMENTS` that are not empty, its description, and the decoder of its pixels."""
    if isinstance(source, pydicom.Dataset):
        read = source
    else:
        with BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            read = _read_file(file)
    dataset = pydicom.Dataset()
    for keyword in ELEMENTS:
        if keyword not in read:
            continue
        try:
            element = read[keyword]
        except Exception:
            raise UnreadableDicomError(f"the value of its {keyword} is not valid") from None
        if not element.is_empty:
            dataset[keyword] = element
    # A dataset that is not from a file may have no file meta information.
    syntax = getattr(read, "file_meta", {}).get("TransferSyntaxUID", pydicom.uid.ExplicitVRLittleEndian)
    return dataset, _describe(dataset), get_decoder(syntax)


def _read_file(file):
    reader = pydicom.filereader
    reader.read_preamble(file, False)
    file_meta = reader.read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    if file_meta.get("TransferSyntaxUID") != pydicom.uid.DeflatedExplicitVRLittleEndian:
        file.seek(0)
        return pydicom.dcmread(file, specific_tags=list(ELEMENTS))
    # pydicom has no limit for the size of an inflated file.
    inflater, tags = zlib.decompressobj(-zlib.MAX_WBITS), [pydicom.tag.Tag(keyword) for keyword in ELEMENTS]
    content = inflater.decompress(file.read(), MAX_HEADER)
    header = reader.read_dataset(
        BytesIO(content), False, True, stop_when=lambda tag, vr, length: tag == 0x7FE00010, specific_tags=tags
    )
    _check_size(header)
    # At most three samples of 16 bits.
    limit = 6 * header.Rows * header.Columns
    content += inflater.decompress(inflater.unconsumed_tail, max(1, limit))
    # A byte of padding may follow the end.
    if inflater.unconsumed_tail and not inflater.eof:
        raise UnreadableDicomError(f"its pixels take more than {limit} bytes, could be a decompression bomb")
    dataset = reader.read_dataset(BytesIO(content), False, True, specific_tags=tags)
    dataset.file_meta = pydicom.dataset.FileMetaDataset(file_meta)
    return dataset


def _check_pixels(dataset) -> None:
    if missing := [keyword for keyword in REQUIRED if keyword not in dataset]:
        raise UnreadableDicomError(f"it is truncated, or holds no image: it has no {', '.join(missing)}")
    if (frames := int(dataset.get("NumberOfFrames", 1))) > 1:
        raise UnreadableDicomError(f"expected one frame, got {frames}; extract one")
    # Some files have 0 frames.
    dataset.pop("NumberOfFrames", None)
    if dataset.SamplesPerPixel > 1:
        dataset.setdefault("PlanarConfiguration", 0)
    if not 8 <= dataset.BitsStored <= dataset.BitsAllocated <= 16:
        raise UnreadableDicomError(
            f"expected pixels of 8 to 16 bits, got {dataset.BitsStored} bits stored in {dataset.BitsAllocated}"
        )
    _check_size(dataset)


def _check_size(dataset) -> None:
    limit = PIL.Image.MAX_IMAGE_PIXELS
    if limit is not None and dataset.Rows * dataset.Columns > limit:
        raise UnreadableDicomError(
            f"{dataset.Columns}x{dataset.Rows} pixels are more than `PIL.Image.MAX_IMAGE_PIXELS`, {limit}: could be a "
            "decompression bomb"
        )


def _describe(dataset) -> dict[str, str]:
    """Return the modality, body part, view and side that the dataset has, in capitals."""
    described = {keyword: dataset.get(keyword) for keyword in ("Modality", "BodyPartExamined", "ViewPosition")}
    described["ImageLaterality"] = dataset.get("ImageLaterality", dataset.get("Laterality"))
    regions = dataset.get("AnatomicRegionSequence")
    if described["BodyPartExamined"] is None and regions:
        code = regions[0].get("CodeValue")
        described["BodyPartExamined"] = "CHEST" if code in CHEST_REGIONS else code
    codes = {keyword: _code_string(value) for keyword, value in described.items() if value is not None}
    return {keyword: code for keyword, code in codes.items() if code not in UNSPECIFIED}


def _describe_window(dataset) -> dict[str, str]:
    if "VOILUTSequence" in dataset:
        return {"Window": "VOI LUT"}
    if "WindowCenter" in dataset and "WindowWidth" in dataset:
        center, width = (float(_first(dataset, keyword)) for keyword in ("WindowCenter", "WindowWidth"))
        return {"Window": f"center {center:g}, width {width:g}"}
    return {}


def _code_string(value) -> str:
    value = "\\".join(map(str, np.ravel(value))).strip().upper()
    # A value in the wrong element may be a name.
    return value if re.fullmatch(r"[A-Z0-9 _&/+,.\\-]{0,64}", value) else "(not a code)"


def _check_is_chest(info: dict[str, str], name: str) -> None:
    modality, body_part = info.get("Modality"), info.get("BodyPartExamined")
    way_out = "If it is one, read it with `read_dicom(..., force=True)`."
    if modality is not None and modality not in MODALITIES:
        raise ValueError(
            f"Expected a chest X-ray, got an image of modality {modality} ('{name}'): expected "
            f"{', '.join(MODALITIES)}. {way_out}"
        )
    if body_part is not None and not any(part in body_part for part in BODY_PARTS):
        raise ValueError(
            f"Expected a chest X-ray, got an image of body part {body_part} ('{name}'): expected a name with "
            f"{', '.join(BODY_PARTS)}. {way_out}"
        )


def _warn_about_view(info: dict[str, str]) -> None:
    """Log each warning once, as a folder may hold thousands of such files."""
    if missing := [keyword for keyword in ("Modality", "BodyPartExamined", "ViewPosition") if keyword not in info]:
        logger.warning_once(f"A DICOM image has no {', '.join(missing)}: it is taken for a frontal chest X-ray.")
    if (view := info.get("ViewPosition")) is not None and not {"AP", "PA"} & set(re.findall("[A-Z]+", view)):
        logger.warning_once(f"A DICOM image has the view position {view}: expected a frontal view, AP or PA.")
    if (side := info.get("ImageLaterality")) in ("L", "R"):
        logger.warning_once(f"A DICOM image shows one side only ({side}): expected a whole chest.")


def _render(dataset, decoder) -> np.ndarray:
    """Return the image as `np.uint8` of shape `(rows, columns)` or `(rows, columns, 3)`."""
    if decoder.is_encapsulated:
        check_compressed(dataset, decoder.UID)
    aligned = dataset.get("HighBit", dataset.BitsStored - 1) == dataset.BitsStored - 1
    try:
        pixels, properties = decoder.as_array(dataset, index=0, correct_unused_bits=aligned)
    except RuntimeError:
        raise UnreadableDicomError(f"its {decoder.UID.name} cannot be decoded; it may be damaged") from None
    if not aligned:
        # In older files the stored bits can be anywhere in the allocated ones.
        pixels = (pixels << (dataset.BitsAllocated - 1 - dataset.HighBit)) >> (
            dataset.BitsAllocated - dataset.BitsStored
        )
    if properties["photometric_interpretation"] in ("MONOCHROME1", "MONOCHROME2"):
        image = _render_grayscale(dataset, pixels, decoder.UID.is_little_endian)
    elif properties["photometric_interpretation"] == "RGB":
        values = np.arange(2**dataset.BitsStored)
        image = _map_values(pixels, (values * (255 / values[-1])).round().astype(np.uint8))
    else:
        code = _code_string(dataset.PhotometricInterpretation)
        raise UnreadableDicomError(f"expected grayscale or RGB pixels, got {code}")
    if image.min() == image.max() and pixels.min() != pixels.max():
        raise UnreadableDicomError("its window or table makes all of its pixels the same gray")
    return _orient(image, dataset.get("PatientOrientation", ""))


def _map_values(index: np.ndarray, table: np.ndarray) -> np.ndarray:
    # By rows, because numpy converts an index to 8 bytes per pixel.
    return np.stack([table[row] for row in index])


def _orient(image: np.ndarray, orientation) -> np.ndarray:
    """Turn and mirror an image so that its rows run to the patient's left and its columns to the feet."""
    directions = "".join(str(direction)[:1] for direction in orientation)
    if directions in ("FL", "FR", "HL", "HR"):
        image, directions = image.swapaxes(0, 1), directions[::-1]
    if directions in ("RF", "RH"):
        image = image[:, ::-1]
    if directions in ("LH", "RH"):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _render_grayscale(dataset, pixels: np.ndarray, little_endian: bool) -> np.ndarray:
    # All steps depend on the value of a pixel only, and there are fewer values than pixels.
    lowest = pixels.min()
    values = np.arange(int(lowest), int(pixels.max()) + 1)
    index = (pixels - lowest).view(f"u{pixels.itemsize}")
    padding, present = np.zeros((2, len(values)), dtype=bool)
    for row in index:
        present[row] = True
    if (limit := dataset.get("PixelPaddingValue")) is not None:
        limits = sorted((limit, dataset.get("PixelPaddingRangeLimit", limit)))
        padding = (values >= limits[0]) & (values <= limits[1])
    _delete_invalid(dataset)
    gray = _apply_modality_lut(dataset, values, little_endian)
    gray = _apply_voi_lut(dataset, gray, present & ~padding, little_endian)
    if dataset.PhotometricInterpretation == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE":
        gray = 1 - gray
    gray[padding] = 0
    return _map_values(index, (255 * gray).round().astype(np.uint8))


def _delete_invalid(dataset) -> None:
    """Delete tables, a rescale and a window that are not valid, with a warning."""
    checks = {
        "ModalityLUTSequence": _is_table,
        "RescaleIntercept": _is_number,
        "RescaleSlope": lambda slope: _is_number(slope) and slope != 0,
        "VOILUTSequence": _is_table,
        "WindowCenter": _is_number,
        "WindowWidth": lambda width: _is_number(width) and width > 0,
        "VOILUTFunction": ("LINEAR", "LINEAR_EXACT", "SIGMOID").__contains__,
    }
    invalid = [k for k, is_valid in checks.items() if k in dataset and not is_valid(_first(dataset, k))]
    if not invalid:
        return
    logger.warning_once(f"A DICOM image has a {', '.join(invalid)} that is not valid: it is ignored.")
    if not {"ModalityLUTSequence", "RescaleIntercept", "RescaleSlope"}.isdisjoint(invalid):
        # In the units that these define.
        invalid += ["VOILUTSequence", "WindowCenter"]
    if "VOILUTFunction" in invalid:
        invalid.append("WindowCenter")
    for keyword in invalid:
        dataset.pop(keyword, None)


def _first(dataset, keyword: str):
    """Return the first item or value of an element."""
    element = dataset[keyword]
    return element.value[0] if element.VR == "SQ" or element.VM > 1 else element.value


def _is_table(item) -> bool:
    return np.size(item.get("LUTDescriptor")) == 3 and "LUTData" in item and not item["LUTData"].is_empty


def _is_number(value: float) -> bool:
    # Larger ones are damage. A comparison with NaN is false.
    return abs(value) < 1e30


def _apply_modality_lut(dataset, values: np.ndarray, little_endian: bool) -> np.ndarray:
    if "ModalityLUTSequence" in dataset:
        return _look_up(_first(dataset, "ModalityLUTSequence"), values, little_endian)[0]
    if "RescaleSlope" in dataset and "RescaleIntercept" in dataset:
        return values * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    return values


def _apply_voi_lut(dataset, values: np.ndarray, present: np.ndarray, little_endian: bool) -> np.ndarray:
    """Convert values to grayscale in [0, 1] (PS3.3, C.11.2.1.1 to C.11.2.1.3)."""
    if "VOILUTSequence" in dataset:
        table = _first(dataset, "VOILUTSequence")
        looked_up, bits = _look_up(table, np.rint(values).astype(np.int64), little_endian)
        return (looked_up / (2**bits - 1)).clip(0, 1)
    if "WindowCenter" in dataset and "WindowWidth" in dataset:
        center, width = (float(_first(dataset, keyword)) for keyword in ("WindowCenter", "WindowWidth"))
        function = dataset.get("VOILUTFunction", "LINEAR")
        if function == "SIGMOID":
            return 1 / (1 + np.exp(-4 * (values - center) / width))
        # The standard has no narrower linear window, but files with rescaled pixels have, and mean an exact one.
        if function == "LINEAR" and width >= 1:
            center, width = center - 0.5, width - 1
        if width == 0:
            return (values > center).astype(np.float64)
        return ((values - center) / width + 0.5).clip(0, 1)
    if dataset.BitsStored == 8:
        stored = np.array([-128, 127] if dataset.PixelRepresentation else [0, 255])
        bounds = _apply_modality_lut(dataset, stored, little_endian)
    else:
        bounds = values[present]
    if len(bounds) == 0 or bounds.max() == bounds.min():
        return np.zeros(len(values))
    return ((values - bounds.min()) / (bounds.max() - bounds.min())).clip(0, 1)


def _look_up(table, values: np.ndarray, little_endian: bool) -> tuple[np.ndarray, int]:
    """Return the entries of a table at integer values, and their bits; those of the descriptor are often wrong."""
    number, first, _ = table.LUTDescriptor
    number = number or 2**16
    entries = table.LUTData
    if isinstance(entries, bytes):
        # Entries of 8 bits are stored in bytes or in words.
        kind = "u1" if len(entries) < 2 * number else "<u2" if little_endian else ">u2"
        entries = np.frombuffer(entries, kind)
    entries = np.atleast_1d(entries)[:number].astype(np.int64)
    return entries[(values - first).clip(0, len(entries) - 1)], max(1, int(entries.max()).bit_length())


__all__ = ["is_dicom", "is_dicom_dataset", "read_dicom"]
