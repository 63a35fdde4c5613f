"""Comparison of several fits of the same data."""

from __future__ import annotations

import html
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_choice, check_flag, check_strings, wrong_type
from sparselmm.base.exceptions import (
    ArgumentError,
    DataError,
)
from sparselmm.base.grid import p_text
from sparselmm.base.other_names import known_arguments
from sparselmm.base.types import FloatArray
from sparselmm.design.terms import Design
from sparselmm.inference.hypotheses.comparison import (
    WORSE,
    boundary_pvalue,
    chi2_pvalue,
    groups_apart,
    mean_apart,
    variances_tested,
    warn_of_no_test,
)
from sparselmm.results.general.base import GeneralBase
from sparselmm.results.general.intervals import compare_general
from sparselmm.results.krylov import ratio_errors, warn_of_ratio
from sparselmm.results.linear import LinearResults
from sparselmm.results.methods.base import ResultsBase
from sparselmm.results.plots.tables import criteria_plot
from sparselmm.results.print.polars import InPolars

FORMATS = {
    **dict.fromkeys(("aic", "bic", "llf", "deviance"), "{:.2f}".format),
    "chisq": "{:.5g}".format,
    **dict.fromkeys(("pvalue", "pvalue_boundary"), p_text),
    "df": "{:.0f}".format,
}
"""How the table is printed: differences of criteria matter, so these have decimals."""


MOST_ERRORS = 4.0
"""Standard errors of a statistic that random probes explain."""


@dataclass(frozen=True, eq=False)
class ModelComparison(InPolars):
    """Likelihood-ratio tests between fits of the same data; prints as a table.

    Attributes
    ----------
    table : DataFrame
        One row per model, by number of parameters. ``npar`` counts fixed effects, covariance
        parameters and sigma; ``aic``, ``bic`` (with n rows), ``llf`` and ``deviance`` are lme4's;
        ``chisq``, ``df`` and ``pvalue`` compare a model with the one above it, NaN where it
        does not contain it.
        ``pvalue_boundary`` takes into account that a variance cannot be negative: it is given
        where exactly one variance, with any of its covariances, separates the two models, and
        equals ``pvalue`` where none does.
    method : {"ML", "REML"}
        Criterion of the table.
    refitted : tuple of str
        Models that were fitted by REML and refitted by ML.
    models : dict of str to str
        Name of each model to its formula.
    """

    table: pd.DataFrame
    method: str
    refitted: tuple[str, ...]
    models: dict[str, str] = field(repr=False)

    def __repr__(self) -> str:
        """Formulas, then the table."""
        lines = [f"{name}: {formula}" for name, formula in self.models.items()]
        if self.refitted:
            lines.append(f"refitted by ML: {', '.join(self.refitted)}")
        shown = self.table.to_string(formatters=FORMATS, na_rep="")
        return "\n".join([f"Models ({self.method})", *lines, shown])

    def plot(self, criteria: Sequence[str] = ("aic", "bic"), *, ax: Any = None) -> Any:
        """Criteria of the models above the least of each.

        Parameters
        ----------
        criteria : sequence of str
            Columns of ``table``.
        ax : matplotlib Axes, optional
            Where to draw.

        Returns
        -------
        matplotlib.figure.Figure
        """
        names = check_strings(criteria, "criteria")
        if not names:
            raise ArgumentError("criteria names none; use aic, bic or deviance")
        names = [check_choice(name, "criteria", ("aic", "bic", "deviance")) for name in names]
        return criteria_plot(self.table, names, ax)

    def _repr_html_(self) -> str:
        formulas = "<br>".join(
            f"{html.escape(n)}: {html.escape(f)}" for n, f in self.models.items()
        )
        table = self.table.to_html(formatters=FORMATS, na_rep="")
        return f"<p>Models ({self.method})<br>{formulas}</p>{table}"


