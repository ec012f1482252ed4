"""Datasets of images: one stream of rows, whatever the format."""

from __future__ import annotations

import csv
import hashlib
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from ..files import open_text
from .readers.image_folder import IMAGE_SUFFIXES, walk_images

if TYPE_CHECKING:
    from datasets import Features

# Files that hold many images, and what reads them in `datasets`.
SHARD_BUILDERS = {".parquet": "parquet", ".tar": "webdataset"}
# Where the id of an image is looked for; else it is the image's path, or its number.
ID_COLUMNS = ("id", "image_id", "file_name", "__key__")


@dataclass
class ImageSource:
    """
    A dataset as a stream of rows, in an order that is always the same.

    rows (`Callable[[int], Iterator[dict]]`): gives the rows from a number on, with images that are not decoded.
    image_column (`str`): the column of the images.
    id_column (`str`, *optional*): the column of their ids; `None` where an id is the image's path or number.
    metadata (`pa.Schema`): the columns that are kept: all that are not the image, its id or other media.
    total (`int`, *optional*): number of rows, where it is known.
    settings (`dict`): what tells this source from another.
    folder (`Path`, *optional*): what the paths of images are relative to.
    """

    rows: Callable[[int], Iterator[dict]]
    image_column: str
    id_column: str | None
    metadata: pa.Schema
    total: int | None
    settings: dict
    folder: Path | None = None

    def id_of(self, row: dict, number: int) -> str:
        """The id of the row of that number."""
        if self.id_column is not None:
            return str(row[self.id_column])
        image = row[self.image_column]
        path = image["path"] if isinstance(image, dict) else None
        return path or f"{number:08d}"

    def image_of(self, row: dict) -> bytes | Path | str:
        """
        The image of a row, as an image processor takes it.

        Raises:
            OSError: the file that holds it cannot be read.
            ValueError: there is none.
        """
        image = row[self.image_column]
        if isinstance(image, dict):
            image = image["path"] if image["bytes"] is None else image["bytes"]
        if not image:
            raise ValueError("The row has no image.")
        if isinstance(image, bytes):
            return image
        if self.folder is not None:
            return self.folder / image
        if "://" not in image:
            return image
        import fsspec

        with fsspec.open(image, "rb") as file:
            return file.read()


def open_source(dataset: str, split: str | None, image_column: str | None, id_column: str | None) -> ImageSource:
    """
    Opens a dataset for streaming.

    Args:
        dataset (`str`):
            A folder of images and DICOM files at any depth, with or without a `metadata.csv` (column `file_name`) in it; a
            Parquet or WebDataset tar file; or what `datasets.load_dataset` takes: a folder of such files, an imagefolder with
            other metadata, the name of a dataset on the Hub.
        split (`str`, *optional*):
            The split. With a `metadata.csv` it is a value of the column `split`, and all images are taken without it;
            elsewhere it is "train".
        image_column, id_column (`str`, *optional*):
            Columns of the image and its id, where they cannot be told.

    Raises:
        FileNotFoundError: the folder holds no images.
        ValueError: the format is another one, or there are not such a split and columns.
    """
    path = Path(dataset)
    if path.exists():
        # An error names the same file from wherever the command is run.
        path = path.absolute()
    if (path / "metadata.csv").is_file():
        return _open_metadata(path, split, id_column)
    by_datasets = (file.suffix in SHARD_BUILDERS or file.name == "metadata.jsonl" for file in path.rglob("*"))
    if path.is_dir() and not any(by_datasets):
        if next(walk_images(path), None) is None:
            raise FileNotFoundError(f"No image in '{path}': expected files {', '.join(IMAGE_SUFFIXES)} at any depth.")
        if split is not None:
            raise ValueError(
                f"'{path}' has no splits: a folder of images needs a `metadata.csv` with a column `split`."
            )
        return _open_folder(path)
    return _open_datasets(dataset, split or "train", image_column, id_column)


def _open_folder(folder: Path) -> ImageSource:
    """Images by their paths alone. They are looked through twice, so that no list of them is kept."""
    names, total = hashlib.sha256(), 0
    for path in walk_images(folder):
        names.update(f"{path.relative_to(folder).as_posix()}\n".encode())
        total += 1
    return ImageSource(
        rows=lambda start: (
            {"file_name": path.relative_to(folder).as_posix()} for path in islice(walk_images(folder), start, None)
        ),
        image_column="file_name",
        id_column="file_name",
        metadata=pa.schema([]),
        total=total,
        settings={"dataset": str(folder), "files": names.hexdigest()},
        folder=folder,
    )


