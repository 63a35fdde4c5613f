"""Simulated power with its labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.types import FloatArray
from sparselmm.inference.resampling.power import clopper_pearson
from sparselmm.results.plots.tables import power_plot
from sparselmm.results.print.notebook import frame_html, frame_text
from sparselmm.results.print.polars import InPolars


@dataclass(frozen=True, eq=False)
class PowerResults(InPolars):
    """Simulated power, made by :meth:`MixedLMResults.power`.

    Attributes
    ----------
    effect : dict
        True values of the coefficients tested.
    pvalues : list of (n_groups, test, ndarray)
        P-values of every replicate, NaN where a fit failed; ``n_groups`` is None for the rows of
        the fit.
    alpha : float
        Level of the test.
    """

    effect: dict[str, float]
    pvalues: list[tuple[int | None, str, FloatArray]]
    alpha: float

    @property
    def table(self) -> pd.DataFrame:
        """One row per number of groups and test.

        Columns: ``n_groups`` (missing for the rows of the fit), ``test``, ``power``, its exact 95 %
        binomial interval ``lower`` and ``upper``, ``n_sim`` fits that it is a share of, ``failed``.
        """
        rows = []
        for size, name, p in self.pvalues:
            valid = p[np.isfinite(p)]
            hits, n = int((valid < self.alpha).sum()), len(valid)
            low, high = clopper_pearson(hits, n)
            power = hits / n if n else np.nan
            rows.append((size, name, power, low, high, n, len(p) - n))
        columns = ["n_groups", "test", "power", "lower", "upper", "n_sim", "failed"]
        out = pd.DataFrame(rows, columns=columns)
        out["n_groups"] = out["n_groups"].astype("Int64")
        return out

    def plot(self, ax: Any = None) -> Any:
        """Power over the number of groups, with its intervals; a dotted line at 0.8.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw.

        Returns
        -------
        matplotlib.figure.Figure
        """
        table = self.table
        x = "n_groups"
        if table[x].isna().all():  # the rows of the fit alone
            table, x = table.assign(**{"": range(len(table))}), ""
        return power_plot(table, x, ["test"] if table["test"].nunique() > 1 else [], ax)

    def __repr__(self) -> str:
        return frame_text(self.table, index=False)

    def _repr_html_(self) -> str:
        return frame_html(self.table, f"Power at the level {self.alpha:g}")
