"""Predictions of rows by a fit without them, and how good they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from sparselmm.base.types import FloatArray
from sparselmm.results.print.notebook import frame_html


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Made by :meth:`MixedLMResults.cross_validate`.

    Attributes
    ----------
    frame : DataFrame, (n,)
        ``observed``, ``predicted``, ``se``, the standard deviation of the observation around its
        prediction, and ``fold``; NaN for rows of weight zero, and where the rest of the data
        cannot predict a row.
    what : str
        What was left out.
    refitted : bool
        Whether variances were estimated without each fold.
    """

    frame: pd.DataFrame
    what: str
    refitted: bool

    @property
    def errors(self) -> pd.Series:
        """Observed less predicted, (n,)."""
        return self.frame["observed"] - self.frame["predicted"]

    @property
    def rmse(self) -> float:
        """Root of the mean squared error, in the units of the response."""
        return float(np.sqrt((self.errors**2).mean()))

    @property
    def mae(self) -> float:
        """Mean absolute error."""
        return float(self.errors.abs().mean())

    @property
    def r2(self) -> float:
        """One minus the squared errors over those of the mean response."""
        good = np.isfinite(self.errors)
        y = self.frame["observed"][good]
        total = float(((y - y.mean()) ** 2).sum())
        return float(1.0 - (self.errors[good] ** 2).sum() / total) if total else np.nan

    @property
    def lpd(self) -> float:
        """Sum of the logarithms of the normal predictive densities of the single rows."""
        z: FloatArray = self.errors.to_numpy() / self.frame["se"].to_numpy()
        density = -0.5 * (z**2 + np.log(2.0 * np.pi)) - np.log(self.frame["se"].to_numpy())
        return float(np.nansum(density))

    @property
    def coverage(self) -> float:
        """Share of observations within 1.96 standard deviations of their prediction."""
        z = np.abs(self.errors / self.frame["se"])
        return float((z[np.isfinite(z)] < 1.959964).astype(float).mean())

    @property
    def table(self) -> pd.Series:
        """The measures."""
        names = ("rmse", "mae", "r2", "lpd", "coverage")
        return pd.Series({name: getattr(self, name) for name in names})

    def __repr__(self) -> str:
        missing = int(self.frame["predicted"].isna().sum())
        lines = [f"{self.what}, variances {'estimated without each' if self.refitted else 'held'}"]
        lines += [f"{name:10} {value:.5g}" for name, value in self.table.items()]
        if missing:
            lines.append(f"{missing:,} rows cannot be predicted without their fold")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return frame_html(self.table.rename("").to_frame(), self.what)
