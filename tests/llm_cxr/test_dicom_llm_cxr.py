import logging
import re
import sys
import threading
import traceback
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import pydicom
import pytest
import torch
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)
from transformers.dynamic_module_utils import get_imports

from transformers_cxr import LlmCxrForCausalLM, LlmCxrImageProcessor, checkpoint
from transformers_cxr.llm_cxr import dicom_llm_cxr
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


def make_table(entries: np.ndarray, first: int, bits: int) -> list[pydicom.Dataset]:
    table = pydicom.Dataset()
    table.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 2**16, first, bits])
    table.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    return [table]


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
    """Grey in 8 bits with pydicom's own functions. These give windowed values in the range of what comes out of the rescale."""
    values = apply_modality_lut(dataset.pixel_array, dataset)
    if "VOILUTSequence" in dataset:
        grey = apply_voi(values.astype(np.int64), dataset) / (2.0 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1)
    else:
        bits = dataset.BitsStored
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0, 2**bits - 1)
        slope, intercept = dataset.get("RescaleSlope", 1), dataset.get("RescaleIntercept", 0)
        low, high = float(low * slope + intercept), float(high * slope + intercept)
        grey = (apply_windowing(values, dataset) - low) / (high - low)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        grey = 1 - grey
    return (255 * grey).round().astype(np.uint8)


@pytest.fixture(scope="module")
def generator():
    return np.random.default_rng(0)


@pytest.fixture
def grey(generator):
    return generator.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)


@pytest.fixture
def warned(caplog):
    """What was logged; a warning of an earlier test is given again."""
    logging.Logger.warning_once.cache_clear()
    return caplog


