"""`transformers-cxr train` on a tiny random model: from a table to a checkpoint, resuming, processes, bad input."""

import csv
import json
import os
import resource
import subprocess
import sys

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor
from typer.testing import CliRunner

from transformers_cxr.cli.main import app
from transformers_cxr.data import load_records, open_records
from transformers_cxr.evaluation.tasks.report import ReportTask
from transformers_cxr.hub.cards import NOTICE
from transformers_cxr.training import InstructionTrainer

from ..conftest import reset_accelerator

SETTINGS = {"use_cpu": True, "num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
ROWS = [
    {"file": f"{i}.png", "patient": f"p{i // 2}", "report": ("IMPRESSION: Normal.", "FINDINGS: Edema.")[i % 2]}
    for i in range(16)
]


def write_table(folder, rows, encoding="utf-8"):
    # The random split depends on the name of the dataset, that of the folder.
    path = folder / "hospital/reports.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def images_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i in range(16):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 40), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def invoke(*arguments):
    reset_accelerator()
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def arguments(folder, images_dir, checkpoint_dir, output="run", **settings):
    """The arguments of the command, for the table of a folder and with other settings of the training."""
    (folder / f"{output}.yaml").write_text(yaml.safe_dump(SETTINGS | settings))
    data = [
        "--table",
        folder / "hospital/reports.csv",
        "--images",
        images_dir,
        "--model",
        checkpoint_dir,
        "--num-resamples",
        2,
    ]
    return [*data, "--config", folder / f"{output}.yaml", "--output-dir", folder / output]


@pytest.fixture(scope="module")
def finished(images_dir, checkpoint_dir, tmp_path_factory):
    """The folder of a run of a table with a few unusable rows, and the result of its command."""
    folder = tmp_path_factory.mktemp("finished")
    (images_dir / "damaged.png").write_bytes((images_dir / "1.png").read_bytes()[:100])
    unusable = [("damaged.png", "a", "Clear."), ("no.png", "b", "Clear."), ("2.png", "c", ""), ("3.png", "", "Clear.")]
    write_table(folder, [*ROWS, *({"file": f, "patient": p, "report": r} for f, p, r in unusable)])
    result = invoke(*arguments(folder, images_dir, checkpoint_dir))
    assert result.exit_code == 0, result.output + repr(result.exception)
    return folder / "run", result


@pytest.fixture
def train(images_dir, checkpoint_dir, tmp_path):
    """`train(*more, **settings)` runs the command on the table of `tmp_path`."""
    write_table(tmp_path, ROWS)
    return lambda *more, **settings: invoke(*arguments(tmp_path, images_dir, checkpoint_dir, **settings), *more)


@pytest.fixture(autouse=True)
def one_accelerator_per_run():
    yield
    reset_accelerator()


def weights(folder):
    return load_file(folder / "model.safetensors")


def same_weights(first, second):
    first, second = weights(first), weights(second)
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_table_becomes_a_trained_checkpoint_that_is_evaluated(finished):
    folder, result = finished
    rows = {line.split(" | ")[0]: line.split(" | ") for line in result.stdout.splitlines() if line.startswith("|")}
    _, before, after, *_ = rows["| eval_loss"]
    assert float(after) < float(before) and "| Reports: ROUGE-L" in rows and "final" in result.stdout
    model, processor = (auto.from_pretrained(folder / "final") for auto in (AutoModel, AutoProcessor))
    model.check_processor(processor)
    assert {len(codes) for codes in load_records(folder / "records.parquet")["codes"]} == {16}
    assert (folder / "evaluation_after/report.html").is_file() and "eval_loss_report" in result.stderr
    card = ModelCard.load(folder / "final/README.md")
    assert card.data.datasets == ["hospital"] and card.data.model_name == "run" and NOTICE in card.text
    assert {each.task_type for each in card.data.eval_results} == {"image-to-text"} and "ROUGE-L" in card.text
    assert (folder / "final/modeling_llm_cxr.py").is_file()


def test_patients_of_the_splits_and_unusable_rows_are_counted_and_named(finished):
    folder, result = finished
    for line in ("16 written, 4 skipped", "train: 6 patients, 12 X-rays", "validation: 2 patients, 4 X-rays"):
        assert line in result.stderr
    assert "in validation with a probability of 20% (seed 0)" in result.stderr
    skipped = [json.loads(line) for line in (folder / "skipped.jsonl").read_text().splitlines()]
    assert {row["id"]: row["reason"] for row in skipped} == {
        "damaged.png": "an image that cannot be read",
        "no.png": "no image file",
        "2.png": "neither a report nor a label",
        "3.png": "no patient",
    }


def test_a_killed_run_resumes_to_the_bit_with_the_same_data_only(train, finished, tmp_path, monkeypatch):
    step, left = InstructionTrainer.training_step, iter(range(4))

    def killed_step(*args, **kwargs):
        if next(left, None) is None:
            raise SystemExit("killed")
        return step(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(InstructionTrainer, "training_step", killed_step)
        assert train().exit_code == 1
    assert (tmp_path / "run/checkpoint-3").is_dir() and not (tmp_path / "run/final").exists()
    write_table(tmp_path, ROWS[:-1])
    error = train()
    assert error.exit_code == 1 and "other settings: fingerprint was" in error.stderr
    assert "num_records was 16 and is 15" in error.stderr
    write_table(tmp_path, ROWS)
    generate = ReportTask.generate

    def generate_after(task, *args):
        assert "evaluation_after" in task.arguments.output_dir
        return generate(task, *args)

    monkeypatch.setattr(ReportTask, "generate", generate_after)
    assert train().exit_code == 0
    assert same_weights(finished[0] / "final", tmp_path / "run/final")


def test_a_checkpoint_that_cannot_be_written_is_an_error_and_a_second_run_resumes(train, finished, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        result = train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert result.exit_code == 1 and "File too large" in result.stderr and "the disk full?" in result.stderr
    assert (tmp_path / "run/records.parquet").exists() and not (tmp_path / "run/final").exists()
    assert train().exit_code == 0
    assert same_weights(finished[0] / "final", tmp_path / "run/final")


def test_training_stops_if_the_validation_loss_falls_no_more_and_is_not_resumed(train, tmp_path, monkeypatch):
    settings = {"learning_rate": 0.0, "num_train_epochs": 20}
    assert train(**settings).exit_code == 0
    state = json.loads((tmp_path / "run/checkpoint-12/trainer_state.json").read_text())
    assert state["best_global_step"] == 3
    assert {path.name for path in (tmp_path / "run").glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-12"}
    monkeypatch.setattr(InstructionTrainer, "training_step", lambda *args: pytest.fail("trained again"))
    assert train(**settings).exit_code == 0
    assert same_weights(tmp_path / "run/checkpoint-3", tmp_path / "run/final")


def test_splits_and_codes_of_records_are_kept_and_lora_is_merged(finished, checkpoint_dir, tmp_path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(SETTINGS))
    options = [
        "--model",
        checkpoint_dir,
        "--config",
        tmp_path / "run.yaml",
        "--output-dir",
        tmp_path / "run",
        "--no-remote-code",
    ]
    records = finished[0] / "records.parquet"
    with (tmp_path / "run.yaml").open("a") as file:
        file.write("sections: impression\n")
    result = invoke("--records", records, "--lora", "--num-resamples", 2, *options)
    assert result.exit_code == 0 and "The splits are those of the data" in result.stderr, result.output
    assert not (tmp_path / "run/codes").exists() and (tmp_path / "run/adapter").is_dir()
    assert open_records(tmp_path / "run/records.parquet") == open_records(records)
    references = pd.read_parquet(tmp_path / "run/evaluation_after/predictions/report")["reference"]
    assert set(references) == {"IMPRESSION: Normal."}
    assert not same_weights(checkpoint_dir, tmp_path / "run/final")
    for folder in (tmp_path / "run/final", tmp_path / "run/adapter"):
        assert ModelCard.load(folder / "README.md").data.eval_results and not list(folder.glob("*.py"))


def test_two_processes_give_the_model_of_one(finished, images_dir, checkpoint_dir, tmp_path):
    write_table(tmp_path, ROWS)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    two = arguments(tmp_path, images_dir, checkpoint_dir, per_device_train_batch_size=2)
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    command = [*launch, "transformers_cxr.train", *map(str, two)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0 and result.stdout.count("| eval_loss |") == 1, result.stderr
    one, two = weights(finished[0] / "final"), weights(tmp_path / "run/final")
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"image_name": "1.png", "text": "Clear."}], "lacks the columns `file`, `patient`, `report` or `labels`; it"),
        ([{"file": "1.png", "report": "Clear."}], "lacks the columns `patient`; it has ['file', 'report']"),
        ([{"file": "1.png", "patient": "p", "report": ""}], "skipped, by reason: {'neither a report nor a label': 1}"),
        ([{"file": "x.png", "patient": "p", "report": "Clear."}], "skipped, by reason: {'no image file': 1}"),
        (ROWS[:1], "No patient of 1 is in the split train; the splits are ['validation']. Try another `--seed`"),
        ([row | {"split": "test"} for row in ROWS], "is in the split train or validation; the splits are ['test']"),
        ([row | {"id": "x", "source": row["file"]} for row in ROWS], "The id 'x' names two X-rays, '"),
        ([ROWS[0] | {"split": "train"}, ROWS[1] | {"split": "val"}], "Patient 'p0' of '"),
    ],
)
def test_unusable_tables_are_refused(check_error, images_dir, checkpoint_dir, tmp_path, rows, message):
    write_table(tmp_path, rows)
    check_error(message, "train", *arguments(tmp_path, images_dir, checkpoint_dir))


def test_other_encodings_and_missing_folders_are_refused(check_error, images_dir, checkpoint_dir, tmp_path):
    write_table(tmp_path, [ROWS[0] | {"report": "Überblähung."}], encoding="latin-1")
    own = arguments(tmp_path, images_dir, checkpoint_dir)
    check_error("is not UTF-8 text", "train", *own)
    check_error("There is no folder 'nowhere'", "train", *own, "--images", "nowhere")
    check_error("Give one of --table, --records and --mimic", "train", "--output-dir", tmp_path, exit_code=2)
