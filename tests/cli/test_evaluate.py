"""`transformers-cxr evaluate` and the commands on its output, on a tiny random model and random images."""

import csv
import json
import re
import shutil
from urllib.parse import quote

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModel, ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil
from typer.testing import CliRunner

from transformers_cxr.cli.main import app
from transformers_cxr.evaluation import TASKS
from transformers_cxr.evaluation.predictions import read_predictions
from transformers_cxr.files import locked_output
from transformers_cxr.hub.cards import NOTICE

COLUMNS = "file_name split source patient_id view sex age_group finding_labels etiology".split()
OPTIONS = ["--max-new-tokens", "4", "--batch-size", "4", "--num-resamples", "5", "--num-corrupted", "1"]


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


def error_of(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.output + repr(result.exception)
    return " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Six validation images of three patients and two sources, and a training image."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for i in range(7):
            PIL.Image.fromarray((rng.random((5, 5)) * 255).astype(np.uint8)).resize((40, 40)).save(folder / f"{i}.png")
            labels = ("No Finding", "") if i % 2 else ("Pneumonia", "viral")
            split, source = "validation" if i < 6 else "train", "kermany" if i < 4 else "site B"
            writer.writerow([f"{i}.png", split, source, f"p{i // 2}", "AP", "", "child", *labels])
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifiers") / "tiny-resnet"
    torch.manual_seed(0)
    sizes = {"embedding_size": 4, "hidden_sizes": [4], "depths": [1], "layer_type": "basic"}
    names = dict(enumerate(("Pneumonia", "Bacterial Pneumonia")))
    config = ResNetConfig(num_channels=1, id2label=names, problem_type="multi_label_classification", **sizes)
    ResNetForImageClassification(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    ViTImageProcessorPil(size=size, image_mean=[0.5], image_std=[0.5]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def evaluation(data_dir, checkpoint_dir, classifier, tmp_path_factory):
    """The output folder of an evaluation, its standard output, and its options."""
    folder = tmp_path_factory.mktemp("evaluation")
    (folder / "texts.txt").write_text("The lungs are clear.\n\nIs there pneumonia? No.\n")
    tasks = ["--tasks", "report,image,vqa", "--tasks", ",".join(set(TASKS) - {"report", "image", "vqa", "diversity"})]
    metrics = ["--classifier", classifier, "--features", classifier, "--training-split", "train"]
    options = ["--records", data_dir, "--model", checkpoint_dir, "--texts", folder / "texts.txt"]
    options += [*tasks, *metrics, *OPTIONS]
    output = run("evaluate", folder / "out", *options, "--model-card", folder / "card.md")
    return folder / "out", output, options


def results_of(folder):
    results = json.loads((folder / "results.json").read_text())["results"]
    return {(r["task"], r["group"], r["metric"]): r for r in results}


def test_unreadable_images_are_named_and_left_out(data_dir, checkpoint_dir, classifier, tmp_path):
    shutil.copytree(data_dir, tmp_path / "data")
    # The images 6 and 7 are of the training split.
    metadata = tmp_path / "data/metadata.csv"
    metadata.write_text(metadata.read_text() + "7.png,train,site B,p7,AP,,child,No Finding,\n")
    for number in (2, 7):
        (tmp_path / f"data/{number}.png").write_bytes(b"damaged")
    arguments = ["--records", tmp_path / "data", "--model", checkpoint_dir, "--tasks", "image", *OPTIONS]
    arguments += ["--features", classifier, "--training-split", "train"]
    result = CliRunner().invoke(app, ["evaluate", *map(str, [tmp_path / "out", *arguments])])
    assert result.exit_code == 0, result.stderr
    for number in (2, 7):
        assert f"Not read: {tmp_path}/data/{number}.png: Cannot read" in result.stderr
    assert read_predictions(tmp_path / "out/predictions/image").keys() == {f"{i}.png" for i in (0, 1, 3, 4, 5)}
    assert ("image", "all", "tiny-resnet_closer_than_real") in results_of(tmp_path / "out")


def test_an_evaluation_writes_results_tables_page_predictions_images_and_model_card(evaluation):
    folder, output, _ = evaluation
    values = results_of(folder)
    assert {task for task, _, _ in values} == {*TASKS, "cost"} - {"diversity"}
    assert values["well-formed", "all", "well_formed"]["value"] == 1
    assert values["vqa", "all", "exact_match"]["patients"] == 3
    assert [values["report", g, "bleu_1"]["units"] for g in ("all", "kermany", "site B")] == [6, 4, 2]
    psnr = values["tokenizer", "all", "psnr"]
    assert psnr["low"] <= psnr["value"] <= psnr["high"]
    assert {("robustness", "blur 3", "f1_micro_14"), ("robustness", "none 0", "f1_micro_14")} <= set(values)
    assert values["language", "all", "perplexity"]["value"] > 1
    # A label that no reference has is not defined, which is not 0.
    assert values["report", "all", "f1_fracture"]["value"] is None
    assert "## Answers" in (folder / "tables.md").read_text() and "fracture" not in (folder / "tables.md").read_text()
    assert "| Answers | Exact match | kermany |" in output and f"All results in {folder}: report.html" in output

    reports = pd.read_parquet(folder / "predictions/report")
    assert len(reports) == 6 and reports["reference"][0].startswith("FINDINGS: ")
    assert pd.read_parquet(folder / "predictions/image")["prediction"][0].dtype == np.uint16
    generated = pd.read_parquet(folder / "predictions/image")
    assert len(generated) == len(list((folder / "images").iterdir()))
    with PIL.Image.open(folder / f"images/{quote(generated['id'][0], safe='')}.png") as file:
        assert file.size == (32, 32) and "Synthetic image" in file.text["Comment"]
    page = (folder / "report.html").read_text()
    assert "not for clinical use" in page and "<svg" in page and "data:image/png;base64," in page
    assert "kermany 4, site B 2 (split validation, 3 patients)" in page and "written from labels" in page
    assert "Pneumonia: missed" in page and "not as the reference" in page
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)""", page)
    card = ModelCard.load(folder.parent / "card.md")
    assert "### Reports" in card.text and NOTICE in card.text and card.data.eval_results


def test_generated_images_are_measured_beside_reconstructions_and_training_images(evaluation):
    names = {metric for task, group, metric in results_of(evaluation[0]) if (task, group) == ("image", "all")}
    accuracies = {f"{prefix}finding_balanced_accuracy" for prefix in ("", "reconstructed_", "real_")}
    distances = {f"tiny-resnet_{name}" for name in ("fid", "reconstructed_fid", "fid_ratio", "closer_than_real")}
    assert accuracies | distances | {"f1_macro", "reconstructed_f1_macro", "f1_pneumonia"} <= names
    assert ("image", "finding: Pneumonia", "f1_macro") in results_of(evaluation[0])


def test_metrics_are_computed_again_without_generating_anything(evaluation, monkeypatch, tmp_path):
    folder, _, options = evaluation
    shutil.copytree(folder, tmp_path / "out")
    for task in set(TASKS.values()) - {TASKS["language"]}:
        monkeypatch.setattr(task, "generate", lambda *arguments: pytest.fail("generated again"))
    run("evaluate", tmp_path / "out", *options)
    assert results_of(tmp_path / "out") == results_of(folder)


def test_a_run_does_not_differ_from_itself(evaluation, tmp_path):
    options = ["--num-resamples", "5", "--output", tmp_path / "comparison.html"]
    output = run("compare", evaluation[0], evaluation[0], *options)
    rows = [line.split(" | ") for line in output.splitlines() if line.startswith(("| Reports", "| Answers", "| Gen"))]
    assert {row[0] for row in rows} == {"| Reports", "| Answers", "| Generated X-rays"}
    assert all(row[4] == "0 [0, 0]" for row in rows) and "No headline number changed clearly." in output
    page = (tmp_path / "comparison.html").read_text()
    assert page.count("<details") == 3 and "data:image" not in page
    assert "exists" in error_of("compare", evaluation[0], evaluation[0], *options)


def test_a_comparison_shows_samples_with_other_outputs(evaluation, tmp_path):
    shutil.copytree(evaluation[0], tmp_path / "other")
    for path in (tmp_path / "other/predictions/report").glob("*.parquet"):
        table = pd.read_parquet(path)
        table["prediction"] = table["reference"]
        # Another instruction, and a copy of the data elsewhere.
        table["prompt"], table["image_path"] = "Describe it.", table["image_path"].str.replace("data", "copy")
        table.to_parquet(path)
    options = ["--num-resamples", "200", "--output", tmp_path / "comparison.html"]
    output = run("compare", evaluation[0], tmp_path / "other", *options)
    assert "| Reports | Normal or pneumonia | 0 | 1 | 1 [1, 1] |" in output
    page = (tmp_path / "comparison.html").read_text()
    assert "generated, second" in page and "first: Pneumonia: missed" in page and page.count("data:image") == 6


def test_a_reader_study_of_an_evaluation(evaluation, tmp_path):
    key = ["--key", tmp_path / "key.json"]
    counts = ["--num-images", "4", "--num-reports", "3"]
    assert "4 pairs of X-rays and 3 of reports" in run(
        "reader-study", evaluation[0], tmp_path / "study", *key, *counts
    )
    assert len(list((tmp_path / "study/images").glob("images_*.png"))) == 8
    assert "in `generated`, got ''" in error_of("score-reader-study", tmp_path / "study", *key)


def test_a_rexrank_submission(data_dir, checkpoint_dir, tmp_path):
    (tmp_path / "in.json").write_text(json.dumps({"s1": {"key_image_path": "1.png"}}))
    paths = [tmp_path / "in.json", tmp_path / "out.json", data_dir]
    run("rexrank", *paths, "--model", checkpoint_dir, "--max-new-tokens", "4")
    assert json.loads((tmp_path / "out.json").read_text())["s1"].keys() == {"key_image_path", "model_prediction"}


def test_records_are_those_of_the_split(data_dir, checkpoint_dir, tmp_path):
    options = ["--records", data_dir, "--model", checkpoint_dir, "--tasks", "tokenizer", "--num-resamples", "0"]
    for split, count in (("train", 1), ("train,validation", 7)):
        run("evaluate", tmp_path / split, *options, "--split", split)
        assert results_of(tmp_path / split)["tokenizer", "all", "psnr"]["units"] == count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tasks", "report,xray", "--records", "DATA"], "Unknown tasks ['xray']; expected some of report, image"),
        (["--tasks", "language", "--records", "DATA"], "The task 'language' has no examples"),
        ([], "No task has examples in `--records` or `--texts`"),
        (["--records", "DATA", "--split", "test"], "'test'"),
        (["--records", "nowhere"], "'nowhere'"),
        (["--records", "DATA", "--training-split", "train"], "`--training-split` needs `--records`"),
        (["--records", "DATA", "--tasks", "tokenizer", "--model", "DATA"], "config.json"),
    ],
)
def test_what_cannot_be_evaluated_is_an_error(data_dir, tmp_path, options, message):
    options = [str(data_dir) if option == "DATA" else option for option in options]
    assert message in error_of("evaluate", tmp_path / "out", *options)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("---\nlicense: [mit\n---\n", "The metadata of the model card 'CARD' are not valid"),
        ("# A model\n", "'CARD' has no section between '<!-- metrics -->'"),
    ],
)
def test_a_model_card_is_checked_before_anything_is_generated(data_dir, tmp_path, card, message):
    (tmp_path / "card.md").write_text(card)
    options = ["--records", data_dir, "--model-card", tmp_path / "card.md"]
    assert message.replace("CARD", str(tmp_path / "card.md")) in error_of("evaluate", tmp_path / "out", *options)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_second_evaluation_on_an_output_is_refused(tmp_path):
    with locked_output(tmp_path / "out"):
        assert "Another run is writing to this output" in error_of("evaluate", tmp_path / "out")


def test_another_model_or_equal_ids_are_refused(evaluation, checkpoint_dir, data_dir, tmp_path):
    options = ["--records", data_dir, "--tasks", "report", *OPTIONS]
    shutil.copytree(data_dir, tmp_path / "data")
    metadata = tmp_path / "data/metadata.csv"
    metadata.write_text(metadata.read_text().replace("kermany", "site C"))
    error = error_of("evaluate", tmp_path / "out", *options, "--records", tmp_path / "data")
    assert "Expected unique ids for the task 'report', but '" in error
    shutil.copytree(checkpoint_dir, tmp_path / "other")
    model = AutoModel.from_pretrained(checkpoint_dir)
    model.get_input_embeddings().weight.data += 0.1
    model.save_pretrained(tmp_path / "other")
    assert "other settings: model was" in error_of("evaluate", evaluation[0], *options, "--model", tmp_path / "other")
