"""Outputs of a finished evaluation beside their references, one Parquet file per task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from ..files import atomic_write
from .examples import Example


def predictions_file(folder: str | Path, task: str) -> Path:
    """Return the path of the predictions of a task in the output folder of an evaluation."""
    return Path(folder) / "predictions" / f"{task}.parquet"


def output_column(outputs: Sequence) -> pa.Array:
    """Return texts or codes as a column of a table, codes with 16 bits."""
    return pa.array(list(outputs), type=pa.string() if isinstance(outputs[0], str) else pa.list_(pa.uint16()))


def write_predictions(path: Path, examples: Sequence[Example], outputs: Sequence) -> None:
    """Write texts or codes with the fields of their examples."""
    rows = [asdict(example) | {"image_path": str(example.image_path.resolve())} for example in examples]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    with atomic_write(path) as partial:
        pyarrow.parquet.write_table(pa.table(columns | {"prediction": output_column(outputs)}), partial)


def read_predictions(path: Path) -> tuple[list[Example], list]:
    """Return the examples and the outputs of [`write_predictions`]."""
    examples, outputs = [], []
    for row in pyarrow.parquet.read_table(path).to_pylist():
        outputs.append(row.pop("prediction"))
        examples.append(Example(**row | {"image_path": Path(row["image_path"])}))
    return examples, outputs
