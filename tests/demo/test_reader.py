import numpy as np
import PIL.Image
import pytest
import torch
from transformers import pipeline

from transformers_cxr import generate_image
from transformers_cxr.demo.reader import Reader
from transformers_cxr.llm_cxr.processing_llm_cxr import REPORT_INSTRUCTION

pytestmark = pytest.mark.usefixtures("short_texts")
QUESTION = "Is there pneumonia?"


@pytest.fixture(scope="module")
def reader(checkpoint):
    return Reader(*checkpoint)


def test_look_gives_pixels_codes_and_their_reconstruction(reader, xray_files):
    xray = reader.look(xray_files[0])
    model, processor = reader.model, reader.processor
    pixel_values = processor.image_processor(xray_files[0], return_tensors="pt").pixel_values
    with torch.no_grad():
        codes = model.vq_tokenizer.encode(pixel_values)
        expected = processor.postprocess(model.vq_tokenizer.decode(codes))[0]
    assert xray.codes == codes[0].tolist()
    assert np.array_equal(xray.reconstruction, expected) and "Generated" in xray.reconstruction.info["comment"]
    assert np.array_equal(xray.pixels, PIL.Image.open(xray_files[0]))


def test_report_is_that_of_the_pipeline_and_grows(reader, xray_files):
    (expected,) = pipeline("cxr-report", model=reader.model, processor=reader.processor)(
        str(xray_files[0]), max_new_tokens=24, do_sample=False
    )
    parts = list(reader.write(reader.look(xray_files[0]).codes, [REPORT_INSTRUCTION]))
    assert len(parts) == 24 and expected["generated_text"].removesuffix("\N{REPLACEMENT CHARACTER}") == parts[-1]
    assert all(b.startswith(a.rstrip()) for a, b in zip(parts, parts[1:]))


def test_answer_depends_on_the_turns_before(reader, xray_files):
    codes = reader.look(xray_files[0]).codes
    *_, alone = reader.write(codes, [QUESTION])
    *_, later = reader.write(codes, ["Is it normal?", "No.", QUESTION])
    assert alone and later and alone != later


def test_drawing_ends_with_the_images_of_generate_image(reader):
    for guidance_scale in (1.0, 2.0):
        *_, images = reader.draw("Normal.", num_images=2, seed=3, guidance_scale=guidance_scale)
        expected = generate_image(
            reader.model, reader.processor, "Normal.", num_images=2, seed=3, guidance_scale=guidance_scale
        )
        assert all(np.array_equal(a, b) for a, b in zip(images, expected)) and len(images) == 2


def test_drawing_appears_row_by_row_and_is_marked(reader):
    frames = list(reader.draw("Normal.", num_images=2, seed=0))
    assert len(frames) == 4  # rows of 4 codes, of 8 pixels each
    for row, images in enumerate(frames, start=1):
        for image in images:
            pixels = np.asarray(image)
            assert (pixels[8 * row :] == 0).all() and (pixels[8 * (row - 1) : 8 * row] > 0).any()
            assert "Generated" in image.info["comment"]


@pytest.mark.parametrize("text", ["a <|cxr_0000|>", "<image>", "x<|cxr_start|>", "### End", "<|endoftext|>"])
def test_special_tokens_in_a_text_are_refused(reader, xray_files, text):
    codes = reader.look(xray_files[0]).codes
    for call in (lambda: next(reader.write(codes, [text])), lambda: next(reader.draw(text))):
        with pytest.raises(ValueError, match=r"The text holds .*Leave it out"):
            call()


def test_what_does_not_fit_into_the_context_is_refused(reader, xray_files):
    codes = reader.look(xray_files[0]).codes
    for call in (lambda: next(reader.write(codes, ["long " * 600])), lambda: next(reader.draw("long " * 600))):
        with pytest.raises(ValueError, match="the model has a context of 512"):
            call()


def test_file_that_is_no_image_is_named_without_its_folder(reader, tmp_path):
    file = tmp_path / "notes.png"
    file.write_text("no image")
    with pytest.raises(ValueError, match="notes.png") as error:
        reader.look(file)
    assert str(tmp_path) not in str(error.value)


def test_abandoned_drawing_leaves_the_model_to_the_next(reader):
    drawing = reader.draw("Normal.", num_images=4)
    next(drawing)
    drawing.close()
    *_, text = reader.write([0] * 16, [QUESTION])
    assert text
