"""Examples and samples of an evaluation task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import PIL.Image

    from ..data.records import StudyRecord


@dataclass(frozen=True)
class Example:
    """
    One request to the model with its reference.

    id (`str`): unique within the task.
    patient (`str`): pseudonymous patient, with the dataset that names it so; intervals are over patients.
    source (`str`): dataset of the X-ray.
    image_path (`Path`): the X-ray, which is the input of reports and answers and the reference of generated images.
    prompt (`str`): instruction, question, or report to generate an image from.
    reference (`str`): reference report or answer; "" for images.
    kind (`str`): type of the question, findings of the image (separated by `|`), or corruption; "" if there is none.
    label_derived (`bool`): whether the reference, or the report to generate an image from, was written from labels.
    """

    id: str
    patient: str
    source: str
    image_path: Path
    prompt: str
    reference: str = ""
    kind: str = ""
    label_derived: bool = False

    @classmethod
    def from_record(cls, record: StudyRecord, prompt: str, **fields) -> Example:
        """Return an example about the X-ray of a record; `fields` are the other fields of the example."""
        defaults = {"id": record.id, "patient": f"{record.source}/{record.patient}", "source": record.source}
        return cls(image_path=Path(record.image), prompt=prompt, **defaults | fields)


@dataclass(frozen=True)
class Sample:
    """
    An output of the model beside its reference.

    images (`Mapping[str, PIL.Image.Image]`), texts (`Mapping[str, str]`): what is shown, by title.
    marks (`Mapping[str, bool]`): differences of the output and the reference, and what is equal: short texts, and
        whether they are right.
    """

    images: Mapping[str, PIL.Image.Image]
    texts: Mapping[str, str]
    marks: Mapping[str, bool] = field(default_factory=dict)


def rows_by(examples: Sequence[Example], names) -> dict[str, list[int]]:
    """Return the rows of the examples of each group, for a function `names` that lists the groups of an example."""
    rows: dict[str, list[int]] = {}
    for row, example in enumerate(examples):
        for name in names(example):
            rows.setdefault(name, []).append(row)
    return rows
