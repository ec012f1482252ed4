import csv
import json

import numpy as np
import PIL.Image
import pytest

from transformers_cxr.evaluation import Example, export_reader_study, score_reader_study
from transformers_cxr.evaluation.predictions import predict
from transformers_cxr.evaluation.results.tables import write_run
from transformers_cxr.evaluation.tasks.image import image_file

REAL, GENERATED = 100, 200


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """The output folder of an evaluation: 8 images and 6 reports."""
    folder = tmp_path_factory.mktemp("evaluation")
    (folder / "images").mkdir()
    for value in (REAL, GENERATED):
        PIL.Image.new("L", (16, 16), value).save(folder / f"{value}.png")
    path = folder / f"{REAL}.png"
    images = [Example(str(i), f"p{i}", "", path, f"report {i}") for i in range(8)]
    for example in images:
        image_file(folder, example).write_bytes((folder / f"{GENERATED}.png").read_bytes())
    reports = [Example(str(i), f"p{i}", "", path, "", f"real {i}") for i in range(6)]
    predict(images, lambda batch: np.zeros((8, 4), np.uint16), folder / "predictions/image", {})
    predict(reports, lambda batch: [f"generated {e.id}" for e in batch], folder / "predictions/report", {})
    write_run(folder, {}, [])
    return folder


@pytest.fixture
def study(evaluation, tmp_path):
    export_reader_study(evaluation, tmp_path / "study", tmp_path / "key.json", 8, 6, seed=1)
    return tmp_path / "study"


def fill(path, answer, **options):
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, rows[0], **options)
        writer.writeheader()
        writer.writerows(row | answer(row) for row in rows)


def value_of(study, name):
    with PIL.Image.open(study / name) as file:
        return int(np.asarray(file)[0, 0])


def recognized(row, study):
    """A reader who recognizes the generated image, with grades of 2 and 3 for it, and of 4 and 5 for the real one."""
    generated = "A" if value_of(study, row["image_a"]) == GENERATED else "B"
    grades = {"quality_a": 4, "fit_a": 5, "quality_b": 4, "fit_b": 5}
    return grades | {"generated": generated, f"quality_{generated.lower()}": 2, f"fit_{generated.lower()}": 3}


def preferred(row):
    real, generated = "ab" if row["report_a"].startswith("real") else "ba"
    return {"preferred": real, f"errors_{real}": 0, f"errors_{generated}": 2}


