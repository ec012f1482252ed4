"""JSON Lines files of finished results."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from ..files import disk_full_error, lock


class JsonLines(AbstractContextManager):
    """
    A JSON Lines file of finished results that a later run with the same settings resumes. It is locked while open. An
    unfinished last line, left by a killed process, is removed.

    Args:
        path (`Path`):
            The file: new, or written by this class.
        key (`tuple[str, ...]`):
            Fields that identify a record; the first is the first field of every record.

    Raises:
        BlockingIOError: If another process writes to the file.
        FileExistsError: If the file has other content.
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
        start = f'{{"{self.key[0]}": '.encode()
        if rest:
            if not (rest.startswith(start) or start.startswith(rest)):
                raise self._foreign_content(len(lines) + 1)
            self.file.truncate(sum(len(line) + 1 for line in lines))
        return {self._key_of(record): record for record in records}

    def _key_of(self, record: dict) -> tuple:
        return tuple(record[name] for name in self.key)

    def _parse(self, line: bytes, number: int) -> dict:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or not {*self.key, "settings", "generated"} <= record.keys():
            raise self._foreign_content(number)
        return record

    def _foreign_content(self, number: int) -> FileExistsError:
        return FileExistsError(
            f"'{self.path}' exists and line {number} was not written by this command. Choose another output."
        )

    def __iter__(self) -> Iterator[dict]:
        return iter(self.records.values())

    def __contains__(self, record: dict) -> bool:
        return self._key_of(record) in self.records

    def find(self, expected: dict) -> dict | None:
        """
        Return the record that has the key of `expected`.

        Raises:
            ValueError: If another field of `expected` has another value in the record.
        """
        record = self.records.get(self._key_of(expected))
        if record is None:
            return None
        before, now = record | record["settings"], expected | expected["settings"]
        for name in sorted(now.keys() | record["settings"].keys()):
            if name != "settings" and before.get(name) != now.get(name):
                raise ValueError(
                    f"'{self.path}' already has '{expected[self.key[0]]}' with {name} = {before.get(name)!r}, now it is "
                    f"{now.get(name)!r}. Choose another output."
                )
        return record

    def append(self, records: Sequence[dict]) -> None:
        """Append records to the file and flush them."""
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
        with disk_full_error(self.path):
            while lines:
                lines = lines[self.file.write(lines) :]
        self.records.update({self._key_of(record): record for record in records})

    def __exit__(self, *error) -> None:
        if not self.records:
            self.path.unlink()
        self.stack.close()


def print_result(text: object) -> None:
    """Print to the standard output, above a progress bar."""
    from tqdm import tqdm

    tqdm.write(str(text), file=sys.stdout)
