"""Reading text-only conversations, which keep a language model's language alive while it learns images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from ..records import IMAGE_TOKENS, SkipReport
from ..store import write_rows
from .table import table_rows

_PART = pa.struct([("type", pa.string()), ("text", pa.string())])
_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.list_(_PART))])
_SCHEMA = pa.schema([("id", pa.string()), ("messages", pa.list_(_MESSAGE))])


def read_texts(path: str | os.PathLike, skip_report: SkipReport | None = None) -> Iterator[dict]:
    """
    Reads conversations from a JSON Lines, JSON, CSV or Parquet file.

    Args:
        path (`str` or `os.PathLike`):
            Rows with `messages` (a list of `{"role", "content"}`, the content a text or a list of text parts), or with
            `instruction`, `response` and, if there is one, `context`, as `databricks-dolly-15k.jsonl` has them.
        skip_report ([`SkipReport`], *optional*):
            Counts what is skipped: rows without a response of the assistant, with an empty message, with anything but text,
            or with a text that stands for an image ("<image>").

    Yields:
        `dict` of `id` (file name and number of the row) and `messages` in the format of Transformers' chat templates.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is broken, or its rows have neither form.
    """
    report = SkipReport() if skip_report is None else skip_report
    name = os.path.basename(path)
    for number, row in enumerate(table_rows(path), start=1):
        if "messages" in row:
            messages = row["messages"]
        elif "instruction" in row and "response" in row:
            messages = _dolly_messages(row)
        else:
            raise ValueError(
                f"Expected rows with 'messages', or with 'instruction' and 'response', in '{path}'; row {number} has "
                f"{sorted(row)}."
            )
        where = f"{name}:{number}"
        parts = _parts(messages)
        if isinstance(parts, str):
            report.skip(where, parts)
        else:
            report.used += 1
            yield {"id": where, "messages": parts}


def write_texts(rows: Iterable[dict], output: str | os.PathLike) -> int:
    """
    Writes what [`read_texts`] gives to a Parquet file for training, with the columns `id` and `messages`.

    Returns:
        `int`: the number of conversations.

    Raises:
        FileExistsError: `output` exists.
        ValueError: there is no conversation.
    """
    return write_rows(rows, output, _SCHEMA)


def _dolly_messages(row: dict) -> list[dict]:
    texts = [row["instruction"], row.get("context")]
    content = [{"type": "text", "text": text} for text in texts if text]
    return [{"role": "user", "content": content}, {"role": "assistant", "content": row["response"]}]


def _parts(messages: Any) -> list[dict] | str:
    """The messages with their contents as text parts, or why they cannot be used."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return "the messages are not a list of objects"
    result = []
    for message in messages:
        content = message.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
        if any(not isinstance(part, dict) or not isinstance(part.get("text"), str) for part in parts):
            return "a message has other parts than text"
        if not any(part["text"].strip() for part in parts):
            return "a message is empty"
        if any(token in part["text"] for part in parts for token in IMAGE_TOKENS):
            return "a text that stands for an image"
        result.append(
            {"role": message.get("role"), "content": [{"type": "text", "text": part["text"]} for part in parts]}
        )
    roles = [message["role"] for message in result]
    if roles[:1] == ["system"]:
        roles = roles[1:]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        return "the roles are not user and assistant in turn"
    return result


__all__ = ["read_texts", "write_texts"]
