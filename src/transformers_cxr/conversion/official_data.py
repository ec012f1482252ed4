"""Image codes of the released LLM-CXR (github hyn2028/llm-cxr), in a format that runs no code when it is read."""

from __future__ import annotations

import os
import pickle

import pyarrow as pa
import pyarrow.parquet as pq

from ..files import atomic_write

CODEBOOK_SIZE = 1024
NUM_IMAGE_TOKENS = 256
CODES_SCHEMA = pa.schema([("id", pa.string()), ("codes", pa.list_(pa.uint16()))])


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, strings, lists and dictionaries, and refuses everything that is looked up by name."""

    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"it refers to '{module}.{name}', and codes need nothing but lists of integers")


def convert_code_pickle(path: str | os.PathLike, output: str | os.PathLike) -> tuple[int, list[tuple[str, str]]]:
    """
    Convert the image codes that the released LLM-CXR trains on, a pickle of `{dicom_id: [256 codes]}`, to Parquet.

    Args:
        path (`str` or `os.PathLike`):
            The pickle, of any protocol. A pickle that refers to code is refused, and nothing in it is executed.
        output (`str` or `os.PathLike`):
            Parquet file to write, with the columns `id` (`string`) and `codes` (`list<uint16>`: 256 codes in
            raster order, each in `[0, 1024)`).

    Returns:
        `tuple[int, list[tuple[str, str]]]`: the number of images written, and the id and the reason of each image left
        out because of a wrong number of codes or a code that does not exist.

    Raises:
        FileExistsError: `output` exists.
        ValueError: the file is not such a pickle, is truncated, refers to code, or contains no valid image.
    """
    with open(path, "rb") as file:
        try:
            images = _PlainUnpickler(file).load()
        # A damaged pickle raises almost any error.
        except Exception as error:
            raise ValueError(
                f"Cannot read '{path}' as a pickle of codes: {error}. Nothing in it was executed."
            ) from error
    if not isinstance(images, dict):
        raise ValueError(f"'{path}' holds {type(images).__name__} instead of a dictionary of codes by image id.")
    reasons = {image_id: _codes_error(image_id, codes) for image_id, codes in images.items()}
    left_out = [(str(image_id), reason) for image_id, reason in reasons.items() if reason]
    image_ids = [image_id for image_id, reason in reasons.items() if not reason]
    if not image_ids:
        raise ValueError(f"'{path}' holds no valid codes: {dict(left_out[:1]) or 'it is empty'}.")
    with atomic_write(output, overwrite=False) as partial:
        table = pa.table([image_ids, [images[image_id] for image_id in image_ids]], schema=CODES_SCHEMA)
        pq.write_table(table, partial)
    return len(image_ids), left_out


def _codes_error(image_id: object, codes: object) -> str:
    if not isinstance(image_id, str):
        return f"the image id is {type(image_id).__name__} instead of a string"
    if not isinstance(codes, (list, tuple)) or len(codes) != NUM_IMAGE_TOKENS:
        return f"expected a list of {NUM_IMAGE_TOKENS} codes"
    others = [code for code in codes if type(code) is not int or not 0 <= code < CODEBOOK_SIZE]
    return f"code {others[0]!r} is not an integer in [0, {CODEBOOK_SIZE})" if others else ""


__all__ = ["convert_code_pickle"]