@pytest.mark.parametrize("photometric_interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("bits", "dtype"), [(8, "u1"), (10, "u2"), (12, "i2"), (15, "u2"), (16, "u2"), (16, "i2")])
@pytest.mark.parametrize("rescale", [None, (0.5, -1000)])
def test_windows_equal_pydicom_value_for_value(generator, photometric_interpretation, function, bits, dtype, rescale):
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


def test_a_window_of_width_one_is_a_threshold(grey):
    dataset = make_dataset(grey, WindowCenter=100, WindowWidth=1)
    np.testing.assert_array_equal(pixels_of(dataset), np.where(grey > 99, 255, 0))
    np.testing.assert_array_equal(pixels_of(dataset), oracle(dataset))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("first", [0, 300])
def test_voi_tables_equal_pydicom_value_for_value(generator, syntax, first):
    table = make_table(np.sort(generator.integers(0, 2**12, 3000)), first, 12)
    pixels = generator.integers(0, 2**12, (HEIGHT, WIDTH)).astype("<u2")
    dataset = make_dataset(pixels, 12, VOILUTSequence=table, RescaleSlope=1, RescaleIntercept=0)
    # The table goes before the window where both are.
    dataset.WindowCenter, dataset.WindowWidth = 10, 10
    expected = oracle(dataset)
    assert len(np.unique(expected)) > 100
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = pixels.byteswap().tobytes()
        table[0].LUTData = np.frombuffer(table[0].LUTData, "<u2").byteswap().tobytes()
    np.testing.assert_array_equal(pixels_of(to_bytes(dataset)), expected)


def test_a_table_of_eight_bits_may_have_more_than_256_entries_in_words_or_bytes():
    # pydicom 3.0's `apply_voi` counts the entries of such a table in 8 bits.
    pixels = np.array([[0, 100, 1000, 4095]] * 2, dtype=np.uint16)
    dataset = make_dataset(pixels, 12, VOILUTSequence=make_table(np.arange(4096) // 16, 0, 8))
    expected = [[0, 6, 62, 255]] * 2
    assert pixels_of(dataset).tolist() == expected
    dataset.VOILUTSequence[0].LUTData = (np.arange(4096) // 16).astype(np.uint8).tobytes()
    assert pixels_of(dataset).tolist() == expected


def test_modality_table_is_applied_before_the_window(generator):
    pixels = generator.integers(-2048, 2048, (HEIGHT, WIDTH)).astype(np.int16)
    entries = np.linspace(4000, 100, 4096).round()
    dataset = make_dataset(pixels, 12, ModalityLUTSequence=make_table(entries, -2048, 16))
    dataset.WindowCenter, dataset.WindowWidth = 2000, 3000
    values = apply_modality_lut(pixels.astype(np.int32), dataset).astype(float)
    expected = (255 * ((values - 1999.5) / 2999 + 0.5).clip(0, 1)).round()
    np.testing.assert_array_equal(pixels_of(to_bytes(dataset)), expected)


@pytest.mark.parametrize("name", ["RG1_UNCR.dcm", "RG3_UNCI.dcm", "vlut_04.dcm", "MR_small.dcm", "693_UNCR.dcm"])
def test_real_files_equal_pydicom_value_for_value(name):
    dataset = pydicom.dcmread(sample(name))
    expected = oracle(dataset)
    if "PixelPaddingValue" in dataset:
        expected[dataset.pixel_array == dataset.PixelPaddingValue] = 0
    actual = pixels_of(sample(name), force=True)
    np.testing.assert_array_equal(actual, expected)
    assert len(np.unique(actual)) > 50


def test_a_real_modality_table_is_applied_to_signed_pixels():
    dataset = pydicom.dcmread(sample("mlut_18.dcm"))
    values = apply_modality_lut(dataset.pixel_array, dataset).astype(float)
    expected = (255 * (values - values.min()) / (values.max() - values.min())).round()
    np.testing.assert_array_equal(pixels_of(sample("mlut_18.dcm"), force=True), expected)


def test_the_real_chest_x_ray_gives_the_same_codes_uncompressed_and_as_jpeg_2000():
    processor = LlmCxrImageProcessor.from_pretrained(checkpoint("llm-cxr"))
    codec = LlmCxrForCausalLM.from_pretrained(checkpoint("llm-cxr")).vq_tokenizer
    codes = {}
    for name in ("UNCR", "J2KR", "UNCI", "J2KI"):
        codes[name] = codec.encode(processor(sample(f"RG1_{name}.dcm"), return_tensors="pt").pixel_values)
    assert torch.equal(codes["UNCR"], codes["J2KR"]) and torch.equal(codes["UNCI"], codes["J2KI"])
    assert len(codes["UNCR"].unique()) > 50
    # Lossy compression (the "I" files) changes few codes.
    assert (codes["UNCR"] != codes["UNCI"]).float().mean() < 0.05


@pytest.mark.parametrize(
    ("compressed", "plain"),
    [
        ("MR_small_RLE.dcm", "MR_small.dcm"),
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
        ("MR_small_implicit.dcm", "MR_small.dcm"),
        ("MR_small_bigendian.dcm", "MR_small.dcm"),
        ("SC_rgb_jpeg_gdcm.dcm", "SC_rgb.dcm"),
        ("SC_rgb_rle_16bit.dcm", "SC_rgb_16bit.dcm"),
        ("SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_dcmtk_ebcr_dcmd.dcm"),
        ("SC_ybr_full_uncompressed.dcm", "SC_rgb_dcmtk_ebcyn2_dcmd.dcm"),
    ],
)
def test_every_transfer_syntax_gives_the_pixels_of_the_uncompressed_file(compressed, plain):
    difference = pixels_of(sample(compressed), force=True).astype(int) - pixels_of(sample(plain), force=True)
    assert np.abs(difference).max() <= (2 if "+eb" in compressed or "ybr" in compressed else 0)


def test_deflated_files_are_read():
    dataset = pydicom.dcmread(sample("image_dfl.dcm"))
    assert dataset.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
    np.testing.assert_array_equal(pixels_of(sample("image_dfl.dcm"), force=True), dataset.pixel_array)


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


def test_without_a_window_wide_pixels_are_read_as_the_same_pixels_of_a_png_are(generator):
    pixels = generator.integers(300, 3000, (HEIGHT, WIDTH)).astype(np.uint16)
    processor = LlmCxrImageProcessor()
    expected = processor(pixels, return_tensors="pt").pixel_values
    assert torch.equal(processor(make_dataset(pixels, 12), return_tensors="pt").pixel_values, expected)
    inverted = make_dataset(3299 - pixels, 12, PhotometricInterpretation="MONOCHROME1")
    torch.testing.assert_close(processor(inverted, return_tensors="pt").pixel_values, expected, rtol=0, atol=0.02)


def test_without_a_window_eight_bits_are_kept(grey):
    grey = grey // 2
    np.testing.assert_array_equal(pixels_of(make_dataset(grey)), grey)
    np.testing.assert_array_equal(pixels_of(make_dataset(grey, RescaleSlope=1, RescaleIntercept=-1024)), grey)
    signed = (grey.astype(int) - 128).astype(np.int8)
    np.testing.assert_array_equal(pixels_of(make_dataset(signed)), grey)


@pytest.mark.parametrize("photometric_interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("limit", [None, 4095])
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


def test_images_of_one_value_or_of_padding_alone_are_black():
    pixels = np.full((HEIGHT, WIDTH), 700, dtype=np.uint16)
    assert not pixels_of(make_dataset(pixels, 12)).any()
    assert not pixels_of(make_dataset(pixels, 12, PixelPaddingValue=700)).any()


def test_the_inverse_presentation_inverts_once(grey):
    inverse = make_dataset(grey, PresentationLUTShape="INVERSE")
    np.testing.assert_array_equal(pixels_of(inverse), 255 - grey)
    inverse.PhotometricInterpretation = "MONOCHROME1"
    np.testing.assert_array_equal(pixels_of(inverse), 255 - grey)
    np.testing.assert_array_equal(pixels_of(make_dataset(grey, PresentationLUTShape="IDENTITY")), grey)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("planar", [0, 1])
def test_colour_secondary_captures_are_read_in_colour(generator, dtype, planar):
    colours = generator.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(dtype)
    dataset = make_dataset(colours * (257 if dtype == np.uint16 else 1), Modality="OT", PlanarConfiguration=planar)
    if planar:
        dataset.PixelData = np.moveaxis(colours * (257 if dtype == np.uint16 else 1), -1, 0).tobytes()
    image = read_dicom(dataset)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), colours)


# pydicom's own, of making such a dataset.
@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
@pytest.mark.parametrize(
    "body_part", ["CHEST", "THORAX", "Torax", "PORT CHEST", "CHESTABDOMEN", "LUNG", "CHEST PA & LAT"]
)
def test_chest_x_rays_are_accepted_silently_by_any_name(grey, body_part, warned):
    for modality in ("CR", "DX", "RG", "SC", "OT"):
        data = to_bytes(make_dataset(grey, Modality=modality, BodyPartExamined=body_part, ImageLaterality="U"))
        warned.clear()
        assert read_dicom(data).info == {
            "Modality": modality, "BodyPartExamined": body_part.upper(), "ViewPosition": "PA", "ImageLaterality": "U"
        }  # fmt: skip
        assert not warned.records


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"Modality": "CT"}, "got an image of modality CT .*expected CR, DX, RG, SC, OT"),
        ({"Modality": "MG", "BodyPartExamined": "BREAST"}, "modality MG"),
        ({"BodyPartExamined": "HAND"}, "got an image of body part HAND .*expected a name with CHEST"),
        ({"BodyPartExamined": "TSPINE"}, "body part TSPINE"),
        ({"BodyPartExamined": "ABDOMEN", "Modality": "OT"}, "body part ABDOMEN"),
    ],
)
def test_other_images_are_refused_unless_forced(grey, tmp_path, elements, message):
    path = tmp_path / "other"
    path.write_bytes(to_bytes(make_dataset(grey, **elements)))
    for read in (read_dicom, open_image, LlmCxrImageProcessor()):
        with pytest.raises(ValueError, match=f"Expected a chest X-ray, .*{message}") as error:
            read(path)
        assert f"'{path}'" in str(error.value) and "force=True" in str(error.value)
    np.testing.assert_array_equal(pixels_of(path, force=True), grey)
    assert LlmCxrImageProcessor()(read_dicom(path, force=True), return_tensors="pt").pixel_values.shape[-1] == 256


