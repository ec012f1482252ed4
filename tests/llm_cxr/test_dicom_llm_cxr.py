import logging
import re
import traceback
import warnings
from io import BytesIO
from pathlib import Path

import data_store
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)
from transformers.dynamic_module_utils import get_imports

from transformers_cxr import LlmCxrImageProcessor
from transformers_cxr.llm_cxr import dicom_decoders_llm_cxr, dicom_llm_cxr
from transformers_cxr.llm_cxr.dicom_llm_cxr import is_dicom, read_dicom
from transformers_cxr.llm_cxr.image_processing_llm_cxr import open_image

HEIGHT, WIDTH = 40, 36
FULLY_DESCRIBED = {"Modality": "DX", "BodyPartExamined": "CHEST", "ViewPosition": "PA"}


def make_dataset(pixels: np.ndarray, bits_stored: int | None = None, **elements) -> pydicom.Dataset:
    """A chest X-ray of these pixels, uncompressed."""
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = "1.2.3.4"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored = bits_stored or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.add_new("PixelData", "OW", pixels.tobytes())
    for keyword, value in {**FULLY_DESCRIBED, **elements}.items():
        setattr(dataset, keyword, value)
    return dataset


def to_bytes(dataset: pydicom.Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def sample(name: str) -> Path:
    """A file of pydicom or of pydicom-data."""
    return Path(get_testdata_file(name, download=False))


def pixels_of(source, **kwargs) -> np.ndarray:
    return np.asarray(read_dicom(source, **kwargs))


def oracle(dataset: pydicom.Dataset) -> np.ndarray:
    """Return 8-bit gray by pydicom's own functions, whose windowed values have the range of the rescaled ones."""
    values = apply_modality_lut(dataset.pixel_array, dataset)
    if "VOILUTSequence" in dataset:
        gray = apply_voi(values.astype(np.int64), dataset) / (2.0 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1)
    else:
        bits = dataset.BitsStored
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0, 2**bits - 1)
        slope, intercept = dataset.get("RescaleSlope", 1), dataset.get("RescaleIntercept", 0)
        low, high = float(low * slope + intercept), float(high * slope + intercept)
        gray = (apply_windowing(values, dataset) - low) / (high - low)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        gray = 1 - gray
    return (255 * gray).round().astype(np.uint8)


@pytest.fixture(scope="module")
def generator():
    return np.random.default_rng(0)


@pytest.fixture
def gray(generator):
    return generator.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)


@pytest.fixture
def warned(caplog):
    """What was logged; a warning of an earlier test is given again."""
    logging.Logger.warning_once.cache_clear()
    return caplog


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(
    ("bits", "dtype", "rescale", "photometric_interpretation"),
    [
        (8, "u1", None, "MONOCHROME2"),
        (10, "u2", (0.5, -1000), "MONOCHROME1"),
        (12, "i2", (0.5, -1000), "MONOCHROME2"),
        (16, "i2", None, "MONOCHROME1"),
    ],
)
def test_windows_equal_pydicom_value_for_value(generator, function, bits, dtype, rescale, photometric_interpretation):
    low = -(2 ** (bits - 1)) if dtype[0] == "i" else 0
    pixels = generator.integers(low, low + 2**bits, (HEIGHT, WIDTH)).astype(dtype)
    dataset = make_dataset(pixels, bits, PhotometricInterpretation=photometric_interpretation)
    slope, intercept = rescale or (1, 0)
    if rescale:
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
    dataset.WindowCenter = [slope * (low + 2**bits * 0.4) + intercept, 0]
    dataset.WindowWidth = [slope * 2**bits * 0.55, 1]
    if function:
        dataset.VOILUTFunction = function
    expected = oracle(dataset)
    assert len(np.unique(expected)) > 100
    np.testing.assert_array_equal(pixels_of(to_bytes(dataset)), expected)
    np.testing.assert_array_equal(pixels_of(dataset), expected)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("first", [0, 300])