@known_arguments
def compare(
    *results: LinearResults, refit: bool = False, names: Sequence[str] | None = None
) -> ModelComparison:
    """Compare fits of the same data by likelihood-ratio tests and information criteria.

    Parameters
    ----------
    *results : MixedLMResults
        At least two fits, nested in the order of their number of parameters.
    refit : bool
        Refit by ML whatever was fitted by REML, from its estimates.
    names : sequence of str, optional
        Names of the models. Default ``m1, m2, ...`` in the order given.

    Returns
    -------
    ModelComparison

    Raises
    ------
    DataError
        When the fits have different rows, response or weights; when REML fits differ in their
        fixed effects, or ML and REML are mixed, and ``refit`` is false; when a fit has penalties
        or parameters held fixed.

    Warns
    -----
    SpecificationWarning
        When a model does not contain the one above it, as the columns of the fixed effects, the
        grouping factors or a worse fit tell: there is no test then, and its columns are NaN.
        Information criteria compare such models, too.
    MonteCarloWarning
        When random probes (``engine="krylov"``) leave a standard error above 0.1 in a statistic.

    Notes
    -----
    A REML criterion is the likelihood of contrasts of the response that the fixed effects do not
    touch, so two of them compare only where the fixed effects are the same (Pinheiro & Bates 2000,
    section 2.4.1). A variance at the boundary: see :meth:`MixedLMResults.ranova`.

    Examples
    --------
    >>> import sparselmm
    >>> data = sparselmm.datasets.load("sleepstudy")
    >>> small = sparselmm.mixedlm("Reaction ~ Days + (1 | Subject)", data).fit(reml=False)
    >>> big = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit(reml=False)
    >>> table = sparselmm.compare(small, big).table
    >>> table.loc["m2", ["chisq", "df"]].round(4).tolist()
    [42.1393, 2.0]
    """
    seen: tuple[Any, ...] = results
    for result in seen:
        if not isinstance(result, ResultsBase | GeneralBase):
            wanted = "a fitted model, what fit() returns"
            if isinstance(result, (list, tuple)):
                wanted += ", each an argument of its own, compare(one, other)"
            raise wrong_type("every one of results", wanted, result)
    if len(results) < 2:
        raise DataError(f"compare needs at least two fits, got {len(results)}")
    refit = check_flag(refit, "refit")
    given = [f"m{i}" for i in range(1, len(results) + 1)]
    if names is not None:
        given = check_strings(names, "names", "a list of names")
    if len(given) != len(results) or len(set(given)) != len(given):
        raise DataError(f"names must be {len(results)} different names, got {given}")
    general = [isinstance(result, GeneralBase) for result in results]
    if any(general):
        return _general(results, given, all(general))
    for name, result in zip(given, results, strict=True):
        if result.given.penalized:
            raise DataError(f"{name} is a penalized fit; likelihoods compare only without penalty")
    _check_same_data(results, given)
    refitted = tuple(n for n, r in zip(given, results, strict=True) if refit and r.reml)
    if not refit:
        _check_criterion(results)
    rows = sorted(
        (_row(name, result, refit) for name, result in zip(given, results, strict=True)),
        key=lambda row: row.npar,
    )
    apart = {big.name for small, big in pairwise(rows) if _apart(small, big)}
    if apart:
        warn_of_no_test(sorted(apart))
    for small, big in pairwise(rows):
        error = ratio_errors(small.result, big.result)
        warn_of_ratio(error, f"{small.name} and {big.name}")
    method = "ML" if refit else results[0].method
    return ModelComparison(
        _table(rows, apart), method, refitted, {row.name: _formula(row.result) for row in rows}
    )


def _general(results: Sequence[Any], names: list[str], every: bool) -> ModelComparison:
    """The same of generalized models, which have one criterion."""
    if not every:
        raise DataError("a linear and a generalized model have different criteria; fit the linear "
                        "one with mixedglm(family='gaussian')")  # fmt: skip
    table = compare_general(results, names)
    table.insert(4, "deviance", -2.0 * table.llf)
    formulas = {n: r.built.spec.formula or "arrays" for n, r in zip(names, results, strict=True)}
    return ModelComparison(table, "ML", (), {name: formulas[name] for name in table.index})


@dataclass(frozen=True, eq=False)
class _Row:
    name: str
    result: LinearResults
    npar: int
    deviance: float


def _row(name: str, result: LinearResults, refit: bool) -> _Row:
    deviance = result.pls.deviance
    if refit and result.reml:
        result._check_plain("a comparison with refit=True")
        deviance = result._ml_deviance()
    return _Row(name, result, result.n_parameters, deviance)


