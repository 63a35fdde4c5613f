"""The reference grid of a formula, and the averages over it that marginal means are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import (
    check_choice,
    check_hashable,
    check_level,
    check_list,
    check_mapping,
    check_strings,
    check_text,
    shown,
)
from sparselmm.base.exceptions import ArgumentError, DataError, MemoryLimitError, RemovedRowsError
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design import BuiltDesign
from sparselmm.design.new_rows import check_new
from sparselmm.inference.hypotheses import marginal_means
from sparselmm.inference.hypotheses.ddf import DDF_METHODS
from sparselmm.inference.hypotheses.marginal_means import FixedEffects
from sparselmm.results.tables.means import TRENDS, MarginalMeans, Scale

WEIGHTS = ("equal", "proportional")

FEW_VALUES = 2
"""A covariate with at most this many distinct values is kept at each of them, as in emmeans."""

MAX_GRID = 200_000
"""Most rows of a reference grid."""

TREND_STEP = 1e-3
"""Difference over which a slope is taken, as a share of the covariate's range."""

TYPES = ("link", "response")


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
        cls, built: BuiltDesign, at: Mapping[str, Any] | None, count: bool = False,
        moved: Mapping[str, float] | None = None,
    ) -> ReferenceGrid:  # fmt: skip
        """The grid of a fitted model.

        Parameters
        ----------
        built : BuiltDesign
        at : mapping of str to values, optional
            Values of some variables.
        count : bool
            Whether ``counts`` are wanted; ones otherwise, and where the rows are gone.
        moved : mapping of str to float, optional
            Added to the values of some covariates.

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
        for name, step in (moved or {}).items():
            frame[name] = frame[name] + step
        new = spec.evaluate(frame, random=False, offset=offset)
        check_new(built, new)
        shift = np.zeros(len(frame)) if new.offset is None else new.offset
        counts = _counts(built, levels, at or {}) if count else np.ones(len(frame))
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
        raise RemovedRowsError.of(f"emmeans (emtrends, joint_tests) without at={{{name!r}: value}}")
    return built.frame[name]


def _counts(
    built: BuiltDesign, levels: Mapping[str, list[Any]], at: Mapping[str, Any]
) -> FloatArray:
    """Rows of the data in every combination of factor levels."""
    factors = [
        name
        for name, values in levels.items()
        if built.spec.factor_levels(name) is not None or (name not in at and len(values) > 1)
    ]
    sizes = [len(values) for values in levels.values()]
    if not factors:
        return np.ones(int(np.prod(sizes, dtype=int)))
    weights = built.design.weights
    share = np.ones(built.design.n) if weights is None else weights
    codes, there = [], np.ones(built.design.n, dtype=bool)
    for name in factors:
        own, found = pd.factorize(_column(built, name))
        places = pd.Index(levels[name], dtype=object).get_indexer(pd.Index(found, dtype=object))
        codes.append(places[own])
        there &= codes[-1] >= 0
    own_sizes = [len(levels[name]) for name in factors]
    joint = _joint_code([code[there] for code in codes], own_sizes, int(there.sum()))
    counts = np.bincount(joint, share[there], int(np.prod(own_sizes, dtype=int)))
    places = [_code_of(levels, name) for name in factors]
    return np.asarray(counts[_joint_code(places, own_sizes, len(places[0]))])


# -------------------------------------------------------------------------- the means


def estimated_means(
    fixed: FixedEffects, built: BuiltDesign, specs: Any, by: Any, at: Mapping[str, Any] | None,
    options: Options,
) -> MarginalMeans:  # fmt: skip
    """Marginal means; arguments as of ``MixedLMResults.emmeans``."""
    grid = ReferenceGrid.of(built, at, _counting(built, options))
    return _averaged(fixed, built, grid, (grid.X, grid.offset), (specs, by), options, "emmean")


def estimated_trends(
    fixed: FixedEffects, built: BuiltDesign, var: Any, specs: Any, by: Any,
    at: Mapping[str, Any] | None, options: Options,
) -> MarginalMeans:  # fmt: skip
    """Slopes of a covariate; arguments as of ``MixedLMResults.emtrends``."""
    check_text(var, "var")
    names = _variables(built)
    if var not in names or built.spec.factor_levels(var) is not None:
        covariates = [name for name in names if built.spec.factor_levels(name) is None]
        raise DataError(
            f"var must name a covariate of the fixed effects "
            f"({', '.join(map(repr, covariates)) or 'there is none'}), got {var!r}"
        )
    if at is not None:
        check_mapping(at, "at", "{'Days': [0, 5]}")
    column = _column(built, var).to_numpy(dtype=float)
    step = TREND_STEP * float(np.ptp(column)) or TREND_STEP
    if at is None or var not in at:
        at = {**(at or {}), var: [float(column.mean())]}
    grid = ReferenceGrid.of(built, at, _counting(built, options))
    low, high = (ReferenceGrid.of(built, at, moved={var: h}) for h in (-0.5 * step, 0.5 * step))
    slopes = ((high.X - low.X) / step, (high.offset - low.offset) / step)
    return _averaged(fixed, built, grid, slopes, (specs, by), options, f"{var}.{TRENDS}")


def joint_tests(
    fixed: FixedEffects, built: BuiltDesign, by: Any, at: Mapping[str, Any] | None, options: Options
) -> pd.DataFrame:
    """F tests of every effect on the reference grid; arguments as of the results' method."""
    spread = {
        name: [values[0] - 1.0, values[0] + 1.0]
        for name, values in ReferenceGrid.of(built, at).levels.items()
        if len(values) == 1 and name not in (at or {}) and built.spec.factor_levels(name) is None
    }
    grid = ReferenceGrid.of(built, {**(at or {}), **spread}, _counting(built, options))
    within = _names(by, grid, "by")
    terms = built.spec.term_variables()
    facs = [name for name, values in grid.levels.items() if name not in within and len(values) > 1]
    nests = nested_factors(built, grid)
    rows = []
    for size in range(1, len(facs) + 1):
        for names in combinations(facs, size):
            outer = {o for name in names for o in nests.get(name, ())}
            if not any(set(names) <= term for term in terms) or not outer <= {*names, *within}:
                continue
            inner = [name for name in names if name not in outer]
            by_all = [*within, *(name for name in names if name in outer)]
            means = _averaged(
                fixed, built, grid, (grid.X, grid.offset), (inner, by_all), options, ""
            )
            rows += _joint_rows(fixed, means, ":".join(names), len(within))
    columns = ["model term", *within, "df1", "df2", "F.ratio", "p.value"]
    return pd.DataFrame(rows, columns=columns)


