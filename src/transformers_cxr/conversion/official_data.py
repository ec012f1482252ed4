"""The data files of the released LLM-CXR (github hyn2028/llm-cxr) in formats that run no code when they are read."""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..files import atomic_write

CODEBOOK_SIZE = 1024
NUM_IMAGE_TOKENS = 256
ROW_GROUP_SIZE = 4096
CODES_SCHEMA = pa.schema([("image_id", pa.string()), ("codes", pa.list_(pa.uint16()))])


@dataclass
class ConversionReport:
    """
    written (`int`):
        Records that were written.
    left_out (`list[tuple[str, str]]`):
        Of each record or file that was not: its id or path, and the reason.
    """

    written: int = 0
    left_out: list[tuple[str, str]] = field(default_factory=list)


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, strings, lists and dictionaries; refuses everything that needs a name to be looked up."""

    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"it refers to '{module}.{name}', and codes need nothing but lists of integers")


def convert_code_pickle(path: str | os.PathLike, output: str | os.PathLike) -> ConversionReport:
    """
    Converts the image codes that the released LLM-CXR trains on, a pickle of `{dicom_id: [256 codes]}`, to Parquet.

    Args:
        path (`str` or `os.PathLike`):
            The pickle, of any protocol. It is never trusted: one that refers to code is refused and runs none.
        output (`str` or `os.PathLike`):
            Parquet file to write, with the columns `image_id` (`string`) and `codes` (`list<uint16>`: 256 codes in raster
            order, each in `[0, 1024)`). It appears only when all of it is written.

    Returns:
        [`ConversionReport`]: left out, by image id, is what has another number of codes or a code that does not exist.

    Raises:
        FileExistsError: `output` exists.
        ValueError: the file is no such pickle, is truncated, refers to code, or holds not one valid image.
    """
    with open(path, "rb") as file:
        try:
            images = _PlainUnpickler(file).load()
        # A broken pickle raises almost anything.
        except Exception as error:
            raise ValueError(
                f"Cannot read '{path}' as a pickle of codes: {error}. Nothing in it was executed."
            ) from error
    if not isinstance(images, dict):
        raise ValueError(f"'{path}' holds {type(images).__name__} instead of a dictionary of codes by image id.")

    report = ConversionReport()
    valid = {}
    for image_id, codes in images.items():
        if reason := _what_is_wrong(image_id, codes):
            report.left_out.append((str(image_id), reason))
        else:
            valid[image_id] = codes
    if not valid:
        raise ValueError(f"'{path}' holds no valid codes. {_first_reason(report)}")
    with atomic_write(output, overwrite=False) as partial, pq.ParquetWriter(partial, CODES_SCHEMA) as writer:
        rows = iter(valid.items())
        while group := list(islice(rows, ROW_GROUP_SIZE)):
            image_ids, codes = zip(*group)
            writer.write_table(pa.table([image_ids, codes], schema=CODES_SCHEMA))
    report.written = len(valid)
    return report


def _what_is_wrong(image_id: object, codes: object) -> str | None:
    if not isinstance(image_id, str):
        return f"the image id is {type(image_id).__name__} instead of a string"
    if not isinstance(codes, (list, tuple)):
        return f"the codes are {type(codes).__name__} instead of a list"
    if len(codes) != NUM_IMAGE_TOKENS:
        return f"{len(codes)} codes instead of {NUM_IMAGE_TOKENS}"
    if others := {type(code) for code in codes} - {int}:
        return f"a code is {others.pop().__name__} instead of an integer"
    for code in (min(codes), max(codes)):
        if not 0 <= code < CODEBOOK_SIZE:
            return f"code {code} is outside [0, {CODEBOOK_SIZE})"
    return None


def convert_vqa_files(folder: str | os.PathLike, output: str | os.PathLike) -> ConversionReport:
    """
    Converts the questions and answers that the released LLM-CXR trains on to one JSON file.

    Args:
        folder (`str` or `os.PathLike`):
            Holds a file `pSUBJECT/sSTUDY.txt` a study at any depth: one line, a Python literal
            `[{"question": ..., "answer": ...}, ...]`. It is parsed and never run; the released code evaluates it.
        output (`str` or `os.PathLike`):
            JSON file to write: a list of `{"subject_id": int, "study_id": int, "question": str, "answer": str}`, sorted by
            path. It appears only when all of it is written.

    Returns:
        [`ConversionReport`]: left out, by path, are files of another form, and records that the released code would not take
        either: with another key than the two, or without text.

    Raises:
        FileExistsError: `output` exists.
        FileNotFoundError: there is no such folder, or no `.txt` file in it.
        ValueError: there is not one valid record.
    """
    folder = Path(folder)
    paths = sorted(folder.glob("**/*.txt"))
    if not paths:
        raise FileNotFoundError(f"No `.txt` files in '{folder}'; expected one a study, `pSUBJECT/sSTUDY.txt`.")
    report = ConversionReport()
    records = []
    for path in paths:
        name = path.relative_to(folder).as_posix()
        try:
            subject_id, study_id = _subject_and_study(path)
            found = _parse_vqa_line(path.read_text(encoding="utf-8"))
        # Beside syntax errors: unhashable keys, lists nested too deep.
        except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
            report.left_out.append((name, str(error)))
            continue
        for number, record in enumerate(found, start=1):
            if reason := _what_is_wrong_with_record(record):
                report.left_out.append((f"{name}, record {number} of {len(found)}", reason))
            else:
                question, answer = record["question"], record["answer"]
                records.append(
                    {"subject_id": subject_id, "study_id": study_id, "question": question, "answer": answer}
                )
    if not records:
        raise ValueError(f"'{folder}' holds no valid questions. {_first_reason(report)}")
    with atomic_write(output, overwrite=False) as partial:
        partial.write_text(json.dumps(records, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    report.written = len(records)
    return report


def _subject_and_study(path: Path) -> tuple[int, int]:
    match = re.fullmatch(r"p([0-9]+)/s([0-9]+)\.txt", f"{path.parent.name}/{path.name}")
    if match is None:
        raise ValueError("the path does not end with pSUBJECT/sSTUDY.txt")
    return int(match[1]), int(match[2])


def _parse_vqa_line(text: str) -> list:
    text = text.strip()
    if not text:
        raise ValueError("the file is empty")
    if "\n" in text:
        raise ValueError(f"{text.count(chr(10)) + 1} lines instead of one")
    records = ast.literal_eval(text)
    if not isinstance(records, list):
        raise ValueError(f"{type(records).__name__} instead of a list of questions and answers")
    return records


def _what_is_wrong_with_record(record: object) -> str | None:
    if not isinstance(record, dict):
        return f"{type(record).__name__} instead of a dictionary"
    if set(record) != {"question", "answer"}:
        return f"the keys {sorted(map(str, record))} instead of 'answer' and 'question'"
    for key in ("question", "answer"):
        if not isinstance(record[key], str) or not record[key].strip():
            return f"the {key} is {record[key]!r} instead of text"
    return None


def _first_reason(report: ConversionReport) -> str:
    if not report.left_out:
        return "It is empty."
    where, reason = report.left_out[0]
    return f"Of {len(report.left_out)} that were left out the first is '{where}': {reason}."


__all__ = ["ConversionReport", "convert_code_pickle", "convert_vqa_files"]