def test_voi_tables_equal_pydicom_value_for_value(generator, syntax, first):
    entries = np.sort(generator.integers(0, 2**12, 3000)).astype("<u2")
    table = [pydicom.Dataset()]
    table[0].add_new("LUTDescriptor", "US", [3000, first, 12])
    table[0].add_new("LUTData", "OW", entries.tobytes())
    pixels = generator.integers(0, 2**12, (HEIGHT, WIDTH)).astype("<u2")
    dataset = make_dataset(pixels, 12, VOILUTSequence=table, RescaleSlope=1, RescaleIntercept=0)
    # The table goes before the window where both are.
    dataset.WindowCenter, dataset.WindowWidth = 10, 10
    expected = oracle(dataset)
    assert len(np.unique(expected)) > 100
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = pixels.byteswap().tobytes()
        table[0].LUTData = entries.byteswap().tobytes()
    np.testing.assert_array_equal(pixels_of(to_bytes(dataset)), expected)


@pytest.mark.parametrize("name", ["RG1_UNCR.dcm", "RG3_UNCI.dcm", "vlut_04.dcm", "693_UNCR.dcm"])
def test_real_files_equal_pydicom_value_for_value(name):
    dataset = pydicom.dcmread(sample(name))
    expected = oracle(dataset)
    if "PixelPaddingValue" in dataset:
        expected[dataset.pixel_array == dataset.PixelPaddingValue] = 0
    actual = pixels_of(sample(name), force=True)
    mirrored = dataset.get("PatientOrientation") == ["R", "F"]
    np.testing.assert_array_equal(actual, expected[:, ::-1] if mirrored else expected)
    assert len(np.unique(actual)) > 50


@pytest.mark.parametrize(
    ("compressed", "plain"),
    [
        ("MR_small_RLE.dcm", "MR_small.dcm"),
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
        ("MR_small_bigendian.dcm", "MR_small.dcm"),
        ("SC_rgb_jpeg_gdcm.dcm", "SC_rgb.dcm"),
        ("SC_rgb_rle.dcm", "SC_rgb.dcm"),
        ("SC_rgb_gdcm_KY.dcm", "SC_rgb_gdcm2k_uncompressed.dcm"),
        ("US1_J2KR.dcm", "US1_UNCR.dcm"),
        ("SC_ybr_full_uncompressed.dcm", "SC_rgb_dcmtk_ebcyn2_dcmd.dcm"),
    ],
)
def test_every_transfer_syntax_gives_the_pixels_of_the_uncompressed_file(compressed, plain):
    difference = pixels_of(sample(compressed), force=True).astype(int) - pixels_of(sample(plain), force=True)
    assert np.abs(difference).max() <= (2 if "ybr" in compressed else 0)


NOT_READ_BY_ITK = {
    "chrJapMulti", "chrJapMultiExplicitIR6", "chrKoreanMulti", "JPEG2000-embedded-sequence-delimiter", "MR_truncated"
}  # fmt: skip


def gray_files() -> list[Path]:
    """The files of pydicom and pydicom-data with one gray image of 8 to 16 bits, and no tables, which ITK ignores."""
    found = []
    for root in (Path(pydicom.__file__).parent / "data", Path(data_store.__file__).parent):
        for path in filter(is_dicom, sorted(root.rglob("*.dcm"))):
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
            if (
                dataset.get("PhotometricInterpretation") in ("MONOCHROME1", "MONOCHROME2")
                and 8 <= dataset.BitsStored <= dataset.BitsAllocated <= 16
                and dataset.get("NumberOfFrames", 1) == 1
                and path.stem not in NOT_READ_BY_ITK
                and not {"VOILUTSequence", "ModalityLUTSequence"} & set(dataset.dir())
            ):
                found.append(path)
    return found


@pytest.mark.parametrize("path", gray_files(), ids=lambda path: path.stem)
def test_gray_values_equal_those_of_simpleitk(path):
    """ITK decodes and rescales; it also inverts MONOCHROME1, but the window is one of the stored values."""
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    image = SimpleITK.ReadImage(str(path))
    values = SimpleITK.GetArrayFromImage(image)[0].astype(np.float64)
    is_inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    if is_inverted:
        values = 2**dataset.BitsStored - 1 - values
    if "WindowCenter" in dataset:
        center, width = (float(np.ravel(dataset[k].value)[0]) for k in ("WindowCenter", "WindowWidth"))
        low, high = center - width / 2, center + width / 2 - 1
    else:
        low, high = (0, 255) if dataset.BitsStored == 8 else (values.min(), values.max())
    windowed = SimpleITK.IntensityWindowing(SimpleITK.GetImageFromArray(values), low, high, 0, 255)
    if is_inverted:
        windowed = SimpleITK.InvertIntensity(windowed, 255)
    expected = SimpleITK.GetArrayFromImage(windowed)
    if (padding := dataset.get("PixelPaddingValue")) is not None:
        expected[values == padding * dataset.get("RescaleSlope", 1) + dataset.get("RescaleIntercept", 0)] = 0
    if dataset.get("PatientOrientation") == ["R", "F"]:
        expected = expected[:, ::-1]
    np.testing.assert_allclose(pixels_of(path, force=True), expected, rtol=0, atol=0.5 + 1e-6)