def _table(rows: list[_Row], apart: Collection[str]) -> pd.DataFrame:
    n = rows[0].result.nobs
    deviance = np.array([row.deviance for row in rows])
    npar = np.array([row.npar for row in rows])
    chisq, df = np.maximum(-np.diff(deviance), 0.0), np.diff(npar)
    empty = (np.nan, np.nan, np.nan, np.nan)
    tests = [
        empty
        if big.name in apart
        else (x, d, chi2_pvalue(x, int(d)), _boundary(x, int(d), small.result, big.result))
        for x, d, small, big in zip(chisq, df, rows, rows[1:], strict=False)
    ]
    columns: dict[str, FloatArray] = {
        "npar": npar,
        "aic": deviance + 2.0 * npar,
        "bic": deviance + np.log(n) * npar,
        "llf": -0.5 * deviance,
        "deviance": deviance,
    }
    parts = np.array([empty, *tests], dtype=float)
    for j, name in enumerate(("chisq", "df", "pvalue", "pvalue_boundary")):
        columns[name] = parts[:, j]
    return pd.DataFrame(columns, index=[row.name for row in rows])


def _boundary(chisq: float, df: int, small: LinearResults, big: LinearResults) -> float:
    tested = variances_tested(small._est.terms, big._est.terms)
    if df < 1 or tested is None or tested > 1:
        return np.nan
    return boundary_pvalue(chisq, df) if tested else chi2_pvalue(chisq, df)


def _apart(small: _Row, big: _Row) -> bool:
    """Whether the smaller model is seen not to be a special case of the larger."""
    if big.npar > small.npar:
        error = ratio_errors(small.result, big.result)
        if big.deviance - small.deviance > WORSE + MOST_ERRORS * error:
            return True
    a, b = small.result.built.layout, big.result.built.layout
    if not (isinstance(a, Design) and isinstance(b, Design)):
        return False
    kept = [r.result.deviance.cross.basis.kept for r in (small, big)]
    return mean_apart(a, b, *kept) or (b.residual is None and groups_apart(a, b))


def _formula(result: LinearResults) -> str:
    text, rows = result.built.spec.formula or "(from arrays)", result.built.layout.residual
    if rows is None:
        return text
    dispersion = ["dispersion: " + ", ".join(rows.d_names)] if rows.d_names else []
    return "; ".join([text, *([f"residual: {rows.text}"] if rows.text else []), *dispersion])


def _check_same_data(results: Sequence[LinearResults], names: Sequence[str]) -> None:
    first, *others = results
    for name, other in zip(names[1:], others, strict=True):
        if other.nobs != first.nobs:
            raise DataError(
                f"{names[0]} was fitted to {first.nobs} rows and {name} to {other.nobs}; "
                "likelihoods compare only on the same rows (are values missing in a column of one?)"
            )
        a, b = first.built.layout, other.built.layout
        if isinstance(a, Design) and isinstance(b, Design):
            _check_equal(a.y, b.y, "response", names[0], name)
            ones = np.ones(a.n)
            _check_equal(
                ones if a.weights is None else a.weights,
                ones if b.weights is None else b.weights, "weights", names[0], name,
            )  # fmt: skip


def _check_equal(a: FloatArray, b: FloatArray, what: str, first: str, other: str) -> None:
    if len(a) != len(b) or not np.array_equal(a, b):
        raise DataError(
            f"{first} and {other} have different {what}; likelihoods compare only on the same rows "
            "in the same order, with the same response and weights"
        )


def _check_criterion(results: Sequence[LinearResults]) -> None:
    if len({result.reml for result in results}) > 1:
        raise DataError(
            "some models were fitted by REML and some by ML; fit all of them with reml=False, or "
            "pass refit=True"
        )
    if not results[0].reml:
        return
    for other in results[1:]:
        if not _same_fixed_effects(results[0], other):
            raise DataError(
                "REML criteria of models with different fixed effects cannot be compared; fit "
                "them with reml=False, or pass refit=True"
            )


def _same_fixed_effects(a: LinearResults, b: LinearResults) -> bool:
    """Whether two models have the same independent columns of X."""
    kept = [[r.built.layout.x_names[j] for j in r.deviance.cross.basis.kept] for r in (a, b)]
    if sorted(kept[0]) != sorted(kept[1]):
        return False
    X, other = a.built.layout, b.built.layout
    if not (isinstance(X, Design) and isinstance(other, Design)):
        return True
    return all(
        np.array_equal(X.X[:, X.x_names.index(name)], other.X[:, other.x_names.index(name)])
        for name in kept[0]
    )
