"""The script of the ablations on tiny models: what a variant changes, and that finished runs stay."""

import json
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from datasets import Dataset
from transformers import TrainingArguments

from transformers_cxr.data.records import StudyRecord
from transformers_cxr.data.store import load_records, write_records

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY_LLAMA = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture
def ablations(load_script):
    AcceleratorState._reset_state(reset_partial_state=True)
    with load_script("examples/ablations.py") as module:
        yield module
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def records(tmp_path):
    studies = []
    for i in range(20):
        labels = {"Pneumonia": 1} if i % 4 else {"No Finding": 1, "Pneumonia": 0}
        split = "validation" if i >= 12 else "train"
        studies.append(
            StudyRecord(
                id=str(i), patient=str(i), image="x.png", source="kermany", split=split, view="AP", age_group="child",
                study_order=1, labels=labels,
            )  # fmt: skip
        )
    codes = np.random.default_rng(0).integers(0, 32, (20, 16)).tolist()
    codes = Dataset.from_dict({"id": [study.id for study in studies], "codes": codes})
    write_records(studies, tmp_path / "records.parquet", codes, codebook_size=32, num_image_tokens=16)
    return tmp_path / "records.parquet"


@pytest.fixture
def run(ablations, records, tiny_model, tmp_path):
    model, processor = tiny_model
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")

    def run(max_steps=2, weight_decay=0.0, **changes):
        settings = {"variants": ["two stages"], "eval_size": 2, "num_read": 4, "text_vocab_size": 400} | changes
        arguments = ablations.Arguments(
            records=str(records), vq_tokenizer=str(tmp_path / "model"), model=TINY_LLAMA, **settings
        )
        training = TrainingArguments(
            output_dir=str(tmp_path / "run"), max_steps=max_steps, per_device_train_batch_size=2, save_strategy="no",
            report_to="none", use_cpu=True, disable_tqdm=True, weight_decay=weight_decay,
        )  # fmt: skip
        ablations.main(arguments, training)
        return (tmp_path / "run/ablations.md").read_text()

    return run


def test_a_variant_is_trained_in_its_stages_and_gets_its_row(ablations, run, monkeypatch, tmp_path):
    calls, finetune = [], ablations.finetune_llm_cxr.main

    def noted(model, data, samples, training):
        calls.append((model, data, training))
        return finetune(model, data, samples, training)

    monkeypatch.setattr(ablations.finetune_llm_cxr, "main", noted)
    table = run(variants=["two stages", "rows codebook"])
    assert [(data.sections, training.max_steps) for _, data, training in calls] == [
        ("findings+impression", 1), ("impression", 1), ("findings+impression", 2)
    ]  # fmt: skip
    assert [model.new_embeddings for model, _, _ in calls if model.language_model] == ["random", "codebook"]
    assert calls[1][0].model == str(tmp_path / "run/two_stages-0/stage_1/final")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert [row[0] for row in rows] == ["variant", "---", "two stages", "rows codebook"]
    numbers = json.loads((tmp_path / "run/two_stages-0/result.json").read_text())
    assert rows[2][2:] == [f"{numbers[name]:.3f}" for name in ablations.COLUMNS.values()]
    assert all(numbers[name] > 0 for name in ("eval_loss_report", "eval_loss_image", "eval_loss_vqa"))
    assert 0 <= numbers["finding_balanced_accuracy"] <= 1 and 0 <= numbers["auroc"] <= 1


def test_finished_runs_stay_and_another_seed_adds_to_them(ablations, run, monkeypatch):
    run(variants=["full"])
    with monkeypatch.context() as patch:
        patch.setattr(ablations.finetune_llm_cxr, "main", lambda *arguments: pytest.fail("trained again"))
        run(variants=["full"])
        with pytest.raises(ValueError, match="full-0' holds the results of a run with other settings"):
            run(max_steps=4, variants=["full"])
        with pytest.raises(ValueError, match="full-0' holds the results of a run with other settings"):
            run(weight_decay=0.1, variants=["full"])
    *_, row = run(variants=["full"], seeds=[0, 1]).splitlines()
    assert row.startswith("| full | 2 |") and row.count(",") == 5


def test_normal_and_other_x_rays_are_read_equally_often(ablations, records):
    rows = ablations.balanced_rows(load_records(records), 100)
    assert [row["labels"][0]["name"] for row in rows] == ["No Finding"] * 2 + ["Pneumonia"] * 2
    assert {row["split"] for row in rows} == {"validation"}
    assert len(ablations.balanced_rows(load_records(records), 2)) == 2


def test_an_unknown_variant_is_an_error(run):
    with pytest.raises(ValueError, match="Unknown variants .*'half'.*; there are .*'full'"):
        run(variants=["full", "half"])
