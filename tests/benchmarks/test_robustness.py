"""The benchmark of robustness on few files; its other parts take minutes."""

import warnings
from collections import Counter

import numpy as np
import pytest

from transformers_cxr import LlmCxrImageProcessor

pytest.importorskip("imagecodecs", reason="imagecodecs is not installed: `pip install transformers-cxr[dicom]`")


@pytest.mark.parametrize("kind", ["image", "dicom"])
def test_damaged_files_are_read_or_refused_with_a_message(load_script, kind):
    with load_script("benchmarks/robustness.py") as robustness, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seeds = getattr(robustness, f"{kind}_seeds")(robustness.EXAMPLES[:1])
        processor = LlmCxrImageProcessor()
        assert {robustness.read_file(processor, seed) for seed in seeds} == {"done"}
        outcomes = Counter()
        for case in range(100):
            file = robustness.damage(seeds, np.random.default_rng([0, case]))
            assert file == robustness.damage(seeds, np.random.default_rng([0, case]))
            outcomes[robustness.read_file(processor, file)] += 1
    assert outcomes.keys() == {"done", "refused"} and min(outcomes.values()) > 10
