"""Comparison with smaller models, refitted from the cross-products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_choice
from sparselmm.base.exceptions import DataError
from sparselmm.base.types import FloatArray
from sparselmm.design.kinds.coded import CodedSpec
from sparselmm.design.terms import RandomTerm, TermLayout
from sparselmm.inference.hypotheses import comparison as tests
from sparselmm.inference.hypotheses.ddf import DDF_METHODS
from sparselmm.likelihood.covariance import Covariance
from sparselmm.results.methods.base import ResultsBase
from sparselmm.results.print.notebook import as_table


class ComparisonResults(ResultsBase):
    """Tests of terms of a fit with independent errors, one term at a time."""

    # -------------------------------------------------------------------- deletion of terms

    @as_table
    def ranova(self) -> pd.DataFrame:
        """Test every random effect by refitting the model without it.

        Of a term with slopes each effect that is not part of an interaction is left out in turn
        (``(x | g)`` becomes ``(1 | g)``), a term with one effect is left out as a whole, and a
        factor without intercept (``(0 + f | g)``) becomes an intercept, as in lmerTest. The
        criterion is the one of the fit; refits are made from the cross-products and warm-started.

        Returns
        -------
        DataFrame
            One row per deletion after ``<none>``: ``npar``, ``llf``, ``aic``, ``lrt``, ``df``,
            ``pvalue`` from chi2(df), which is conservative because the variance cannot be
            negative, and ``pvalue_boundary`` from ``chi2(df - 1) / 2 + chi2(df) / 2``, NaN where
            several variances are left out together.

        References
        ----------
        Stram, D. O. and Lee, J. W. (1994). Variance components testing in the longitudinal mixed
        effects model. *Biometrics* 50, 1171-1177, case 3.

        Self, S. G. and Liang, K.-Y. (1987). Asymptotic properties of maximum likelihood
        estimators and likelihood ratio tests under nonstandard conditions. *JASA* 82, 605-610.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> fit.ranova()[["lrt", "df"]].round(3).loc["Days in (1 + Days | Subject)"].tolist()
        [42.837, 2.0]
        """
        est = self._est
        self._check_estimated("ranova")
        if self.built.spec.formula is None:
            self._need_rows("ranova of a model built from arrays")
        if not est.terms:
            raise DataError("the model has no random effects to test")
        effects = [_effects(spec, term) for spec, term in zip(self._specs, est.terms, strict=True)]
        rest = [_rest(spec, own) for spec, own in zip(self._specs, effects, strict=True)]
        drops = tests.random_drops(est.terms, effects, rest)
        found = tests.delete_random(self.deviance, self.pls.theta, drops)
        rows = [
            (est.n_parameters - d.df, d.deviance, d.lrt, d.df, d.pvalue, d.pvalue_boundary)
            for d in found
        ]
        full = (est.n_parameters, self.pls.deviance, np.nan, np.nan, np.nan, np.nan)
        values = np.array([full, *rows], dtype=float)
        npar, deviance = values[:, 0], values[:, 1]
        columns = {"npar": npar, "llf": -0.5 * deviance, "aic": deviance + 2.0 * npar}
        for j, name in enumerate(("lrt", "df", "pvalue", "pvalue_boundary"), 2):
            columns[name] = values[:, j]
        return pd.DataFrame(columns, index=["<none>", *[d.label for d in found]])

    @property
    def _specs(self) -> Sequence[Any]:
        return self.built.spec.terms

    @as_table
    def drop1(self, test: str = "chisq", ddf: str = "satterthwaite") -> pd.DataFrame:
        """Test every fixed-effects term that marginality lets go.

        A term is tested when no other term of the formula contains all its variables. Its columns
        are left out as they are; the coding of other factors stays. In a model built from arrays
        every column that is not constant is a term.

        Parameters
        ----------
        test : {"chisq", "f"}
            Likelihood-ratio test with both models fitted by ML, as lme4's ``drop1``; or F test of
            the term's coefficients in the fit as it is, as lmerTest's.
        ddf : {"satterthwaite", "kenward-roger", "z"}
            Denominator degrees of freedom of the F test.

        Returns
        -------
        DataFrame
            "chisq": after ``<none>`` one row per term with ``df``, ``aic``, ``lrt``, ``pvalue``.
            "f": one row per term with ``sum_sq``, ``mean_sq``, ``df_num``, ``df_den``,
            ``statistic``, ``pvalue``.

        Raises
        ------
        ValueError
            When ``test`` or ``ddf`` is unknown.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> fit.drop1().loc["Days", ["df", "lrt"]].round(4).tolist()
        [1.0, 23.5365]
        """
        test = check_choice(test, "test", ("chisq", "f"))
        ddf = check_choice(ddf, "ddf", DDF_METHODS)
        columns = self._droppable()
        if test == "f":
            return self._drop1_f(columns, ddf)
        self._check_plain("drop1")
        est = self._est
        full, found = tests.delete_fixed(self.deviance, self.pls.theta, est.layout, columns)
        values = np.array(
            [
                (np.nan, full + 2.0 * est.n_parameters, np.nan, np.nan),
                *[
                    (d.df, d.deviance + 2.0 * (est.n_parameters - d.df), d.lrt, d.pvalue)
                    for d in found
                ],
            ]
        )
        return pd.DataFrame(
            values, ["<none>", *[d.label for d in found]], ["df", "aic", "lrt", "pvalue"]
        )

    def _drop1_f(self, columns: dict[str, list[int]], ddf: str) -> pd.DataFrame:
        engine = self._ddf(ddf)
        kept = set(self.deviance.cross.basis.kept.tolist())
        rows, index, eye = [], [], np.eye(self.built.layout.p)
        for name, cols in columns.items():
            stay = [j for j in cols if j in kept]
            if not stay:
                continue
            found = engine.f_test(eye[stay])
            mean = found.statistic / found.scaling * self.pls.scale
            rows.append(
                (mean * found.df_num, mean, found.df_num, found.df_den, found.statistic,
                 found.p_value)
            )  # fmt: skip
            index.append(name)
        names = ["sum_sq", "mean_sq", "df_num", "df_den", "statistic", "pvalue"]
        return pd.DataFrame(np.array(rows, dtype=float).reshape(-1, 6), index, names)

    def _droppable(self) -> dict[str, list[int]]:
        """Columns of the fixed-effects terms that marginality lets go."""
        columns = self.built.spec.term_columns()
        if columns is None:
            design = self.built.layout.rows("drop1 of a model built from arrays")
            constant = [bool(np.ptp(column) == 0) for column in design.X.T]
            return {name: [j] for j, name in enumerate(design.x_names) if not constant[j]}
        factors = self.built.spec.term_factors()
        return {name: columns[name] for name in tests.droppable(factors)}

    # ------------------------------------------------------------------ exact tests, cAIC

    def _check_estimated(self, what: str) -> None:
        """Refuse fits whose covariance parameters are not all free."""
        self._check_plain(what)
        free = Covariance.of(self._est.terms).n_theta
        if self.deviance.covariance.n_theta != free:
            raise DataError(
                f"{what} needs random-effects covariances that are estimated, and this fit holds "
                "some of them fixed; fit the model without them in fix="
            )

    # ---------------------------------------------------------------------------- profiles


def _effects(spec: Any, term: TermLayout) -> dict[str, list[int]]:
    """Effects of a random term as written: name to its columns, ``"1"`` the intercept."""
    written = spec.effect_columns() if isinstance(spec, CodedSpec) else None
    if written is not None:
        return {("1" if name == "Intercept" else name): cols for name, cols in written.items()}
    columns = list(range(term.k))
    if len(columns) == 1 and term.form != "covariates":
        return {"1": [0]}
    names = [_is_intercept(term, j) for j in columns]
    return {("1" if one else term.columns[j]): [j] for j, one in zip(columns, names, strict=True)}


def _rest(spec: Any, effects: dict[str, list[int]]) -> FloatArray | None:
    """Weights of the columns of a term's only effect that leave it without its factors."""
    if len(effects) != 1 or "1" in effects:
        return None
    written = isinstance(spec, CodedSpec) and spec.effect_columns() is not None
    return spec.without_factors(next(iter(effects))) if written else None


def _is_intercept(term: TermLayout, j: int) -> bool:
    if not isinstance(term, RandomTerm) or term.values is None:
        return term.columns[j] == "Intercept"
    return bool((term.values[:, j] == 1.0).all())
