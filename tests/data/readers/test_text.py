import json

import pytest

from transformers_cxr.data import SkipReport, load_records
from transformers_cxr.data.readers.text import read_texts, write_texts


def text(value):
    return [{"type": "text", "text": value}]


def write(path, *rows):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def test_rows_of_dolly_become_conversations_with_the_context_as_input(tmp_path):
    path = write(
        tmp_path / "dolly.jsonl",
        {"instruction": "Sum up.", "context": "A long text.", "response": "Text.", "category": "summarization"},
        {"instruction": "Say hello.", "context": "", "response": "Hello.", "category": "open_qa"},
    )
    first, second = read_texts(path)
    assert first["id"] == "dolly.jsonl:1"
    assert first["messages"] == [
        {"role": "user", "content": text("Sum up.") + text("A long text.")},
        {"role": "assistant", "content": text("Text.")},
    ]
    assert second["messages"][0]["content"] == text("Say hello.")


def test_chats_keep_their_turns_and_are_read_back_as_they_were_written(tmp_path):
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": text("Hi.")},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "Bye."},
    ]
    rows = list(read_texts(write(tmp_path / "chat.jsonl", {"messages": messages})))
    assert write_texts(rows, tmp_path / "texts.parquet") == 1
    loaded = load_records(tmp_path / "texts.parquet", cache_dir=tmp_path / "cache")
    assert loaded[0] == rows[0]
    assert [part["content"][0]["text"] for part in loaded[0]["messages"]] == ["Be short.", "Hi", "Hi.", "Bye", "Bye."]


def test_unusable_rows_are_skipped_with_a_reason(tmp_path):
    path = write(
        tmp_path / "t.jsonl",
        {"instruction": "Hi", "response": "Hi."},
        {"instruction": "Hi", "response": " "},
        {"instruction": "What is <image>?", "response": "A token."},
        {"messages": [{"role": "user", "content": "Hi"}]},
        {"messages": [{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": "Hi."}]},
        {"messages": "Hi"},
    )
    report = SkipReport()
    assert len(list(read_texts(path, report))) == report.used == 1
    assert report.skipped == [
        ("t.jsonl:2", "a message is empty"),
        ("t.jsonl:3", "a text contains an image token"),
        ("t.jsonl:4", "the roles are not user and assistant in turn"),
        ("t.jsonl:5", "a message has other parts than text"),
        ("t.jsonl:6", "the messages are not a list of objects"),
    ]


def test_rows_of_neither_form_and_empty_files_are_errors(tmp_path):
    with pytest.raises(ValueError, match=r"row 1 has \['prompt'\]"):
        list(read_texts(write(tmp_path / "t.jsonl", {"prompt": "Hi"})))
    with pytest.raises(ValueError, match="at least one row to write"):
        write_texts([], tmp_path / "texts.parquet")
