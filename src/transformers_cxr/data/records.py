"""One record an X-ray, whatever dataset it comes from: what it holds, how it is stored, selected and kept apart by patient."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..files import atomic_write
from .readers.image_folder import IMAGE_SUFFIXES

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

ROW_GROUP_SIZE = 1024
SECTIONS = ("findings+impression", "impression")
# What the processor takes for an image wherever it stands.
IMAGE_TOKENS = ("<image>", "<|cxr_")
_TEXTS = ("findings", "impression", "question", "answer")


@dataclass(frozen=True)
class StudyRecord:
    """
    One X-ray with what its dataset says of it.

    id (`str`): its name in the dataset, the key of its codes.
    patient (`str`): pseudonymous patient.
    study (`str`): the examination that it belongs to, with all images that were reported together.
    image (`str`): path of the image file.
    view (`str`): "AP", "PA", "LATERAL", another view position of the dataset, or "" where it is not known.
    findings (`str`): section of the report, "" where there is none.
    impression (`str`): section of the report, "" where there is none.
    labels (`dict[str, int]`): findings that were labelled: 1 is present, 0 is absent, -1 is uncertain.
    split (`str`): "train", "validation", "test", or "" before [`assign_split`] gives it one.
    source (`str`): the dataset.
    study_order (`int`): place of the study among those of the patient, 1 is the first; 0 where it is not known.
    sex (`str`): "M", "F" or "".
    age_group (`str`): "child", "adult" or "".
    """

    id: str
    patient: str
    study: str
    image: str
    view: str
    findings: str
    impression: str
    labels: dict[str, int]
    split: str
    source: str
    study_order: int = 0
    sex: str = ""
    age_group: str = ""


@dataclass(frozen=True, kw_only=True)
class QuestionRecord(StudyRecord):
    """
    A question about one X-ray: the fields of [`StudyRecord`] and

    question (`str`): the question.
    answer (`str`): its answer.
    """

    question: str
    answer: str


@dataclass
class SkipReport:
    """
    What a reader could not use.

    used (`int`):
        Records that were given.
    skipped (`list[tuple[str, str]]`):
        Of each one that was not: its id or path, and the reason. Reasons are few and fixed, so that they can be counted.
    """

    used: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def skip(self, where: str, reason: str) -> None:
        self.skipped.append((where, reason))

    @property
    def counts(self) -> dict[str, int]:
        """Number of records skipped under each reason, the most frequent first."""
        return dict(Counter(reason for _, reason in self.skipped).most_common())

    def write(self, path: str | os.PathLike) -> None:
        """Writes one JSON object a line, `{"id": ..., "reason": ...}`, for each record that was skipped."""
        with open(path, "w", encoding="utf-8") as file:
            for where, reason in self.skipped:
                file.write(json.dumps({"id": where, "reason": reason}, ensure_ascii=False) + "\n")

    def __str__(self) -> str:
        lines = [f"{self.used} used, {len(self.skipped)} skipped"]
        return "\n".join(lines + [f"  {count}  {reason}" for reason, count in self.counts.items()])


class PatientSplits:
    """Raises as soon as a patient is seen in a second split; a patient is known by its pseudonym and its dataset."""

    def __init__(self):
        self._split_of: dict[tuple[str, str], str] = {}

    def see(self, source: str, patient: str, split: str) -> None:
        first = self._split_of.setdefault((source, patient), split)
        if first != split:
            raise ValueError(
                f"Patient '{patient}' of '{source}' is in the splits '{first}' and '{split}'. Split by patient: leave the "
                "splits out and use `assign_split`, or correct them in the dataset. Two datasets need two names (`source`)."
            )


def check_patients(**splits: Sequence | datasets.Dataset) -> dict[str, int]:
    """
    Checks that no patient is in two of the given sets, for instance
    `check_patients(train=train_records, validation=validation_records)`.

    Args:
        splits (datasets or sequences of rows with `source` and `patient`):
            What is trained on, what is validated on, and so on.

    Returns:
        `dict[str, int]`: number of patients of each.

    Raises:
        ValueError: a patient is in two of them; the error says how many are, and names one by its pseudonym.
    """
    patients = {}
    for name, rows in splits.items():
        if not isinstance(rows, (list, tuple)):
            rows = iterate(rows, ["source", "patient"])
        patients[name] = {(row["source"], row["patient"]) for row in rows}
    names = list(patients)
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            if shared := patients[first] & patients[second]:
                source, patient = min(shared)
                raise ValueError(
                    f"{len(shared)} patients are in both '{first}' and '{second}', such as '{patient}' of '{source}'."
                )
    return {name: len(found) for name, found in patients.items()}


def assign_split(
    records: Iterable[StudyRecord], validation: float = 0.1, test: float = 0.2, seed: int = 0
) -> Iterator[StudyRecord]:
    """
    Gives records without a split one by their patient: it depends on the seed and the patient's pseudonym alone, and not on
    which other patients there are.

    Args:
        records (iterable of [`StudyRecord`]):
            Those that have a split keep it.
        validation (`float`, *optional*, defaults to `0.1`):
            Expected share of the patients in "validation".
        test (`float`, *optional*, defaults to `0.2`):
            Expected share of the patients in "test"; the others are in "train".
        seed (`int`, *optional*, defaults to `0`):
            Another seed gives another split.

    Raises:
        ValueError: the shares are not in [0, 1], or above 1 in all.
    """
    if min(validation, test) < 0 or validation + test > 1:
        raise ValueError(
            f"Expected shares in [0, 1], at most 1 in all, got {validation} (validation) and {test} (test)."
        )
    for record in records:
        if not record.split:
            digest = hashlib.sha256(f"{seed}-{record.source}-{record.patient}".encode()).digest()
            place = int.from_bytes(digest[:8]) / 2**64
            split = "test" if place < test else "validation" if place < test + validation else "train"
            record = dataclasses.replace(record, split=split)
        yield record


def write_records(
    records: Iterable[StudyRecord],
    output: str | os.PathLike,
    codes: datasets.Dataset | None = None,
    codebook_size: int = 1024,
    num_image_tokens: int = 256,
    skip_report: SkipReport | None = None,
) -> SkipReport:
    """
    Writes records to a Parquet file for training, with the codes of their images beside them. Of what was written it keeps
    the ids and patients in memory.

    Args:
        records (iterable of [`StudyRecord`] or of [`QuestionRecord`]):
            What a reader gives; all of one class.
        output (`str` or `os.PathLike`):
            Parquet file to write: a column a field (`labels` as a list of `name` and `value`), and `codes` (`list<uint16>`) if
            codes are given. It appears only when all of it is written.
        codes ([`datasets.Dataset`], *optional*):
            Columns `id` and `codes`, as `load_codes` gives them. A record has the codes of its id, or else of the only image
            file whose path ends with it, both without suffix.
        codebook_size (`int`, *optional*, defaults to `1024`):
            Codes are in `[0, codebook_size)`.
        num_image_tokens (`int`, *optional*, defaults to `256`):
            Codes an image has.
        skip_report ([`SkipReport`], *optional*):
            That of the reader, to go on with.

    Returns:
        [`SkipReport`]: skipped under a reason are images without codes, with another number of codes or a code outside of the
        codebook, texts that stand for an image ("<image>"), and ids that come again (of [`QuestionRecord`]: questions that do).

    Raises:
        FileExistsError: `output` exists.
        ValueError: a patient is in two splits, or nothing is left to write.
    """
    report = SkipReport() if skip_report is None else skip_report
    row_of = None if codes is None else _row_finder(codes["id"])
    splits = PatientSplits()

    def usable() -> Iterator[dict]:
        seen = set()
        for record in records:
            row = record_row(record)
            key = (record.id, row.get("question"))
            if key in seen:
                report.skip(record.id, "the id comes twice")
                continue
            seen.add(key)
            splits.see(record.source, record.patient, record.split)
            if any(token in row.get(name, "") for name in _TEXTS for token in IMAGE_TOKENS):
                report.skip(record.id, "a text that stands for an image")
                continue
            if codes is not None:
                code_row = row_of(record.id)
                if code_row is None:
                    report.skip(record.id, "no codes")
                    continue
                row["codes"] = codes[code_row]["codes"]
                if len(row["codes"]) != num_image_tokens:
                    report.skip(record.id, f"not {num_image_tokens} codes")
                    continue
                if not 0 <= min(row["codes"]) <= max(row["codes"]) < codebook_size:
                    report.skip(record.id, f"a code outside of [0, {codebook_size})")
                    continue
            yield row

    rows = usable()
    first = next(rows, None)
    if first is None:
        reasons = ", ".join(f"{count} {reason}" for reason, count in report.counts.items())
        message = f"There is no record to write to '{output}': {reasons or 'none were given'}."
        without = [name for name, reason in report.skipped if reason == "no codes"]
        if without and len(codes):
            message += (
                f" Records have ids such as '{without[0]}', and codes such as '{codes['id'][0]}': encode the folder that the "
                "ids of the records begin in."
            )
        raise ValueError(message)
    schema = _SCHEMA if "question" not in first else _QUESTION_SCHEMA
    if codes is not None:
        schema = schema.append(_CODES_FIELD).with_metadata({_TOKENIZER_KEY: codes.info.description})
    report.used = _write_rows([first], rows, output, schema)
    return report


def _row_finder(ids: Iterable[str]) -> Callable[[str], int | None]:
    """Finds the row of an id, or else that of the only id that ends with it, both as paths without suffix."""
    rows = {name: row for row, name in enumerate(ids)}

    @cache
    def rows_by_end(length: int) -> dict[tuple[str, ...], int | None]:
        ends = {}
        for name, row in rows.items():
            end = _parts(name)[-length:]
            ends[end] = row if end not in ends else None
        return ends

    def row_of(name: str) -> int | None:
        parts = _parts(name)
        return rows[name] if name in rows else rows_by_end(len(parts)).get(parts)

    return row_of


def _parts(name: str) -> tuple[str, ...]:
    stem, suffix = os.path.splitext(name)
    return tuple((stem if suffix.lower() in IMAGE_SUFFIXES else name).split("/"))


def write_rows(rows: Iterable[dict], output: str | os.PathLike, schema: pa.Schema) -> int:
    """
    Writes rows to a Parquet file that appears only when all of it is written.

    Returns:
        `int`: the number of rows.

    Raises:
        FileExistsError: `output` exists.
        ValueError: there is no row.
    """
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        raise ValueError(f"There is nothing to write to '{output}'.")
    return _write_rows([first], rows, output, schema)


def _write_rows(first: list[dict], rows: Iterator[dict], output: str | os.PathLike, schema: pa.Schema) -> int:
    count = 0
    with atomic_write(output, overwrite=False) as partial, pq.ParquetWriter(partial, schema) as writer:
        group = first + list(islice(rows, ROW_GROUP_SIZE - 1))
        while group:
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            count += len(group)
            group = list(islice(rows, ROW_GROUP_SIZE))
    return count


def load_rows(path: str | os.PathLike, cache_dir: str | os.PathLike | None = None) -> datasets.Dataset:
    """
    Opens what [`write_records`] or `write_conversations` wrote, memory-mapped: reading a row does not load the others.

    Args:
        path (`str` or `os.PathLike`):
            A Parquet file, or a folder of them.
        cache_dir (`str` or `os.PathLike`, *optional*):
            Where `datasets` keeps its memory-mapped copy; its own cache by default.

    Raises:
        FileNotFoundError: there is no Parquet file.
        ValueError: it is a file of another kind, or broken.
    """
    from datasets import Dataset

    files = _parquet_files(path)
    for file in files:
        try:
            pq.read_metadata(file)
        except pa.ArrowInvalid as error:
            raise ValueError(f"'{file}' cannot be read as Parquet: {error}") from error
    return Dataset.from_parquet([str(file) for file in files], cache_dir=cache_dir and str(cache_dir))


def _parquet_files(path: str | os.PathLike) -> list[Path]:
    path = Path(path)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise FileNotFoundError(f"'{path}' is neither a Parquet file nor a folder of them.")
    return files


def check_tokenizer(path: str | os.PathLike, fingerprint: str) -> None:
    """
    Checks that codes which [`write_records`] took from `load_codes` are those of a tokenizer; of other codes it is not known.

    Args:
        path (`str` or `os.PathLike`):
            A Parquet file, or a folder of them.
        fingerprint (`str`):
            `tokenizer_fingerprint` of the tokenizer.

    Raises:
        ValueError: they are of another tokenizer.
    """
    for file in _parquet_files(path):
        known = (pq.read_schema(file).metadata or {}).get(_TOKENIZER_KEY, b"").decode()
        if known not in ("", fingerprint):
            raise ValueError(
                f"The codes in '{file}' are of another image tokenizer than the model's (fingerprint {known}, expected "
                f"{fingerprint}). Encode the images with that of the model (`transformers-cxr encode --model`)."
            )


def iterate(rows: datasets.Dataset, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Some columns of all rows, one after the other; from batches, which `datasets` reads many times as fast as rows."""
    for batch in rows.select_columns(list(columns)).iter(batch_size=1000):
        for values in zip(*batch.values()):
            yield dict(zip(batch, values))


