"""`transformers-cxr evaluate` and what follows, on a tiny random model and random images."""

import csv
import json
import re
import shutil

import numpy as np
import PIL.Image
import pyarrow.parquet
import pytest
import typer
from typer.testing import CliRunner

from transformers_cxr.cli import evaluate as commands
from transformers_cxr.evaluation import runner as run
from transformers_cxr.evaluation.results.model_card import update_document
from transformers_cxr.evaluation.results.tables import results_from_json

COLUMNS = "file_name split source patient_id view sex age age_group finding_labels etiology license".split()
CARD = "---\nlicense: apache-2.0\n---\n\n# Model\n\n<!-- metrics -->\nold\n<!-- end of metrics -->\n\nThe end.\n"
OPTIONS = ["--max-new-tokens", "4", "--batch-size", "4", "--num-resamples", "10", "--num-corrupted", "1"]
TASKS = ["--tasks", "report,image,vqa", "--tasks", "language,tokenizer,well-formed,robustness"]

app = typer.Typer()
for command in (
    commands.evaluate,
    commands.compare,
    commands.reader_study,
    commands.score_reader_study,
    commands.rexrank,
):
    app.command()(command)


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def fine(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


def mistake(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.output + repr(result.exception)
    return result.output


@pytest.fixture
def data_dir(tmp_path):
    folder, rng = tmp_path / "data", np.random.default_rng(0)
    folder.mkdir()
    rows = []
    for i in range(6):
        PIL.Image.fromarray((rng.random((5, 5)) * 255).astype(np.uint8)).resize((40, 40)).save(folder / f"{i}.png")
        finding, etiology = ("No Finding", "") if i % 2 else ("Pneumonia", "viral")
        values = [f"{i}.png", "validation", "kermany" if i < 4 else "site B", f"p{i // 2}", "AP", "", "", "child"]
        rows.append(dict(zip(COLUMNS, [*values, finding, etiology, ""])))
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture
def model_dir(tiny_model, tmp_path):
    model, processor = tiny_model
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="module")
def finished():
    """The evaluation that was made for the first test that needs one."""
    return {}


@pytest.fixture
def evaluation(finished, data_dir, model_dir, tmp_path):
    """The folder of an evaluation, what was printed, and the options that it was made with."""
    (tmp_path / "texts.txt").write_text("The lungs are clear.\n\nIs there pneumonia? No.\n")
    (tmp_path / "card.md").write_text(CARD)
    given = ["--data-dir", data_dir, "--model", model_dir, "--texts", tmp_path / "texts.txt", *TASKS, *OPTIONS]
    if not finished:
        output = fine("evaluate", tmp_path / "first", *given, "--model-card", tmp_path / "card.md")
        finished |= {"folder": tmp_path / "first", "output": output, "card": (tmp_path / "card.md").read_text()}
    shutil.copytree(finished["folder"], tmp_path / "out")
    (tmp_path / "card.md").write_text(finished["card"])
    return tmp_path / "out", finished["output"], given


def test_an_evaluation_writes_numbers_tables_page_predictions_and_model_card(evaluation, tmp_path):
    folder, output, _ = evaluation
    results = json.loads((folder / "results.json").read_text())
    values = {(r["task"], r["group"], r["metric"]): r for r in results["results"]}
    assert {r["task"] for r in results["results"]} == set(run.TASKS) - {"diversity", "image"}
    assert values["well-formed", "all", "well_formed"]["value"] == 1
    assert values["vqa", "all", "exact_match"]["patients"] == 3
    assert {group for task, group, _ in values if task == "report"} == {"all", "kermany", "site B"}
    assert [values["report", g, "bleu_1"]["units"] for g in ("all", "kermany", "site B")] == [6, 4, 2]
    psnr = values["tokenizer", "all", "psnr"]
    assert psnr["low"] <= psnr["value"] <= psnr["high"]
    assert ("robustness", "blur 3", "f1_micro_14") in values and ("robustness", "none 0", "f1_micro_14") in values
    assert values["language", "all", "perplexity"]["value"] > 1
    # A label that no reference has is not defined, which is not 0.
    assert values["report", "all", "f1_fracture"]["value"] is None
    assert (
        "not defined" in (folder / "tables.md").read_text() and "## vqa" in output and "s per 100 examples" in output
    )

    reports = pyarrow.parquet.read_table(folder / "predictions/report.parquet").to_pylist()
    assert len(reports) == 6 and reports[0]["reference"].startswith("FINDINGS: ")
    drawn = pyarrow.parquet.read_schema(folder / "predictions/image.parquet").field("prediction")
    assert "uint16" in str(drawn.type)
    with PIL.Image.open(folder / "images/00000.png") as file:
        assert file.size == (32, 32) and "Synthetic image" in file.text["Comment"]

    page = (folder / "report.html").read_text()
    assert "not for clinical use" in page and "<svg" in page and "data:image/png;base64," in page
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)""", page) and "<script" not in page

    card = (tmp_path / "card.md").read_text()
    assert (
        "model-index:" in card and "license: apache-2.0" in card and card.endswith("The end.\n") and "old" not in card
    )
    assert "### report" in card and "type: exact_match" in card


def test_metrics_are_computed_again_without_the_model_giving_anything(evaluation, monkeypatch):
    folder, _, given = evaluation
    before = json.loads((folder / "results.json").read_text())["results"]

    def never(*args, **kwargs):
        raise AssertionError("generated again")

    for name in ("text_generator", "image_generator", "interleaved_generator", "code_generator"):
        monkeypatch.setattr(run, name, lambda *args, **kwargs: never)
    fine("evaluate", folder, *given)
    assert json.loads((folder / "results.json").read_text())["results"] == before


def test_a_run_compared_with_itself_does_not_differ(evaluation):
    folder, _, _ = evaluation
    output = fine("compare", folder, folder, "--num-resamples", "5")
    rows = [line.split(" | ") for line in output.splitlines() if line.startswith(("| report", "| vqa"))]
    assert len(rows) > 20
    assert all(row[2] in ("0 [0, 0]", "not defined [not defined, not defined]") for row in rows)


def test_chosen_rows_are_written_into_any_document(evaluation, tmp_path):
    folder, _, _ = evaluation
    results = results_from_json(json.loads((folder / "results.json").read_text())["results"])
    path = tmp_path / "README.md"
    marker = "<!-- metrics: vqa/all/exact_match, well-formed/all/well_formed -->"
    path.write_text(f"# Title\n{marker}\n<!-- end of metrics -->\n")
    update_document(path, results)
    text = path.read_text()
    assert (
        marker in text and "| well-formed | all | well_formed | 1 | 1 to 1 | 6 |" in text and text.count("\n| ") == 4
    )
    update_document(path, results)
    assert path.read_text() == text
    path.write_text("<!-- metrics: vqa/all/no_such -->\n<!-- end of metrics -->\n")
    with pytest.raises(ValueError, match="names 'vqa/all/no_such'"):
        update_document(path, results)


def test_a_reader_study_comes_out_of_an_evaluation(evaluation, tmp_path):
    folder, _, _ = evaluation
    key = ["--key", tmp_path / "key.json"]
    output = fine("reader-study", folder, tmp_path / "study", *key, "--num-images", "4", "--num-reports", "3")
    assert "4 pairs of X-rays and 3 of reports" in output
    assert len(list((tmp_path / "study/images").glob("pair_*.png"))) == 8
    output = mistake("score-reader-study", tmp_path / "study", *key)
    assert "`generated` is ''" in output
    output = mistake("reader-study", folder, tmp_path / "other", "--key", tmp_path / "k.json", "--num-images", "99")
    assert "has 6 examples of the task 'image', fewer than 99" in output


def test_rexrank_predictions_go_beside_what_came(data_dir, model_dir, tmp_path):
    studies = {f"s{i}": {"key_image_path": f"{i}.png", "context": "Indication: Cough"} for i in range(3)}
    (tmp_path / "in.json").write_text(json.dumps(studies))
    arguments = [tmp_path / "in.json", tmp_path / "out.json", data_dir, "--model", model_dir, "--max-new-tokens", "4"]
    fine("rexrank", *arguments)
    written = json.loads((tmp_path / "out.json").read_text())
    assert list(written) == list(studies) and written["s1"].keys() == {"key_image_path", "context", "model_prediction"}
    assert "'" + str(tmp_path / "out.json") + "' exists" in mistake("rexrank", *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "report,xray", "--data-dir", "DATA"], "No task 'xray'; there are report, image"),
        (["--tasks", "language", "--data-dir", "DATA"], "The task 'language' needs `texts`"),
        ([], "nothing to evaluate on"),
        (["--data-dir", "DATA", "--split", "test"], "has no image of split 'test'"),
        (["--data-dir", "nowhere"], "No metadata.csv in 'nowhere'"),
        (["--reports", "nowhere.json"], "There is no file 'nowhere.json'"),
        (["--data-dir", "DATA", "--tasks", "tokenizer", "--model", "DATA"], "config.json"),
    ],
)
def test_what_cannot_be_evaluated_is_one_message(data_dir, tmp_path, arguments, message):
    arguments = [str(data_dir) if argument == "DATA" else argument for argument in arguments]
    assert message in " ".join(mistake("evaluate", tmp_path / "out", *arguments).split())


def test_another_folder_or_another_model_is_refused(evaluation, data_dir, tiny_model, tmp_path):
    folder, _, _ = evaluation
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    given = ["--data-dir", data_dir, "--tasks", "report"]
    assert "holds other files" in mistake("evaluate", tmp_path / "mine", *given)
    model, processor = tiny_model
    model.get_input_embeddings().weight.data += 0.1
    model.save_pretrained(tmp_path / "other")
    processor.save_pretrained(tmp_path / "other")
    output = mistake("evaluate", folder, *given, "--model", tmp_path / "other", *OPTIONS)
    assert "with other settings: model was" in " ".join(output.split())
