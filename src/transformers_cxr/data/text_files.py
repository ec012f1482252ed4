"""Opening tables that are text, whoever wrote them."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def open_text(path: Path) -> Iterator[io.TextIOBase]:
    """
    Opens a file, or one in gzip (`.gz`), as UTF-8 text with or without a byte order mark.

    Raises:
        ValueError: what is read from it is no UTF-8 text, no CSV, or no whole gzip file; the error names the file.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", newline="", encoding="utf-8-sig") as file:
            yield file
    except (UnicodeDecodeError, csv.Error, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"'{path}' is not UTF-8 text, or broken: {error}.") from error


__all__ = ["open_text"]
