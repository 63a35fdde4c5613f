"""Cells of variables that means are of: which stand together, and how they are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sparselmm.base.types import IntArray
from sparselmm.results.tables.contrasts import reads_as_number, shown_value


@dataclass(frozen=True, eq=False)
class Cells:
    """Combinations of levels.

    Attributes
    ----------
    specs, by : tuple of str
        Variables whose levels they are, and variables within whose levels they are compared.
    cells : DataFrame, (m, number of variables)
        Their values.
    """

    specs: tuple[str, ...]
    by: tuple[str, ...]
    cells: pd.DataFrame

    def _families(self) -> list[IntArray]:
        """Rows of every level of ``by``."""
        if not self.by:
            return [np.arange(len(self.cells))]
        codes = self.cells.groupby(list(self.by), sort=False, observed=True).ngroup().to_numpy()
        return [np.flatnonzero(codes == code) for code in range(int(codes.max()) + 1)]

    def _labels(self, rows: IntArray, names: Sequence[str]) -> list[str]:
        """Labels of cells; a level that reads as a number gets the variable's name in front."""
        shown = []
        for name in names:
            values = [shown_value(value) for value in self.cells[name]]
            prefix = name if any(map(reads_as_number, values)) else ""
            shown.append([prefix + values[row] for row in rows])
        return [" ".join(parts) for parts in zip(*shown, strict=True)]

    def _values(self, rows: IntArray) -> list[str]:
        """The same without names of variables, as columns of weights may be labelled."""
        cells = [[str(self.cells[name].iloc[row]) for row in rows] for name in self.specs]
        return [" ".join(parts) for parts in zip(*cells, strict=True)]
