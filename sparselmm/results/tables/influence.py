"""Influence of groups or rows with its labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sparselmm.base.exceptions import DataError
from sparselmm.base.types import FloatArray
from sparselmm.inference.diagnostics.influence import Influence
from sparselmm.results.plots.tables import influence_plot
from sparselmm.results.print.notebook import frame_html, frame_text
from sparselmm.results.print.polars import InPolars

SHOWN = 10


@dataclass(frozen=True, eq=False)
class InfluenceResults(InPolars):
    """What deleting each group, or each row, changes; from ``results.influence()``.

    Indexed by the labels of the groups or rows. NaN where the fixed effects cannot be estimated
    without the group.

    Parameters
    ----------
    numbers : Influence
        The arrays.
    labels : Index, (m,)
        Groups or rows.
    fe_names : sequence of str, (r,)
        Fixed effects, dropped columns left out.
    exact : bool
        Whether every deletion was refitted.

    References
    ----------
    Cook, R. D. (1977). Detection of influential observation in linear regression. *Technometrics*
    19(1), 15-18. Christensen, R., Pearson, L. M. and Johnson, W. (1992). Case-deletion diagnostics
    for mixed models. *Technometrics* 34(1), 38-45. The formulas stand at the head of
    :mod:`sparselmm.inference.diagnostics.influence`.

    Examples
    --------
    >>> import sparselmm
    >>> data = sparselmm.datasets.load("sleepstudy")
    >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
    >>> found = fit.influence("Subject", exact=True)
    >>> found.cooks_distance.nlargest(2).round(2).to_dict()
    {'309': 0.15, '335': 0.13}
    >>> round(float(found.sigma["308"]), 2), round(float(fit.sigma), 2)
    (23.65, 25.59)
    """

    numbers: Influence
    labels: pd.Index
    fe_names: Sequence[str]
    exact: bool

    def _series(self, values: FloatArray, name: str) -> pd.Series:
        return pd.Series(values, self.labels, name=name)

    def _frame(self, values: FloatArray) -> pd.DataFrame:
        return pd.DataFrame(values, self.labels, list(self.fe_names))

    @property
    def fe_params(self) -> pd.DataFrame:
        """Fixed effects without each group, (m, r)."""
        return self._frame(self.numbers.beta)

    @property
    def bse_fe(self) -> pd.DataFrame:
        """Their standard errors, (m, r)."""
        return self._frame(self.numbers.se)

    @property
    def dfbetas(self) -> pd.DataFrame:
        """Change of each fixed effect, whole fit less deleted, in standard errors, (m, r).

        The standard error is that of the fit without the group. lme4's ``dfbetas`` has the
        opposite sign.
        """
        return self._frame(self.numbers.dfbetas)

    @property
    def cooks_distance(self) -> pd.Series:
        """Change of all fixed effects in the metric of their covariance, by their number, (m,).

        lme4's ``cooks.distance(influence(fit, group))`` is this times ``(m - r) / m``.
        """
        return self._series(self.numbers.cooks_distance, "cooks_distance")

    @property
    def mdffits(self) -> pd.Series:
        """The same in the metric of the covariance without the group, (m,)."""
        return self._series(self.numbers.mdffits, "mdffits")

    @property
    def covtrace(self) -> pd.Series:
        """Change of the precision of the fixed effects: ``|tr(V^-1 V_(i)) - r|``, (m,)."""
        return self._series(self.numbers.covtrace, "covtrace")

    @property
    def covratio(self) -> pd.Series:
        """The same by determinants, ``det V_(i) / det V``; above 1 a group adds precision, (m,)."""
        return self._series(self.numbers.covratio, "covratio")

    @property
    def theta(self) -> pd.DataFrame:
        """Theta without each group, (m, n_theta).

        Raises
        ------
        DataError
            When theta was held.
        """
        if self.numbers.theta is None:
            raise DataError("theta was held at its estimate; pass theta=True or exact=True")
        return pd.DataFrame(self.numbers.theta, self.labels)

    @property
    def sigma(self) -> pd.Series:
        """Residual standard deviation without each group, (m,)."""
        return self._series(self.numbers.sigma, "sigma")

    @property
    def converged(self) -> pd.Series:
        """Refits that converged, or groups whose deletion could be computed, (m,)."""
        return pd.Series(self.numbers.converged, self.labels, name="converged")

    def to_frame(self) -> pd.DataFrame:
        """Measures of influence side by side, the most influential first, (m, 5 + r)."""
        measures = ("cooks_distance", "mdffits", "covtrace", "covratio", "sigma")
        columns = {name: getattr(self.numbers, name) for name in measures}
        columns |= {
            f"dfbetas {name}": self.numbers.dfbetas[:, j] for j, name in enumerate(self.fe_names)
        }
        out = pd.DataFrame(columns, index=self.labels)
        return out.sort_values("cooks_distance", ascending=False)

    def plot(self, *, figure: Any = None) -> Any:
        """Cook's distances, and the changes of the coefficients; the largest are named.

        Parameters
        ----------
        figure : matplotlib Figure, optional
            Where to draw.

        Returns
        -------
        matplotlib.figure.Figure
        """
        return influence_plot(
            list(self.labels), self.cooks_distance.to_numpy(), self.dfbetas, figure
        )

    def _repr_html_(self) -> str:
        return frame_html(self.to_frame(), f"Influence of {len(self.labels)} deletions")

    def __repr__(self) -> str:
        how = "each refitted" if self.exact else "one-step"
        if self.numbers.theta is None:
            how = "variances held"
        head = f"Influence of {len(self.labels)} deletions, {how}; the largest Cook's distances:"
        return f"{head}\n{frame_text(self.to_frame().head(SHOWN))}"
