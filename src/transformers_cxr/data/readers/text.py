"""Reader of conversations without images, on which a language model keeps its language in fine-tuning."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..records import SkipReport
from .rows import read_rows

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


def read_texts(path: str | os.PathLike, skip_report: SkipReport | None = None) -> Dataset:
    """
    Read conversations into memory, and log how many rows are skipped.

    Args:
        path (`str` or `os.PathLike`): a file as [`read_rows`] reads it. A row has `messages` (a list of `{"role",
            "content"}`, the content a text or a list of text parts), or `instruction`, `response` and optionally
            `context`, as `databricks-dolly-15k.jsonl`.
        skip_report ([`SkipReport`], *optional*): counts skipped rows: with roles other than user and assistant in
            turn, an empty message, or other parts than text.

    Returns:
        `datasets.Dataset`: `id` (file name and number of the row) and `messages` in the format of Transformers' chat
        templates.

    Raises:
        ValueError: a row has neither form, or no row is left.
    """
    from datasets import Dataset

    report = SkipReport() if skip_report is None else skip_report
    conversations = []
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
            conversations.append({"id": name, "messages": _checked(messages)})
        except ValueError as error:
            report.skip(name, str(error))
    if not conversations:
        raise ValueError(f"Expected at least one conversation in '{path}', got none; skipped are {report.counts}.")
    if report.skipped:
        logger.warning(f"{len(report.skipped)} rows of '{path}' are skipped: {report.counts}.")
    return Dataset.from_list(conversations)


def _checked(messages: Any) -> list[dict]:
    """Return messages with their contents as text parts, or raise a `ValueError` with the reason to skip them."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError("the messages are not a list of objects")
    result = []
    for message in messages:
        content = message.get("content")
        texts = [content] if isinstance(content, str) else [part.get("text") for part in content or ()]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a message has other parts than text")
        if not "".join(texts).strip():
            raise ValueError("a message is empty")
        content = [{"type": "text", "text": text} for text in texts]
        result.append({"role": message.get("role"), "content": content})
    roles = [message["role"] for message in result]
    if roles[:1] == ["system"]:
        roles = roles[1:]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise ValueError("the roles are not user and assistant in turn")
    return result