def _joint_rows(fixed: FixedEffects, means: MarginalMeans, term: str, n_by: int) -> list[list[Any]]:
    """Tests of the interaction contrasts of the means, one row per level of the first of ``by``."""
    contrasts: dict[tuple[Any, ...], list[FloatArray]] = {}
    for own in means._families():
        key = tuple(means.cells[name].iloc[own[0]] for name in means.by[:n_by])
        if len(own) > 1:
            _, C = means._weights(own, "consec", 0, True)
            contrasts.setdefault(key, []).append(C @ means.L[own])
    out = []
    for key, parts in contrasts.items():
        found = fixed.joint_test(np.vstack(parts))
        if found is not None:
            values = [found.df_num, found.df_den, found.statistic, found.p_value]
            out.append([term, *key, *values])
    return out


def _counting(built: BuiltDesign, options: Options) -> bool:
    """Whether the rows in every cell are wanted: as weights, or to see what is nested."""
    factors = [n for n in _variables(built) if len(built.spec.factor_levels(n) or ()) > 1]
    return options.weights == "proportional" or (len(factors) > 1 and built.frame is not None)


@dataclass(frozen=True)
class Options:
    """How the means are averaged and shown."""

    ddf: str
    weights: str
    alpha: float
    type: str = "link"
    scale: Scale | None = None

    def __post_init__(self) -> None:
        known = {"ddf": DDF_METHODS, "weights": WEIGHTS, "type": TYPES}
        for name, options in known.items():
            object.__setattr__(self, name, check_choice(getattr(self, name), name, options))
        check_level(self.alpha)