def table(entries, descriptor) -> list[pydicom.Dataset]:
    item = pydicom.Dataset()
    if descriptor is not None:
        item.add_new("LUTDescriptor", "US", descriptor)
    if entries is not None:
        item.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    return [item]


RAMP = np.round(np.arange(256) * (4095 / 255)).astype(np.uint16)[None].repeat(256, 0)
WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}
INVALID = [
    {"WindowCenter": float("nan")}, {"WindowCenter": 1e300}, {"WindowWidth": float("inf")}, {"WindowWidth": 0},
    {"WindowWidth": -4096}, {"VOILUTFunction": "CUBIC"}, {"RescaleSlope": float("nan"), "RescaleIntercept": 0},
    {"RescaleSlope": 0, "RescaleIntercept": 0}, {"RescaleSlope": 1, "RescaleIntercept": -1e300},
    {"VOILUTSequence": table(None, [4096, 0, 12])}, {"VOILUTSequence": table(range(4096), None)},
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*DS")
@pytest.mark.parametrize(
    "elements",
    [
        {},
        WINDOW,
        {"NumberOfFrames": 0},
        {"VOILUTSequence": table(range(4096), [4096, 0, 16])},
        {"VOILUTSequence": table(range(4096), [4096, 0, 16]), "PhotometricInterpretation": "MONOCHROME1"},
        {"VOILUTSequence": table(range(0, 65536, 16), [4096, 0, 12])},
        {"RescaleSlope": 0.0002442, "RescaleIntercept": 0, "WindowCenter": 0.4565, "WindowWidth": 0.9131},
        *(WINDOW | invalid for invalid in INVALID),
    ],
    ids=str,
)
def test_a_ramp_stays_a_ramp(elements, warned):
    actual = pixels_of(make_dataset(RAMP, 12, **elements))[0].astype(int)
    if "PhotometricInterpretation" in elements:
        actual = 255 - actual
    expected = [0, 70, 140, 210, 255] if elements.get("WindowWidth") == 0.9131 else [0, 64, 128, 192, 255]
    np.testing.assert_allclose(actual[[0, 64, 128, 192, 255]], expected, rtol=0, atol=1)
    is_invalid = any(elements.items() >= invalid.items() for invalid in INVALID)
    assert ("is not valid: it is ignored" in warned.text) == is_invalid


def test_an_image_that_would_become_flat_is_refused(generator):
    pixels = generator.integers(500, 1500, (HEIGHT, WIDTH)).astype(np.uint16)
    with pytest.raises(ValueError, match="makes all of its pixels the same gray"):
        read_dicom(make_dataset(pixels, 12, WindowCenter=40_000, WindowWidth=10))
    assert not pixels_of(make_dataset(pixels * 0, 12)).any()


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (["R", "F"], lambda image: image[:, ::-1]),
        (["L", "H"], lambda image: image[::-1]),
        (["RA", "HP"], lambda image: image[::-1, ::-1]),
        (["F", "L"], lambda image: image.T),
        (["H", "L"], lambda image: image.T[:, ::-1]),
        (["A", "F"], lambda image: image),
    ],
)
def test_turned_and_mirrored_images_are_displayed_upright(gray, orientation, turn):
    """`turn` makes the stored image of an upright one."""
    dataset = make_dataset(np.ascontiguousarray(turn(gray)), PatientOrientation=orientation)
    np.testing.assert_array_equal(pixels_of(dataset), gray)


