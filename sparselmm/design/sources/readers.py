"""Containers of rows, each read by columns: whole, or partition by partition.

A partition reads the same rows whenever it is asked, and can be sent to another process. A stream
has one partition, which only the process that holds it can read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd

from sparselmm.base.exceptions import DataError, SparseLMMError
from sparselmm.design.sources.arrow import frame_of, joined, table_of
from sparselmm.design.sources.optional import package

Columns = Sequence[str] | None
"""Names of the columns to read; None for all."""


class Part(Protocol):
    """Some of the rows, the same ones whenever they are read."""

    @property
    def label(self) -> str:
        """What messages call it."""

    def frames(self, columns: Columns, rows: int) -> Iterator[pd.DataFrame]:
        """Its rows in order, in frames of at most that many."""


@contextmanager
def readable(label: str) -> Iterator[None]:
    """Errors of whatever reads rows, a file, a data base or the user's function, say which rows.

    Raises
    ------
    DataError
        In place of any error that is not of this package.
    """
    try:
        yield
    except (SparseLMMError, MemoryError):
        raise
    except Exception as error:
        lines = str(error).splitlines() or [""]
        raise DataError(f"{label} cannot be read: {type(error).__name__}: {lines[0]}") from error


class Source(Protocol):
    """A container of rows."""

    @property
    def what(self) -> str:
        """What messages call it."""

    @property
    def names(self) -> list[str]:
        """Its columns."""

    @property
    def in_memory(self) -> bool:
        """Whether the rows are there already."""

    @property
    def movable(self) -> bool:
        """Whether its partitions can be read by other processes."""

    def frame(self, columns: Columns) -> pd.DataFrame:
        """All rows."""

    def parts(self, rows: int, columns: Columns) -> Sequence[Part]:
        """Partitions, of about ``rows`` rows where that can be chosen, to read some columns of."""


def sliced(frame: pd.DataFrame, rows: int) -> Iterator[pd.DataFrame]:
    """A frame in pieces of at most some rows."""
    if len(frame) <= rows:
        yield frame
        return
    for start in range(0, len(frame), rows):
        yield frame.iloc[start : start + rows]


# ------------------------------------------------------------------------------ in memory


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a frame in memory."""

    data: pd.DataFrame
    label: str

    def frames(self, columns: Columns, rows: int) -> Iterator[pd.DataFrame]:
        """Its rows in order, in frames of at most that many."""
        yield from sliced(self.data if columns is None else self.data[list(columns)], rows)


@dataclass(frozen=True, eq=False)
class Memory:
    """Rows in memory, turned into a frame by ``take(columns)``."""

    what: str
    names: list[str]
    take: Callable[[Columns], pd.DataFrame]
    in_memory: bool = True
    movable: bool = True

    def frame(self, columns: Columns) -> pd.DataFrame:
        """All rows."""
        return self.take(columns)

    def parts(self, rows: int, columns: Columns) -> Sequence[Part]:
        """Partitions of exactly that many rows, but for the last."""
        frame = self.take(columns)
        pieces = sliced(frame, rows)
        return [
            Rows(piece, f"partition {number} of {self.what}") for number, piece in enumerate(pieces)
        ]


def of_pandas(frame: pd.DataFrame) -> Memory:
    """A pandas frame."""

    def take(columns: Columns) -> pd.DataFrame:
        return frame if columns is None else frame[list(columns)]

    return Memory("the data frame", list(frame.columns), take)


def of_table(table: Any, what: str) -> Memory:
    """A ``pyarrow.Table`` or record batch."""

    def take(columns: Columns) -> pd.DataFrame:
        return frame_of(table if columns is None else table.select(list(columns)))

    return Memory(what, list(table.schema.names), take)


def of_polars(data: Any) -> Memory:
    """A polars frame."""

    def take(columns: Columns) -> pd.DataFrame:
        return frame_of(table_of(data if columns is None else data.select(list(columns)), what))

    what = "the polars DataFrame"
    package("pyarrow", what)
    return Memory(what, list(data.columns), take)


def of_reader(reader: Any) -> Memory:
    """A reader of record batches, which can be read a single time."""
    what = "the RecordBatchReader"

    def take(columns: Columns) -> pd.DataFrame:
        pa = package("pyarrow", what)
        schema = (
            reader.schema
            if columns is None
            else pa.schema([reader.schema.field(name) for name in columns])
        )
        batches = [
            batch if columns is None else batch.select(list(columns)) for batch in _batches(reader)
        ]
        return frame_of(pa.Table.from_batches(batches, schema))

    return Memory(what, list(reader.schema.names), take, movable=False)


def _batches(reader: Any) -> Iterator[Any]:
    pa = package("pyarrow", "the reader")
    try:
        yield from reader
    except (pa.ArrowException, ValueError) as error:
        raise DataError(
            f"the rows of the RecordBatchReader cannot be read: {error}. A reader can be read "
            "once; pass the table, or a function that makes a new reader"
        ) from error


# -------------------------------------------------------------------------------- streams


