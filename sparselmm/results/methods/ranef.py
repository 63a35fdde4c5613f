"""Random effects: tables, covariances, contrasts, ranks."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import scipy
import scipy.sparse as sp

from sparselmm.base.arguments import check_choice, check_count, check_flag, check_level
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design.exact_labels import label_index
from sparselmm.design.rows import mixed, of_columns
from sparselmm.inference import effects
from sparselmm.inference.effects import FactorTable
from sparselmm.inference.estimates import Estimates
from sparselmm.inference.hypotheses.multiplicity import ADJUSTMENTS, adjusted
from sparselmm.inference.prediction import contrasts as blup_contrasts
from sparselmm.inference.prediction import ranks as rank_distribution
from sparselmm.inference.prediction import variance as prediction_variance
from sparselmm.inference.wald import Wald
from sparselmm.results.methods.base import ResultsBase
from sparselmm.results.methods.contrasts import (
    _coefficient_place,
    check_size,
    coefficient_columns,
    contrast_rows,
    level_places,
)
from sparselmm.results.print import labels
from sparselmm.results.print.notebook import as_table

RANK_METHODS = ("joint", "marginal")


class RanefResults(ResultsBase):
    """Part of :class:`sparselmm.MixedLMResults`."""

    @cached_property
    def random_effects(self) -> dict[Any, pd.Series]:
        """Conditional means of the random effects given the data, as a dict.

        Keys are the groups, or the levels of the only grouping factor; with several factors they
        are tuples ``(factor, level)``. Values are Series: coefficients of the ``groups`` term,
        then columns of the variance components, or all coefficients of the factor.

        See Also
        --------
        ranef : the same as tables.
        """
        return labels.unit_series(self._est)

    @cached_property
    def random_effects_cov(self) -> dict[Any, pd.DataFrame]:
        """Conditional covariance matrices of the random effects, fixed effects taken as known.

        The same keys as ``random_effects``; lme4's ``condVar``.

        Raises
        ------
        MemoryLimitError
            When the matrices would hold more than 2e8 numbers; ``ranef_var`` has the variances
            alone.
        """
        return labels.unit_frames(self._est)

    @cached_property
    def ranef(self) -> dict[str, pd.DataFrame]:
        """Conditional means, one table per grouping factor or variance component.

        Always a dict of name to DataFrame: rows are levels (``"a:A"`` for the level a:A of an
        interaction, ``"A:a"`` for label a of a component in group A), columns are coefficients.

        Notes
        -----
        ``Lambda u`` with u from the penalized least-squares problem: the BLUPs of Henderson's
        mixed-model equations, or posterior means given the estimated variances (Robinson 1991,
        *Statistical Science* 6, 15-32).

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> fit.ranef["Subject"].loc["308"].round(2).to_dict()
        {'Intercept': 2.26, 'Days': 9.2}
        """
        return labels.mode_tables(self._est, effects.factor_tables(self._est.terms))

    @cached_property
    def ranef_var(self) -> dict[str, pd.DataFrame]:
        """Conditional variances in the shape of ``ranef``, fixed effects taken as known.

        Notes
        -----
        The diagonal of ``sigma^2 Lambda M^-1 Lambda'`` (Bates, Maechler, Bolker & Walker 2015,
        *Journal of Statistical Software* 67(1), conditional variances in section 5), from the
        selected inverse.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> fit.ranef_var["Subject"].loc["308"].round(2).to_dict()
        {'Intercept': 145.71, 'Days': 5.31}
        """
        return labels.variance_tables(self._est, effects.factor_tables(self._est.terms))

    def ranef_se(self, fixed_uncertainty: bool = True) -> dict[str, pd.DataFrame]:
        """Standard errors of the random effects in the shape of ``ranef``.

        Parameters
        ----------
        fixed_uncertainty : bool
            Of the prediction error ``b_hat - b``, the fixed effects estimated. False: the
            conditional standard deviations of b given the data and beta, the roots of
            ``ranef_var``.

        Returns
        -------
        dict of str to DataFrame

        Notes
        -----
        The diagonal of Henderson's ``Var(u_hat - u) = C22`` (Henderson 1984, *Applications of
        Linear Models in Animal Breeding*, chapter 5), from the selected inverse of the sparse
        factor.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> fit.ranef_se()["Subject"].loc["308"].round(2).to_dict()
        {'Intercept': 13.1, 'Days': 2.64}
        """
        fixed_uncertainty = check_flag(fixed_uncertainty, "fixed_uncertainty")
        est = self._est
        extra = np.zeros(len(est.pls.b))
        if fixed_uncertainty and len(est.pls.beta):
            eye = of_columns(est.terms, sp.csr_array(sp.eye_array(len(est.pls.b))))
            roots = prediction_variance.fixed_roots(est.deviance, est.pls.theta, None, eye)
            extra = est.pls.scale * np.einsum("ij,ij->i", roots, roots)
        out: dict[str, pd.DataFrame] = {}
        for table in effects.factor_tables(est.terms):
            added = extra[effects.table_columns(table, est.terms)]
            out[table.name] = (self.ranef_var[table.name] + added) ** 0.5
        return out

    def ranef_cov(
        self, term: str, levels: Iterable[Any] | None = None, fixed_uncertainty: bool = False
    ) -> pd.DataFrame:
        """Joint covariance matrix of the random effects of some levels of one factor.

        Parameters
        ----------
        term : str
            A key of ``ranef``.
        levels : iterable, optional
            Labels of the levels wanted. Default: all.
        fixed_uncertainty : bool
            Of the prediction error ``b_hat - b``, the fixed effects estimated. Default: the
            conditional covariance of b given the data and beta, lme4's.

        Returns
        -------
        DataFrame, (c, c)
            Rows and columns are pairs of level and coefficient; in the squared units of the
            response over those of the covariates.

        Raises
        ------
        DataError
            When the factor or a level is unknown.
        MemoryLimitError
            When the matrix would hold more than 2e8 numbers.

        Notes
        -----
        ``sigma^2 Lambda M^-1 Lambda'`` by solves with the sparse factor, a few hundred columns at a
        time; with ``fixed_uncertainty`` the corresponding block of the inverse of Henderson's
        mixed-model equations, ``C22`` of Henderson (1984), chapter 5.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("Penicillin")
        >>> fit = sparselmm.mixedlm("diameter ~ 1 + (1 | plate) + (1 | sample)", data).fit()
        >>> fit.ranef_cov("sample", ["A", "B"]).round(4).to_numpy().tolist()
        [[0.0409, 0.0283], [0.0283, 0.0409]]
        """
        fixed_uncertainty = check_flag(fixed_uncertainty, "fixed_uncertainty")
        table = effects.factor_table(self._est.terms, term)
        rows = np.arange(len(table.labels)) if levels is None else level_places(table, levels)
        columns = effects.table_columns(table, self._est.terms)[rows].ravel()
        check_size(len(columns))
        cov = self._joint_covariance(columns, fixed_uncertainty)
        index = pd.MultiIndex.from_product(
            [table.labels[rows], list(table.columns)], names=[table.name, "coefficient"]
        )
        return pd.DataFrame(cov, index, index)

    @as_table
    def ranef_contrasts(
        self, term: str, contrasts: Any = None, *, pairs: Any = None,
        coefficient: str | None = None, fixed_uncertainty: bool = True, adjust: str = "none",
        alpha: float = 0.05,
    ) -> pd.DataFrame:  # fmt: skip
        """Differences and other contrasts between the random effects of the levels of a factor.

        Parameters
        ----------
        term : str
            A key of ``ranef``.
        contrasts : mapping, DataFrame, array-like or sparse array, optional
            ``{"label": {level: weight, ...}, ...}``; a table with levels as columns; or
            (m, l) weights of all levels in the order of ``ranef``.
        pairs : sequence of (level, level), or "all", optional
            Differences, first minus second, instead of ``contrasts``.
        coefficient : str, optional
            Column of ``ranef``. Default: the only one, or the intercept.
        fixed_uncertainty : bool
            Whether the standard errors count that the fixed effects are estimated.
        adjust : str
            "none", "holm", "bonferroni", "sidak", "hs" (Holm-Sidak) or "fdr_bh": of the p-values.
        alpha : float
            One minus the confidence level of each interval; not adjusted.

        Returns
        -------
        DataFrame
            ``estimate``, ``se``, ``z``, ``pvalue``, ``ci_lower``, ``ci_upper``, one row per
            contrast; in the units of the coefficient.

        Raises
        ------
        DataError
            When a name or a label is unknown, or not exactly one of ``contrasts`` and ``pairs`` is
            given.

        Notes
        -----
        The standard error is the root of ``Var(c'b_hat - c'b)``, a quadratic form in the joint
        covariance of all levels (Henderson 1984, chapter 5), which is what comparing two
        shrunken predictions takes: their errors are correlated, and adding two conditional
        variances may be far off. For one grouping factor that is a look-up in the selected
        inverse, otherwise sparse solves. Variances of the random effects count as known, and p
        is twice the probability, given the data, that the difference has the other sign.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("Penicillin")
        >>> fit = sparselmm.mixedlm("diameter ~ 1 + (1 | plate) + (1 | sample)", data).fit()
        >>> fit.ranef_contrasts("sample", pairs=[("A", "B")])[["estimate", "se"]].round(3)
               estimate     se
        A - B     3.198  0.158
        """
        est, alpha = self._est, check_level(alpha)
        fixed_uncertainty = check_flag(fixed_uncertainty, "fixed_uncertainty")
        adjust = check_choice(adjust, "adjust", ("none", *ADJUSTMENTS))
        table = effects.factor_table(est.terms, term)
        column = coefficient_columns(table, est.terms, coefficient)
        names, rows = contrast_rows(table, contrasts, pairs)
        H = blup_contrasts.level_contrasts(column, rows, len(est.pls.b))
        H = of_columns(est.terms, H)
        found = blup_contrasts.contrasts(
            est.deviance, est.pls.theta, est.pls.b, est.pls.scale, H, fixed_uncertainty
        )
        wald = Wald(found.estimate, found.se)
        p = wald.pvalue
        if adjust != "none":
            p = adjusted(p, adjust, alpha)[1]
        columns = ["estimate", "se", "z", "pvalue", "ci_lower", "ci_upper"]
        values = np.column_stack([wald.estimate, wald.se, wald.statistic, p, wald.interval(alpha)])
        return pd.DataFrame(values, names, columns)

    @as_table
    def rank(
        self, term: str, coefficient: str | None = None, *, method: str | None = None,
        fixed_uncertainty: bool = True, alpha: float = 0.05, ascending: bool = True,
        top: int | None = None, seed: int = 0,
    ) -> pd.DataFrame:  # fmt: skip
        """Expected ranks of the levels of a factor, with regard to the errors of prediction.

        Parameters
        ----------
        term : str
            A key of ``ranef``.
        coefficient : str, optional
            Column of ``ranef``. Default: the only one, or the intercept.
        method : {"joint", "marginal"}, optional
            "joint" compares every pair with the joint covariance; "marginal" takes the levels as
            independent, as merTools does. Default: joint for up to 5,000 levels.
        fixed_uncertainty : bool
            Whether the errors count that the fixed effects are estimated.
        alpha : float
            One minus the confidence level of the intervals.
        ascending : bool
            Whether the lowest effect has rank 1; with False the highest.
        top : int, optional
            Adds ``p_top``, the probability of a rank from 1 to this.
        seed : int
            Of the draws that give the joint distribution of ranks.

        Returns
        -------
        DataFrame
            One row per level: ``estimate``, ``se``, ``ci_lower`` and ``ci_upper`` of the random
            effect, ``expected_rank`` from 1 to the number of levels, ``percentile``,
            ``100 (expected_rank - 1/2) / levels``, ``rank_lower`` and ``rank_upper``, the
            interval of the rank, ``p_above_mean``, the probability of an effect above the mean of
            all levels, and ``reliability``, one minus the error variance over the variance of
            the effects.

        Raises
        ------
        DataError
            When a name is unknown.
        MemoryLimitError
            When the joint covariance would hold more than 2e8 numbers.

        Notes
        -----
        ``1 + sum_j P(b_j < b_i | y)`` over the other levels (Laird & Louis 1989; Lingsma et al.
        2010, *QJM* 103, 99-108). Ranks shrink towards the middle where the data say little. For
        more than 5,000 levels "marginal" works by Fourier transforms on a grid, exact to about
        1e-5 of the number of levels, in seconds for a million.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("Penicillin")
        >>> fit = sparselmm.mixedlm("diameter ~ 1 + (1 | plate) + (1 | sample)", data).fit()
        >>> fit.rank("sample").expected_rank.round(2).to_dict()
        {'A': 5.94, 'B': 2.0, 'C': 5.06, 'D': 3.3, 'E': 3.7, 'F': 1.0}
        """
        est, alpha = self._est, check_level(alpha)
        fixed_uncertainty = check_flag(fixed_uncertainty, "fixed_uncertainty")
        table = effects.factor_table(est.terms, term)
        column = coefficient_columns(table, est.terms, coefficient)
        l = len(column)
        if method is None:
            method = "joint" if l <= blup_contrasts.EXACT_LEVELS else "marginal"
        method = check_choice(method, "method", RANK_METHODS)
        ascending = check_flag(ascending, "ascending")
        top = None if top is None else check_count(top, "top", most=l)
        seed = check_count(seed, "seed", 0)
        b = mixed(est.terms, est.pls.b)[column]
        if method == "joint":
            check_size(l)
            cov = self._joint_covariance(column, fixed_uncertainty)
            v, expected = np.diag(cov), blup_contrasts.joint_ranks(b, cov)
            found = rank_distribution.joint(b, cov, alpha, top, not ascending, seed)
            spread = v - 2.0 * cov.mean(axis=1) + cov.mean()
        else:
            H = sp.csr_array((np.ones(l), column, np.arange(l + 1)), shape=(l, len(est.pls.b)))
            H = of_columns(est.terms, H)
            v = (
                blup_contrasts.contrasts(
                    est.deviance, est.pls.theta, est.pls.b, est.pls.scale, H, fixed_uncertainty
                ).se
                ** 2
            )
            expected = blup_contrasts.marginal_ranks(b, v)
            found = rank_distribution.marginal(b, v, alpha, top, not ascending, seed)
            spread = v * (1.0 - 2.0 / l) + v.mean() / l
        expected = expected if ascending else l + 1.0 - expected
        se = np.sqrt(v)
        ends = Wald(b, se).interval(alpha)
        with np.errstate(divide="ignore", invalid="ignore"):
            above = scipy.special.ndtr((b - b.mean()) / np.sqrt(np.maximum(spread, 0.0)))
            reliability = 1.0 - v / _level_variances(est, table, coefficient)
        columns = {
            "estimate": b, "se": se, "ci_lower": ends[:, 0], "ci_upper": ends[:, 1],
            "expected_rank": expected, "percentile": 100.0 * (expected - 0.5) / l,
            "rank_lower": found.lower.astype(int), "rank_upper": found.upper.astype(int),
            "p_above_mean": above, "reliability": reliability,
        }  # fmt: skip
        if found.top is not None:
            columns["p_top"] = found.top
        return pd.DataFrame(columns, label_index(table.labels, table.name))

    def _joint_covariance(self, columns: IntArray, fixed: bool) -> FloatArray:
        """Covariance of some random effects of levels, (c, c)."""
        est, c = self._est, len(columns)
        at = (est.deviance, est.pls.theta)
        if all(term.root is None for term in est.terms):
            return est.pls.scale * prediction_variance.joint_covariance(*at, columns, fixed)
        H = sp.csr_array((np.ones(c), columns, np.arange(c + 1)), shape=(c, len(est.pls.b)))
        H = of_columns(est.terms, H)
        return est.pls.scale * prediction_variance.joint_forms(*at, H, fixed)


def _level_variances(est: Estimates, table: FactorTable, coefficient: str | None) -> FloatArray:
    """Variance of one coefficient before any data, of every level, (l,)."""
    place, l = _coefficient_place(table, coefficient), len(table.labels)
    for t in table.terms:
        term = est.terms[t]
        if place < term.k:
            root = term.root
            own = np.ones(l) if root is None else np.asarray(root.multiply(root).sum(axis=1))
            return np.asarray(est.psi[t][place, place] * own.ravel())
        place -= term.k
    raise AssertionError("a coefficient belongs to a term")
