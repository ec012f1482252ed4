"""`examples/make_vqa.py` with a tiny random model."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from transformers_cxr.data import StudyRecord, open_records, read_vqa, write_records

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}"
    "{% if not (loop.last and continue_final_message) %}{{ '\n' }}{% endif %}{% endfor %}"
)


@pytest.fixture
def make_vqa(load_script):
    with load_script("examples/make_vqa.py") as module:
        yield module


@pytest.fixture
def arguments(make_vqa, llama, text_tokenizer, tmp_path):
    """Three studies of the train split, one with two images, and one of the validation split."""
    llama.config.max_position_embeddings = 4096
    llama.save_pretrained(tmp_path / "model")
    text_tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model/chat_template.jinja").write_text(CHAT_TEMPLATE)
    records = [
        StudyRecord(
            id=f"image-{n}", patient=str(n), image="x.png", source="made", study=f"study-{n // 2 * 2 if n < 2 else n}",
            split="validation" if n == 4 else "train", findings="The lungs are clear. No edema.",
        )
        for n in range(5)
    ]  # fmt: skip
    write_records(records, tmp_path / "records.parquet")
    return make_vqa.Arguments(
        records=str(tmp_path / "records.parquet"), model=str(tmp_path / "model"),
        output=str(tmp_path / "out/vqa.jsonl"), max_new_tokens=4, batch_size=2,
    )  # fmt: skip


def test_pairs_are_kept_or_rejected_with_the_reason(make_vqa):
    questions, rejected = make_vqa.check_answer(make_vqa.EXAMPLE_ANSWER, make_vqa.EXAMPLE_REPORT)
    assert (len(questions), rejected) == (5, [])
    pairs = [("Is there edema?", "No."), ("Is there edema?", "No."), ("Is there a mass?", "Yes.")]
    text = json.dumps([{"question": question, "answer": answer} for question, answer in pairs])
    questions, rejected = make_vqa.check_answer(text, "No edema.")
    assert questions == [{"question": "Is there edema?", "answer": "No."}]
    assert rejected[0]["reason"] == "duplicate question" and len(rejected) == 2


def test_every_study_is_asked_about_once_and_an_interrupted_run_resumes(make_vqa, arguments, capsys):
    make_vqa.main(arguments)
    path = Path(arguments.output)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["study"] for line in lines] == ["study-0", "study-2", "study-3"]
    assert all(line["questions"] == [] and line["rejected"] for line in lines)
    assert "3 reports, 0 answered with valid JSON" in capsys.readouterr().out

    first, second, _ = path.read_text().splitlines(keepends=True)
    path.write_text(first + second[:20])
    make_vqa.main(replace(arguments, split="validation"))
    make_vqa.main(arguments)
    studies = [json.loads(line)["study"] for line in path.read_text().splitlines()]
    assert studies == ["study-0", "study-4", "study-2", "study-3"] and path.read_text().startswith(first)
    with pytest.raises(ValueError, match="was written by '.*', not by 'other'"):
        make_vqa.main(replace(arguments, model="other"))


def test_the_output_is_read_as_questions_about_the_images(make_vqa, arguments, monkeypatch):
    answer = '[{"question": "Are the lungs clear?", "answer": "Yes."}]'
    monkeypatch.setattr(make_vqa, "generate_answers", lambda model, tokenizer, reports, args: [answer] * len(reports))
    make_vqa.main(arguments)
    found = list(read_vqa(arguments.output, records=open_records(arguments.records, "train")))
    assert [(record.id, record.question, record.answer) for record in found][:2] == [
        ("image-0", "Are the lungs clear?", "Yes."),
        ("image-1", "Are the lungs clear?", "Yes."),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Is there edema? No.", "no JSON list"),
        ('[{"question": "Is there edema?", "answer": "No."', "no valid JSON"),
        ('[{"question": "Is there edema?"}]', "not an object of 'question' and 'answer'"),
        ('[{"question": "Is there edema?", "answer": false}]', "not a text"),
    ],
)
def test_an_invalid_answer_of_the_model_is_an_error(make_vqa, text, reason):
    with pytest.raises(ValueError, match=reason):
        make_vqa.parse_question_answers(text)
    text = 'Here you are:\n[{"question": " Is there edema? ", "answer": "No."}]\nAnything else?'
    assert make_vqa.parse_question_answers(text) == [{"question": "Is there edema?", "answer": "No."}]
