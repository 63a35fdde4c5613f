"""Labels of files, read and coded once: the codes are held for the passes after the first.

Of files whose columns can be read apart, grouping factors of text and of dictionaries are read by
themselves, more rows at a time than the rest, and come as Categoricals. What the first pass read
of them is held as long as there is room: 4 bytes or less a row, and the labels of each partition.
What finds none is read again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from sparselmm.base.exceptions import SourceChangedError
from sparselmm.design.sources.arrow import joined
from sparselmm.design.sources.readers import Columns, Part, sliced
from sparselmm.design.sources.text import coded

ROOM = 2**28
"""Bytes of codes and labels that are held at most."""

LABEL_CHUNKS = 4
"""Times as many rows at a time where only labels are read."""


class Room:
    """How many bytes may still be held."""

    def __init__(self, left: int) -> None:
        self._left, self._lock = left, threading.Lock()
        self._labels: dict[int, pd.Index] = {}

    def takes(self, piece: pd.DataFrame) -> bool:
        """Whether there is room for some Categoricals; labels that several share count once."""
        columns = [piece[name].array for name in piece]
        with self._lock:
            labels = {id(column.categories): column.categories for column in columns}
            new = {key: own for key, own in labels.items() if key not in self._labels}
            size = sum(column.codes.nbytes for column in columns)
            size += sum(own.memory_usage(deep=True) for own in new.values())
            if size > self._left:
                return False
            self._left -= size
            self._labels |= new
            return True


class Held:
    """A partition whose labels are read by themselves, and held if there is room.

    Parameters
    ----------
    part : Part
        With a ``stamp``, that of the file it is in.
    text, dictionaries : frozenset of str
        Columns of text, and columns that are Categoricals anyway.
    rows : int
        Rows of labels at a time.
    room : Room
        That of all partitions.
    """

    def __init__(
        self, part: Any, text: frozenset[str], dictionaries: frozenset[str], rows: int, room: Room
    ) -> None:
        self._part, self._text, self._names = part, text, text | dictionaries
        self._rows, self._room = rows, room
        self._held: list[pd.DataFrame] | None = None
        self._stamp: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        """As the partition alone: another process holds nothing."""
        return _itself, (self._part,)

    @property
    def label(self) -> str:
        """What messages call it."""
        label: str = self._part.label
        return label

    def frames(self, columns: Columns, rows: int) -> Iterator[pd.DataFrame]:
        """Its rows in order, in frames of at most that many."""
        if columns is None or not self._names <= set(columns):
            yield from self._part.frames(columns, rows)
            return
        labels = self._pieces([name for name in columns if name in self._names])
        others = [name for name in columns if name not in self._names]
        if others:
            yield from self._beside(self._part.frames(others, rows), labels, columns)
            return
        for piece in labels:
            yield from sliced(piece, rows)

    def _pieces(self, names: Sequence[str]) -> Iterator[pd.DataFrame]:
        """Its labels, held or read."""
        stamp = self._part.stamp()
        if self._held is not None:
            if stamp != self._stamp:
                raise self._changed()
            yield from self._held
            return
        found: list[pd.DataFrame] | None = []
        for frame in self._part.frames(names, self._rows):
            piece = pd.DataFrame({name: self._coded(frame[name]) for name in names}, copy=False)
            if found is not None:
                found = [*found, piece] if self._room.takes(piece) else None
            yield piece
        self._held, self._stamp = found, stamp

    def _coded(self, column: pd.Series) -> pd.Series:
        if isinstance(column.dtype, pd.CategoricalDtype):
            return column
        found = coded(column) if column.name in self._text else None
        return column.astype("category") if found is None else found

    def _beside(
        self, frames: Iterator[pd.DataFrame], pieces: Iterator[pd.DataFrame], columns: Sequence[str]
    ) -> Iterator[pd.DataFrame]:
        """Other columns with the labels of their rows."""
        left = next(pieces, None)
        for frame in frames:
            found, wanted = [], len(frame)
            while wanted:
                if left is None:
                    raise self._changed()
                found.append(left.iloc[:wanted])
                left = left.iloc[wanted:] if len(left) > wanted else next(pieces, None)
                wanted -= len(found[-1])
            labels = joined(found, self.label)
            both = {n: labels[n].array if n in labels else frame[n] for n in columns}
            yield pd.DataFrame(both, frame.index, copy=False)
        if left is not None:
            raise self._changed()

    def _changed(self) -> SourceChangedError:
        return SourceChangedError(
            f"{self.label} was written while it was read; the data must not change meanwhile"
        )


def _itself(part: Part) -> Part:
    return part


def holding(
    parts: Sequence[Part], text: frozenset[str], dictionaries: frozenset[str], rows: int
) -> Sequence[Part]:
    """Partitions whose labels are held, where all are of files that have columns."""
    if not text | dictionaries or not all(map(_has_columns, parts)):
        return parts
    room = Room(ROOM)
    return [Held(part, text, dictionaries, LABEL_CHUNKS * rows, room) for part in parts]


def _has_columns(part: Any) -> bool:
    stamp = getattr(part, "stamp", None)
    return stamp is not None and stamp() is not None