def test_color_without_planar_configuration_is_by_pixel(generator):
    pixels = generator.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    dataset = make_dataset(pixels)
    del dataset.PlanarConfiguration
    np.testing.assert_array_equal(pixels_of(dataset), pixels)


@pytest.mark.parametrize("dtype", ["u2", "i2"])
def test_stored_bits_are_found_anywhere_in_the_allocated_ones(generator, dtype):
    low = -512 if dtype == "i2" else 0
    pixels = generator.integers(low, low + 1024, (HEIGHT, WIDTH)).astype(dtype)
    window = {"WindowCenter": low + 500, "WindowWidth": 700}
    expected = pixels_of(make_dataset(pixels, 10, **window))
    shifted = make_dataset(pixels << 4, 10, **window, HighBit=13)
    # What stands in the other bits is no part of a pixel.
    shifted.PixelData = ((pixels << 4) | generator.integers(0, 16, pixels.shape).astype(dtype)).tobytes()
    np.testing.assert_array_equal(pixels_of(shifted), expected)
    overlay = make_dataset(pixels, 10, **window)
    overlay.PixelData = ((pixels & 1023) | (generator.integers(0, 64, pixels.shape) << 10).astype(dtype)).tobytes()
    np.testing.assert_array_equal(pixels_of(overlay), expected)


@pytest.mark.parametrize(("photometric_interpretation", "limit"), [("MONOCHROME1", None), ("MONOCHROME2", 4095)])
def test_padding_is_black_and_does_not_count_for_the_window(generator, photometric_interpretation, limit):
    pixels = generator.integers(500, 1500, (HEIGHT, WIDTH)).astype(np.uint16)
    padded = pixels.copy()
    padded[:5] = 4090
    padded[5:9] = limit or 4090
    elements = {"PhotometricInterpretation": photometric_interpretation, "PixelPaddingValue": 4090}
    if limit:
        elements["PixelPaddingRangeLimit"] = limit
    pixels[:9] = 1000
    pixels[9, :2] = padded[9, :2] = 500, 1499
    actual = pixels_of(make_dataset(padded, 12, **elements))
    expected = pixels_of(make_dataset(pixels, 12, PhotometricInterpretation=photometric_interpretation))
    assert (actual[:9] == 0).all()
    np.testing.assert_array_equal(actual[9:], expected[9:])


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")  # pydicom's, when such a dataset is made
@pytest.mark.parametrize(
    ("modality", "body_part"),
    [("CR", "CHESTABDOMEN"), ("SC", "Torax"), ("OT", "CHEST PA & LAT"), ("DR", "CHEST\\ABDOMEN"), ("XR", "CHEST")],
)
def test_chest_x_rays_are_accepted_silently_by_any_name(gray, modality, body_part, warned):
    dataset = make_dataset(gray, Modality=modality, BodyPartExamined=body_part, ImageLaterality="U")
    warned.clear()
    assert read_dicom(dataset).info == {
        "Modality": modality, "BodyPartExamined": body_part.upper(), "ViewPosition": "PA", "ImageLaterality": "U"
    }  # fmt: skip
    assert not warned.records


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"Modality": "CT"}, "got an image of modality CT .*expected CR, DX, DR, XR, RG, SC, OT"),
        ({"BodyPartExamined": "HAND"}, "got an image of body part HAND .*expected a name with CHEST"),
    ],
)
def test_other_images_are_refused_unless_forced(gray, tmp_path, elements, message):
    path = tmp_path / "other"
    path.write_bytes(to_bytes(make_dataset(gray, **elements)))
    with pytest.raises(ValueError, match=f"Expected a chest X-ray, .*{message}") as error:
        LlmCxrImageProcessor()(path)
    assert f"'{path}'" in str(error.value) and "force=True" in str(error.value)
    np.testing.assert_array_equal(pixels_of(path, force=True), gray)
    assert LlmCxrImageProcessor()(read_dicom(path, force=True), return_tensors="pt").pixel_values.shape[-1] == 256