@pytest.mark.parametrize("name", ["RG3_UNCR.dcm", "CT_small.dcm", "MR_small.dcm", "US1_UNCR.dcm", "JPEG2000_UNC.dcm"])
def test_real_files_of_other_kinds_are_refused_unless_forced(name):
    with pytest.raises(ValueError, match="Expected a chest X-ray, got an image of"):
        read_dicom(sample(name))
    assert read_dicom(sample(name), force=True).size


@pytest.mark.parametrize(
    ("code", "accepted"), [("816094009", True), ("T-D3000", True), ("416550000", True), ("85562004", False)]
)
def test_the_anatomic_region_stands_for_a_missing_body_part(grey, code, accepted):
    region = pydicom.Dataset()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = code, "SCT", "meaning"
    dataset = make_dataset(grey, AnatomicRegionSequence=[region])
    del dataset.BodyPartExamined
    if accepted:
        assert read_dicom(to_bytes(dataset)).info["BodyPartExamined"] == "CHEST"
    else:
        with pytest.raises(ValueError, match=f"body part {code}"):
            read_dicom(to_bytes(dataset))


@pytest.mark.parametrize(
    ("removed", "elements", "message"),
    [
        (["BodyPartExamined"], {}, "does not say its BodyPartExamined: it is taken for a frontal chest X-ray"),
        (list(FULLY_DESCRIBED), {}, "does not say its Modality, BodyPartExamined, ViewPosition"),
        ([], {"ViewPosition": ""}, "does not say its ViewPosition"),
        ([], {"ViewPosition": "LL"}, "has the view position LL: expected a frontal view"),
        ([], {"ViewPosition": "LATERAL"}, "has the view position LATERAL"),
        ([], {"ImageLaterality": "L"}, r"is of one side only \(L\)"),
        ([], {"Laterality": "R"}, r"is of one side only \(R\)"),
    ],
)
def test_what_is_missing_or_in_doubt_warns_once_only(grey, removed, elements, message, warned):
    dataset = make_dataset(grey, **elements)
    for keyword in removed:
        delattr(dataset, keyword)
    read_dicom(dataset, force=True)
    assert not warned.records
    for _ in range(3):
        np.testing.assert_array_equal(pixels_of(dataset), grey)
    assert len(warned.records) == 1 and re.search(message, warned.text)


