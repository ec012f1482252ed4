import json

import numpy as np
import PIL.Image
import pytest

from transformers_cxr import generate_text
from transformers_cxr.checkpoints import load_checkpoint
from transformers_cxr.evaluation import write_rexrank_predictions
from transformers_cxr.reports import parse_report

# Fields as in the files of the leaderboard.
STUDIES = {
    "CXR1_IM-0001": {
        "key_image_path": "CXR1/1.png",
        "image_path": ["CXR1/0.png", "CXR1/1.png"],
        "section_impression": "Normal.",
        "frontal_lateral": ["Lateral", "Frontal"],
        "context": "Indication: Cough Comparison: None.",
    },
    "50051329": {"image_path": ["/p10/view.jpg"], "context": "<context>Age:50-60.</context>"},
}


@pytest.fixture
def paths(tmp_path):
    for seed, name in enumerate(("CXR1/0.png", "CXR1/1.png", "p10/view.jpg")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40), np.uint8)).save(tmp_path / name)
    (tmp_path / "in.json").write_text(json.dumps(STUDIES))
    return tmp_path / "in.json", tmp_path / "out.json", tmp_path


def test_studies_are_written_with_reports_of_their_frontal_images(checkpoint_dir, paths, tmp_path):
    write_rexrank_predictions(*paths, str(checkpoint_dir), max_new_tokens=8)
    written = json.loads((tmp_path / "out.json").read_text())
    reports = [study.pop("model_prediction") for study in written.values()]
    assert written == STUDIES
    images = [tmp_path / "CXR1/1.png", tmp_path / "p10/view.jpg"]
    expected = generate_text(*load_checkpoint(checkpoint_dir, "cpu"), images, max_new_tokens=8)
    assert reports == [f"Findings: {parse_report(text).findings}" for text in expected] and reports[0] != reports[1]
    with pytest.raises(FileExistsError, match="out.json"):
        write_rexrank_predictions(*paths, str(checkpoint_dir))


def test_a_report_is_one_line_with_the_headings_of_the_leaderboard(checkpoint_dir, paths, tmp_path, monkeypatch):
    def write_report(model, processor, images, **kwargs):
        return ["findings: A.\n\nB.\nIMPRESSION:C."] * len(images)

    monkeypatch.setattr("transformers_cxr.evaluation.rexrank.generate_text", write_report)
    write_rexrank_predictions(*paths, str(checkpoint_dir))
    written = json.loads((tmp_path / "out.json").read_text())
    assert {study["model_prediction"] for study in written.values()} == {"Findings: A. B. Impression: C."}


@pytest.mark.parametrize(
    ("study", "error", "message"),
    [
        ({"context": ""}, ValueError, "Study '1' .* neither"),
        ({"key_image_path": "x.png"}, FileNotFoundError, "x.png' .study '1'"),
    ],
)
def test_a_study_without_an_image_is_refused(paths, study, error, message):
    paths[0].write_text(json.dumps({"1": study}))
    with pytest.raises(error, match=message):
        write_rexrank_predictions(*paths)