@pytest.mark.parametrize(
    ("removed", "elements", "message"),
    [
        (list(FULLY_DESCRIBED), {}, "has no Modality, BodyPartExamined, ViewPosition"),
        ([], {"BodyPartExamined": "UNKNOWN"}, "has no BodyPartExamined: it is taken for"),
        ([], {"ViewPosition": "LL"}, "has the view position LL: expected a frontal view"),
        ([], {"Laterality": "R"}, r"shows one side only \(R\)"),
    ],
)
def test_missing_or_unusual_attributes_warn_once(gray, removed, elements, message, warned):
    dataset = make_dataset(gray, **elements)
    for keyword in removed:
        delattr(dataset, keyword)
    for force in (True, False, False):
        np.testing.assert_array_equal(pixels_of(dataset, force=force), gray)
    assert len(warned.records) == 1 and re.search(message, warned.text)


def test_a_huge_image_is_refused_before_it_is_decoded(gray):
    dataset = make_dataset(gray, Rows=60_000, Columns=50_000)
    with pytest.raises(ValueError, match="50000x60000 pixels are more than .*MAX_IMAGE_PIXELS.*decompression bomb"):
        read_dicom(dataset)


@pytest.mark.parametrize("name", ["MR_small_jp2klossless.dcm", "JPEG-LL.dcm", "MR_small_RLE.dcm", "image_dfl.dcm"])
def test_a_truncated_file_is_refused_wherever_it_ends(name):
    data = sample(name).read_bytes()
    for length in (132, 140, 300, len(data) // 3, len(data) * 9 // 10):
        with pytest.raises(ValueError, match="Cannot read 'DICOM image' as a DICOM image: it is truncated"):
            read_dicom(data[:length], force=True)


@pytest.mark.parametrize(
    ("name", "elements", "message"),
    [
        ("MR_small_jp2klossless.dcm", {"Rows": 16}, "has 64x64x1 values of 16 bits, but its header 64x16x1"),
        ("MR_small_jp2klossless.dcm", {"SamplesPerPixel": 3}, "has 64x64x1 values of 16 bits, but its header 64x64x3"),
        ("MR_small_jpeg_ls_lossless.dcm", {"Columns": 16}, "has 64x64x1 values of 16 bits, but its header 16x64x1"),
        ("JPEG-LL.dcm", {"BitsAllocated": 8, "BitsStored": 8}, "256x1024x1 in 8 bits"),
    ],
)
def test_a_compressed_image_must_be_as_its_header_says(name, elements, message):
    dataset = pydicom.dcmread(sample(name))
    dataset.update(elements)
    with pytest.raises(ValueError, match=message):
        read_dicom(dataset, force=True)


@pytest.mark.parametrize(
    ("name", "syntax", "message"),
    [
        ("MR_small_jp2klossless.dcm", JPEGBaseline8Bit, "compressed as JPEG, got JPEG 2000"),
        ("JPEG-LL.dcm", JPEGLSLossless, "compressed as JPEG-LS, got lossless JPEG"),
        ("MR_small_jpeg_ls_lossless.dcm", RLELossless, "compressed as RLE, got JPEG-LS"),
        ("MR_small_RLE.dcm", JPEG2000, "compressed as JPEG 2000, got RLE"),
    ],
)
def test_data_in_another_syntax_are_refused(name, syntax, message):
    dataset = pydicom.dcmread(sample(name))
    dataset.file_meta.TransferSyntaxUID = syntax
    with pytest.raises(ValueError, match=f"expected pixels {message}"):
        read_dicom(dataset, force=True)


@pytest.mark.parametrize("syntax", [RLELossless, DeflatedExplicitVRLittleEndian])
def test_a_bomb_is_refused_before_it_is_decoded(gray, syntax):
    dataset = make_dataset(gray)
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == RLELossless:
        header = np.array([1, 64] + [0] * 14, "<u4").tobytes()
        dataset.PixelData = encapsulate([header + b"\x81\0" * 100_000])
        dataset["PixelData"].is_undefined_length = True
    else:
        for padding in (b"", b"\0"):
            np.testing.assert_array_equal(pixels_of(to_bytes(dataset) + padding), gray)
        dataset.PixelData = bytes(3_000_000)
    with pytest.raises(ValueError, match="could be a decompression bomb"):
        read_dicom(to_bytes(dataset))


@pytest.mark.parametrize(
    "name",
    ["JPEG-LL.dcm", "SC_rgb_jpeg_gdcm.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm",
     "SC_rgb_dcmtk_+eb+cr.dcm", "MR_small_RLE.dcm", "JPGExtended.dcm"],
)  # fmt: skip
def test_damaged_compressed_data_are_read_or_refused(name):
    """Some decoders end the process instead."""
    generator, dataset = np.random.default_rng(0), pydicom.dcmread(sample(name))
    frame, num_refused = get_frame(dataset.PixelData, 0, number_of_frames=1), 0
    for number in range(20):
        damaged = bytearray(frame[: None if number % 4 else generator.integers(1, len(frame))])
        for position in generator.integers(0, min(len(damaged), generator.choice([200, len(frame)])), 3):
            damaged[position] = generator.integers(256)
        dataset.PixelData = encapsulate([bytes(damaged)])
        try:
            assert read_dicom(dataset, force=True).size == (dataset.Columns, dataset.Rows)
        except ValueError as error:
            assert "Cannot read 'DICOM image' as a DICOM image" in str(error)
            num_refused += 1
    assert num_refused


def test_a_missing_decoder_is_named_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setattr(dicom_decoders_llm_cxr, "imagecodecs", None)
    with pytest.raises(ImportError, match=r"compressed as JPEG Lossless.*pip install transformers-cxr\[dicom\]"):
        read_dicom(sample("JPEG-LL.dcm"), force=True)


def test_files_are_recognized_by_content_not_by_name(tmp_path, gray):
    (tmp_path / "image.dcm").write_bytes(b"P5 40 40 255 " + bytes(1600))
    (tmp_path / "dicom.png").write_bytes(to_bytes(make_dataset(gray)))
    assert open_image(tmp_path / "image.dcm").size == (40, 40)
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "dicom.png")), gray)