@pytest.mark.parametrize("view", ["AP", "PA", "AP AXIAL", "PA LLD"])
def test_frontal_views_do_not_warn(grey, view, warned):
    assert read_dicom(make_dataset(grey, ViewPosition=view)).info["ViewPosition"] == view
    assert not warned.records


@pytest.mark.parametrize("name", ["color3d_jpeg_baseline.dcm", "emri_small.dcm", "SC_rgb_rle_2frame.dcm"])
def test_several_frames_are_refused(name):
    with pytest.raises(ValueError, match=r"it holds \d+ frames, and a chest X-ray has one"):
        read_dicom(sample(name), force=True)


@pytest.mark.parametrize("name", ["test-SR.dcm", "rtplan.dcm", "DICOMDIR", "waveform_ecg.dcm"])
def test_dicom_without_an_image_is_refused(name):
    with pytest.raises(ValueError, match="it is truncated, or holds no image: it has no Rows, Columns"):
        read_dicom(sample(name), force=True)


@pytest.mark.parametrize("name", ["rtdose_1frame.dcm", "liver_1frame.dcm"])
def test_pixels_of_other_depths_are_refused(name):
    with pytest.raises(ValueError, match="expected pixels of 8 to 16 bits, got (32|1) bits stored in (32|1)"):
        read_dicom(sample(name), force=True)


