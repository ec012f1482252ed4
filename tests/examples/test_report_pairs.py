"""`examples/report_pairs.py` on a tiny model."""

import json

import pytest

from transformers_cxr import LlmCxrProcessor
from transformers_cxr.reports.statements import etiology_of_report, finding_of_report
from transformers_cxr.training import preference_dataset


def test_pairs_are_of_training_xrays_and_differ_in_the_finding(load_script, model_dir, data_dir, tmp_path):
    path = tmp_path / "pairs.jsonl"
    with load_script("examples/report_pairs.py") as script:
        script.main(script.Arguments(str(model_dir), str(data_dir), str(path), num_pairs=9))
        with pytest.raises(ValueError, match="No viral X-ray in the train split of '.*', which has the labels"):
            script.LABELS = script.LABELS | {"viral": {"Viral Pneumonia": 1}}
            script.main(script.Arguments(str(model_dir), str(data_dir), str(tmp_path / "none.jsonl")))
    pairs = [json.loads(line) for line in path.read_text().splitlines()]
    texts = [[pair[name][0]["content"][0]["text"] for name in ("chosen", "rejected")] for pair in pairs]
    findings = [[(finding_of_report(text), etiology_of_report(text)) for text in pair] for pair in texts]
    expected = [("normal", None), ("pneumonia", "bacterial"), ("pneumonia", "viral")]
    assert [better for better, _ in findings] == expected * 3
    assert all(worse in expected and worse != better for better, worse in findings)
    # The train split has two X-rays of each finding.
    assert len({tuple(pair["image_codes"][0]) for pair in pairs}) > 3
    assert len(preference_dataset(pairs, LlmCxrProcessor.from_pretrained(model_dir))) == 9
