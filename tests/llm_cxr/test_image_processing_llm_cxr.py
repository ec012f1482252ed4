import base64
import functools
import threading
import tracemalloc
from http.server import HTTPServer, SimpleHTTPRequestHandler
from io import BytesIO

import numpy as np
import PIL.Image
import pytest
import torch

from transformers_cxr.data.dicom_output import image_to_dicom
from transformers_cxr.llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor

WIDTH, HEIGHT = 72, 90


@pytest.fixture(scope="module")
def processor() -> LlmCxrImageProcessor:
    return LlmCxrImageProcessor()


@pytest.fixture(scope="module")
def gray_array() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)


@pytest.fixture(scope="module")
def rgb_array() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of the files in `tmp_path`."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with HTTPServer(("127.0.0.1", 0), functools.partial(SimpleHTTPRequestHandler, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def pixels(processor: LlmCxrImageProcessor, image, **kwargs) -> torch.Tensor:
    pixel_values = processor(image, return_tensors="pt", **kwargs).pixel_values
    assert pixel_values.dtype == torch.float32
    assert pixel_values.shape == (1, 3, 256, 256)
    return pixel_values[0]


def oracle(image: PIL.Image.Image) -> np.ndarray:
    """Return the image by Pillow and numpy only: short side 256, center crop, [-1, 1], `(height, width, channels)`."""
    scale = 256 / min(image.size)
    image = image.resize((int(image.width * scale), int(image.height * scale)), PIL.Image.Resampling.LANCZOS)
    left, top = (image.width - 256) // 2, (image.height - 256) // 2
    return np.asarray(image.crop((left, top, left + 256, top + 256)), dtype=np.float64) / 127.5 - 1


def as_rgb(array: np.ndarray) -> PIL.Image.Image:
    return PIL.Image.fromarray(array).convert("RGB")