def select_records(
    rows: datasets.Dataset,
    splits: Sequence[str] | None = None,
    views: Sequence[str] | None = None,
    first_study: bool = False,
    sections: str | None = None,
) -> datasets.Dataset:
    """
    Selects rows by what their columns say, and logs how many each condition removes. The paper's sets (LLM-CXR, arXiv
    2305.11490, section 4) are

    - stage 1: `splits=["train"]`,
    - stage 2: `splits=["train"], views=["AP", "PA"], first_study=True, sections="impression"`,
    - evaluation: `splits=["validation", "test"], views=["AP", "PA"]`.

    Args:
        rows ([`datasets.Dataset`]):
            Rows of [`StudyRecord`] or [`QuestionRecord`].
        splits (`Sequence[str]`, *optional*):
            Splits to keep, all by default.
        views (`Sequence[str]`, *optional*):
            View positions to keep, all by default.
        first_study (`bool`, *optional*, defaults to `False`):
            Keep the first study of each patient only.
        sections (`str`, *optional*):
            "impression" keeps reports that have an impression; rows without any report, whose report is derived from labels,
            stay.

    Raises:
        ValueError: nothing is left; the error says which condition removed how many rows, and what the rows have.
    """
    conditions = {
        "split": lambda row: splits is None or row["split"] in splits,
        "view": lambda row: views is None or row["view"] in views,
        "first study": lambda row: not first_study or row["study_order"] == 1,
        "sections": lambda row: sections != "impression" or bool(row["impression"]) or not row["findings"],
    }
    removed = Counter()
    kept = []
    for index, row in enumerate(iterate(rows, ["split", "view", "study_order", "impression", "findings"])):
        failed = next((name for name, holds in conditions.items() if not holds(row)), None)
        if failed is None:
            kept.append(index)
        else:
            removed[failed] += 1
    if not kept:
        columns = {"split": "split", "view": "view", "first study": "study_order"}
        known = {columns[name]: set(rows[columns[name]]) for name in removed if name in columns}
        raise ValueError(
            f"No row of {len(rows)} is left; removed by condition: {dict(removed)}. The rows have {known}."
            + (" `assign_split` gives records a split." if "" in known.get("split", ()) else "")
        )
    if removed:
        logger.warning(f"{len(kept)} rows of {len(rows)} are left; removed by condition: {dict(removed)}.")
    return rows.select(kept)


