"""Which studies the examples of instruction tuning are drawn from."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from transformers_cxr.data.image_folder import Study
from transformers_cxr.training.instructions import InstructionDataset

SIZE = 600


def study(source, findings, index):
    name = f"{source}/{index}.png"
    return Study(
        image_path=Path(name),
        image_id=name,
        split="train",
        source=source,
        patient_id=name,
        view="PA",
        age_group="adult",
        sex="",
        findings=findings,
        etiology="",
    )


@pytest.fixture
def studies():
    groups = [("a", ("No Finding",), 2), ("a", ("Pneumonia",), 10), ("b", (), 6)]
    return [study(source, findings, i) for source, findings, count in groups for i in range(count)]


def shares(studies, processor, **kwargs):
    """How often each source and finding is drawn, read off the codes of the examples: each study has a code of its own."""
    codes = np.tile(np.arange(len(studies))[:, None], (1, processor.num_image_tokens))
    dataset = InstructionDataset(studies, codes, processor, size=SIZE, drawing_ratio=0.0, num_questions=1, **kwargs)
    counts = Counter()
    for index in range(SIZE):
        ids = dataset[index]["input_ids"] - processor.image_token_offset
        drawn = studies[int(ids[(ids >= 0) & (ids < processor.codebook_size)][0])]
        counts[drawn.source, drawn.findings] += 1
    return {group: count / SIZE for group, count in counts.items()}


def test_studies_are_drawn_alike_by_default(studies, tiny_model):
    drawn = shares(studies, tiny_model[1])
    assert drawn["a", ("Pneumonia",)] == pytest.approx(10 / 18, abs=0.06)
    assert drawn["a", ("No Finding",)] == pytest.approx(2 / 18, abs=0.04)


def test_balanced_draws_normal_and_abnormal_alike_and_keeps_the_share_of_a_source(studies, tiny_model):
    drawn = shares(studies, tiny_model[1], balanced=True)
    assert drawn["a", ("Pneumonia",)] == pytest.approx(6 / 18, abs=0.06)
    assert drawn["a", ("No Finding",)] == pytest.approx(6 / 18, abs=0.06)
    assert drawn["b", ()] == pytest.approx(6 / 18, abs=0.06)


def test_source_weights_multiply_the_share_of_a_source(studies, tiny_model):
    drawn = shares(studies, tiny_model[1], balanced=True, source_weights={"b": 4.0})
    assert drawn["b", ()] == pytest.approx(24 / 36, abs=0.06)


def test_number_of_codes_must_be_that_of_the_studies(studies, tiny_model):
    with pytest.raises(ValueError, match="18 studies and codes of 3 images"):
        InstructionDataset(studies, np.zeros((3, 16)), tiny_model[1], size=1)