def _averaged(
    fixed: FixedEffects, built: BuiltDesign, grid: ReferenceGrid,
    rows: tuple[FloatArray, FloatArray], variables: tuple[Any, Any], options: Options, name: str,
) -> MarginalMeans:  # fmt: skip
    """Averages of rows of X and of offsets over the cells of some variables."""
    nests = nested_factors(built, grid)
    within = _names(variables[1], grid, "by")
    wanted = tuple(n for n in _names(variables[0], grid, "specs") if n not in within)
    if not wanted:
        raise ArgumentError(f"by names all that specs does, {variables[0]!r}: no variable is left")
    outer = [o for n in wanted for o in nests.get(n, ()) if o not in (*wanted, *within)]
    wanted = (*wanted, *dict.fromkeys(outer))
    kept = (*wanted, *within)
    cell = _joint_code(
        [_code_of(grid.levels, n) for n in kept], _sizes(grid, kept), len(grid.frame)
    )
    n_cells = int(np.prod(_sizes(grid, kept), dtype=int))
    others = [n for n in grid.levels if n not in kept]
    share = _nested_shares(grid, nests)
    if options.weights == "proportional" and others:
        other = _joint_code(
            [_code_of(grid.levels, n) for n in others], _sizes(grid, others), len(cell)
        )
        share = share * np.bincount(other, grid.counts)[other]
    there = np.flatnonzero(np.bincount(cell, share > 0, n_cells) > 0) if nests else None
    average = marginal_means.averaging_matrix(cell, share, n_cells)
    first = np.unique(cell, return_index=True)[1]
    cells = grid.frame.iloc[first][list(kept)]
    L, offset = np.asarray(average @ rows[0]), np.asarray(average @ rows[1])
    if there is not None:
        cells, L, offset = cells.iloc[there], L[there], offset[there]
    return MarginalMeans(
        wanted, within, cells.reset_index(drop=True), L, offset, options.ddf, options.alpha,
        options.type, name, fixed, options.scale,
    )  # fmt: skip


def nested_factors(built: BuiltDesign, grid: ReferenceGrid) -> dict[str, tuple[str, ...]]:
    """Factors each of whose levels occurs with one level of another factor only, and that one.

    As in R's emmeans, from the cells that the data fill; none once the rows are gone.
    """
    names = [n for n, v in grid.levels.items() if len(v) > 1 and built.spec.factor_levels(n)]
    if len(names) < 2 or built.frame is None:
        return {}
    seen = grid.frame[grid.counts > 0]
    out: dict[str, tuple[str, ...]] = {}
    for name in names:
        others = [n for n in names if n != name and name not in out.get(n, ())]
        inside = [n for n in others if seen.groupby(name, observed=True)[n].nunique().max() == 1]
        if inside:
            out[name] = tuple(inside)
    return out


def _nested_shares(grid: ReferenceGrid, nests: Mapping[str, tuple[str, ...]]) -> FloatArray:
    """Weights of the rows of the grid: levels of a nested factor share that of their nest."""
    if not nests:
        return np.ones(len(grid.frame))
    involved = [*nests, *dict.fromkeys(o for outer in nests.values() for o in outer)]
    filled = grid.frame.assign(_n=grid.counts).groupby(involved, observed=True)["_n"].sum()
    some = grid.frame[involved].merge(filled.reset_index(), "left", involved)["_n"].to_numpy() > 0
    share: FloatArray = some.astype(float)  # empty cells of crossed factors stay
    for name, outer in nests.items():
        levels = grid.frame[some].groupby(list(outer), observed=True)[name].nunique()
        counts = grid.frame[list(outer)].merge(levels.reset_index(), "left", list(outer))[name]
        share = share / np.where(some, counts.to_numpy(), 1.0)
    return share


def _sizes(grid: ReferenceGrid, names: Sequence[str]) -> list[int]:
    return [len(grid.levels[name]) for name in names]


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


def _code_of(levels: Mapping[str, list[Any]], name: str) -> IntArray:
    """Place of every row of the grid among the levels of one variable, (g,)."""
    names, sizes = list(levels), [len(values) for values in levels.values()]
    at = names.index(name)
    before, size = int(np.prod(sizes[:at], dtype=int)), int(np.prod(sizes, dtype=int))
    return np.asarray(np.arange(size) // before % sizes[at])


def _joint_code(codes: Sequence[IntArray], sizes: Sequence[int], g: int) -> IntArray:
    """Codes of combinations, the first variable varying fastest, (g,)."""
    out: IntArray = np.zeros(g, dtype=np.int64)
    step = 1
    for code, size in zip(codes, sizes, strict=True):
        out += step * code
        step *= size
    return out