def test_palette_colours_are_refused():
    with pytest.raises(ValueError, match="expected pixels that are grey or RGB, got PALETTE COLOR"):
        read_dicom(sample("OBXXXX1A.dcm"), force=True)


@pytest.mark.parametrize("elements", [{"WindowWidth": 0}, {"WindowWidth": -5}, {"VOILUTFunction": "CUBIC"}])
def test_windows_that_the_standard_does_not_know_are_refused(grey, elements):
    dataset = make_dataset(grey, **{"WindowCenter": 10, "WindowWidth": 10, **elements})
    with pytest.raises(ValueError, match="its window has a width or function that the standard does not know"):
        read_dicom(dataset)


def test_a_huge_image_is_refused_before_it_is_decoded(grey, monkeypatch):
    dataset = make_dataset(grey, Rows=60_000, Columns=50_000)
    with pytest.raises(ValueError, match="50000x60000 pixels are more than .*MAX_IMAGE_PIXELS.*decompression bomb"):
        read_dicom(to_bytes(dataset))
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH)
    read_dicom(make_dataset(grey))
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH - 1)
    with pytest.raises(ValueError, match="decompression bomb"):
        read_dicom(make_dataset(grey))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("MR_small_jp2klossless.dcm", "64x64"),
        ("MR_small_jpeg_ls_lossless.dcm", "64x64"),
        ("SC_rgb_jpeg.dcm", "256x256"),
        ("JPEG-LL.dcm", "256x1024"),
    ],
)
def test_a_small_header_on_a_large_compressed_image_is_refused(name, size):
    dataset = pydicom.dcmread(sample(name))
    dataset.Rows = dataset.Columns = 16
    with pytest.raises(ValueError, match=f"its compressed image has {size} pixels, and its header says 16x16"):
        read_dicom(dataset, force=True)


def test_a_jpeg_2000_bomb_is_refused_without_being_decoded(grey):
    # The header of a JPEG 2000 image of 65535x65535 pixels.
    siz = b"\xff\x4f\xff\x51\0\x29\0\0" + np.array([65535, 65535, 0, 0, 65535, 65535, 0, 0], ">u4").tobytes()
    dataset = make_dataset(grey)
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = encapsulate([siz + b"\0\1\7\1\1"])
    with pytest.raises(ValueError, match="its compressed image has 65535x65535 pixels"):
        read_dicom(to_bytes(dataset))


def test_a_deflated_bomb_is_refused_without_being_inflated(monkeypatch):
    data = sample("image_dfl.dcm").read_bytes()
    header = data[: data.index(b"1.2.840.10008.1.2.1.99") + 22]
    header += data[len(header) :][: 132 + 12 + int.from_bytes(data[140:144], "little") - len(header)]
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10**6)
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = header + compressor.compress(bytes(10**7)) + compressor.flush()
    assert len(bomb) < 20_000
    with pytest.raises(ValueError, match="would take more than 8000000 bytes, could be a decompression bomb"):
        read_dicom(bomb)