@pytest.mark.parametrize("size", [(512, 640), (256, 256), (301, 403), (30, 17)])
def test_preprocessing_equals_pillow_resize_and_center_crop(processor, size):
    image = PIL.Image.fromarray(np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    np.testing.assert_allclose(pixels(processor, image).permute(1, 2, 0).numpy(), oracle(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_pixels_are_black(processor, mode):
    alpha = PIL.Image.fromarray(np.repeat(np.array([[0], [255]], dtype=np.uint8), 40, 0).repeat(80, 1))
    image = PIL.Image.new("RGBA", (80, 80), "white").convert(mode)
    image.putalpha(alpha)
    pixel_values = pixels(processor, image)
    assert image.mode == mode and (pixel_values[:, :110] == -1).all() and (pixel_values[:, -110:] == 1).all()


def test_16_bit_png_is_windowed_before_it_is_resized(processor, tmp_path):
    array = np.random.default_rng(2).integers(1000, 5096, (HEIGHT, WIDTH)).astype(np.uint16)
    PIL.Image.fromarray(array).save(tmp_path / "wide.png")
    pixel_values = pixels(processor, tmp_path / "wide.png").permute(1, 2, 0).numpy()
    low, high = float(array.min()), float(array.max())
    windowed = np.round((array - low) / (high - low) * 255).astype(np.uint8)
    np.testing.assert_allclose(pixel_values, oracle(as_rgb(windowed)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("layout", ["HW", "HWC", "CHW", "HW1", "1HW"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float64", "float unit", "bool"])
def test_arrays_of_any_layout_and_dtype(processor, gray_array, rgb_array, layout, dtype):
    array = rgb_array if layout in ("HWC", "CHW") else gray_array
    if dtype == "bool":
        array = array > 127
        expected = pixels(processor, as_rgb(array.astype(np.uint8) * 255))
    else:
        expected = pixels(processor, as_rgb(array))
        array = (array / 255).astype(np.float32) if dtype == "float unit" else array.astype(dtype)
    array = {
        "HW": array,
        "HWC": array,
        "CHW": np.moveaxis(array, -1, 0),
        "HW1": array[..., None],
        "1HW": array[None],
    }[layout]
    assert torch.equal(pixels(processor, array), expected)
    assert torch.equal(pixels(processor, torch.from_numpy(np.ascontiguousarray(array))), expected)


@pytest.mark.parametrize("kind", ["png", "dicom"])
def test_files_of_every_kind_give_the_same_pixels(processor, gray_array, tmp_path, kind):
    image, path = PIL.Image.fromarray(gray_array), tmp_path / "image.png"
    sources = [path, str(path)]
    if kind == "png":
        image.save(path)
    else:
        sources += [image_to_dicom(image)]
        sources[-1].save_as(path)
    data = path.read_bytes()
    encoded = base64.b64encode(data).decode()
    sources += [data, BytesIO(data), f"data:image/{kind};base64,{encoded}", encoded]
    sources += [{"bytes": data, "path": None}, {"bytes": None, "path": str(path)}]
    batch = processor([*sources, image], return_tensors="pt").pixel_values
    assert all(torch.equal(each, pixels(processor, image)) for each in batch)


def test_urls_are_fetched_also_through_a_redirect(processor, rgb_array, tmp_path, server):
    image = PIL.Image.fromarray(rgb_array)
    (tmp_path / "folder").mkdir()
    image.save(tmp_path / "folder/index.html", "PNG")
    # The server redirects to `/folder/`.
    assert torch.equal(pixels(processor, f"{server}/folder"), pixels(processor, image))
    with pytest.raises(ConnectionError, match=f"Cannot download '{server}/missing.png': .*404"):
        processor(f"{server}/missing.png")


def test_16_bit_tiff_whose_white_is_zero_is_inverted(processor, tmp_path):
    array = np.random.default_rng(2).integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16)
    PIL.Image.fromarray(array).save(tmp_path / "black.tif", tiffinfo={262: 1})
    PIL.Image.fromarray(array.max() - array).save(tmp_path / "white.tif", tiffinfo={262: 0})
    for source in (tmp_path / "white.tif", PIL.Image.open(tmp_path / "white.tif")):
        assert torch.equal(pixels(processor, source), pixels(processor, tmp_path / "black.tif"))


def test_floats_that_would_become_flat_are_refused(processor):
    array = np.random.default_rng(2).uniform(0, 1e-5, (HEIGHT, WIDTH))
    with pytest.raises(ValueError, match="All pixels become the same gray in 8 bits"):
        processor(array)
    assert (pixels(processor, np.zeros((HEIGHT, WIDTH))) == -1).all()


def test_wide_pixels_are_converted_in_little_memory(processor):
    array = np.zeros((4000, 4000), np.float32)
    array[0, 0] = 70_000
    tracemalloc.start()
    processor(array)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * array.size


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0MM\0*\0\0", b"Exif\0\0XX garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"]
)
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_damaged_exif_block_is_ignored(processor, tmp_path, rgb_array, format, exif):
    image, path = PIL.Image.fromarray(rgb_array), tmp_path / "damaged"
    image.save(tmp_path / "intact", format)
    image.save(path, format, exif=exif)
    for source in (path, PIL.Image.open(path)):
        assert torch.equal(pixels(processor, source), pixels(processor, tmp_path / "intact"))


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_exif_rotation_is_applied_once(processor, tmp_path, format):
    upright = PIL.Image.new("RGB", (96, 64), "black")
    upright.paste("white", (0, 0, 96, 32))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees clockwise to display"
    path = tmp_path / "rotated"
    upright.transpose(PIL.Image.Transpose.ROTATE_90).save(path, format, exif=exif)
    for source in (path, PIL.Image.open(path)):
        pixel_values = pixels(processor, source)
        assert (pixel_values[:, :110] > 0.9).all() and (pixel_values[:, -110:] < -0.9).all()


def test_files_that_are_no_images_are_refused_by_name(processor, tmp_path):
    text, empty, missing = tmp_path / "report.txt", tmp_path / "empty.png", tmp_path / "missing.png"
    text.write_text("No acute cardiopulmonary process.")
    empty.touch()
    for path in (text, empty):
        with pytest.raises(ValueError, match=f"Cannot read '.*{path.name}' as an image"):
            processor(path)
    for path in (missing, tmp_path):
        with pytest.raises(FileNotFoundError, match=f"No image file at '.*{path.name}'"):
            processor(str(path))


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_truncated_files_are_refused_wherever_they_end(processor, tmp_path, rgb_array, format):
    buffer = BytesIO()
    PIL.Image.fromarray(rgb_array).save(buffer, format)
    data = buffer.getvalue()
    for length in (1, 40, len(data) // 2, len(data) * 9 // 10):
        path = tmp_path / f"{length}.image"
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=f"Cannot read '.*{length}.image' as an image"):
            processor(path)
        with pytest.raises(ValueError, match=f"Cannot read 'image of {length} bytes' as an image"):
            processor(data[:length])


@pytest.mark.parametrize("size", [(15, 300), (16, 4000)])
def test_shapes_that_cannot_be_a_radiograph_are_refused(processor, size):
    with pytest.raises(ValueError, match=f"An image of {size[0]}x{size[1]} pixels cannot be a chest X-ray"):
        processor(PIL.Image.new("L", size))


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (None, TypeError, "got NoneType"),
        ({"bytes": b""}, TypeError, "got dict"),
        (np.zeros((64, 64, 2), dtype=np.uint8), ValueError, r"got an array of shape \(64, 64, 2\)"),
    ],
)
def test_other_types_and_shapes_are_refused_by_name(processor, image, error, message):
    for images in (image, [image], [PIL.Image.new("L", (64, 64)), image]):
        with pytest.raises(error, match=f"Expected an image as .*{message}"):
            processor(images)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused(processor, tmp_path, gray_array, monkeypatch):
    path = tmp_path / "image.png"
    PIL.Image.fromarray(gray_array).save(path)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", WIDTH * HEIGHT - 1)
    for source in (path, path.read_bytes()):
        with pytest.raises(ValueError, match="Cannot read '.*image.*' as an image: .*decompression bomb"):
            processor(source)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", WIDTH * HEIGHT)
    processor(path)
