"""Arguments of an evaluation that do not belong to one task or metric."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal


def argument(default: Any, help: str) -> Any:
    """Return a dataclass field with its default and its help text."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass
class RunArguments:
    """
    The model, the data and the intervals of an evaluation.

    Items of a list may also be separated by commas: `["report", "vqa"]` and `["report,vqa"]` are the same.
    """

    output_dir: str = field(metadata={"help": "Folder to write. An interrupted run resumes from it."})
    records: list[str] = argument(
        [],
        "Parquet files of records, or folders of images with a metadata.csv. Missing reports are written from labels.",
    )
    split: list[str] = argument(["validation"], "Splits of the records.")
    views: list[str] = argument([], "View positions of the records, such as AP and PA. Default: all.")
    sections: Literal["findings+impression", "impression"] = argument(
        "findings+impression", "Sections of the reports of the records."
    )
    model: str = argument("", "Checkpoint: a folder or a name on the Hub. Default: the embedded checkpoint.")
    limit: int | None = argument(None, "Maximum number of examples of a task, for a quick look.")
    max_new_tokens: int = argument(256, "Maximum length of a report or an answer in tokens.")
    batch_size: int = argument(32, "Examples per batch.")
    num_resamples: int = argument(1000, "Resamples of the intervals. 0 gives no intervals.")
    seed: int = argument(0, "Seed of wording, samples, generated images and resamples.")

    def __post_init__(self):
        for option in fields(self):
            value = getattr(self, option.name)
            if isinstance(value, list):
                items = (item.strip() for text in value for item in text.split(","))
                setattr(self, option.name, list(filter(None, items)))
