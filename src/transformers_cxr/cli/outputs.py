"""What commands write: records of finished work, and generated images."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from ..files import disk_full_error, lock


class JsonLines(AbstractContextManager):
    """
    A JSONL file of finished work, which a later run with the same settings resumes. While it is open no other run can write
    to it. A last line that a killed process left unfinished is cut off.

    Args:
        path (`Path`):
            The file, new or written by this class.
        key (`tuple[str, ...]`):
            The fields that tell one record from the other; the first one is the first field of every record.

    Raises:
        BlockingIOError: another run has it open.
        FileExistsError: it holds something else.
    """

    def __init__(self, path: Path, key: tuple[str, ...]):
        self.path = path
        self.key = key
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            self.file = stack.enter_context(path.open("a+b", buffering=0))
            stack.enter_context(lock(path))
            self.records = self._read()
            self.stack = stack.pop_all()

    def _read(self) -> dict[tuple, dict]:
        self.file.seek(0)
        *lines, rest = self.file.read().split(b"\n")
        records = [self._parse(line, number) for number, line in enumerate(lines, start=1)]
        beginning = f'{{"{self.key[0]}": '.encode()
        if rest:
            if not (rest.startswith(beginning) or beginning.startswith(rest)):
                raise self._something_else(len(lines) + 1)
            self.file.truncate(sum(len(line) + 1 for line in lines))
        return {tuple(record[name] for name in self.key): record for record in records}

    def _parse(self, line: bytes, number: int) -> dict:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or not {*self.key, "generated"} <= record.keys():
            raise self._something_else(number)
        return record

    def _something_else(self, number: int) -> FileExistsError:
        return FileExistsError(
            f"'{self.path}' exists and line {number} is not of this command. Choose another output."
        )

    def __iter__(self) -> Iterator[dict]:
        return iter(self.records.values())

    def find(self, wanted: dict) -> dict | None:
        """
        The record of the key in `wanted`.

        Raises:
            ValueError: it has other values than the fields of `wanted`.
        """
        record = self.records.get(tuple(wanted[name] for name in self.key))
        if record is not None and (different := _first_difference(record, wanted)):
            name, before, now = different
            raise ValueError(
                f"'{self.path}' holds '{wanted[self.key[0]]}' already, made with {name} = {before!r}; now it is {now!r}. "
                "Choose another output."
            )
        return record

    def append(self, records: Sequence[dict]) -> None:
        """Adds records, at once for any reader and for good when it returns."""
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
        with disk_full_error(self.path):
            while lines:
                lines = lines[self.file.write(lines) :]
        self.records.update({tuple(record[name] for name in self.key): record for record in records})

    def __exit__(self, *error) -> None:
        if not self.records:
            self.path.unlink()
        self.stack.close()


def _first_difference(record: dict, wanted: dict) -> tuple[str, object, object] | None:
    """The name and both values of the first field that differs; settings are compared one by one."""
    for name, value in wanted.items():
        before = record.get(name)
        if before != value and isinstance(before, dict) and isinstance(value, dict):
            return next(
                (key, before.get(key), value.get(key))
                for key in {**before, **value}
                if before.get(key) != value.get(key)
            )
        if before != value:
            return name, before, value
    return None


def show(text: object) -> None:
    """Prints a result to the standard output, beside a progress bar where there is one."""
    from tqdm import tqdm

    tqdm.write(str(text), file=sys.stdout)
