import json
from dataclasses import replace
from pathlib import Path

import pytest

from transformers_cxr.data.readers.vqa import read_vqa
from transformers_cxr.data.records import StudyRecord
from transformers_cxr.data.store import write_records

SCRIPT = Path(__file__).parents[2] / "examples" / "make_vqa.py"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}"
    "{% if not (loop.last and continue_final_message) %}{{ '\n' }}{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def make_vqa(load_script):
    with load_script("examples/make_vqa.py") as module:
        yield module


@pytest.fixture
def make_record():
    def make(number, **fields):
        values = {
            "id": f"image-{number}", "patient": f"patient-{number}", "study": f"study-{number}", "image": f"{number}.png",
            "source": "made", "split": "train", "findings": "Clear lungs.", "impression": "Normal.",
        }  # fmt: skip
        return StudyRecord(**(values | fields))

    return make


@pytest.fixture
def arguments(make_vqa, make_record, llama, text_tokenizer, tmp_path):
    """Three studies, one of two images, and a random language model with a chat template."""
    llama.config.max_position_embeddings = 4096
    llama.save_pretrained(tmp_path / "model")
    text_tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model/chat_template.jinja").write_text(CHAT_TEMPLATE)
    records = [make_record(n, study=f"study-{n // 2}") for n in range(2)] + [make_record(n) for n in (2, 3)]
    write_records(records, tmp_path / "records.parquet")
    return make_vqa.Arguments(
        records=str(tmp_path / "records.parquet"), model=str(tmp_path / "model"), output=str(tmp_path / "out/vqa.jsonl"),
        max_new_tokens=4, batch_size=2,
    )  # fmt: skip


def test_the_turn_that_shows_the_form_passes_its_own_check(make_vqa):
    questions, rejected = make_vqa.checked(make_vqa.EXAMPLE_ANSWER, make_vqa.EXAMPLE_REPORT)
    assert (len(questions), rejected) == (5, [])


def test_pairs_are_kept_or_rejected_with_their_reason(make_vqa):
    pairs = [("Is there edema?", "No."), ("Is there edema?", "No."), ("Is there a mass?", "Yes.")]
    text = json.dumps([{"question": question, "answer": answer} for question, answer in pairs])
    questions, rejected = make_vqa.checked(text, "No edema.")
    assert questions == [{"question": "Is there edema?", "answer": "No."}]
    assert [item["reason"] for item in rejected] == [
        "the question comes twice",
        "no sentence of the report is about it",
    ]
    assert make_vqa.checked("Yes.", "No edema.") == ([], [{"text": "Yes.", "reason": "no JSON list"}])


def test_every_study_is_asked_about_once_and_an_interrupted_run_goes_on(make_vqa, arguments, capsys):
    make_vqa.main(arguments)
    path = Path(arguments.output)
    whole = path.read_text()
    lines = [json.loads(line) for line in whole.splitlines()]
    assert [line["study"] for line in lines] == ["study-0", "study-2", "study-3"]
    assert all(line["questions"] == [] and line["rejected"][0]["reason"].startswith("no valid JSON") for line in lines)
    assert "3 reports, 0 answered with valid JSON" in capsys.readouterr().out

    first, second, _ = whole.splitlines(keepends=True)
    path.write_text(first + second[:20])
    make_vqa.main(arguments)
    assert [json.loads(line)["study"] for line in path.read_text().splitlines()] == ["study-0", "study-2", "study-3"]
    assert path.read_text().startswith(first)


def test_questions_of_another_split_are_added_to_the_same_file(make_vqa, arguments, make_record):
    records = [make_record(0), make_record(1, split="validation")]
    write_records(records, Path(arguments.records).with_name("splits.parquet"))
    arguments = replace(arguments, records=str(Path(arguments.records).with_name("splits.parquet")))
    for split in ("train", "validation"):
        make_vqa.main(replace(arguments, split=split))
    lines = [json.loads(line) for line in Path(arguments.output).read_text().splitlines()]
    assert [line["split"] for line in lines] == ["train", "validation"]


def test_what_it_writes_is_read_as_questions_about_the_images(make_vqa, arguments, make_record, monkeypatch):
    answer = (
        '[{"question": "Are the lungs clear?", "answer": "Yes."}, {"question": "Is there edema?", "answer": "No."}]'
    )
    monkeypatch.setattr(make_vqa, "write_answers", lambda model, tokenizer, reports, args: [answer] * len(reports))
    make_vqa.main(arguments)
    found = list(
        read_vqa(arguments.output, records=[make_record(0, study="study-0"), make_record(1, study="study-0")])
    )
    assert [(record.id, record.question, record.answer) for record in found] == [
        ("image-0", "Are the lungs clear?", "Yes."),
        ("image-1", "Are the lungs clear?", "Yes."),
    ]


def test_output_of_another_model_is_not_gone_on_with(make_vqa, arguments):
    path = Path(arguments.output)
    path.parent.mkdir()
    path.write_text(json.dumps({"model": "other", "source": "made", "study": "study-0"}) + "\n")
    with pytest.raises(ValueError, match="was written by 'other', not by"):
        make_vqa.main(arguments)
    path.write_text('{"question": "Is it?"}\n')
    with pytest.raises(ValueError, match="was written by 'None', not by"):
        make_vqa.main(arguments)


def test_json_is_read_with_text_around_it(make_vqa):
    text = 'Here you are:\n[{"question": " Is there edema? ", "answer": "No."}]\nAnything else?'
    assert make_vqa.parse_question_answers(text) == [{"question": "Is there edema?", "answer": "No."}]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Is there edema? No.", "no JSON list"),
        ('[{"question": "Is there edema?", "answer": "No."', "no valid JSON"),
        ('[{"question": "Is there edema?"}]', "not an object of 'question' and 'answer'"),
        ('[{"question": "Is there edema?", "answer": "No.", "question": "A mass?", "answer": "No."}]', "comes twice"),
        ('["Is there edema?"]', "not an object of 'question' and 'answer'"),
        ('[{"question": "Is there edema?", "answer": false}]', "not a text"),
        ('[{"question": "Is there edema?", "answer": " "}]', "not a text"),
    ],
)
def test_what_is_no_list_of_questions_and_answers_is_refused(make_vqa, text, reason):
    with pytest.raises(ValueError, match=reason):
        make_vqa.parse_question_answers(text)
