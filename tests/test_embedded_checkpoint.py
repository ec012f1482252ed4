"""The checkpoint that is part of the package, on the real X-rays of the examples."""

from pathlib import Path

import torch
from transformers import pipeline

from transformers_cxr import checkpoint
from transformers_cxr.reports import finding_of_report

IMAGES = Path(__file__).parents[1] / "examples/images"
NORMAL = IMAGES / "NORMAL2-IM-0832-0001.jpeg"
PNEUMONIA = IMAGES / "person1582_bacteria_4140.jpeg"


def test_reports_and_reconstructions_without_a_model_argument():
    report = pipeline("cxr-report")
    assert finding_of_report(report(str(NORMAL))[0]["generated_text"]) == "normal"
    assert finding_of_report(report(str(PNEUMONIA))[0]["generated_text"]) == "pneumonia"
    pixel_values = report.processor.image_processor(NORMAL, return_tensors="pt").pixel_values
    vq_tokenizer = report.model.vq_tokenizer
    error = (vq_tokenizer.decode(vq_tokenizer.encode(pixel_values)) - pixel_values).square().mean()
    assert 10 * torch.log10(4 / error) > 25


def test_weights_are_small_enough_to_be_part_of_the_package():
    assert sum(file.stat().st_size for file in checkpoint("llm-cxr").iterdir()) <= 45e6
