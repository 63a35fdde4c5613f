"""Dask data frames, by their partitions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from sparselmm.design.sources.optional import package
from sparselmm.design.sources.readers import Columns, Part, sliced


@dataclass(frozen=True, eq=False)
class Partition:
    """One partition of a Dask data frame."""

    piece: Any
    label: str

    def frames(self, columns: Columns, rows: int) -> Iterator[pd.DataFrame]:
        """Its rows in order, in frames of at most that many."""
        piece = self.piece if columns is None else self.piece[list(columns)]
        yield from sliced(piece.compute(scheduler="synchronous"), rows)


@dataclass(frozen=True, eq=False)
class DaskFrame:
    """A Dask data frame."""

    data: Any
    what: str = "the Dask DataFrame"
    in_memory: bool = False
    movable: bool = True
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        package("dask", self.what)
        object.__setattr__(self, "names", list(self.data.columns))

    def frame(self, columns: Columns) -> pd.DataFrame:
        """All rows."""
        chosen = self.data if columns is None else self.data[list(columns)]
        out: pd.DataFrame = chosen.compute()
        return out

    def parts(self, rows: int, columns: Columns) -> Sequence[Part]:
        """Its own partitions."""
        count = self.data.npartitions
        return [
            Partition(self.data.partitions[j], f"partition {j} of {self.what}")
            for j in range(count)
        ]
