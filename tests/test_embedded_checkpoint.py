"""The checkpoint that is part of the package, on the real X-rays of the examples."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import AutoModel, AutoProcessor, pipeline

from transformers_cxr import checkpoint, generate_image, save_image
from transformers_cxr.reports import finding_of_report

IMAGES = Path(__file__).parents[1] / "examples/images"
NORMAL = IMAGES / "NORMAL2-IM-0832-0001.jpeg"
PNEUMONIA = IMAGES / "person1582_bacteria_4140.jpeg"


@pytest.fixture(scope="module")
def embedded():
    path = checkpoint("llm-cxr")
    return AutoModel.from_pretrained(path).eval(), AutoProcessor.from_pretrained(path)


def test_report_pipeline_without_a_model_tells_normal_from_pneumonia():
    report = pipeline("cxr-report")
    assert finding_of_report(report(str(NORMAL))[0]["generated_text"]) == "normal"
    assert finding_of_report(report(str(PNEUMONIA))[0]["generated_text"]) == "pneumonia"


def test_reconstruction_of_a_real_xray_is_above_25_db(embedded):
    model, processor = embedded
    pixel_values = processor.image_processor(NORMAL, return_tensors="pt").pixel_values
    with torch.no_grad():
        error = (model.vq_tokenizer.decode(model.vq_tokenizer.encode(pixel_values)) - pixel_values).square().mean()
    assert 10 * torch.log10(4 / error) > 25


def test_a_seed_gives_the_same_image_alone_and_in_a_batch(embedded):
    model, processor = embedded
    alone = generate_image(model, processor, "Normal chest X-ray.", seed=7)
    batch = generate_image(model, processor, ["Signs of viral pneumonia.", "Normal chest X-ray."], seed=[1, 7])
    # The codes are equal; convolutions of another batch size may round a pixel the other way.
    difference = np.asarray(alone[0]).astype(int) - np.asarray(batch[1]).astype(int)
    assert abs(difference).max() <= 1


def test_generated_image_is_marked_in_the_file(embedded, tmp_path):
    image = generate_image(*embedded, "Normal chest X-ray.", seed=0)[0]
    save_image(image, tmp_path / "image.png")
    with PIL.Image.open(tmp_path / "image.png") as file:
        assert "Synthetic image, for research only" in file.text["Comment"]


def test_checkpoint_of_an_unknown_name_says_which_there_are():
    with pytest.raises(ValueError, match="No checkpoint 'gpt'.*llm-cxr"):
        checkpoint("gpt")


def test_weights_are_small_enough_to_be_part_of_the_package():
    assert sum(file.stat().st_size for file in checkpoint("llm-cxr").iterdir()) <= 45e6
