"""What the fine-tuning script trains and evaluates on."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from datasets import Dataset
from transformers import TrainingArguments

from transformers_cxr.data.readers.text import write_texts
from transformers_cxr.data.records import StudyRecord
from transformers_cxr.data.store import load_records, write_records

SCRIPT = Path(__file__).parents[2] / "examples" / "finetune_llm_cxr.py"


@pytest.fixture
def script(load_script):
    AcceleratorState._reset_state(reset_partial_state=True)
    with load_script("examples/finetune_llm_cxr.py") as module:
        yield module
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def data(tmp_path):
    """Paths of records, of texts to train on, and of texts to evaluate on."""
    studies = [
        StudyRecord(
            id=str(i), patient=str(i), image="x.png", source="kermany", split=split, view="AP", age_group="child",
            study_order=1, labels={"Pneumonia": i % 2},
        )  # fmt: skip
        for i, split in enumerate(["train", "validation"] * 4)
    ]
    codes = np.random.default_rng(0).integers(0, 32, (8, 16)).tolist()
    codes = Dataset.from_dict({"id": [study.id for study in studies], "codes": codes})
    write_records(studies, tmp_path / "records.parquet", codes)
    for name in ("texts", "eval_texts"):
        messages = [
            {"role": role, "content": [{"type": "text", "text": name}]} for role in ("user", "assistant")
        ]  # fmt: skip
        write_texts([{"id": name, "messages": messages}], tmp_path / f"{name}.parquet")
    return {name: str(tmp_path / f"{name}.parquet") for name in ("records", "texts", "eval_texts")}


@pytest.fixture
def training(tmp_path):
    def training(**changes):
        return TrainingArguments(
            output_dir=str(tmp_path / "run"), max_steps=50, report_to="none", use_cpu=True, disable_tqdm=True, **changes
        )  # fmt: skip

    return training


def test_a_patient_of_two_files_in_two_splits_is_an_error(script, data, training, tmp_path):
    question = {"question": "Edema?", "answer": "No."}
    studies = [
        StudyRecord(id=i, patient=i, image="x.png", source="kermany", split=split, study_order=1, **question)
        for i, split in (("2", "train"), ("0", "validation"))
    ]
    write_records(studies, tmp_path / "questions.parquet")
    paths = {"records": data["records"], "questions": str(tmp_path / "questions.parquet")}
    arguments = script.DataArguments(**paths, ratios={"report": 50, "vqa": 50})
    with pytest.raises(ValueError, match="Patient '0' of 'kermany' is in the splits 'train' and 'validation'"):
        script.load_data(arguments, training())


def test_no_text_that_is_trained_on_is_evaluated_on(script, data, training):
    ratios = {"report": 30, "image": 30, "vqa": 20, "text": 20}
    arguments = script.DataArguments(**data, ratios=ratios, eval_size=200)
    train, evaluation = script.load_data(arguments, training())
    assert {record["id"] for record in train if record["task"] == "text"} == {"texts"}
    assert {record["id"] for record in evaluation if record["task"] == "text"} == {"eval_texts"}
    arguments.eval_texts = ""
    train, evaluation = script.load_data(arguments, training())
    assert Counter(record["task"] for record in train)["text"] > 0
    assert set(Counter(record["task"] for record in evaluation)) == {"report", "image", "vqa"}
    assert {int(record["id"]) % 2 for record in evaluation} == {1}


def test_a_task_without_data_to_evaluate_on_is_an_error_that_says_what_to_do(script, data, training, tmp_path):
    records = load_records(data["records"])
    asked = [row | {"question": "Edema?", "answer": "No."} for row in records if row["split"] == "train"]
    Dataset.from_list(asked).to_parquet(tmp_path / "questions.parquet")
    arguments = script.DataArguments(
        records=data["records"],
        questions=str(tmp_path / "questions.parquet"),
        ratios={"report": 1, "vqa": 1},
        eval_size=10,
    )
    with pytest.raises(ValueError, match=r"to evaluate on: `questions`: No row of 4 is left.* set `--eval_size 0"):
        script.load_data(arguments, training())
    arguments.eval_size = 0
    train, evaluation = script.load_data(arguments, training())
    assert {record["task"] for record in train} == {"report", "vqa"} and evaluation is None


def test_questions_alone_are_enough_to_train_on(script, data, training, tmp_path):
    asked = [row | {"question": "Edema?", "answer": "No."} for row in load_records(data["records"])]
    Dataset.from_list(asked).to_parquet(tmp_path / "questions.parquet")
    arguments = script.DataArguments(questions=str(tmp_path / "questions.parquet"), ratios={"vqa": 1}, eval_size=4)
    train, evaluation = script.load_data(arguments, training())
    assert [int(record["id"]) % 2 for record in evaluation] == [1] * 4
    assert train[0]["messages"][0]["content"][0]["text"] == "Edema?"


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("questions", "records", "`questions` have rows without a question"),
        ("texts", "records", r"`texts` lack the columns \['messages'\]"),
        ("eval_texts", "records", r"to evaluate on: `texts` lack the columns \['messages'\]"),
        ("records", "texts", r"`records` lack the columns \['age_group', .*; they have \['id', 'messages'\]"),
    ],
)
def test_another_file_in_the_place_of_one_is_named(script, data, training, name, given, message):
    ratios = {"report": 1, "vqa": 1, "text": 1}
    arguments = script.DataArguments(**data | {name: data[given]}, ratios=ratios, eval_size=10)
    with pytest.raises(ValueError, match=message):
        script.load_data(arguments, training())
