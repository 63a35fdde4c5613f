"""Tables for the command line: files, pipes, data sets by name."""

from __future__ import annotations

import glob
import gzip
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sparselmm import datasets
from sparselmm.base.arguments import suggestion
from sparselmm.design.sources.files import LONG, WHOLE, format_of
from sparselmm.design.sources.readers import readable
from sparselmm.design.sources.recognised import source_of
from sparselmm.model.command.parts import CommandError, first_line, say

SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}

PARQUET = (".parquet", ".pq")

ARROW = (".arrow", ".feather", ".ipc")

LARGE_FILE = 1 << 28
"""Bytes of a Parquet file from which only the columns of the formula are read."""

COMPRESSED = (".gz", ".bz2", ".xz", ".zip", ".zst")

LEADING_ZERO = r"[+-]?0\d+"
"""Whole numbers whose text is lost when they are read as numbers: labels such as 007."""


def read_data(source: str, in_parts: bool = False) -> pd.DataFrame | str:
    """Read a table from a file, or load a data set by its name.

    Parameters
    ----------
    source : str
        Path of a ``.csv``, ``.tsv`` (also compressed) or ``.parquet`` file, or a name of
        :func:`sparselmm.datasets.names`. A file wins over a data set of the same name. A folder of
        files, a pattern such as ``"sales/*.parquet"`` and files of Arrow are read by Arrow.
    in_parts : bool
        Whether Arrow shall read every file that it can read.

    Returns
    -------
    DataFrame or str
        As pandas reads it, except that a column of whole numbers with leading zeros stays text; of
        what Arrow shall read, by the columns of the formula, the path.

    Raises
    ------
    CommandError
        If it cannot be read; one line that names the file.
    """
    if source == "-":
        return _read_pipe()
    path = Path(source)
    if not _is_file(path):
        known = datasets.names()
        if source.casefold() in map(str.casefold, known):
            return datasets.load(source)
        if _are_files(path, source):
            return source
        raise CommandError(
            f"there is no file {source!r}, nor a data set of that name (those are listed by "
            f"'sparselmm datasets'){suggestion(source, known)}"
        )
    endings = [ending.lower() for ending in path.suffixes]
    if endings and endings[-1] in COMPRESSED:
        endings.pop()
    ending = endings[-1] if endings else ""
    large = ending in PARQUET and path.stat().st_size > LARGE_FILE
    if large or ending in ARROW or (in_parts and format_of(source) is not None):
        return source
    if ending not in (*SEPARATORS, *PARQUET):
        raise CommandError(
            f"{source}: cannot tell the format from the ending; it should be "
            f"{', '.join(SEPARATORS)} (these may be compressed: {', '.join(COMPRESSED)}) or "
            f"{PARQUET[0]}"
        )
    try:
        return _read_parquet(path) if ending in PARQUET else _read_text(path, SEPARATORS[ending])
    except ImportError as error:
        raise CommandError(
            f"{source}: {first_line(error)} For .parquet: pip install pyarrow"
        ) from error
    except pd.errors.EmptyDataError as error:
        raise CommandError(f"{source}: the file is empty") from error
    except UnicodeDecodeError as error:
        raise CommandError(
            f"{source}: cannot be read: it is not text in UTF-8 ({first_line(error)}); save it in "
            "that encoding"
        ) from error
    except Exception as error:  # every format has errors of its own for a damaged file
        raise CommandError(f"{source}: cannot be read: {first_line(error)}") from error


def frames_of(table: pd.DataFrame | str, rows: int) -> Iterator[pd.DataFrame]:
    """A table that was read, or what Arrow reads of files, at most so many rows at a time."""
    if isinstance(table, pd.DataFrame):
        yield table
        return
    source = source_of(table)
    assert source is not None
    for part in source.parts(rows, None):
        with readable(part.label):
            yield from part.frames(None, rows)


def _are_files(path: Path, source: str) -> bool:
    """Whether it is a folder of files of one format, or a pattern that stands for files."""
    try:
        if path.is_dir():
            inside = [*path.glob("*.*"), *path.glob("*=*/**/*.*")]
            formats = {format_of(str(file)) for file in inside}
            return len(formats) == 1 and None not in formats
        return bool(set(source) & set("*?[")) and bool(glob.glob(source, recursive=True))
    except OSError:
        return False


def _read_pipe() -> pd.DataFrame:
    """A table from standard input: commas or tabs, also compressed by gzip, or Parquet."""
    try:
        raw = sys.stdin.buffer.read()
    except (OSError, ValueError, AttributeError) as error:
        raise CommandError(f"-: standard input cannot be read: {first_line(error)}") from error
    try:
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        if raw[:4] == b"PAR1":
            return _read_parquet(io.BytesIO(raw))
        first = raw.partition(b"\n")[0]
        return _read_text(io.BytesIO(raw), "\t" if first.count(b"\t") > first.count(b",") else ",")
    except pd.errors.EmptyDataError as error:
        raise CommandError("-: standard input is empty") from error
    except Exception as error:  # every format has errors of its own
        raise CommandError(f"-: standard input cannot be read: {first_line(error)}") from error


def _is_file(path: Path) -> bool:
    """Whether there is a file of that name; a name too long for one is none."""
    try:
        return path.exists() and not path.is_dir()
    except OSError:
        return False


def _read_parquet(path: Path | io.BytesIO) -> pd.DataFrame:
    data: pd.DataFrame = pd.read_parquet(path)
    return data


def _read_text(path: Path | io.BytesIO, separator: str) -> pd.DataFrame:
    """Delimited text; a second look at columns of whole numbers finds what would be lost."""
    options: Any = {"sep": separator, "low_memory": False}
    data: pd.DataFrame = pd.read_csv(path, **options)
    unnamed = not isinstance(data.index, pd.RangeIndex)  # the first fields, taken for row names
    if unnamed and data.iloc[:, -1].isna().all():
        raise CommandError(
            f"its rows end with {separator!r}, and have a field more than the header has names; "
            "put one at the end of the header, too"
        )
    whole = [name for name in data.columns if _is_whole(data[name])]
    if whole:
        if isinstance(path, io.BytesIO):
            path.seek(0)
        text = pd.read_csv(path, **options, dtype=dict.fromkeys(whole, str))
        for name in whole:
            if text[name].str.strip().str.fullmatch(LEADING_ZERO).any():
                data[name] = text[name].str.strip()
                say("note", f"column {name!r} has numbers with leading zeros and is read as text")
            elif text[name].str.fullmatch(LONG).any() and data[name].dtype.kind == "f":
                data[name] = _exactly(text[name])
    return data


def _exactly(text: pd.Series) -> pd.Series:
    """Whole numbers beside missing ones, which pandas rounds to floats, as Python's."""
    if not text.str.fullmatch(WHOLE, na=True).all():
        return text
    numbers = [
        None if absent else int(value) for value, absent in zip(text, text.isna(), strict=True)
    ]
    return pd.Series(numbers, text.index, dtype=object)


def _is_whole(column: pd.Series) -> bool:
    """Whether the text of a column of numbers may have been whole numbers."""
    if column.dtype.kind == "f":
        values = column.dropna().to_numpy()
        return len(values) > 0 and bool(np.all(values == np.trunc(values)))
    return bool(pd.api.types.infer_dtype(column) == "integer")
