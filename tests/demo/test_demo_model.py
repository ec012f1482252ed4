import numpy as np
import PIL.Image
import pytest
import torch

from transformers_cxr import generate_image, generate_text

pytestmark = pytest.mark.usefixtures("short_texts")
QUESTION = "Is there pneumonia?"


def test_encode_gives_pixels_codes_and_their_reconstruction(reader, xray_files):
    codes, pixels, reconstruction = reader.encode(xray_files[0])
    model, processor = reader.model, reader.processor
    pixel_values = processor.image_processor(xray_files[0], return_tensors="pt").pixel_values
    with torch.no_grad():
        expected_codes = model.vq_tokenizer.encode(pixel_values)
        expected = processor.postprocess(model.vq_tokenizer.decode(expected_codes))[0]
    assert codes == expected_codes[0].tolist()
    assert np.array_equal(reconstruction, expected) and "Generated" in reconstruction.info["comment"]
    assert np.array_equal(pixels, PIL.Image.open(xray_files[0]))


def test_report_grows_token_by_token_into_that_of_generate_text(reader, xray_files):
    (expected,) = generate_text(reader.model, reader.processor, xray_files[0], max_new_tokens=24, do_sample=False)
    parts = list(reader.write(reader.encode(xray_files[0])[0], [reader.processor.report_instruction]))
    assert len(parts) == 25 and parts[-1] == expected
    assert all(b.startswith(a.rstrip()) for a, b in zip(parts, parts[1:]))


def test_answer_depends_on_earlier_turns(reader, xray_files):
    codes = reader.encode(xray_files[0])[0]
    *_, alone = reader.write(codes, [QUESTION])
    *_, later = reader.write(codes, ["Is it normal?", "No.", QUESTION])
    assert alone and later and alone != later


def test_generated_images_appear_row_by_row_and_end_as_those_of_generate_image(reader):
    for guidance_scale in (1.0, 2.0):
        kwargs = {"num_images": 2, "seed": 3, "guidance_scale": guidance_scale}
        frames = list(reader.generate("Normal.", **kwargs))
        assert len(frames) == 4  # rows of 4 codes, of 8 pixels each
        for row, images in enumerate(frames, start=1):
            for image in images:
                pixels = np.asarray(image)
                assert (pixels[8 * row :] == 0).all() and (pixels[8 * (row - 1) : 8 * row] > 0).any()
                assert "Generated" in image.info["comment"]
        expected = generate_image(reader.model, reader.processor, "Normal.", **kwargs)
        assert len(frames[-1]) == 2 and all(np.array_equal(a, b) for a, b in zip(frames[-1], expected))
