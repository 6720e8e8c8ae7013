"""What a file may claim: its sizes are compared with its own bytes, and with these limits, before memory is taken."""

from math import prod

__all__ = [
    "BATCH_BYTES",
    "MAX_PIXELS",
    "MAX_RATIO",
    "MAX_RECORD",
    "MAX_ROW",
    "MAX_SETTINGS",
    "MAX_TEXT",
    "NPZ_RATIO",
    "megabytes",
    "row_problem",
]

MAX_PIXELS = 2**24  # values of an image, or entries of a list
MAX_ROW = 8 * MAX_PIXELS  # bytes of one row of an array
MAX_SETTINGS = 2**18  # bytes of a YAML file, and values in it
MAX_RECORD = 2**24  # bytes of a JSON file: programs write them, of long trainings or many files
MAX_TEXT = 2**16  # bytes of a label or an event id
MAX_RATIO = 1000  # unpacked to packed size beyond MAX_PIXELS or MAX_UNPACKED; gzip reaches 1032
NPZ_RATIO = 100  # unpacked size of arrays beyond MAX_UNPACKED to that of their archive
BATCH_BYTES = 2**28  # of the rows read together; at least one


def megabytes(number: int) -> str:
    """A number of bytes, for people."""
    return f"{number / 1e6:.1f} MB" if number < 1e9 else f"{number / 1e9:.1f} GB"


def row_problem(shape: tuple[int, ...], itemsize: int, is_text: bool, file_bytes: int) -> str | None:
    """Why an array of elements of `itemsize` bytes cannot be in a file of `file_bytes`, or must not be read from it.

    Even empty images leave a byte behind, so a file has no more rows than bytes.
    """
    row_bytes = itemsize * prod(shape[1:])
    if min(shape, default=0) < 0:
        return f"it declares the shape {shape}"
    if shape and shape[0] > file_bytes:
        return f"it declares {shape[0]} rows ({megabytes(shape[0] * row_bytes)}) in a file of {megabytes(file_bytes)}"
    if row_bytes > MAX_ROW:
        return f"one of its rows takes {megabytes(row_bytes)}, more than {megabytes(MAX_ROW)}"
    if is_text and itemsize > MAX_TEXT:
        return f"its text takes {megabytes(itemsize)} an entry, more than {MAX_TEXT} bytes"
    return None