@dataclass(frozen=True, eq=False)
class Stream:
    """Rows that come in an order, from the beginning whenever they are asked for.

    ``start(columns, rows)`` gives frames of any lengths.
    """

    what: str
    names: list[str]
    start: Callable[[Columns, int], Iterator[pd.DataFrame]]
    in_memory: bool = False
    movable: bool = False

    def frame(self, columns: Columns) -> pd.DataFrame:
        """All rows."""
        return joined(self.start(columns, 1 << 20), self.what)

    def parts(self, rows: int, columns: Columns) -> Sequence[Part]:
        """The whole stream as one partition."""
        return [self]

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.what

    def frames(self, columns: Columns, rows: int) -> Iterator[pd.DataFrame]:
        """Frames of exactly that many rows, but for the last."""
        held: list[pd.DataFrame] = []
        count = 0
        for frame in self.start(columns, rows):
            for piece in sliced(frame, rows):
                while count + len(piece) >= rows:
                    held.append(piece.iloc[: rows - count])
                    piece = piece.iloc[rows - count :]
                    yield joined(held, self.what)
                    held, count = [], 0
                if len(piece):
                    held.append(piece)
                    count += len(piece)
        if held:
            yield joined(held, self.what)


def of_lazy(data: Any) -> Stream:
    """A polars LazyFrame, collected in batches."""
    what = "the polars LazyFrame"
    package("pyarrow", what)

    def start(columns: Columns, rows: int) -> Iterator[pd.DataFrame]:
        chosen = data if columns is None else data.select(list(columns))
        try:
            if hasattr(chosen, "collect_batches"):
                batches = chosen.collect_batches(chunk_size=rows, maintain_order=True)
            else:  # polars before 1.34 collects as a whole
                batches = chosen.collect().iter_slices(rows)
            empty = True
            for batch in batches:
                empty = False
                yield frame_of(table_of(batch, what))
            if empty:
                yield frame_of(table_of(chosen.head(0).collect(), what))
        except _polars_errors() as error:
            raise DataError(f"{what} cannot be collected: {error}") from error

    try:
        names = data.collect_schema().names()
    except _polars_errors() as error:
        raise DataError(f"{what} cannot be collected: {error}") from error
    return Stream(what, list(names), start)


def _polars_errors() -> Any:
    return package("polars.exceptions", "the polars LazyFrame").PolarsError


def of_duckdb(relation: Any) -> Stream:
    """A DuckDB relation."""
    what = "the DuckDB relation"
    package("pyarrow", what)

    def start(columns: Columns, rows: int) -> Iterator[pd.DataFrame]:
        chosen = (
            relation
            if columns is None
            else relation.project(
                ", ".join('"' + name.replace('"', '""') + '"' for name in columns)
            )
        )
        names = ("to_arrow_reader", "fetch_arrow_reader", "fetch_record_batch")
        reader = next(getattr(chosen, name) for name in names if hasattr(chosen, name))
        batches, empty = reader(rows), True
        for batch in batches:
            empty = False
            yield frame_of(batch)
        if empty:
            yield frame_of(batches.schema.empty_table())

    return Stream(what, list(relation.columns), start)


def of_callable(function: Callable[[], Any], read: Callable[[Any], Any]) -> Stream:
    """A function that returns a fresh iterator of frames; ``read`` makes a source of each.

    Raises
    ------
    DataError
        When it does not give frames, or the same iterator again.
    """
    what = f"the frames of {getattr(function, '__name__', 'the callable')}()"
    seen: list[Any] = []

    def fresh() -> Iterator[Any]:
        with readable(what):
            frames = function()
        if isinstance(frames, Iterator):
            if any(frames is other for other in seen):
                raise DataError(
                    f"{what}: the function returned the same iterator twice, which is empty the "
                    "second time; it must start anew whenever it is called"
                )
            seen[:] = [frames]
        elif read(frames) is not None:
            frames = [frames]
        elif not isinstance(frames, Iterable):
            raise DataError(
                f"{what}: a function given as data must return an iterator of frames, not "
                f"{type(frames).__name__}"
            )
        return iter(frames)

    def start(columns: Columns, rows: int) -> Iterator[pd.DataFrame]:
        for number, frame in enumerate(fresh()):
            yield _one(frame, number, columns, what, read)

    with readable(what):
        first = next(fresh(), None)
    if first is None:
        raise DataError(f"{what}: there is no frame at all")
    names = list(_one(first, 0, None, what, read).columns)
    return Stream(what, names, start)


def _one(frame: Any, number: int, columns: Columns, what: str, read: Any) -> pd.DataFrame:
    source = read(frame)
    if source is None:
        raise DataError(
            f"{what}: item {number} is no frame but {type(frame).__name__}; give pandas, polars or "
            "Arrow tables"
        )
    absent = [name for name in columns or () if name not in source.names]
    if absent:
        raise DataError(f"{what}: frame {number} has no column {absent[0]!r}, the first one has")
    out: pd.DataFrame = source.frame(columns)
    return out
