"""Simulated responses, the parametric bootstrap."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_choice, check_level
from sparselmm.base.exceptions import DataError
from sparselmm.base.memory import need_memory
from sparselmm.base.seeds import generator
from sparselmm.base.types import FloatArray
from sparselmm.likelihood.laplace import moments
from sparselmm.likelihood.laplace.chosen import base_of
from sparselmm.results.general.estimates import EstimateResults
from sparselmm.results.plots.tables import density_plot
from sparselmm.results.print.notebook import frame_html, frame_text


class SimulationResults(EstimateResults):
    """Part of :class:`sparselmm.MixedGLMResults`."""

    def simulate(self, n: int = 1, seed: int | np.random.Generator | None = None, *,
                 random: str = "new") -> pd.DataFrame:  # fmt: skip
        """Draw responses from the fitted model.

        Parameters
        ----------
        n : int
            How many.
        seed : int or Generator, optional
        random : {"new", "conditional"}
            New random effects, or those of the fit.

        Returns
        -------
        DataFrame, (nobs, n)
            Successes of trials, counts, numbers, or categories of an ordinal response.

        Raises
        ------
        DataError
            When an argument cannot be used, or the family cannot be simulated.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("cbpp")
        >>> fit = sparselmm.mixedglm(
        ...     "cbind(incidence, size - incidence) ~ period + (1 | herd)", data).fit()
        >>> fit.simulate(3, seed=1).shape
        (56, 3)
        """
        draws = self._draws(_count(n), seed, random)
        if base_of(self.family).name == "ordinal":
            names = np.asarray(self.model.categories, dtype=object)
            draws = names[draws.astype(int)]
        return pd.DataFrame(draws, index=self.built.row_labels)

    def _draws(self, n: int, seed: int | np.random.Generator | None, random: str) -> FloatArray:
        """Responses as they are modelled, (nobs, n)."""
        random = check_choice(random, "random", ("new", "conditional"))
        engine, numbers = self.deviance, self.numbers
        need_memory(
            16.0 * n * engine.data.n, f"drawing n={n:,} responses of {engine.data.n:,} rows",
            "draw fewer at a time",
        )  # fmt: skip
        rng = generator(seed)
        fixed = engine.fixed.effects(numbers.parts[1], engine.data.offset)
        further, m = self._further(), self._trials()
        ordinal = base_of(self.family).name == "ordinal"
        out = np.empty((len(fixed), n))
        for i in range(n):
            b = numbers.b if random == "conditional" else self._new_effects(rng)
            eta = fixed + engine.random.effects(b)
            if ordinal:
                p = moments.categories(self.family, eta, numbers.parts[2])
                out[:, i] = moments.draw_categories(p, rng)
            else:
                out[:, i] = moments.draw(self.family, eta, further, m, rng)
        return out

    def _new_effects(self, rng: np.random.Generator) -> FloatArray:
        """Random effects of the columns of Z, (q,)."""
        parts = []
        lams = self.deviance.covariance.factors(self.numbers.parts[0])
        for lam, (k, l) in zip(lams, self.deviance.cross.sizes, strict=True):
            parts.append((rng.normal(size=(l, k)) @ lam.T).ravel())
        return np.concatenate(parts)

    def bootstrap(
        self, n: int = 200, seed: int | np.random.Generator | None = None, *,
        random: str = "new", alpha: float = 0.05,
    ) -> GeneralBootstrap:  # fmt: skip
        """Parametric bootstrap: refits to simulated responses, each from the estimates.

        Parameters
        ----------
        n : int
            Replicates.
        seed : int or Generator, optional
        random : {"new", "conditional"}
            As for :meth:`simulate`.
        alpha : float
            One minus the confidence level of the percentile intervals.

        Returns
        -------
        GeneralBootstrap
            ``replicates``, ``se``, ``bias``, ``conf_int``; ``n_failed`` counts refits that did
            not converge, whose rows are NaN.
        """
        check_level(alpha)
        draws = self._draws(_count(n), seed, random)
        names = list(self._statistic().index)
        rows = np.full((draws.shape[1], len(names)), np.nan)
        for i in range(len(rows)):
            try:
                fit = self.model.refitted(draws[:, i], self.opt.x)
            except (DataError, np.linalg.LinAlgError, FloatingPointError):
                continue
            if fit.converged:
                rows[i] = fit._statistic().to_numpy()
        replicates = pd.DataFrame(rows, columns=names)
        return GeneralBootstrap(replicates, self._statistic(), alpha)

    def _statistic(self) -> pd.Series:
        """What is replicated: coefficients and standard deviations or correlations."""
        own = self.varcorr
        names = [
            ":".join(str(v) for v in row if v is not None and v == v)
            for row in own[["grp", "var1", "var2"]].itertuples(index=False)
        ]
        sd = pd.Series(own.sdcor.to_numpy(), [f"sd {n}" for n in names])
        return pd.concat([self.params, sd])


def _count(n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise DataError(f"n must be a whole number of draws, at least 1, got {n!r}")
    return int(n)


class GeneralBootstrap:
    """A parametric bootstrap of a generalized model.

    Parameters
    ----------
    replicates : DataFrame, (n, number of statistics)
        NaN where a refit failed.
    estimate : Series
        The statistics of the fit.
    alpha : float
        One minus the confidence level.
    """

    def __init__(self, replicates: pd.DataFrame, estimate: pd.Series, alpha: float):
        self.replicates, self.estimate, self.alpha = replicates, estimate, alpha

    @property
    def n_failed(self) -> int:
        """Refits that did not converge."""
        return int(self.replicates.isna().all(axis=1).sum())

    @property
    def se(self) -> pd.Series:
        """Standard deviations of the replicates."""
        return self.replicates.std()

    @property
    def bias(self) -> pd.Series:
        """Means of the replicates less the estimates."""
        return self.replicates.mean() - self.estimate

    def conf_int(self, alpha: float | None = None) -> pd.DataFrame:
        """Percentile intervals.

        Parameters
        ----------
        alpha : float, optional
            One minus the confidence level.
        """
        a = self.alpha if alpha is None else alpha
        check_level(a)
        ends = self.replicates.quantile([a / 2, 1 - a / 2]).T
        return ends.set_axis(["ci_lower", "ci_upper"], axis=1)

    def plot(self, alpha: float | None = None, *, figure: Any = None) -> Any:
        """Densities of the replicates with the estimates and their intervals.

        Parameters
        ----------
        alpha : float, optional
            One minus the confidence level.
        figure : matplotlib Figure, optional
            Where to draw.

        Returns
        -------
        matplotlib.figure.Figure
        """
        return density_plot(self.replicates, self.estimate, self.conf_int(alpha), figure)

    @property
    def _head(self) -> str:
        return f"Parametric bootstrap, {len(self.replicates)} replicates, {self.n_failed} failed"

    @property
    def _table(self) -> pd.DataFrame:
        own = {"estimate": self.estimate, "bias": self.bias, "se": self.se}
        return pd.DataFrame(own).join(self.conf_int())

    def __repr__(self) -> str:
        return f"{self._head}\n{frame_text(self._table)}"

    def _repr_html_(self) -> str:
        return frame_html(self._table, self._head)