def test_pydicom_is_optional_also_for_remote_code(monkeypatch):
    assert "pydicom" not in get_imports(dicom_llm_cxr.__file__)
    monkeypatch.setattr(dicom_llm_cxr, "pydicom", None)
    with pytest.raises(ImportError, match="`pip install pydicom`"):
        read_dicom(bytes(128) + b"DICM")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("color3d_jpeg_baseline.dcm", r"expected one frame, got \d+; extract one"),
        ("test-SR.dcm", "it is truncated, or holds no image: it has no Rows, Columns"),
        ("rtdose_1frame.dcm", "expected pixels of 8 to 16 bits, got 32 bits stored in 32"),
        ("OBXXXX1A.dcm", "expected grayscale or RGB pixels, got PALETTE COLOR"),
    ],
)
def test_real_files_that_hold_no_x_ray_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        read_dicom(sample(name), force=True)


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_errors_warnings_and_info_do_not_identify_a_patient(gray, warned, capfd):
    secrets = {
        "PatientName": "QCANARY^JANE",
        "PatientID": "QCANARYID",
        "InstitutionName": "QCANARY HOSPITAL",
        "StudyDate": "19131212",
        "SOPInstanceUID": "1.2.9131211.3",
        "BodyPartExamined": "CHEST",
    }
    data = to_bytes(make_dataset(gray, **secrets))
    sources = [data, make_dataset(gray, **secrets, Modality="CT"), make_dataset(gray, **secrets, NumberOfFrames=3)]
    sources += [make_dataset(gray, **secrets | {"BodyPartExamined": "QCANARY^JANE"})]
    sources += [data[:length] for length in range(133, len(data), 61)]
    # Damage anywhere in the header: wrong lengths and tags make one value part of another.
    generator = np.random.default_rng(5)
    for _ in range(60):
        broken = bytearray(data)
        broken[generator.integers(132, 900)] = generator.integers(0, 256)
        sources.append(bytes(broken))
    warned.clear()
    warned.set_level(logging.DEBUG)
    texts, num_read = [], 0
    for source in sources:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                texts.append(repr(read_dicom(source).info))
                num_read += 1
            except ValueError as error:
                assert error.__cause__ is None and error.__context__ is None
                texts.append("".join(traceback.format_exception(error)))
        texts += [str(warning.message) for warning in caught]
    text = "\n".join(texts) + warned.text + "".join(capfd.readouterr())
    assert 10 < num_read < len(sources) - 10
    found = re.search("CANARY|1913121|9131211", text)
    assert found is None, text[found.start() - 300 : found.end() + 100]