def test_the_folder_does_not_tell_which_one_is_generated(study, tmp_path):
    sides = {trial: of["generated"] for trial, of in json.loads((tmp_path / "key.json").read_text())["images"].items()}
    assert set(sides.values()) == {"A", "B"}
    comments = set()
    with (study / "images.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for letter in "AB":
                name = row[f"image_{letter.lower()}"]
                assert value_of(study, name) == (GENERATED if letter == sides[row["trial"]] else REAL)
                with PIL.Image.open(study / name) as picture:
                    comments.add(json.dumps([picture.size, picture.text], sort_keys=True))
    assert len(comments) == 1 and "for research only" in comments.pop()
    assert not [path for path in study.rglob("*") if "key" in path.name]
    assert not any("p3" in (study / name).read_text() for name in ("images.csv", "reports.csv", "README.md"))


# Spreadsheets save CSV with commas or semicolons.
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_reader_who_recognizes_all_is_scored_so(study, tmp_path, delimiter):
    fill(study / "images.csv", lambda row: recognized(row, study), delimiter=delimiter)
    fill(study / "reports.csv", preferred, delimiter=delimiter)
    scores = score_reader_study(study, tmp_path / "key.json", num_resamples=100)
    values = {name: estimate.value for name, estimate in scores.items()}
    assert values["told_apart"] == 1 and values["told_apart_p"] == pytest.approx(2 / 2**8)
    assert (values["quality_real"], values["quality_generated"]) == (4, 2)
    assert (values["fit_real"], values["fit_generated"]) == (5, 3)
    # All 8 differences have the same sign.
    assert values["quality_p"] == pytest.approx(2 / 2**8, abs=0.01)
    assert (values["preferred_real"], values["preferred_generated"], values["no_preference"]) == (1, 0, 0)
    assert (values["errors_real"], values["errors_generated"]) == (0, 2)
    assert scores["told_apart"].patients == 8 and scores["errors_real"].units == 6


def test_no_spreadsheet_takes_a_report_for_a_formula(evaluation, tmp_path, monkeypatch):
    texts = ["=1+1", "+1", "-1", "@a", "\ta", "\ra", "1 = 1", "a"]
    examples = [Example(str(i), f"p{i}", "", evaluation / f"{REAL}.png", "", text) for i, text in enumerate(texts)]
    predict(examples, lambda batch: [e.reference for e in batch], tmp_path / "run/predictions/report", {})
    write_run(tmp_path / "run", {}, [])
    export_reader_study(tmp_path / "run", tmp_path / "study", tmp_path / "key.json", 0, 8)
    with (tmp_path / "study/reports.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["report_a"] for row in rows} == {f"'{text}" for text in texts[:6]} | set(texts[6:])


def test_a_reader_who_sees_no_difference_is_at_chance(study, tmp_path):
    same = {"quality_a": 3, "fit_a": 3, "quality_b": 3, "fit_b": 3}
    fill(study / "images.csv", lambda row: same | {"generated": "A" if int(row["trial"]) % 2 else "b "})
    fill(study / "reports.csv", lambda row: {"preferred": "=", "errors_a": 1, "errors_b": 1})
    scores = score_reader_study(study, tmp_path / "key.json", num_resamples=100)
    assert scores["told_apart_p"].value > 0.05 and np.isnan(scores["quality_p"].value)
    assert scores["no_preference"].value == 1


@pytest.mark.parametrize(
    ("trials", "answer", "message"),
    [
        (8, {"generated": "C"}, r"Trial 1 of .*: expected one of \['A', 'B'\] in `generated`, got 'C'"),
        (8, {"trial": "1"}, "Trial '1' of .* occurs twice"),
        (8, {"trial": "99"}, "Trial '99' of .* is not in the key"),
        (6, {}, "lacks the trials 7, 8"),
    ],
)
def test_a_wrong_cell_or_a_missing_trial_is_named(study, tmp_path, trials, answer, message):
    fill(study / "images.csv", lambda row: recognized(row, study) | answer)
    lines = (study / "images.csv").read_text().splitlines(keepends=True)
    (study / "images.csv").write_text("".join(lines[: 1 + trials]))
    with pytest.raises(ValueError, match=message):
        score_reader_study(study, tmp_path / "key.json")


def test_a_key_of_another_kind_is_named(study, tmp_path):
    (tmp_path / "key.json").write_text('{"images": 5}')
    with pytest.raises(ValueError, match="Expected `images` of type dict in '.*key.json', got 5"):
        score_reader_study(study, tmp_path / "key.json")


def test_the_key_is_kept_outside_and_nothing_is_overwritten(evaluation, study, tmp_path):
    with pytest.raises(ValueError, match="where the readers would see it"):
        export_reader_study(evaluation, tmp_path / "new", tmp_path / "new" / "key.json", 1, 1)
    with pytest.raises(FileExistsError, match="study"):
        export_reader_study(evaluation, study, tmp_path / "other.json", 1, 1)
    with pytest.raises(ValueError, match="has 8 examples of the task 'image', fewer than 50"):
        export_reader_study(evaluation, tmp_path / "new", tmp_path / "other.json")
    with pytest.raises(FileNotFoundError, match="expected the output folder of a finished evaluation"):
        export_reader_study(tmp_path, tmp_path / "new", tmp_path / "other.json")
    assert not (tmp_path / "other.json").exists() and not (tmp_path / "new").exists()
