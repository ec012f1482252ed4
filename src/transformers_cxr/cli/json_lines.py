"""JSON Lines files of finished results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..files import disk_full_error, format_changes, lock


class JsonLines:
    """
    A JSON Lines file of finished results that a later run with the same settings resumes; see [`open_json_lines`].

    Args:
        path (`Path`), file (`BinaryIO`): The file, and as opened for reading and appending.
        key (`tuple[str, ...]`): Fields that identify a result; the first is the first field of every result.
    """

    def __init__(self, path: Path, file: BinaryIO, key: tuple[str, ...]):
        self.path = path
        self.file = file
        self.key = key
        file.seek(0)
        content = file.read()
        if not content.startswith(f'{{"{key[0]}": '.encode()[: len(content)]):
            raise FileExistsError(f"'{path}' exists and was not written by this command. Choose another output.")
        *lines, unfinished = content.split(b"\n")
        if unfinished:  # by a killed process
            file.truncate(len(content) - len(unfinished))
        self.results = {self._key_of(result): result for result in map(self._parse, lines)}

    def _parse(self, line: bytes) -> dict:
        """Return the result of a line, or raise an error if another program changed it."""
        with suppress(ValueError, RecursionError):
            result = json.loads(line)
            kinds = {**dict.fromkeys(self.key, str), "settings": dict}
            if isinstance(result, dict) and all(isinstance(result.get(name), kind) for name, kind in kinds.items()):
                return result
        raise ValueError(
            f"'{self.path}' has a line that is not a result of this command: {line[:200]!r}. Remove it, or choose "
            "another output."
        )

    def _key_of(self, result: dict) -> tuple:
        return tuple(result[name] for name in self.key)

    def find(self, expected: dict) -> dict | None:
        """
        Return the result that has the key of `expected`.

        Raises:
            ValueError: another field of `expected`, or one of its settings, has another value in the result.
        """
        result = self.results.get(self._key_of(expected))
        if result is None:
            return None
        before, now = (
            {**{name: each.get(name) for name in expected}, **each["settings"]} for each in (result, expected)
        )
        before["settings"] = now["settings"] = None
        if changes := format_changes(before, now):
            raise ValueError(
                f"'{self.path}' holds '{expected[self.key[0]]}' with other settings: {changes}. Choose another output."
            )
        return result

    def append(self, results: Sequence[dict]) -> None:
        """Append results to the file."""
        text = "".join(json.dumps(result, ensure_ascii=False) + "\n" for result in results)
        # A file name that is not UTF-8 has lone surrogates, which are valid JSON only as escapes.
        lines = text.encode(errors="backslashreplace")
        with disk_full_error(self.path):
            while lines:
                lines = lines[self.file.write(lines) :]
        self.results.update((self._key_of(result), result) for result in results)


@contextmanager
def open_json_lines(path: Path, *key: str) -> Iterator[JsonLines]:
    """
    Open a new JSON Lines file or resume one, and lock it. A file that stays empty is removed.

    Raises:
        BlockingIOError: another process writes to the file.
        FileExistsError: the file has other content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as file, lock(path):
        try:
            json_lines = JsonLines(path, file, key)
            yield json_lines
        finally:
            if not path.stat().st_size:
                path.unlink()
