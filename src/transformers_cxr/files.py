"""Atomic writes, locks, resume checks, and text files."""

from __future__ import annotations

import csv
import errno
import gzip
import hashlib
import io
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any


@contextmanager
def atomic_write(path: str | os.PathLike, overwrite: bool = True) -> Iterator[Path]:
    """
    Yield a temporary path in the folder of `path`, for a file or a folder. At the end of the block it is flushed to
    the disk and renamed to `path` in one step; after an error it is removed. A killed process leaves `path` as it was.

    Args:
        path (`str` or `os.PathLike`):
            The file or folder to write. Its parent folder is created.
        overwrite (`bool`, *optional*, defaults to `True`):
            Whether to replace an existing file. A folder is never replaced.

    Raises:
        FileExistsError: `path` exists and `overwrite` is `False`.
        OSError: `path` cannot be written. If the disk is full, the message says what to do.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"'{path}' exists. Remove it or choose another output.")
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays, because Pillow chooses the format by it.
    partial = path.with_name(f".incomplete-{path.name}")
    _remove(partial)  # left by a killed process
    try:
        with disk_full_error(path):
            yield partial
            for file in [*partial.rglob("*"), partial]:
                _flush_to_disk(file)
            partial.replace(path)
    finally:
        _remove(partial)
    _flush_to_disk(path.parent)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_full_error(path: str | os.PathLike) -> Iterator[None]:
    """
    Turn the disk-full error of any library into one that names `path` and says what to do.

    Raises:
        OSError: the disk is full.
    """
    try:
        yield
    except Exception as error:
        number = getattr(error, "errno", None)
        # safetensors and torch have errors of their own, and that of torch does not say that the disk is full.
        if number is None and any(words in str(error) for words in ("No space left on device", "inline_container")):
            number = errno.ENOSPC
        if number not in (errno.ENOSPC, errno.EDQUOT):
            raise
        message = "No space left on the disk. Finished work is kept: free some space and run the same command again"
        raise OSError(number, message, os.fspath(path)) from error


@contextmanager
def lock(path: str | os.PathLike) -> Iterator[None]:
    """
    Hold the lock of an existing file or folder. The kernel releases it when the process ends, even if it is killed.

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
def locked_output(folder: str | os.PathLike) -> Iterator[None]:
    """
    Create the output folder of a command and hold its lock, in the main process of `accelerate launch`.

    Raises:
        BlockingIOError: another run writes to the folder.
        OSError: the disk is full. The message says what to do.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    is_main_process = os.environ.get("RANK", "0") == "0"
    with disk_full_error(folder), lock(folder) if is_main_process else nullcontext():
        yield


def check_same_settings(path: str | os.PathLike, settings: dict[str, Any], replace: bool = False) -> None:
    """
    Write the settings of a new run, or raise an error if a run that is resumed had other settings.

    Args:
        path (`str` or `os.PathLike`):
            JSON file of the settings.
        settings (`dict`):
            Everything that the result depends on. Values that JSON does not know are written as strings.
        replace (`bool`, *optional*, defaults to `False`):
            Whether to replace other settings, because the earlier run has no results yet.

    Raises:
        ValueError: the settings differ. The error names each one with its old and new value.
    """
    path = Path(path)
    settings = json.loads(json.dumps(settings, default=str))
    known = read_json(path) if path.is_file() else None
    if known == settings:
        return
    if known is None or replace:
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return
    raise ValueError(
        f"'{path.parent}' holds the results of a run with other settings: {format_changes(known, settings)}. Use the "
        "settings of that run, or choose another output folder."
    )


def format_changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Format the settings that differ with their old and new values, or return "" if none does."""
    names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    return "; ".join(f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in names)


def file_fingerprint(path: str | os.PathLike) -> str:
    """
    Return the SHA-256, 64 hexadecimal digits, of a file, or of the Parquet files and `metadata.csv` of a folder, or of
    the names of its images if it has neither.
    """
    path, digest = Path(path), hashlib.sha256()
    files = sorted([*path.glob("*.parquet"), *path.glob("metadata.csv")]) if path.is_dir() else [path]
    if not files:
        from .data.readers.image_folder import walk_images

        return listing_fingerprint(walk_images(path), path)
    for name in files:
        with name.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def listing_fingerprint(files: Iterable[Path], folder: Path, tail: int = 0) -> str:
    """
    Return the SHA-256 of the names below `folder` and the sizes of files, and of their last `tail` bytes: those of a
    tar or Parquet file change with each image that is added, and are read at once.
    """
    digest = hashlib.sha256()
    for path in sorted(files):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()} {size}\n".encode())
        if tail:
            with path.open("rb") as file:
                file.seek(max(0, size - tail))
                digest.update(file.read())
    return digest.hexdigest()


def read_json(path: str | os.PathLike, fields: Mapping[str, type] | None = None) -> dict[str, Any]:
    """
    Read a JSON file of an object.

    Args:
        path (`str` or `os.PathLike`):
            The file.
        fields (`Mapping[str, type]`, *optional*):
            Type of each field that the object must have.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, not an object, or a field is missing or of another type.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{path}' is not a JSON file: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"Expected a JSON object in '{path}', got {content!r:.200}.")
    for name, kind in (fields or {}).items():
        if not isinstance(content.get(name), kind):
            raise ValueError(f"Expected `{name}` of type {kind.__name__} in '{path}', got {content.get(name)!r:.200}.")
    return content


@contextmanager
def open_text(path: Path) -> Iterator[io.TextIOBase]:
    """
    Open a text file in UTF-8, with or without a byte order mark, optionally compressed with gzip (`.gz`).

    Raises:
        ValueError: the file is not UTF-8 text, not CSV, or not a whole gzip file.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", newline="", encoding="utf-8-sig") as file:
            yield file
    except (UnicodeDecodeError, csv.Error, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"'{path}' is not UTF-8 text, or it is damaged: {error}.") from error
