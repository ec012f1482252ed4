"""Images of a dataset as a stream, for encoding and VQ-GAN training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..files import listing_fingerprint
from .readers.image_folder import IMAGE_SUFFIXES, walk_images
from .readers.rows import read_rows
from .records import images_by_id
from .store import is_records, open_records

if TYPE_CHECKING:
    from datasets import Features

# Suffixes of files with many images, and their builders in `datasets`.
_BUILDERS = {".parquet": "parquet", ".tar": "webdataset"}
# Bytes at the end of such a file by which a change is noticed.
_TAIL = 2**16
# Columns that may hold the id of an image, the first that exists.
_ID_COLUMNS = ("id", "image_id", "file_name", "__key__")


@dataclass
class ImageSource:
    """
    A dataset as a stream of images in a fixed order.

    Args:
        rows (`Callable[[int], Iterator[tuple[str, Any, dict]]]`): yields the id, the image for [`read_image`] and the
            metadata of each row, from a number on.
        metadata (`pa.Schema`): columns of the metadata.
        settings (`dict`): settings that identify the source.
        total (`int`, *optional*): number of rows, if known.
    """

    rows: Callable[[int], Iterator[tuple[str, Any, dict]]]
    metadata: pa.Schema
    settings: dict
    total: int | None = None


def read_image(image: bytes | Path | str | None) -> bytes | Path | str:
    """
    Return an image of an [`ImageSource`] as an image processor takes it.

    Raises:
        OSError: its URL cannot be read.
        ValueError: the row has no image.
    """
    if not image:
        raise ValueError("The row has no image.")
    if not isinstance(image, str) or "://" not in image:
        return image
    import fsspec

    with fsspec.open(image, "rb") as file:
        return file.read()


def is_streamed(path: str | Path) -> bool:
    """Return whether `datasets` reads a path: a WebDataset or Parquet file with images, or a folder of such data."""
    path = Path(path)
    if (path / "metadata.csv").is_file() or is_records(path):
        return False
    return path.is_file() or any(file.suffix in _BUILDERS or file.name == "metadata.jsonl" for file in path.rglob("*"))


def open_source(
    dataset: str, split: str | None = None, image_column: str | None = None, id_column: str | None = None
) -> ImageSource:
    """
    Open a dataset as a stream.

    Args:
        dataset (`str`): a folder of images and DICOM files at any depth, optionally with a `metadata.csv` (column
            `file_name`); a Parquet file of [`write_records`]; a Parquet or WebDataset tar file with images; or a
            dataset that `datasets.load_dataset` loads: a folder of such files, an imagefolder with other metadata, or
            a name on the Hub.
        split (`str`, *optional*): split of the dataset. By default it is "train" for `load_dataset`, and all images
            for others.
        image_column, id_column (`str`, *optional*): columns of the image and its id, if they are ambiguous.

    Raises:
        FileNotFoundError: the folder or the split holds no images.
        ValueError: the format is not supported, or there is no such split or column.
    """
    path = Path(dataset)
    if not path.exists():
        return _open_datasets(dataset, split or "train", image_column, id_column)
    # Errors and settings name the same file from any working directory.
    path = path.absolute()
    if is_records(path):
        images = images_by_id(open_records(path, split))
        return _local_source(path, split, lambda: ((name, image, {}) for name, image in images.items()))
    if (path / "metadata.csv").is_file():
        return _local_source(path, split, lambda: _read_metadata(path, split, id_column))
    if is_streamed(path):
        return _open_datasets(str(path), split or "train", image_column, id_column)
    if split is not None:
        raise ValueError(f"'{path}' has no splits: a folder of images needs a `metadata.csv` with a column `split`.")
    return _local_source(path, split, lambda: ((f.relative_to(path).as_posix(), f, {}) for f in walk_images(path)))


def _read_metadata(folder: Path, split: str | None, id_column: str | None) -> Iterator[tuple[str, Path, dict]]:
    required = {"file_name", *filter(None, [id_column, "split" if split else None])}
    for row in read_rows(folder / "metadata.csv", required):
        if split in (None, row["split"]):
            image_id = row.pop(id_column or next(column for column in _ID_COLUMNS if column in row))
            yield image_id, folder / row.get("file_name", image_id), row


def _local_source(path: Path, split: str | None, read: Callable[[], Iterator[tuple[str, Any, dict]]]) -> ImageSource:
    """Return a source of the rows that `read` yields, which are read once for their number and fingerprint."""
    digest, total, metadata = hashlib.sha256(), 0, {}
    for image_id, image, metadata in read():
        digest.update(f"{image_id} {image} {metadata}\n".encode())
        total += 1
    if not total:
        where = f" of split '{split}'" if split else ""
        raise FileNotFoundError(
            f"No image{where} in '{path}': expected files {', '.join(IMAGE_SUFFIXES)} or rows that name them."
        )
    return ImageSource(
        rows=lambda start: islice(read(), start, None),
        metadata=pa.schema([(column, pa.string()) for column in metadata]),
        settings={"dataset": str(path), "split": split, "rows": digest.hexdigest()},
        total=total,
    )


def _open_datasets(dataset: str, split: str, image_column: str | None, id_column: str | None) -> ImageSource:
    """Return a source of a dataset that `datasets` streams."""
    from datasets import Image, load_dataset_builder

    path = Path(dataset)
    if path.is_file() and path.suffix not in _BUILDERS:
        raise ValueError(f"Expected a folder, a Parquet file or a WebDataset tar, got '{dataset}'.")
    try:
        with _read_errors(dataset):
            if path.is_file():
                builder = load_dataset_builder(_BUILDERS[path.suffix], data_files=dataset)
            else:
                builder = load_dataset_builder(dataset)
            stream = builder.as_streaming_dataset(split=split)
    except OSError as error:
        if path.is_file():
            raise
        raise ValueError(f"'{dataset}' is no file or folder, and no dataset on the Hub: {error}") from error
    features = stream.features
    image_column = image_column or _find_image_column(features, dataset)
    if missing := {image_column, id_column} - {None, *features}:
        raise ValueError(f"'{dataset}' lacks the columns {sorted(missing)}; it has {list(features)}.")
    id_column = id_column or next((column for column in _ID_COLUMNS if column in features), None)
    if isinstance(features[image_column], Image):
        stream = stream.cast_column(image_column, Image(decode=False))
    metadata = pa.schema(
        field
        for field in features.arrow_schema
        if field.name not in (image_column, id_column, "__url__") and not _holds_bytes(field.type)
    )

    def rows(start: int) -> Iterator[tuple[str, Any, dict]]:
        with _read_errors(dataset):
            for number, row in enumerate(stream.skip(start), start):
                image, image_path = row[image_column], None
                if isinstance(image, dict):
                    image_path = image["path"]
                    image = image_path if image["bytes"] is None else image["bytes"]
                image_id = image_path or f"{number:08d}" if id_column is None else str(row[id_column])
                yield image_id, image, {name: row[name] for name in metadata.names}

    settings = {"dataset": dataset, "split": split, "image_column": image_column, "id_column": id_column}
    if path.exists():
        files = [path] if path.is_file() else [Path(file) for file in builder.config.data_files[split]]
        tail = _TAIL if {file.suffix for file in files} <= _BUILDERS.keys() else 0
        settings["files"] = listing_fingerprint(files, path, tail)
    return ImageSource(rows, metadata, settings)


@contextmanager
def _read_errors(dataset: str) -> Iterator[None]:
    """Turn the errors of `datasets`, which decodes all members of a tar file, into one that names the dataset."""
    try:
        yield
    except (OSError, ImportError):
        raise
    except Exception as error:
        raise ValueError(f"'{dataset}' cannot be read: {error}") from error


def _find_image_column(features: Features, dataset: str) -> str:
    from datasets import Image

    found = [name for name, feature in features.items() if isinstance(feature, Image)]
    if not found and "image" in features:
        found = ["image"]
    if len(found) != 1:
        raise ValueError(f"Name the column of the images in '{dataset}' by `--image-column`: it has {list(features)}.")
    return found[0]


def _holds_bytes(data_type: pa.DataType) -> bool:
    """Return whether a column holds media, which are not metadata."""
    if pa.types.is_nested(data_type):
        return any(_holds_bytes(data_type.field(index).type) for index in range(data_type.num_fields))
    return pa.types.is_binary(data_type) or pa.types.is_large_binary(data_type)
