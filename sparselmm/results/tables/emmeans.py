"""Estimated marginal means: the reference grid, the table of means, contrasts between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import (
    check_choice,
    check_flag,
    check_hashable,
    check_level,
    check_list,
    check_mapping,
    check_numbers,
    check_strings,
    check_text,
    in_order,
    shown,
    suggestion,
)
from sparselmm.base.exceptions import ArgumentError, DataError, MemoryLimitError, RemovedRowsError
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design import BuiltDesign
from sparselmm.inference.estimates import Estimates
from sparselmm.inference.hypotheses import marginal_means
from sparselmm.inference.hypotheses.ddf import DenominatorDF
from sparselmm.inference.hypotheses.estimability import null_space
from sparselmm.inference.wald import two_sided
from sparselmm.results.print.notebook import frame_html
from sparselmm.results.tables.hypotheses import ADJUSTMENTS, adjusted

WEIGHTS = ("equal", "proportional")

FEW_VALUES = 2
"""A covariate with at most this many distinct values is kept at each of them, as in emmeans."""

MAX_GRID = 200_000
"""Most rows of a reference grid."""

CONTRASTS = ("pairwise", "revpairwise", "trt.vs.ctrl", "eff")

DEFAULT_ADJUST = {"pairwise": "tukey", "revpairwise": "tukey"}


# --------------------------------------------------------------------------- the grid


@dataclass(frozen=True, eq=False)
class ReferenceGrid:
    """Every combination of the levels of the factors, covariates at their means.

    Attributes
    ----------
    levels : dict of str to list
        Values of every variable of the fixed effects, in the order of the formula.
    frame : DataFrame, (g, number of variables)
        Their combinations, the first variable varying fastest.
    X : ndarray, (g, p)
        The formula on the grid.
    offset : ndarray, (g,)
    counts : ndarray, (g,)
        Rows of the data (their prior weights summed) with the same levels of all factors.
    """

    levels: dict[str, list[Any]]
    frame: pd.DataFrame
    X: FloatArray
    offset: FloatArray
    counts: FloatArray

    @classmethod
    def of(
        cls, built: BuiltDesign, at: Mapping[str, Any] | None, count: bool = False
    ) -> ReferenceGrid:
        """The grid of a fitted model.

        Parameters
        ----------
        built : BuiltDesign
        at : mapping of str to values, optional
            Values of some variables.
        count : bool
            Whether ``counts`` are wanted; ones otherwise.

        Raises
        ------
        DataError
            When the model was given as arrays, ``at`` names no variable of the fixed effects, or
            the rows are needed and were removed.
        MemoryLimitError
            When there are more than `MAX_GRID` combinations.
        """
        spec = built.spec
        if spec.formula is None:
            raise DataError(
                "marginal means need a formula: a model built from arrays does not say what its "
                "columns are made of. Fit it with MixedLM.from_formula"
            )
        if at is not None:
            check_mapping(at, "at", "{'Days': [0, 5]}")
        names = _variables(built)
        unknown = [name for name in at or {} if name not in names]
        if unknown:
            raise DataError(
                f"at= names {', '.join(map(repr, unknown))}; the variables of the fixed effects "
                f"are {', '.join(map(repr, names)) or 'none'}"
            )
        levels = {name: _levels(built, name, at or {}) for name in names}
        size = int(np.prod([len(values) for values in levels.values()], dtype=float))
        if size > MAX_GRID:
            raise MemoryLimitError(
                f"the reference grid has {size:,} combinations of "
                + ", ".join(f"{name} ({len(values):,})" for name, values in levels.items())
                + f", more than {MAX_GRID:,}; pass at= to take fewer levels"
            )
        combinations = [row[::-1] for row in product(*reversed(levels.values()))]
        columns = {
            name: pd.Series([row[j] for row in combinations]) for j, name in enumerate(levels)
        }
        frame = pd.DataFrame(columns, index=range(len(combinations)))
        offset = None
        if spec.offset_array:
            value = built.design.offset
            offset = np.full(len(frame), 0.0 if value is None or not len(value) else value.mean())
        new = spec.evaluate(frame, random=False, offset=offset)
        shift = np.zeros(len(frame)) if new.offset is None else new.offset
        counts = _counts(built, frame, at or {}) if count else np.ones(len(frame))
        return cls(levels, frame, new.X, shift, counts)


def _variables(built: BuiltDesign) -> list[str]:
    """Columns of the data that the fixed effects and the offset are made of."""
    spec = built.spec
    names = spec.fixed_variables()
    if built.frame is None:
        outside = {} if spec.env is None else spec.env.namespace
        return [name for name in names if name in spec.categories or name not in outside]
    return [name for name in names if name in built.frame.columns]


def _levels(built: BuiltDesign, name: str, at: Mapping[str, Any]) -> list[Any]:
    """Values of one variable on the grid."""
    if name in at:
        return _given_levels(at[name], f"at[{name!r}]")
    factor = built.spec.factor_levels(name)
    if factor is not None:
        return factor
    column = _column(built, name)
    if not pd.api.types.is_numeric_dtype(column.dtype):
        raise DataError(
            f"{name!r} is neither a factor nor a number; pass at={{{name!r}: values}} to say where "
            "the means are wanted"
        )
    distinct = np.unique(column.to_numpy(dtype=float))
    return distinct.tolist() if len(distinct) <= FEW_VALUES else [float(column.mean())]


def _given_levels(given: Any, argument: str) -> list[Any]:
    """One value or several, none of them missing or twice."""
    one = isinstance(given, (str, bytes)) or not hasattr(given, "__len__")
    values = [given] if one else check_list(given, argument, "a value or a list of values")
    check_hashable(values, argument)
    if not values:
        raise ArgumentError(f"{argument} is empty; give at least one value")
    if any(pd.isna(value) for value in values):
        raise ArgumentError(f"{argument} has a missing value; say where the means are wanted")
    if any(isinstance(value, (float, np.floating)) and np.isinf(value) for value in values):
        raise ArgumentError(f"{argument} has an infinite value; the means there do not exist")
    if len(set(values)) < len(values):
        raise ArgumentError(f"{argument} has a value twice: {shown(given)}")
    return values


def _column(built: BuiltDesign, name: str) -> pd.Series:
    if built.frame is None:
        raise RemovedRowsError.of(f"emmeans without at={{{name!r}: value}}")
    return built.frame[name]


def _counts(built: BuiltDesign, frame: pd.DataFrame, at: Mapping[str, Any]) -> FloatArray:
    """Rows of the data in every combination of factor levels."""
    factors = [
        name
        for name in frame.columns
        if built.spec.factor_levels(name) is not None
        or (name not in at and frame[name].nunique() > 1)
    ]
    if not factors:
        return np.ones(len(frame))
    data = pd.DataFrame({name: _column(built, name).to_numpy() for name in factors}, dtype=object)
    weights = built.design.weights
    data["_w"] = np.ones(len(data)) if weights is None else weights
    found = data.groupby(factors)["_w"].sum().to_dict()
    keys = frame[factors].itertuples(index=False, name=None)
    return np.array([found.get(key if len(factors) > 1 else key[0], 0.0) for key in keys])


# -------------------------------------------------------------------------- the means


@dataclass(frozen=True, eq=False)
class MarginalMeans:
    """Estimated marginal means of a fitted model.

    Attributes
    ----------
    specs, by : tuple of str
        Variables whose levels the means are for, and variables within whose levels they are
        compared.
    cells : DataFrame, (m, number of variables)
        Their values.
    L : ndarray, (m, p)
        Combinations of the fixed effects.
    offset : ndarray, (m,)
    ddf : str
        Method for the degrees of freedom.
    alpha : float
        One minus the confidence level.
    """

    specs: tuple[str, ...]
    by: tuple[str, ...]
    cells: pd.DataFrame
    L: FloatArray
    offset: FloatArray
    ddf: str
    alpha: float
    _est: Estimates
    _tests: DenominatorDF
    _null: FloatArray

    @property
    def frame(self) -> pd.DataFrame:
        """The means, one row per cell, in the column names of R's emmeans.

        ``emmean``, ``SE``, ``df``, ``lower.CL``, ``upper.CL`` (``asymp.LCL``, ``asymp.UCL`` with
        ``ddf="z"``), in the units of the response (on the scale of the formula's left side). NaN
        for a mean that the data cannot tell.
        """
        found = self._estimates(self.L, self.offset)
        half = found.se * marginal_means.critical_values(found.df, self.alpha, "none", 1, 1)
        low, high = self._limit_names
        columns = {
            "emmean": found.estimate, "SE": found.se, "df": found.df,
            low: found.estimate - half, high: found.estimate + half,
        }  # fmt: skip
        return self.cells.assign(**columns)

    @property
    def vcov(self) -> pd.DataFrame:
        """Covariance matrix of the means, (m, m)."""
        kept = self._est.deviance.cross.basis.kept
        L = self.L[:, kept]
        V = L @ self._tests.vcov[np.ix_(kept, kept)] @ L.T
        names = self._labels(np.arange(len(self.L)), (*self.specs, *self.by))
        return pd.DataFrame(V, names, names)

    def pairs(self, adjust: str = "tukey", reverse: bool = False) -> pd.DataFrame:
        """Differences between all pairs of means, within the levels of ``by``.

        Parameters
        ----------
        adjust : str
            "tukey", "holm", "bonferroni", "sidak", "hs" (Holm-Sidak), "fdr_bh" or "none".
        reverse : bool
            Later minus earlier level.

        Returns
        -------
        DataFrame
            As :meth:`contrast`.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("ergoStool")
        >>> fit = sparselmm.mixedlm("effort ~ Type + (1 | Subject)", data).fit()
        >>> fit.emmeans("Type").pairs()[["contrast", "estimate", "p.value"]].head(2).round(4)
          contrast  estimate  p.value
        0  T1 - T2   -3.8889   0.0000
        1  T1 - T3   -2.2222   0.0014
        """
        reverse = check_flag(reverse, "reverse")
        return self.contrast("revpairwise" if reverse else "pairwise", check_text(adjust, "adjust"))

    def contrast(self, method: Any = "eff", adjust: str | None = None) -> pd.DataFrame:
        """Contrasts of the means, within the levels of ``by``.

        Parameters
        ----------
        method : str, mapping or array-like
            "pairwise", "revpairwise"; "trt.vs.ctrl", each minus the first; "eff", each minus the
            mean of all; or ``{"label": weights}`` or (c, k) weights of the k means of a level of
            ``by``.
        adjust : str, optional
            As for :meth:`pairs`; "tukey" for pairs only. Default: "tukey" for pairs, otherwise
            "none".

        Returns
        -------
        DataFrame
            ``contrast``, the variables of ``by``, ``estimate``, ``SE``, ``df``, ``lower.CL``,
            ``upper.CL``, ``t.ratio`` (with ``ddf="z"`` ``asymp.LCL``, ``asymp.UCL``, ``z.ratio``)
            and ``p.value``. Intervals and p-values are adjusted within each level of ``by``; of
            "holm", "hs" and "fdr_bh", which work in steps, the intervals are Bonferroni's.

        Raises
        ------
        ValueError
            When a method or an adjustment is unknown.

        Notes
        -----
        A contrast ``c'L beta`` has the variance ``c'L Var(beta) L'c``, with Kenward and Roger's
        adjusted covariance where that method was asked for; ``vcov`` has that of the means.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("ergoStool")
        >>> means = sparselmm.mixedlm("effort ~ Type + (1 | Subject)", data).fit().emmeans("Type")
        >>> table = means.contrast({"first two less last two": [0.5, 0.5, -0.5, -0.5]})
        >>> table[["contrast", "estimate", "SE"]].round(3)
                          contrast  estimate     SE
        0  first two less last two       0.5  0.367
        """
        name = method if isinstance(method, str) else "custom"
        if adjust is None:
            adjust = DEFAULT_ADJUST.get(name, "none")
        check_choice(adjust, "adjust", ("tukey", "none", *ADJUSTMENTS))
        if adjust == "tukey" and name not in DEFAULT_ADJUST:
            raise ArgumentError("adjust='tukey' is for pairs of means; use 'sidak' or 'holm'")
        parts = [self._contrasts(rows, method, adjust) for rows in self._families()]
        return pd.concat(parts, ignore_index=True)

    def _contrasts(self, rows: IntArray, method: Any, adjust: str) -> pd.DataFrame:
        """Contrasts within one level of ``by``."""
        k = len(rows)
        labels = self._labels(rows, self.specs)
        names, C = _family(method, labels, self._values(rows))
        found = self._estimates(C @ self.L[rows], C @ self.offset[rows])
        t = found.statistic
        p = _adjusted_p(t, found.df, k, adjust, self.alpha)
        half = found.se * marginal_means.critical_values(found.df, self.alpha, adjust, len(C), k)
        low, high = self._limit_names
        cells = {name: [self.cells[name].iloc[rows[0]]] * len(C) for name in self.by}
        columns = {
            "estimate": found.estimate, "SE": found.se, "df": found.df,
            low: found.estimate - half, high: found.estimate + half,
            "z.ratio" if self.ddf == "z" else "t.ratio": t, "p.value": p,
        }  # fmt: skip
        return pd.DataFrame({"contrast": names, **cells, **columns})

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
            values = [_shown(value) for value in self.cells[name]]
            prefix = name if any(map(_reads_as_number, values)) else ""
            shown.append([prefix + values[row] for row in rows])
        return [" ".join(parts) for parts in zip(*shown, strict=True)]

    def _values(self, rows: IntArray) -> list[str]:
        """The same without names of variables, as columns of weights may be labelled."""
        cells = [[str(self.cells[name].iloc[row]) for row in rows] for name in self.specs]
        return [" ".join(parts) for parts in zip(*cells, strict=True)]

    def _estimates(self, L: FloatArray, offset: FloatArray) -> marginal_means.LinearEstimates:
        return marginal_means.linear_estimates(self._est, self._tests, L, offset, self._null)

    @property
    def _limit_names(self) -> tuple[str, str]:
        return ("asymp.LCL", "asymp.UCL") if self.ddf == "z" else ("lower.CL", "upper.CL")

    def __str__(self) -> str:
        text = self.frame.to_string(index=False, float_format=lambda v: f"{v:.4f}")
        return f"{text}\nDegrees of freedom: {self.ddf}; confidence level {1 - self.alpha:g}"

    def _repr_html_(self) -> str:
        note = f"Degrees of freedom: {self.ddf}; confidence level {1 - self.alpha:g}"
        return frame_html(self.frame, note)


def _shown(value: Any) -> str:
    if isinstance(value, (float, np.floating)):
        return f"{value:.7g}"
    return str(value)


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in ("True", "False")
    return True


def _family(
    method: Any, labels: list[str], values: list[str]
) -> tuple[list[str], FloatArray]:  # fmt: skip
    """Labels and weights of some contrasts of k means, labelled or called by their values."""
    k = len(labels)
    if isinstance(method, str):
        if method in ("pairwise", "revpairwise"):
            C, pairs = marginal_means.pair_matrix(k, method == "revpairwise")
            return marginal_means.joined(labels, pairs), C
        if method == "trt.vs.ctrl":
            C = np.hstack([-np.ones((k - 1, 1)), np.eye(k - 1)])
            return marginal_means.joined(labels, [(i, 0) for i in range(1, k)]), C
        if method == "eff":
            return [f"{label} effect" for label in labels], np.eye(k) - 1.0 / k
        raise ArgumentError(
            f"method: unknown contrasts {method!r}; use {CONTRASTS}, or weights of your own"
            f"{suggestion(method, CONTRASTS)}"
        )
    names = None
    if isinstance(method, Mapping):
        names, method = [str(name) for name in method], list(method.values())
        method = [in_order(_by_text(own), values, labels, argument="method") for own in method]
    elif hasattr(method, "columns"):
        names = (
            None if list(method.index) == list(range(len(method))) else list(map(str, method.index))
        )
    method = in_order(_by_text(method), values, labels, argument="method")
    C = np.atleast_2d(check_numbers(method, "method"))
    if C.ndim != 2 or C.shape[1] != k:
        raise ArgumentError(
            f"method: contrasts need {k} weights each, one per mean, got shape {C.shape}"
        )
    return names or [f"c{i}" for i in range(len(C))], C


def _by_text(weights: Any) -> Any:
    """Weights labelled with the values of the means as text; those without labels as they are."""
    if isinstance(weights, Mapping):
        return {_text(label): weight for label, weight in weights.items()}
    if not hasattr(weights, "iloc"):
        return weights
    wide = hasattr(weights, "columns")
    labels = weights.columns if wide else weights.index
    if list(labels) == list(range(len(labels))):
        return weights
    return weights.set_axis([_text(label) for label in labels], axis=int(wide))


def _text(label: Any) -> str:
    return " ".join(map(str, label)) if isinstance(label, tuple) else str(label)


def _adjusted_p(t: FloatArray, df: FloatArray, k: int, adjust: str, alpha: float) -> FloatArray:
    if adjust == "tukey":
        return marginal_means.tukey_p(t, df, k)
    p = two_sided(t, df)
    if adjust == "none":
        return p
    unknown = np.isnan(p)  # counts among the tests, as in R
    return np.where(unknown, np.nan, adjusted(np.where(unknown, 1.0, p), adjust, alpha)[1])


def estimated_means(
    est: Estimates, built: BuiltDesign, tests: DenominatorDF, specs: Any, by: Any,
    at: Mapping[str, Any] | None, ddf: str, weights: str, alpha: float,
) -> MarginalMeans:  # fmt: skip
    """Marginal means; arguments as of ``MixedLMResults.emmeans``."""
    check_choice(weights, "weights", WEIGHTS)
    alpha = check_level(alpha)
    grid = ReferenceGrid.of(built, at, weights == "proportional")
    wanted, within = _names(specs, grid, "specs"), _names(by, grid, "by")
    wanted = tuple(name for name in wanted if name not in within)
    if not wanted:
        raise ArgumentError(f"by names all that specs does, {specs!r}: no variable is left")
    kept = (*wanted, *within)
    sizes = [len(grid.levels[name]) for name in kept]
    codes = [_codes(grid, name) for name in kept]
    cell = _joint_code(codes, sizes, len(grid.frame))
    n_cells = int(np.prod(sizes, dtype=int))
    others = [name for name in grid.levels if name not in kept]
    share: FloatArray = np.ones(len(cell))
    if weights == "proportional" and others:
        rest = [_codes(grid, name) for name in others]
        other = _joint_code(rest, [len(grid.levels[name]) for name in others], len(cell))
        share = np.asarray(np.bincount(other, grid.counts)[other], dtype=float)
    average = marginal_means.averaging_matrix(cell, share, n_cells)
    first = np.array([int(np.flatnonzero(cell == c)[0]) for c in range(n_cells)], dtype=int)
    cells = grid.frame.iloc[first][list(kept)].reset_index(drop=True)
    null = np.zeros((est.design.p, 0))
    if est.dropped:
        if not est.design.n:
            raise RemovedRowsError.of("which means of a rank-deficient X are estimable")
        null = null_space(est.design.X, est.deviance.cross.basis.kept)
    L, offset = np.asarray(average @ grid.X), np.asarray(average @ grid.offset)
    return MarginalMeans(wanted, within, cells, L, offset, ddf, alpha, est, tests, null)


def _names(given: Any, grid: ReferenceGrid, argument: str) -> tuple[str, ...]:
    names = () if given is None else tuple(check_strings(given, argument))
    unknown = [name for name in names if name not in grid.levels]
    if len(set(names)) < len(names):
        raise DataError(f"{argument} names a variable twice: {given!r}")
    if unknown or (argument == "specs" and not names):
        known = ", ".join(map(repr, grid.levels)) or "none"
        raise DataError(
            f"{argument} must name variables of the fixed effects ({known}), got {given!r}"
        )
    return names


def _codes(grid: ReferenceGrid, name: str) -> IntArray:
    """Place of every row of the grid among the levels of one variable."""
    names = list(grid.levels)
    before = int(np.prod([len(grid.levels[n]) for n in names[: names.index(name)]], dtype=int))
    return np.arange(len(grid.frame)) // before % len(grid.levels[name])


def _joint_code(codes: Sequence[IntArray], sizes: Sequence[int], g: int) -> IntArray:
    """Codes of combinations, the first variable varying fastest, (g,)."""
    out: IntArray = np.zeros(g, dtype=np.int64)
    step = 1
    for code, size in zip(codes, sizes, strict=True):
        out += step * code
        step *= size
    return out
