"""Rows of one partition as both passes take them: columns in use, ``subset`` and ``missing``."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.exceptions import DataError, InputError, MissingDataError
from sparselmm.base.types import FloatArray
from sparselmm.design.formula.pickling import dumps
from sparselmm.design.formula.remembered import EvalEnvironment
from sparselmm.design.row_arguments import Given, complete_rows, subset_mask
from sparselmm.design.sources.readers import Part, readable
from sparselmm.design.validate import DROP_HINT, Rows, missing_rows


@dataclass(frozen=True, eq=False)
class Taken:
    """Some rows of a partition.

    Attributes
    ----------
    frame : DataFrame
        The rows in use.
    groups : Series or None
        Their groups.
    weights : ndarray or None
        Their prior weights.
    read : int
        Rows read, those left out included.
    rows : Rows
        Where the rows in use stand in their partition.
    """

    frame: pd.DataFrame
    groups: Any
    weights: FloatArray | None
    read: int
    rows: Rows


@dataclass(frozen=True, eq=False)
class Reading:
    """How rows are taken; can be sent to other processes.

    Attributes
    ----------
    columns : list of str
        Columns to read.
    names : list of str
        Those of them that may not miss a value.
    groups, weights, offset, subset : str or None
        As in ``from_formula``.
    missing : str
    env : EvalEnvironment
        Variables besides the columns.
    rows : int
        Rows at a time.
    """

    columns: list[str]
    names: list[str]
    groups: str | None
    weights: str | None
    offset: str | None
    subset: str | None
    missing: str
    env: EvalEnvironment
    rows: int

    def __reduce__(self) -> tuple[Any, ...]:
        return _thawed, (dumps(dict(vars(self))),)

    def taken(self, part: Part) -> Iterator[Taken]:
        """The rows of a partition, some at a time."""
        start, frames = 0, part.frames(self.columns, self.rows)
        while True:
            with readable(part.label):
                frame = next(frames, None)
            if frame is None:
                return
            with named(f"{part.label}, rows {start} to {start + len(frame) - 1}"):
                taken = self._of(frame, start)
            yield taken
            start += len(frame)

    def _of(self, frame: pd.DataFrame, start: int) -> Taken:
        kept = None if self.subset is None else subset_mask(frame, self.subset, self.env)
        if self.missing == "drop":
            complete = complete_rows([frame[name] for name in self.names])
            kept = kept if complete is None else complete if kept is None else kept & complete
        positions = None if kept is None or kept.all() else np.flatnonzero(kept)
        inner = frame if positions is None else frame.iloc[positions]
        if self.missing != "drop":
            self._check_complete(inner)
        given = Given.of(inner, self.groups, self.weights, self.offset, None)
        rows = Rows(len(frame), frame.index, positions, start)
        return Taken(inner, given.groups, given.weights, len(frame), rows)

    def _check_complete(self, frame: pd.DataFrame) -> None:
        for name in self.names:
            missing = missing_rows(frame[name])
            if missing.any():
                count = int(missing.sum())
                raise MissingDataError(f"column {name!r} has {count} missing value(s); {DROP_HINT}")


def _thawed(frozen: bytes) -> Reading:
    return Reading(**pickle.loads(frozen))


@contextmanager
def named(where: str) -> Iterator[None]:
    """Errors about the data say in which partition."""
    try:
        yield
    except InputError as error:
        if str(error).startswith("in "):
            raise
        raise type(error)(f"in {where}: {error}") from error


def whole(value: Any, argument: str) -> str | None:
    """An argument that must name a column when the rows are not kept."""
    if value is None or isinstance(value, str):
        return value
    raise DataError(
        f"{argument} is as long as the data; rows that are read in partitions need it as a column: "
        f"pass its name, or keep the rows: keep_rows=True"
    )
