import json

import pytest

from transformers_cxr.data import SkipReport, read_texts


def text(value):
    return [{"type": "text", "text": value}]


@pytest.fixture
def read(tmp_path):
    """Write rows to a file, and return the conversations and what was skipped."""

    def write_and_read(*rows):
        (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
        report = SkipReport()
        return list(read_texts(tmp_path / "t.jsonl", report)), report.skipped

    return write_and_read


def test_rows_of_dolly_become_conversations_with_the_context_as_input(read):
    (first, second), _ = read(
        {"instruction": "Sum up.", "context": "A long text.", "response": "Text.", "category": "summarization"},
        {"instruction": "Say hello.", "context": "", "response": "Hello.", "category": "open_qa"},
    )
    assert first["id"] == "t.jsonl:1"
    assert first["messages"] == [
        {"role": "user", "content": text("Sum up.") + text("A long text.")},
        {"role": "assistant", "content": text("Text.")},
    ]
    assert second["messages"][0]["content"] == text("Say hello.")


def test_chats_keep_their_turns_and_can_be_written_as_parquet(read, tmp_path):
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": text("Hi.")},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "Bye."},
    ]
    (row,), _ = read({"messages": messages})
    assert [part["content"][0]["text"] for part in row["messages"]] == ["Be short.", "Hi", "Hi.", "Bye", "Bye."]
    read_texts(tmp_path / "t.jsonl").to_parquet(tmp_path / "t.parquet")
    assert read_texts(tmp_path / "t.parquet")["messages"][:] == [row["messages"]]


def test_unusable_rows_are_skipped_with_a_reason(read, caplog):
    rows, skipped = read(
        {"instruction": "Hi", "response": "Hi."},
        {"instruction": "Hi", "response": " "},
        {"messages": [{"role": "user", "content": "Hi"}]},
        {"messages": [{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": "Hi."}]},
    )
    assert len(rows) == 1 and "3 rows of" in caplog.text
    assert skipped == [
        ("t.jsonl:2", "a message is empty"),
        ("t.jsonl:3", "the roles are not user and assistant in turn"),
        ("t.jsonl:4", "a message has other parts than text"),
    ]


def test_rows_of_neither_form_and_files_without_conversations_are_errors(read):
    with pytest.raises(ValueError, match=r"row 1 has \['prompt'\]"):
        read({"prompt": "Hi"})
    with pytest.raises(ValueError, match="at least one conversation"):
        read({"instruction": "Hi", "response": " "})
