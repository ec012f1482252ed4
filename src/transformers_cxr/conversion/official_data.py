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


def _refuse_tuple(unpickler: pickle._Unpickler) -> None:
    raise pickle.UnpicklingError("it holds a tuple, and codes need nothing but lists of integers")


class _PlainUnpickler(pickle._Unpickler):
    """
    Reads numbers, strings, lists and dictionaries, and refuses everything that is looked up by name. It also refuses
    tuples, which the faster unpickler in C cannot: the hash of nested ones can overflow the stack or never end.
    """

    dispatch = pickle._Unpickler.dispatch | dict.fromkeys(
        [opcode[0] for opcode in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)], _refuse_tuple
    )

    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"it refers to '{module}.{name}', and codes need nothing but lists of integers")


def convert_code_pickle(path: str | os.PathLike, output: str | os.PathLike) -> tuple[int, list[str]]:
    """
    Convert the image codes that the released LLM-CXR trains on, a pickle of `{dicom_id: [256 codes]}`, to Parquet.

    Args:
        path (`str` or `os.PathLike`):
            The pickle, of any protocol. A pickle that refers to code is refused, and nothing in it is executed.
        output (`str` or `os.PathLike`):
            Parquet file to write, with the columns `id` (`string`) and `codes` (`list<uint16>`: 256 codes in
            raster order, each in `[0, 1024)`).

    Returns:
        `tuple[int, list[str]]`: the number of images written, and the ids of the images skipped because they have not
        256 codes in `[0, 1024)`.

    Raises:
        FileExistsError: `output` exists.
        ValueError: the file is not such a pickle, is truncated, refers to code, or contains no valid image.
    """
    with open(path, "rb") as file:
        try:
            images = dict(_PlainUnpickler(file).load())
        # A damaged pickle raises almost any error.
        except Exception as error:
            raise ValueError(
                f"Cannot read '{path}' as a pickle of codes by image id: {error}. Nothing in it was executed."
            ) from error
    valid = {image_id: codes for image_id, codes in images.items() if _are_codes(codes)}
    if not valid:
        raise ValueError(f"'{path}' holds no image of {NUM_IMAGE_TOKENS} codes in [0, {CODEBOOK_SIZE}).")
    with atomic_write(output, overwrite=False) as partial:
        pq.write_table(pa.table([list(map(str, valid)), list(valid.values())], schema=CODES_SCHEMA), partial)
    return len(valid), [str(image_id) for image_id in images if image_id not in valid]


def _are_codes(codes: object) -> bool:
    is_row = isinstance(codes, list) and len(codes) == NUM_IMAGE_TOKENS
    return is_row and all(type(code) is int and 0 <= code < CODEBOOK_SIZE for code in codes)


__all__ = ["convert_code_pickle"]
