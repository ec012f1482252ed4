"""Records of X-rays, reports of skipped records, and a check of the splits."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

# Labels that name the cause of a pneumonia.
ETIOLOGY_LABELS = {"Bacterial Pneumonia": "bacterial", "Viral Pneumonia": "viral"}
# Labels that this package interprets, by their name in lower case.
_LABEL_NAMES = {name.lower(): name for name in ("No Finding", "Pneumonia", *ETIOLOGY_LABELS, "Support Devices")}
_LABEL_NAMES |= dict.fromkeys(("normal", "no findings"), "No Finding")


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """
    One X-ray with what its dataset says about it, or one question about an X-ray.

    Args:
        id (`str`): name of the image in the dataset, the key of its codes.
        patient (`str`): pseudonym of the patient.
        image (`str`): path of the image file.
        source (`str`): the dataset.
        study (`str`, *optional*): the examination; the images of a study share a report.
        split (`str`, *optional*): "train", "validation", "test", or "" before [`assign_split`].
        view (`str`, *optional*): view position, such as "AP", "PA" or "LATERAL"; "" if unknown.
        sex (`str`, *optional*): "M", "F", or "" if unknown.
        age_group (`str`, *optional*): "child", "adult", or "" if unknown.
        study_order (`int`, *optional*): number of the study among those of the patient, from 1; 0 if unknown.
        findings (`str`, *optional*): findings section of the report, "" if it has none.
        impression (`str`, *optional*): impression section of the report, "" if it has none.
        labels (`dict[str, int]`, *optional*): labels of CheXpert or another dataset: 1 is present, 0 is absent, -1 is
            uncertain. "No Finding" is a normal X-ray; "Bacterial Pneumonia" and "Viral Pneumonia" imply "Pneumonia".
        question (`str`, *optional*): a question about the X-ray, or "".
        answer (`str`, *optional*): the answer to the question.
        question_type (`str`, *optional*): type of the question, by which evaluation groups its results.
        codes (`Sequence[int]`, *optional*): VQ codes of the image in raster order, or none.
    """

    id: str
    patient: str
    image: str
    source: str
    study: str = ""
    split: str = ""
    view: str = ""
    sex: str = ""
    age_group: str = ""
    study_order: int = 0
    findings: str = ""
    impression: str = ""
    labels: dict[str, int] = field(default_factory=dict)
    question: str = ""
    answer: str = ""
    question_type: str = ""
    codes: Sequence[int] = field(default_factory=list)

    @property
    def present_labels(self) -> tuple[str, ...]:
        """Labels that are present, with "Pneumonia" instead of its cause."""
        present = [name for name, value in self.labels.items() if value == 1]
        return tuple(dict.fromkeys("Pneumonia" if name in ETIOLOGY_LABELS else name for name in present))

    @property
    def absent_labels(self) -> tuple[str, ...]:
        """Findings that are absent; "No Finding" and causes of pneumonia are no findings."""
        excluded = {*self.present_labels, *ETIOLOGY_LABELS, "No Finding"}
        return tuple(name for name, value in self.labels.items() if value == 0 and name not in excluded)

    @property
    def etiology(self) -> str:
        """Cause of the pneumonia, "bacterial" or "viral", or "" unless exactly one is present."""
        causes = [cause for name, cause in ETIOLOGY_LABELS.items() if self.labels.get(name) == 1]
        return causes[0] if len(causes) == 1 else ""

    @property
    def is_normal(self) -> bool:
        """Whether the label "No Finding" is present."""
        return self.labels.get("No Finding") == 1

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> StudyRecord:
        """Return the record of a row of a Parquet file. Other columns are ignored."""
        values = {item.name: row[item.name] for item in dataclasses.fields(cls) if item.name in row}
        if "labels" in values:
            values["labels"] = {label["name"]: label["value"] for label in values["labels"]}
        return cls(**values)

    def to_row(self) -> dict[str, Any]:
        """Return the record as a row of a Parquet file."""
        row = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        row["labels"] = [{"name": name, "value": value} for name, value in self.labels.items()]
        return row


@dataclass
class SkipReport:
    """
    Records that a reader or [`write_records`] skipped.

    Args:
        skipped (`list[tuple[str, str]]`): id or path of each skipped record, and the reason.
        num_written (`int`): number of records that [`write_records`] wrote.
    """

    skipped: list[tuple[str, str]] = field(default_factory=list)
    num_written: int = 0

    def skip(self, where: str, reason: str) -> None:
        """Add a skipped record."""
        self.skipped.append((where, reason))

    @property
    def counts(self) -> dict[str, int]:
        """Number of skipped records for each reason, the most frequent first."""
        return dict(Counter(reason for _, reason in self.skipped).most_common())

    def write(self, path: str | os.PathLike) -> None:
        """Write `{"id": ..., "reason": ...}` of each skipped record as JSON Lines."""
        with open(path, "w", encoding="utf-8") as file:
            for where, reason in self.skipped:
                file.write(json.dumps({"id": where, "reason": reason}, ensure_ascii=False) + "\n")

    def __str__(self) -> str:
        lines = [f"{self.num_written} written, {len(self.skipped)} skipped"]
        return "\n".join(lines + [f"  {count}  {reason}" for reason, count in self.counts.items()])


def check_patients(records: Iterable[StudyRecord]) -> Iterator[StudyRecord]:
    """
    Yield the records, and raise an error at the first patient who is in two splits. A patient is identified by
    pseudonym and dataset.
    """
    split_of: dict[tuple[str, str], str] = {}
    for record in records:
        first = split_of.setdefault((record.source, record.patient), record.split)
        if first != record.split:
            raise ValueError(
                f"Patient '{record.patient}' of '{record.source}' is in the splits '{first}' and '{record.split}'. "
                "Correct the splits, or leave them out and use `assign_split`. Two datasets need two names (`source`)."
            )
        yield record


def images_of(records: Iterable[StudyRecord]) -> list[StudyRecord]:
    """Return one record per X-ray, a question about it only if there is no other."""
    unique: dict[tuple[str, str], StudyRecord] = {}
    for record in sorted(records, key=lambda record: bool(record.question)):
        unique.setdefault((record.source, record.id), record)
    return list(unique.values())


def images_by_id(records: Iterable[StudyRecord]) -> dict[str, str]:
    """
    Return the image of each id, by which codes are kept.

    Raises:
        ValueError: an id names two images.
    """
    images: dict[str, str] = {}
    for record in records:
        first = images.setdefault(record.id, record.image)
        if first != record.image:
            raise ValueError(
                f"The id '{record.id}' names two X-rays, '{first}' and '{record.image}', but codes are kept by id. "
                "Give each X-ray its own, in the column `id` of its table."
            )
    return images


def records_fingerprint(records: Iterable[StudyRecord]) -> str:
    """Return a hash, 16 hexadecimal digits, of everything but the place of the images and their codes."""
    digest = hashlib.sha256()
    for record in records:
        row = {name: value for name, value in record.to_row().items() if name not in ("image", "codes")}
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def label_name(text: str) -> str:
    """Return the name of a label as records have it, such as "No Finding" for "normal". Unknown names are kept."""
    text = text.strip()
    return _LABEL_NAMES.get(text.lower().replace("_", " "), text)


def label_value(text: str) -> int:
    """
    Return the value of a label, which tables write as "1", "1.0" or "True".

    Raises:
        ValueError: the value is not 1, 0 or -1.
    """
    value = float({"true": 1, "false": 0}.get(text.lower(), text))
    if value not in (1, 0, -1):
        raise ValueError(f"Expected a label of 1, 0 or -1, got '{text}'.")
    return int(value)