def label_value(text: str) -> int:
    """
    The value of a label, which tables also write as "1.0" or "True".

    Raises:
        ValueError: it is none of 1, 0 and -1.
    """
    value = float({"true": 1, "false": 0}.get(text.lower(), text))
    if value not in (1, 0, -1):
        raise ValueError(f"Expected a label of 1, 0 or -1, got '{text}'.")
    return int(value)


def record_row(record: StudyRecord) -> dict[str, Any]:
    """The record as a row of a Parquet file."""
    row = {item.name: getattr(record, item.name) for item in dataclasses.fields(record)}
    row["labels"] = [{"name": name, "value": value} for name, value in record.labels.items()]
    return row


_LABELS = pa.list_(pa.struct([("name", pa.string()), ("value", pa.int8())]))
_TYPES = {"labels": _LABELS, "study_order": pa.int32()}
_SCHEMA = pa.schema([(item.name, _TYPES.get(item.name, pa.string())) for item in dataclasses.fields(StudyRecord)])
_QUESTION_SCHEMA = pa.schema(
    [(item.name, _TYPES.get(item.name, pa.string())) for item in dataclasses.fields(QuestionRecord)]
)
_CODES_FIELD = pa.field("codes", pa.list_(pa.uint16()))
# Under which the metadata of a Parquet file say which tokenizer its codes are of.
_TOKENIZER_KEY = b"transformers_cxr_tokenizer"
