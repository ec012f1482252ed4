import json

import PIL.Image
import pytest

from transformers_cxr.evaluation import read_rexrank_studies, write_rexrank_predictions
from transformers_cxr.evaluation.rexrank import rexrank_report

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
def write(tmp_path):
    for name in ("CXR1/0.png", "CXR1/1.png", "p10/view.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("L", (8, 8)).save(tmp_path / name)

    def write(text):
        (tmp_path / "test.json").write_text(text)
        return tmp_path / "test.json", tmp_path

    return write


def test_the_frontal_image_is_read_and_the_studies_are_written_with_predictions(write, tmp_path):
    studies, examples = read_rexrank_studies(*write(json.dumps(STUDIES)))
    assert [e.image_path for e in examples] == [tmp_path / "CXR1/1.png", tmp_path / "p10/view.jpg"]
    reports = {e.id: "FINDINGS: The lungs are clear.\nIMPRESSION: Normal." for e in examples}
    write_rexrank_predictions(studies, reports, tmp_path / "out.json")
    prediction = {"model_prediction": "Findings: The lungs are clear. Impression: Normal."}
    assert json.loads((tmp_path / "out.json").read_text()) == {id_: s | prediction for id_, s in STUDIES.items()}


def test_a_report_is_one_line_with_the_headings_of_the_leaderboard():
    assert rexrank_report("findings: A.\n\nB.\nIMPRESSION:C.") == "Findings: A. B. Impression: C."
    assert rexrank_report("Normal.") == "Findings: Normal."


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{", ValueError, "test.json' is not a JSON file"),
        ("[]", ValueError, "dictionary of studies"),
        ('{"1": {"context": ""}}', ValueError, "Study '1' .* neither"),
        ('{"1": {"key_image_path": "x.png"}}', FileNotFoundError, "x.png' .study '1'"),
    ],
)
def test_files_that_cannot_be_used_are_refused(write, text, error, message):
    with pytest.raises(error, match=message):
        read_rexrank_studies(*write(text))
