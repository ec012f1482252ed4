"""Reader of conversations without images, which keep a language model's language while it learns images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..records import IMAGE_TOKENS, SkipReport
from ..store import write_rows
from .rows import read_rows

_PART = pa.struct([("type", pa.string()), ("text", pa.string())])
_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.list_(_PART))])
_SCHEMA = pa.schema([("id", pa.string()), ("messages", pa.list_(_MESSAGE))])


def read_texts(path: str | os.PathLike, skip_report: SkipReport | None = None) -> Iterator[dict]:
    """
    Read conversations.

    Args:
        path (`str` or `os.PathLike`): a file as [`read_rows`] reads it. A row has `messages` (a list of `{"role",
            "content"}`, the content a text or a list of text parts), or `instruction`, `response` and optionally
            `context`, as `databricks-dolly-15k.jsonl`.
        skip_report ([`SkipReport`], *optional*): counts skipped rows: with roles other than user and assistant in
            turn, an empty message, other parts than text, or an image token ("<image>").

    Yields:
        `dict` of `id` (file name and number of the row) and `messages` in the format of Transformers' chat templates.

    Raises:
        ValueError: a row has neither form.
    """
    report = SkipReport() if skip_report is None else skip_report
    for number, row in enumerate(read_rows(path), start=1):
        if "messages" in row:
            messages = row["messages"]
        elif "instruction" in row and "response" in row:
            content = [{"type": "text", "text": text} for text in (row["instruction"], row.get("context")) if text]
            messages = [{"role": "user", "content": content}, {"role": "assistant", "content": row["response"]}]
        else:
            raise ValueError(
                f"Expected rows with 'messages', or with 'instruction' and 'response', in '{path}'; row {number} has "
                f"{sorted(row)}."
            )
        name = f"{Path(path).name}:{number}"
        try:
            messages = _checked(messages)
        except ValueError as error:
            report.skip(name, str(error))
            continue
        report.used += 1
        yield {"id": name, "messages": messages}


def write_texts(rows: Iterable[dict], path: str | os.PathLike) -> int:
    """Write conversations of [`read_texts`] to a Parquet file, and return their number."""
    return write_rows(rows, path, _SCHEMA)


def _checked(messages: Any) -> list[dict]:
    """Return messages with their contents as text parts, or raise a `ValueError` with the reason to skip them."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError("the messages are not a list of objects")
    result = []
    for message in messages:
        content = message.get("content")
        texts = [content] if isinstance(content, str) else [part.get("text") for part in content or []]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a message has other parts than text")
        if not "".join(texts).strip():
            raise ValueError("a message is empty")
        if any(token in text for text in texts for token in IMAGE_TOKENS):
            raise ValueError("a text contains an image token")
        content = [{"type": "text", "text": text} for text in texts]
        result.append({"role": message.get("role"), "content": content})
    roles = [message["role"] for message in result]
    if roles[:1] == ["system"]:
        roles = roles[1:]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise ValueError("the roles are not user and assistant in turn")
    return result
