"""Atomic writes, locks, and text files."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def durable_file(path: str | os.PathLike) -> Iterator[Path]:
    """
    Gives a path beside `path` to write to. When the block has ended well, the file is forced to the disk and takes the name
    `path` in one step, in the place of an older one; when it has not, the file is removed. A killed process leaves `path` as
    it was.

    Raises:
        OSError: the file cannot be written; where the disk is full the message says what to do.
    """
    path = Path(path)
    # The suffix stays: Pillow chooses the format by it.
    partial = path.with_name(f".incomplete-{path.name}")
    try:
        with full_disk_as_message(path):
            yield partial
            _force_to_disk(partial)
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _force_to_disk(path.parent)


def _force_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def full_disk_as_message(path: str | os.PathLike) -> Iterator[None]:
    """Lets the error of a full disk name `path` and the way out; any other error is passed on."""
    try:
        yield
    except Exception as error:
        number = getattr(error, "errno", None)
        # safetensors and torch have errors of their own, and torch's does not even say that the disk is full.
        if number is None and any(words in str(error) for words in ("No space left on device", "inline_container")):
            number = errno.ENOSPC
        if number not in (errno.ENOSPC, errno.EDQUOT):
            raise
        message = (
            "No space left on the disk. What was finished is kept: free some space and run the same command again"
        )
        raise OSError(number, message, os.fspath(path)) from error


@contextmanager
def locked(path: str | os.PathLike) -> Iterator[None]:
    """
    Holds the lock of a file or a folder, which another process must not hold. The kernel releases it when the process ends,
    however it ends.

    Raises:
        BlockingIOError: another process holds it.
    """
    import fcntl

    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = "Another run is writing to this output. Wait until it has ended or choose another output"
            raise BlockingIOError(error.errno, message, os.fspath(path)) from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def new_output(path: str | os.PathLike) -> Iterator[Path]:
    """
    Gives a path beside `path` to write a file or a folder to, which takes the name `path` when the block has ended well and is
    removed when it has not.

    Raises:
        FileExistsError: `path` exists.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"'{path}' exists. Remove it or choose another output.")
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name says what a killed process leaves behind.
    partial = path.with_name(f"{path.name}.incomplete-{os.getpid()}")
    try:
        yield partial
        partial.rename(path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)


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
