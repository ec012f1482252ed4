import json

import PIL.Image
import pytest

from transformers_cxr.evaluation.rexrank import read_rexrank_studies, rexrank_report, write_rexrank_predictions


@pytest.fixture
def studies(tmp_path):
    """Fields as in the files of the leaderboard."""
    for name in ("CXR1/0.png", "CXR1/1.png", "p10/view.jpg"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("L", (8, 8)).save(tmp_path / "images" / name)
    studies = {
        "CXR1_IM-0001": {
            "key_image_path": "CXR1/1.png",
            "image_path": ["CXR1/0.png", "CXR1/1.png"],
            "report": "Findings: Clear. Impression: Normal.",
            "section_findings": "Clear.",
            "section_impression": "Normal.",
            "split": "test",
            "frontal_lateral": ["Lateral", "Frontal"],
            "context": "Indication: Cough Comparison: None.",
        },
        "50051329": {"image_path": ["/p10/view.jpg"], "context": "<context>Age:50-60.</context>"},
    }
    (tmp_path / "test.json").write_text(json.dumps(studies))
    return studies


def test_the_frontal_image_is_read_and_all_that_came_goes_back_with_the_prediction(studies, tmp_path):
    read, examples = read_rexrank_studies(tmp_path / "test.json", tmp_path / "images")
    assert [e.image_path.relative_to(tmp_path / "images").as_posix() for e in examples] == [
        "CXR1/1.png",
        "p10/view.jpg",
    ]
    reports = {e.id: "FINDINGS: The lungs are clear.\nIMPRESSION: Normal." for e in examples}
    write_rexrank_predictions(read, reports, tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert list(written) == list(studies)
    for study_id, study in studies.items():
        assert written[study_id] == study | {"model_prediction": "Findings: The lungs are clear. Impression: Normal."}


def test_report_is_one_line_with_headings_as_the_leaderboard_writes_them():
    assert rexrank_report("findings: A.\n\nB.\nIMPRESSION:C.") == "Findings: A. B. Impression: C."
    assert rexrank_report("Normal.") == "Findings: Normal."


def test_missing_images_and_reports_are_told(studies, tmp_path):
    read, examples = read_rexrank_studies(tmp_path / "test.json", tmp_path / "images")
    with pytest.raises(ValueError, match="each of the 2 studies.*1 lack one, 0 are of no study"):
        write_rexrank_predictions(read, {examples[0].id: "Normal."}, tmp_path / "out.json")
    (tmp_path / "images/CXR1/1.png").unlink()
    with pytest.raises(FileNotFoundError, match="CXR1/1.png' .study 'CXR1_IM-0001'"):
        read_rexrank_studies(tmp_path / "test.json", tmp_path / "images")
    (tmp_path / "test.json").write_text("[]")
    with pytest.raises(ValueError, match="dictionary of studies"):
        read_rexrank_studies(tmp_path / "test.json", tmp_path / "images")
    (tmp_path / "test.json").write_text('{"1": {"context": ""}}')
    with pytest.raises(ValueError, match="Study '1' .* neither"):
        read_rexrank_studies(tmp_path / "test.json", tmp_path / "images")


def test_a_broken_json_file_is_named(tmp_path):
    (tmp_path / "test.json").write_text("{")
    with pytest.raises(ValueError, match="test.json' is no JSON file"):
        read_rexrank_studies(tmp_path / "test.json", tmp_path)
