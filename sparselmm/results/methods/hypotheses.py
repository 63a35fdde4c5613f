"""Tests of hypotheses about parameters, in the words of statsmodels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import (
    both_in_order,
    check_choice,
    check_count,
    check_flag,
    check_level,
    check_list,
    check_numbers,
    check_positive,
    check_strings,
    in_order,
    wrong_type,
)
from sparselmm.base.exceptions import ArgumentError
from sparselmm.base.smallmatrix import NOT_NEGATIVE
from sparselmm.base.types import FloatArray
from sparselmm.design.formula.constraints import linear_constraints
from sparselmm.inference.hypotheses.ddf import DDF_METHODS
from sparselmm.inference.hypotheses.hypotheses import fixed_root
from sparselmm.inference.hypotheses.multiplicity import ADJUSTMENTS, adjusted
from sparselmm.results.methods.estimates import EstimateResults
from sparselmm.results.tables.hypotheses import (
    ContrastResults,
    PairwiseResults,
    TermTests,
    WaldResults,
    t_tests,
    wald,
)


class HypothesisResults(EstimateResults):
    """Part of :class:`sparselmm.MixedLMResults`."""

    def cov_params(
        self, r_matrix: Any = None, column: Any = None, scale: Any = None, cov_p: Any = None,
        other: Any = None,
    ) -> Any:  # fmt: skip
        """Estimation covariance of ``params``, variances as ratios to ``scale``.

        The block of the variance parameters is the inverse of the observed information; it is NaN
        for a singular term. Fixed effects and variance parameters are asymptotically independent
        and their covariance is given as zero.

        Parameters
        ----------
        r_matrix : array-like, (m, number of parameters), optional
            Covariance of these linear combinations instead.
        column : int or sequence of int, optional
            Variance of one parameter, or covariance of some.
        scale, cov_p, other : optional
            A factor in place of ``scale``; another covariance; combinations on the right.
        """
        cov = self._covariance(cov_p)
        if scale is not None:
            cov = cov * (check_positive(scale, "scale") / self.pls.scale)
        if column is not None:
            if r_matrix is not None:
                raise ArgumentError("give either column or r_matrix, not both")
            return _chosen(cov, column)
        if other is not None and r_matrix is None:
            raise ArgumentError("other goes on the right of r_matrix; give r_matrix as well")
        if r_matrix is not None:
            R = self._combinations(r_matrix, "r_matrix")
            return R @ cov @ (R if other is None else self._combinations(other, "other")).T
        return self._matrix(cov, self._est.names)

    def _covariance(self, cov_p: Any) -> FloatArray:
        """The covariance of ``params``, or the user's."""
        if cov_p is None:
            return self._est.cov_params
        m = len(self._est.names)
        cov_p = both_in_order(cov_p, self._est.names, argument="cov_p")
        cov = check_numbers(cov_p, "cov_p", (m, m), finite=False, what="one row per parameter")
        if not np.allclose(cov, cov.T, equal_nan=True):
            raise ArgumentError("cov_p must be symmetric")
        known = np.isfinite(np.diag(cov))
        values = np.linalg.eigvalsh(cov[np.ix_(known, known)]) if known.any() else np.zeros(1)
        if values[0] < -NOT_NEGATIVE * max(values[-1], 0.0):
            raise ArgumentError(
                f"cov_p must be a covariance matrix; its smallest eigenvalue is {values[0]:.3g}"
            )
        return cov

    def _combinations(self, given: Any, argument: str) -> FloatArray:
        """Linear combinations of all parameters, (m, number of parameters)."""
        given = in_order(given, self._est.names, argument=argument)
        R = np.atleast_2d(check_numbers(given, argument))
        if R.ndim != 2 or R.shape[1] != len(self._est.names):
            raise ArgumentError(
                f"{argument} must have {len(self._est.names)} columns, one per parameter, got "
                f"shape {R.shape}"
            )
        return R

    def t_test(
        self, r_matrix: Any, use_t: bool | None = None, *, ddf: str | None = None
    ) -> ContrastResults:
        """Test linear combinations of the parameters one by one.

        Parameters
        ----------
        r_matrix : array-like, (m, k_fe) or (k_fe,), or str, or tuple
            Combinations of the fixed effects that are zero; a hypothesis in words about any
            parameters, ``"Time = 0"``; or ``(R, q)``.
        use_t : bool, optional
            t distribution with ``df_resid`` degrees of freedom instead of the normal one.
        ddf : {"satterthwaite", "kenward-roger", "z"}, optional
            Small-sample test: t distribution with these degrees of freedom, one number per
            hypothesis, and with Kenward-Roger the adjusted standard errors. Only for hypotheses
            about fixed effects. Default ``"z"``, as in statsmodels.

        Returns
        -------
        ContrastResults

        Raises
        ------
        ValueError
            When an array does not have k_fe columns, or ``ddf`` is given for variances, together
            with ``use_t``, or for a fit it is not defined for.
        FormulaError
            When a hypothesis in words cannot be understood.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> fit.t_test("Days = 10").statistic.round(2).tolist()
        [0.3]
        >>> fit.t_test("Days = 10", ddf="kenward-roger").df_denom.round(3).tolist()
        [17.0]
        """
        R, q = self._hypotheses(r_matrix, full=False)
        use_t = None if use_t is None else check_flag(use_t, "use_t")
        if ddf is not None and check_choice(ddf, "ddf", DDF_METHODS) != "z":
            if use_t is not None:
                raise ArgumentError("give either use_t or ddf: both say which distribution to use")
            L, method = self._fixed_part(R, str(ddf)), self._ddf(str(ddf))
            return t_tests(L, q, self._est.beta, method.vcov, method.t_df(L))
        df = float(self.df_resid) if use_t else None
        return t_tests(R, q, self._est.params, self._est.cov_params, df)

    def _fixed_part(self, R: FloatArray, ddf: str) -> FloatArray:
        """Hypotheses at the fixed effects, (m, k_fe)."""
        if R[:, self.k_fe :].any():
            raise ArgumentError(
                f"ddf={ddf!r} is for hypotheses about fixed effects; these involve variances"
            )
        return R[:, : self.k_fe]

    def _hypotheses(self, given: Any, full: bool) -> tuple[FloatArray, FloatArray]:
        """``R`` with one column per parameter, and ``q``."""
        p, m = self.k_fe, len(self._est.names)
        words = isinstance(given, (str, dict)) or (
            isinstance(given, (list, tuple)) and given and all(isinstance(g, str) for g in given)
        )
        if words:
            given = list(given) if isinstance(given, tuple) else given
            return linear_constraints(given, self._est.names)
        values: Any = 0.0
        if isinstance(given, tuple) and len(given) == 2 and hasattr(given[0], "__len__"):
            given, values = given
        width = np.shape(given)[-1] if hasattr(given, "iloc") else 0
        names = self._est.names if full and width == m else self._est.names[:p]
        R = np.atleast_2d(check_numbers(in_order(given, names, argument="r_matrix"), "r_matrix"))
        if not R.size:
            raise ArgumentError("r_matrix is empty; give at least one combination")
        if full and R.shape[1] == m and R.ndim == 2:
            pass
        elif R.ndim != 2 or R.shape[1] != p:
            raise ArgumentError(
                f"r_matrix for t-test should have {p:d} columns, one per fixed effect, got shape "
                f"{R.shape}; name other parameters in words, for example "
                f"{self._est.names[-1] + ' = 0'!r}"
            )
        else:
            R = np.hstack([R, np.zeros((len(R), m - p))])
        q = check_numbers(values, "r_matrix, the values on the right,").ravel()
        if len(q) not in (1, len(R)):
            raise ArgumentError(
                f"r_matrix has {len(R)} combinations but {len(q)} values on the right"
            )
        return R, np.broadcast_to(q, (len(R),)).copy()

    def wald_test(
        self, r_matrix: Any, cov_p: Any = None, invcov: Any = None, use_f: bool | None = None,
        df_constraints: Any = None, scalar: bool | None = None, *, ddf: str | None = None,
    ) -> WaldResults:  # fmt: skip
        """Test linear hypotheses jointly.

        Parameters
        ----------
        r_matrix : array-like, (m, k_fe) or (m, number of parameters), or str, or tuple
            As for :meth:`t_test`.
        cov_p : array-like, optional
            Covariance of ``params`` to use instead of ``cov_params()``.
        invcov, df_constraints : optional
            Not used; statsmodels has them.
        use_f : bool, optional
            F distribution instead of chi-squared.
        scalar : bool, optional
            Give the statistic as a number; default True.
        ddf : {"satterthwaite", "kenward-roger", "z"}, optional
            F test with these denominator degrees of freedom, for hypotheses about fixed effects;
            Kenward-Roger's scaling is in the statistic. Default ``"z"``, as in statsmodels.

        Returns
        -------
        WaldResults

        Raises
        ------
        ValueError
            When ``ddf`` is given for variances, together with ``cov_p`` or ``use_f=False``, or
            for a fit it is not defined for.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("ergoStool")
        >>> fit = sparselmm.mixedlm("effort ~ Type + (1 | Subject)", data).fit()
        >>> test = fit.f_test("Type[T.T2] = Type[T.T3] = 0", ddf="kenward-roger")
        >>> round(test.df_denom, 6)
        24.0
        """
        R, q = self._hypotheses(r_matrix, full=True)
        use_f = None if use_f is None else check_flag(use_f, "use_f")
        scalar = None if scalar is None else check_flag(scalar, "scalar")
        if ddf is not None and check_choice(ddf, "ddf", DDF_METHODS) != "z":
            if cov_p is not None or use_f is False:
                raise ArgumentError(
                    "ddf makes an F test with a covariance of its own; leave out cov_p and use_f"
                )
            test = self._ddf(str(ddf)).f_test(self._fixed_part(R, str(ddf)), q)
            return WaldResults(test.statistic, test.p_value, "F", test.df_num, test.df_den)
        cov = self._covariance(cov_p)
        df = float(self.df_resid) if use_f else None
        spread, kept = None, self.deviance.cross.basis.kept
        if cov_p is None and not np.delete(R, kept, axis=1).any():
            spread = R[:, kept] @ fixed_root(self.pls)
        return wald(R, q, self._est.params, cov, df, scalar is not False, spread)

    def f_test(
        self, r_matrix: Any, cov_p: Any = None, invcov: Any = None, *, ddf: str | None = None
    ) -> WaldResults:
        """:meth:`wald_test` with the F distribution.

        The denominator has ``df_resid`` degrees of freedom, as in statsmodels, unless ``ddf`` is
        given.
        """
        return self.wald_test(r_matrix, cov_p=cov_p, use_f=True, ddf=ddf)

    def wald_test_terms(
        self, skip_single: bool = False, extra_constraints: Any = None,
        combine_terms: Sequence[str] | None = None, scalar: bool | None = None,
    ) -> TermTests:  # fmt: skip
        """Wald test of every term of the formula, all its columns together.

        Parameters
        ----------
        skip_single : bool
            Leave out terms with one column.
        extra_constraints : sequence, optional
            More hypotheses, as for :meth:`wald_test`.
        combine_terms : sequence of str, optional
            Also test together all terms whose name contains one of these.
        scalar : bool, optional
            Kept for statsmodels.

        Returns
        -------
        TermTests
        """
        skip_single = check_flag(skip_single, "skip_single")
        if scalar is not None:
            check_flag(scalar, "scalar")
        combined = [] if combine_terms is None else check_strings(combine_terms, "combine_terms")
        extras = [] if extra_constraints is None else _hypothesis_list(extra_constraints)
        columns = self._term_columns()
        tests = {n: c for n, c in columns.items() if len(c) > 1 or not skip_single}
        for part in combined:
            tests[part] = [j for name, c in columns.items() if part in name for j in c]
            if not part or not tests[part]:
                raise ArgumentError(
                    f"combine_terms: no term has {part!r} in its name; terms are {list(columns)}"
                )
        eye = np.eye(self.k_fe)
        rows = {name: self.wald_test(eye[c]) for name, c in tests.items()}
        for extra in extras:
            rows[str(extra)] = self.wald_test(extra)
        table = pd.DataFrame(
            {
                "statistic": [test.statistic for test in rows.values()],
                "pvalue": [test.pvalue for test in rows.values()],
                "df_constraint": [test.df_num for test in rows.values()],
            },
            index=list(rows),
        )
        return TermTests(table)

    def _term_columns(self) -> dict[str, list[int]]:
        columns = self.built.spec.term_columns()
        if columns is None:
            return {name: [j] for j, name in enumerate(self.built.spec.x_names)}
        return columns

    def t_test_pairwise(
        self, term_name: str, method: str = "hs", alpha: float = 0.05,
        factor_labels: Sequence[str] | None = None,
    ) -> PairwiseResults:  # fmt: skip
        """Differences between all pairs of levels of a factor, however it is coded.

        Parameters
        ----------
        term_name : str
            Term of the formula.
        method : {"hs", "holm", "bonferroni", "sidak", "fdr_bh"}
            Adjustment of the p-values for their number.
        alpha : float
        factor_labels : sequence of str, optional
            Names of the levels in their order; of a model built from arrays, one more than the
            columns counts a reference level first.

        Returns
        -------
        PairwiseResults
        """
        terms = self._term_columns()
        columns = terms[check_choice(term_name, "term_name", tuple(terms))]
        alpha = check_level(alpha)
        method = check_choice(method, "method", ADJUSTMENTS)
        labels, effects = self._level_effects(term_name, columns)
        if factor_labels is not None:
            labels = check_strings(factor_labels, "factor_labels", "a list of names")
            if self.built.spec.term_coding(term_name) is None and len(labels) == len(columns) + 1:
                effects = np.vstack([np.zeros(self.k_fe), effects])
            if isinstance(factor_labels, str) or len(labels) != len(effects):
                raise ArgumentError(
                    f"factor_labels has {len(labels)} names for {len(effects)} levels"
                )
        if len(effects) < 2:
            raise ArgumentError(f"term_name: {term_name!r} has no levels, it is no factor")
        pairs = [(i, j) for i in range(len(labels)) for j in range(i + 1, len(labels))]
        test = self.t_test(np.array([effects[j] - effects[i] for i, j in pairs]))
        frame = test.summary_frame([f"{labels[j]}-{labels[i]}" for i, j in pairs], alpha)
        reject, p = adjusted(np.atleast_1d(test.pvalue), method, alpha, "method")
        return PairwiseResults(
            test, frame.assign(**{f"pvalue-{method}": p, f"reject-{method}": reject})
        )

    def _level_effects(
        self, term_name: str, columns: Sequence[int]
    ) -> tuple[list[str], FloatArray]:
        """Labels of a factor's levels and what each adds, (levels, k_fe), however it is coded."""
        eye, coding = np.eye(self.k_fe)[list(columns)], self.built.spec.term_coding(term_name)
        if coding is None:
            return [self.built.spec.x_names[j] for j in columns], eye
        levels, values = coding
        return [str(label) for label in levels], values @ eye


def _chosen(cov: FloatArray, column: Any) -> Any:
    """Variance of one parameter, or the covariance of some."""
    m = len(cov)
    places = (
        [column]
        if not hasattr(column, "__len__")
        else check_list(column, "column", "a list of places")
    )
    for place in places:
        check_count(place, "column", least=-m, most=m - 1)
    if not hasattr(column, "__len__"):
        return cov[column, column]
    chosen = np.array(places, dtype=np.intp)
    return cov[np.ix_(chosen, chosen)]


def _hypothesis_list(given: Any) -> list[Any]:
    """More hypotheses of ``wald_test_terms``: a list of them."""
    if isinstance(given, str):
        return [given]
    out = check_list(given, "extra_constraints", "a list of hypotheses")
    for one in out:
        if not hasattr(one, "__len__"):
            raise wrong_type("extra_constraints", "a list of hypotheses", given)
    return out
