"""Pickles on disk: one function to write, one to read, for paths and for open files."""

from __future__ import annotations

import pickle
from os import PathLike
from typing import IO, Any, TypeVar

from sparselmm.exceptions import DataError

File = str | PathLike[str] | IO[bytes]

T = TypeVar("T")


def save(value: Any, file: File) -> None:
    """Pickle a value to a path or a binary file."""
    if isinstance(file, (str, PathLike)):
        with open(file, "wb") as opened:
            pickle.dump(value, opened)
    else:
        pickle.dump(value, file)


def load(kind: type[T], file: File) -> T:
    """Read a pickled value of one kind.

    Raises
    ------
    DataError
        When the file holds something else.
    """
    if isinstance(file, (str, PathLike)):
        with open(file, "rb") as opened:
            value = pickle.load(opened)
    else:
        value = pickle.load(file)
    if not isinstance(value, kind):
        raise DataError(f"the file holds a {type(value).__name__}, not {kind.__name__}")
    return value