@pytest.mark.parametrize(
    "name", ["RG1_UNCR.dcm", "MR_small_jp2klossless.dcm", "JPEG-LL.dcm", "MR_small_RLE.dcm", "image_dfl.dcm"]
)
def test_a_truncated_file_is_refused_wherever_it_ends(name):
    data = sample(name).read_bytes()
    for length in (132, 140, 300, len(data) // 3, len(data) * 9 // 10):
        with pytest.raises(ValueError, match="Cannot read 'DICOM image' as a DICOM image: it is truncated"):
            read_dicom(data[:length], force=True)


def test_pixels_that_no_decoder_can_read_are_refused(grey):
    for syntax in (JPEG2000Lossless, RLELossless):
        dataset = make_dataset(grey)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = encapsulate([b"no image" * 20])
        with pytest.raises(
            ValueError, match=f"no decoder .* can read its {re.escape(syntax.name)}; it may be damaged"
        ):
            read_dicom(to_bytes(dataset))


def test_transfer_syntaxes_of_no_image_are_refused(grey):
    dataset = make_dataset(grey)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
    dataset.PixelData = encapsulate([b"MPEG2 film"])
    with pytest.raises(ValueError, match="its transfer syntax is not one of images"):
        read_dicom(to_bytes(dataset))


def test_a_missing_decoder_is_named_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setattr(pydicom.pixels.decoders.base.Decoder, "is_available", property(lambda self: False))
    with pytest.raises(ImportError, match=r"compressed as JPEG Lossless.*pip install transformers-cxr\[dicom\]"):
        read_dicom(sample("JPEG-LL.dcm"), force=True)


def test_files_of_other_kinds_are_told_apart_by_content_not_by_name(tmp_path, grey):
    (tmp_path / "image.dcm").write_bytes(b"P5 40 40 255 " + bytes(1600))
    (tmp_path / "dicom.png").write_bytes(to_bytes(make_dataset(grey)))
    assert [is_dicom(tmp_path / name) for name in ("image.dcm", "dicom.png")] == [False, True]
    assert [is_dicom((tmp_path / name).read_bytes()) for name in ("image.dcm", "dicom.png")] == [False, True]
    assert open_image(tmp_path / "image.dcm").size == (40, 40)
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "dicom.png")), grey)
    with pytest.raises(ValueError, match="image.dcm' is not a DICOM file: expected 'DICM' after 128 bytes"):
        read_dicom(tmp_path / "image.dcm")
    with pytest.raises(FileNotFoundError, match="missing.dcm"):
        read_dicom(tmp_path / "missing.dcm")


def test_datasets_are_left_as_they_are(grey):
    dataset = make_dataset(grey, WindowCenter=100, WindowWidth=50, PhotometricInterpretation="MONOCHROME1")
    before = dataset.to_json()
    read_dicom(dataset)
    assert dataset.to_json() == before
    del dataset.file_meta
    assert read_dicom(dataset).size == (WIDTH, HEIGHT)