def _open_metadata(folder: Path, split: str | None, id_column: str | None) -> ImageSource:
    """An imagefolder. The columns are kept as the text that they are in the file."""
    path = folder / "metadata.csv"

    def read() -> Iterator[dict[str, str]]:
        with open_text(path) as file:
            yield from (row for row in csv.DictReader(file) if split is None or row["split"] == split)

    with open_text(path) as file:
        columns = next(csv.reader(file), [])
    _check_columns(
        columns, ["file_name", *([] if split is None else ["split"]), *filter(None, [id_column])], str(path)
    )
    total = sum(1 for _ in read())
    if not total:
        raise ValueError(f"'{path}' has no image" + (f" of split '{split}'." if split else "."))
    id_column = id_column or next(column for column in ID_COLUMNS if column in columns)
    return ImageSource(
        rows=lambda start: islice(read(), start, None),
        image_column="file_name",
        id_column=id_column,
        metadata=pa.schema([(column, pa.string()) for column in columns if column != id_column]),
        total=total,
        settings={
            "dataset": str(folder),
            "split": split,
            "id_column": id_column,
            "metadata": hashlib.sha256(path.read_bytes()).hexdigest(),
        },
        folder=folder,
    )


def _open_datasets(dataset: str, split: str, image_column: str | None, id_column: str | None) -> ImageSource:
    """What the library `datasets` reads."""
    from datasets import Image, load_dataset

    path = Path(dataset)
    if path.is_file() and path.suffix not in SHARD_BUILDERS:
        raise ValueError(f"Expected a folder, a Parquet file or a WebDataset tar, got '{dataset}'.")
    try:
        if path.is_file():
            stream = load_dataset(SHARD_BUILDERS[path.suffix], data_files=dataset, split=split, streaming=True)
        else:
            stream = load_dataset(dataset, split=split, streaming=True)
    except tarfile.TarError as error:
        raise ValueError(f"'{dataset}' is damaged: {error}.") from error
    except OSError as error:
        if path.is_file():
            raise
        raise ValueError(f"'{dataset}' is no file or folder, and no dataset on the Hub: {error}") from error
    features = stream.features
    image_column = image_column or _find_image_column(features, dataset)
    _check_columns(list(features), [image_column, *filter(None, [id_column])], dataset)
    id_column = id_column or next((column for column in ID_COLUMNS if column in features), None)
    if isinstance(features[image_column], Image):
        stream = stream.cast_column(image_column, Image(decode=False))

    def rows(start: int) -> Iterator[dict]:
        try:
            yield from stream.skip(start)
        except tarfile.TarError as error:
            raise ValueError(f"'{dataset}' is damaged: {error}. The shards that are finished are kept.") from error

    kept = [field for field in features.arrow_schema if field.name not in (image_column, id_column, "__url__")]
    return ImageSource(
        rows=rows,
        image_column=image_column,
        id_column=id_column,
        metadata=pa.schema([field for field in kept if not _holds_bytes(field.type)]),
        total=None,
        settings={
            "dataset": str(path.absolute()) if path.exists() else dataset,
            "split": split,
            "image_column": image_column,
            "id_column": id_column,
        },
    )


def _find_image_column(features: Features, dataset: str) -> str:
    from datasets import Image

    found = [name for name, feature in features.items() if isinstance(feature, Image)]
    if not found and "image" in features:
        found = ["image"]
    if len(found) != 1:
        raise ValueError(f"Name the column of the images in '{dataset}' by `--image-column`: it has {list(features)}.")
    return found[0]


def _check_columns(columns: list[str], needed: list[str], where: str) -> None:
    if missing := [column for column in needed if column not in columns]:
        raise ValueError(f"'{where}' has no column {missing[0]!r}; it has {columns}.")


def _holds_bytes(data_type: pa.DataType) -> bool:
    """Whether a column is media, which are not metadata."""
    if pa.types.is_nested(data_type):
        return any(_holds_bytes(data_type.field(index).type) for index in range(data_type.num_fields))
    return pa.types.is_binary(data_type) or pa.types.is_large_binary(data_type)
