"""Profiles of a fit's parameters, labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_flag, check_level, check_strings
from sparselmm.base.exceptions import DataError
from sparselmm.inference.intervals.profiles import Parameter, Point, Profiler
from sparselmm.inference.wald import quantile
from sparselmm.results.plots import profiles as plots
from sparselmm.results.print.notebook import frame_html, frame_text
from sparselmm.results.print.polars import InPolars


@dataclass(frozen=True, eq=False)
class ProfileResults(InPolars):
    """Profile likelihoods of parameters.

    Attributes
    ----------
    frame : DataFrame
        One row per point, indexed by parameter: ``value`` it was held at, ``zeta``, ``deviance``
        (-2 log-likelihood, minimized over everything else), and the estimates of all standard
        deviations, correlations and fixed effects given that value.
    scale : {"sd", "variance"}
        What ``value`` and intervals of standard deviations stand for.
    """

    frame: pd.DataFrame
    scale: str
    _profiler: Profiler = field(repr=False)
    _parameters: tuple[Parameter, ...] = field(repr=False)

    def conf_int(self, alpha: float = 0.05) -> pd.DataFrame:
        """Intervals of the values whose ``|zeta|`` is below the normal quantile.

        The ends are found by root finding on the profile itself, not by interpolation.

        Parameters
        ----------
        alpha : float
            One minus the confidence level.

        Returns
        -------
        DataFrame, (number of parameters, 2)
            Columns 0 and 1: lower and upper end. An end that the profile does not reach is the
            bound of the parameter: 0 for a standard deviation or variance, -1 or 1 for a
            correlation. NaN for a correlation whose estimate is undefined because a standard
            deviation is estimated as zero.

        References
        ----------
        Bates, D. M. and Watts, D. G. (1988). *Nonlinear Regression Analysis and Its Applications*,
        Wiley, section 6.1.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("Dyestuff")
        >>> fit = sparselmm.mixedlm("Yield ~ 1 + (1 | Batch)", data).fit()
        >>> fit.profile("sigma").conf_int().round(2)
               lower  upper
        sigma  38.23  67.66
        """
        found = limits(self._profiler, self._parameters, alpha, self.scale)
        return found.set_axis(["lower", "upper"], axis=1)

    def __repr__(self) -> str:
        return f"Profile intervals of 95 %\n{frame_text(self.conf_int())}"

    def _repr_html_(self) -> str:
        return frame_html(self.conf_int(), "Profile intervals of 95 %")

    def plot(
        self, parameters: Sequence[str] | None = None, absolute: bool = False, figure: Any = None
    ) -> Any:
        """Draw zeta against the value of each parameter.

        Straight lines are what Wald intervals assume.

        Parameters
        ----------
        parameters : sequence of str, optional
            Which to draw. Default all.
        absolute : bool
            Draw ``|zeta|``, with intervals of 50, 80, 90, 95 and 99 %.
        figure : matplotlib Figure, optional
            Where to draw.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ImportError
            When matplotlib is not installed.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("Dyestuff")
        >>> fit = sparselmm.mixedlm("Yield ~ 1 + (1 | Batch)", data).fit()
        >>> len(fit.profile("sigma").plot(absolute=True).axes)
        1
        """
        known = list(dict.fromkeys(self.frame.index))
        names = known if parameters is None else check_strings(parameters, "parameters")
        absolute = check_flag(absolute, "absolute")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise DataError(f"parameters: no profile of {unknown[0]!r}; there are {known}")
        curves = {name: self.frame.loc[[name], ["value", "zeta"]].to_numpy() for name in names}
        return plots.profile_plot(curves, absolute, figure)


def limits(
    profiler: Profiler, parameters: Sequence[Parameter], alpha: float, scale: str
) -> pd.DataFrame:
    """Profile intervals of several parameters."""
    check_level(alpha)
    z = float(quantile(alpha))
    ends = [[profiler.limit(p, side, z) for side in (-1, 1)] for p in parameters]
    ends = [[_shown(e, p, scale) for e in pair] for pair, p in zip(ends, parameters, strict=True)]
    index = [_name(p, scale) for p in parameters]
    return pd.DataFrame(np.array(ends).reshape(-1, 2), index=index)


def profiled(
    profiler: Profiler, parameters: Sequence[Parameter], others: Sequence[Parameter],
    alpha_max: float, n_points: int, scale: str,
) -> ProfileResults:  # fmt: skip
    """Profile several parameters."""
    z = float(quantile(alpha_max))
    rows, index = [], []
    for p in parameters:
        for point in profiler.trace(p, z, n_points):
            index.append(_name(p, scale))
            rows.append(
                {
                    "value": _shown(point.value, p, scale),
                    "zeta": profiler.zeta(p, point),
                    "deviance": point.deviance,
                    **{o.name: _conditional(point, o) for o in others},
                }
            )
    columns = ["value", "zeta", "deviance", *[o.name for o in others]]
    frame = pd.DataFrame(rows, index=index, columns=columns, dtype=float)
    return ProfileResults(frame, scale, profiler, tuple(parameters))


def _conditional(point: Point, other: Parameter) -> float:
    """Estimate of another parameter at a point of a profile."""
    if other.kind == "sigma":
        return point.sigma
    if other.kind == "beta":
        return float(point.beta[other.first])
    psi = point.psi[other.term]
    sd = np.sqrt(np.maximum(np.diag(psi), 0.0))
    if other.kind == "sd":
        return float(sd[other.first])
    size = sd[other.first] * sd[other.second]
    return float(psi[other.first, other.second] / size) if size > 0 else np.nan


def _shown(value: float, p: Parameter, scale: str) -> float:
    return value**2 if scale == "variance" and p.kind in ("sd", "sigma") else value


def _name(p: Parameter, scale: str) -> str:
    if scale != "variance" or p.kind not in ("sd", "sigma"):
        return p.name
    return "scale" if p.kind == "sigma" else "var" + p.name.removeprefix("sd")