def test_filters_of_warnings_and_log_levels_are_as_before_after_many_threads(grey):
    data = to_bytes(make_dataset(grey))
    before, level = list(warnings.filters), logging.getLogger("pydicom").level
    results = []
    threads = [threading.Thread(target=lambda: results.append(pixels_of(data))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((result == grey).all() for result in results) and len(results) == 16
    assert warnings.filters == before and logging.getLogger("pydicom").level == level


def test_pydicom_is_imported_when_it_is_needed_and_not_asked_for_by_remote_code():
    assert "pydicom" not in get_imports(dicom_llm_cxr.__file__)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ImportError, match="`pip install pydicom`"):
        patch.setitem(sys.modules, "pydicom", None)
        read_dicom(bytes(128) + b"DICM")


# What identifies a patient or a hospital, one mark each.
IDENTIFYING = {
    "PatientName": "QCANARYNAME^JANE",
    "PatientID": "QCANARYID7",
    "OtherPatientIDs": "QCANARYOTHER",
    "PatientBirthDate": "19131211",
    "PatientAddress": "QCANARY STREET",
    "PatientComments": "QCANARY COMMENT",
    "InstitutionName": "QCANARY HOSPITAL",
    "ReferringPhysicianName": "QCANARY^DOCTOR",
    "OperatorsName": "QCANARY^OPERATOR",
    "StationName": "QCANARYSTATION",
    "AccessionNumber": "QCANARYACC",
    "StudyDate": "19131212",
    "StudyTime": "131211",
    "StudyDescription": "QCANARY STUDY",
    "SeriesDescription": "QCANARY SERIES",
    "ImageComments": "QCANARY IMAGE",
    "DeviceSerialNumber": "QCANARYDEVICE",
    "StudyInstanceUID": "1.2.9131211.1",
    "SeriesInstanceUID": "1.2.9131211.2",
    "SOPInstanceUID": "1.2.9131211.3",
}


def identified(dataset: pydicom.Dataset) -> pydicom.Dataset:
    for keyword, value in IDENTIFYING.items():
        setattr(dataset, keyword, value)
    private = dataset.private_block(0x0011, "QCANARY CREATOR", create=True)
    private.add_new(1, "LO", "QCANARY PRIVATE")
    request = pydicom.Dataset()
    request.RequestedProcedureID = "QCANARYREQUEST"
    dataset.RequestAttributesSequence = [request]
    return dataset


def damaged(dataset: pydicom.Dataset, keyword: str, value: str, raw: str) -> bytes:
    """The bytes of a file in which an element has a value that its VR does not allow."""
    setattr(dataset, keyword, value)
    data = to_bytes(dataset)
    assert data.count(value.encode()) == 1 and len(value) == len(raw)
    return data.replace(value.encode(), raw.encode())


def with_identity_everywhere(grey) -> dict[str, bytes | pydicom.Dataset]:
    """Sources that are read and sources that fail, each in another way."""
    plain = lambda **elements: identified(make_dataset(grey, **elements))  # noqa: E731
    compressed = plain()
    compressed.file_meta.TransferSyntaxUID = JPEG2000Lossless
    compressed.PixelData = encapsulate([b"QCANARYPIXELS" * 30])
    short = plain()
    short.PixelData = short.PixelData[:100]
    foreign = plain()
    foreign.file_meta.TransferSyntaxUID = "1.2.9131211.4"
    misplaced = plain(PatientName="x")
    misplaced.add_new("NumberOfFrames", "LO", "QCANARY")
    data = to_bytes(plain())
    sources = {
        "read": data,
        "read dataset": plain(),
        "read without body part": plain(BodyPartExamined=""),
        "refused": to_bytes(plain(Modality="CT")),
        "refused body part": plain(BodyPartExamined="QCANARYNAME^JANE"),
        "several frames": plain(NumberOfFrames=3),
        "huge": plain(Rows=60000, Columns=60000),
        "compressed": compressed,
        "short": short,
        "transfer syntax": foreign,
        "frames are text": misplaced,
        "window is text": damaged(plain(WindowWidth=5), "WindowCenter", "1111111111", "QCANARYWIN"),
        "slope is text": damaged(plain(RescaleIntercept=5), "RescaleSlope", "1111111111", "QCANARYSLO"),
        "number is text": damaged(plain(), "NumberOfFrames", "1111111111", "QCANARYFRA"),
        "modality is long": damaged(plain(), "Modality", "A" * 16, "QCANARY^MODALITY"),
        "character set": damaged(plain(), "SpecificCharacterSet", "ISO_IR 192", "QCANARYSET"),
    }
    sources |= {f"truncated to {n}": data[:n] for n in range(133, len(data), 61)}
    # Damage anywhere in the header: lengths and tags that are wrong make one value part of another.
    generator = np.random.default_rng(5)
    for i in range(150):
        broken = bytearray(data)
        broken[generator.integers(132, data.index(b"QCANARYREQUEST") + 300)] = generator.integers(0, 256)
        sources[f"damaged {i}"] = bytes(broken)
    return sources


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_nothing_that_identifies_a_patient_comes_out(grey, warned, capfd):
    sources = with_identity_everywhere(grey)
    capfd.readouterr()
    warned.clear()
    warned.set_level(logging.DEBUG)
    outcomes = {"image": 0, "error": 0}
    texts = []
    for source in sources.values():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                image = read_dicom(source)
                texts.append(repr(image.info))
                outcomes["image"] += 1
            except ValueError as error:
                assert error.__cause__ is None and error.__context__ is None
                texts.append("".join(traceback.format_exception(error)))
                outcomes["error"] += 1
        texts += [str(warning.message) for warning in caught]
    text = "\n".join(texts) + warned.text + "".join(capfd.readouterr())
    assert min(outcomes.values()) > 20
    for mark in ("CANARY", "19131211", "19131212", "9131211", "131211"):
        assert mark not in text, text[max(0, text.index(mark) - 300) : text.index(mark) + 100]
