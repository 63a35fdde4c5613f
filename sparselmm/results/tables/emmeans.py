"""The reference grid of a formula, and the averages over it that marginal means are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from sparselmm.base.arguments import (
    check_choice,
    check_hashable,
    check_level,
    check_list,
    check_mapping,
    check_strings,
    check_text,
    shown,
    suggestion,
)
from sparselmm.base.exceptions import ArgumentError, DataError, MemoryLimitError, RemovedRowsError
from sparselmm.base.types import CSR, BoolArray, FloatArray, IntArray
from sparselmm.design import BuiltDesign
from sparselmm.design.built import Numbers
from sparselmm.design.new_rows import check_new
from sparselmm.inference.hypotheses import marginal_means
from sparselmm.inference.hypotheses.ddf import DDF_METHODS, FTest
from sparselmm.inference.hypotheses.hypotheses import f_test_of
from sparselmm.inference.hypotheses.marginal_means import FixedEffects
from sparselmm.results.tables.means import TRENDS, MarginalMeans
from sparselmm.results.tables.scales import Scale

WEIGHTS = ("equal", "proportional", "outer", "cells", "flat")

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

    def code(self, names: Sequence[str]) -> IntArray:
        """Codes of the combinations of some variables, the first varying fastest, (g,)."""
        codes = [_code_of(self.levels, name) for name in names]
        return _joint_code(codes, [len(self.levels[n]) for n in names], len(self.frame))

    def size(self, names: Sequence[str]) -> int:
        """Number of these combinations."""
        return int(np.prod([len(self.levels[name]) for name in names], dtype=int))

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
        names = variables_of(built)
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
            value = built.layout.rows("a mean of the offset that was an array").offset
            offset = np.full(len(frame), 0.0 if value is None else value.mean())
        for name, step in (moved or {}).items():
            frame[name] = frame[name] + step
        new = replace(spec, further={}).evaluate(frame, random=False, offset=offset)
        check_new(built, new)
        shift = np.zeros(len(frame)) if new.offset is None else new.offset
        counts = _counts(built, levels, at or {}) if count else np.ones(len(frame))
        return cls(levels, frame, new.X, shift, counts)


def variables_of(built: BuiltDesign) -> list[str]:
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
    numbers = numbers_of(built, name)
    if numbers is None:
        raise DataError(
            f"{name!r} is neither a factor nor a number; pass at={{{name!r}: values}} to say where "
            "the means are wanted"
        )
    return numbers.values


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


def numbers_of(built: BuiltDesign, name: str) -> Numbers | None:
    """A covariate over the rows; None where it is no number."""
    if built.streamed is not None and name in built.streamed.numbers:
        return built.streamed.numbers[name]
    if built.frame is None:
        what = f"emmeans (emtrends, joint_tests) without at={{{name!r}: value}}"
        raise RemovedRowsError.of(what, built.streamed is None)
    column = built.frame[name]
    if not pd.api.types.is_numeric_dtype(column.dtype):
        return None
    return Numbers.of(column.to_numpy(dtype=float))


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
    seen, share = _seen(built, factors)
    codes, there = [], np.ones(len(share), dtype=bool)
    for name in factors:
        own, found = seen[name]
        places = pd.Index(levels[name], dtype=object).get_indexer(pd.Index(found, dtype=object))
        codes.append(places[own])
        there &= codes[-1] >= 0
    own_sizes = [len(levels[name]) for name in factors]
    joint = _joint_code([code[there] for code in codes], own_sizes, int(there.sum()))
    counts = np.bincount(joint, share[there], int(np.prod(own_sizes, dtype=int)))
    places = [_code_of(levels, name) for name in factors]
    return np.asarray(counts[_joint_code(places, own_sizes, len(places[0]))])


def _seen(
    built: BuiltDesign, factors: Sequence[str]
) -> tuple[dict[str, tuple[IntArray, Any]], FloatArray]:
    """Codes and labels of some factors, of the rows or of their combinations, and their weights."""
    if built.frame is not None:
        weights = built.design.weights
        share = np.ones(built.design.n) if weights is None else weights
        return {name: pd.factorize(built.frame[name]) for name in factors}, share
    cells = None if built.streamed is None else built.streamed.cells
    if cells is None:
        raise RemovedRowsError.of("weights='proportional'", built.streamed is None)
    seen = {}
    for name in factors:
        values, labels = cells.values[:, cells.names.index(name)], built.spec.factor_levels(name)
        codes = pd.factorize(values) if labels is None else (values.astype(int), labels)
        seen[name] = codes
    return seen, cells.share


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
    names = variables_of(built)
    if var not in names or built.spec.factor_levels(var) is not None:
        covariates = [name for name in names if built.spec.factor_levels(name) is None]
        raise DataError(
            f"var must name a covariate of the fixed effects "
            f"({', '.join(map(repr, covariates)) or 'there is none'}), got {var!r}"
            f"{suggestion(var, covariates)}"
        )
    if at is not None:
        check_mapping(at, "at", "{'Days': [0, 5]}")
    numbers = numbers_of(built, var)
    if numbers is None:
        raise DataError(f"var must name a covariate; {var!r} is no number")
    step = TREND_STEP * (numbers.high - numbers.low) or TREND_STEP
    if at is None or var not in at:
        at = {**(at or {}), var: [numbers.mean]}
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
    found: dict[str, Contrasts] = {}
    for size in range(1, len(facs) + 1):
        for names in combinations(facs, size):
            outer = {o for name in names for o in nests.get(name, ())}
            inner = [name for name in names if name not in outer]
            if not any(set(inner) <= term for term in terms) or not outer <= {*names, *within}:
                continue
            by_all = [*within, *(name for name in names if name in outer)]
            means = _averaged(
                fixed, built, grid, (grid.X, grid.offset), (inner, by_all), options, ""
            )
            found[":".join(names)] = _joint_contrasts(means, within)
    rows = [
        [term, *key, *_joint_row(fixed.joint_test(L))]
        for term, parts in found.items()
        for key, L in parts.items()
    ]
    if fixed.null.shape[1]:
        rows += _confounded(fixed, grid, within, found)
    columns = ["model term", *within, "df1", "df2", "F.ratio", "p.value"]
    table = pd.DataFrame(rows, columns=columns)
    return table[table["df1"] > 0].reset_index(drop=True)


Contrasts = dict[tuple[Any, ...], FloatArray]
"""Contrasts of the fixed effects, (c, p), for every combination of the values of ``by``."""


def _joint_contrasts(means: MarginalMeans, within: Sequence[str]) -> Contrasts:
    """Interaction contrasts of the means, whose joint test is that of an effect."""
    out: dict[tuple[Any, ...], list[FloatArray]] = {}
    for own in means._families():
        key = tuple(means.cells[name].iloc[own[0]] for name in within)
        if len(own) > 1:
            _, C = means._weights(own, "consec", 0, True)
            out.setdefault(key, []).append(C @ means.L[own])
    return {key: np.vstack(parts) for key, parts in out.items()}


def _joint_row(found: FTest | None) -> list[Any]:
    if found is None:
        return [0, np.nan, np.nan, np.nan]
    return [found.df_num, found.df_den, found.statistic, found.p_value]


def _confounded(
    fixed: FixedEffects, grid: ReferenceGrid, within: Sequence[str], effects: dict[str, Contrasts]
) -> list[list[Any]]:
    """Of all differences that can be estimated, those of no single effect, as in R's emmeans."""
    out = []
    code = grid.code(within)
    for own in (np.flatnonzero(code == c) for c in np.unique(code)):
        key = tuple(grid.frame[name].iloc[own[0]] for name in within)
        whole = fixed.joint_test(np.diff(grid.X[own], axis=0))
        parts = [L[key] for L in effects.values() if key in L]
        part = fixed.joint_test(np.vstack([fixed.estimable(L) for L in parts])) if parts else None
        if whole is None or part is None or whole.df_num <= part.df_num:
            continue
        df = whole.df_num - part.df_num
        square = [t.statistic * t.df_num / t.scaling for t in (whole, part)]
        rest = f_test_of(max(square[0] - square[1], 0.0) / df, df, whole.df_den)
        out.append(["(confounded)", *key, *_joint_row(rest)])
    return out


def _counting(built: BuiltDesign, options: Options) -> bool:
    """Whether the rows in every cell are wanted: as weights, or to see what is nested."""
    factors = [n for n in variables_of(built) if len(built.spec.factor_levels(n) or ()) > 1]
    return options.weights != "equal" or (len(factors) > 1 and built.frame is not None)


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


def specified(specs: Any, by: Any, known: Sequence[str]) -> tuple[Any, Any]:
    """``specs`` and ``by`` of R's ``~ a * b | c``; anything else as it is.

    Raises
    ------
    ArgumentError
        When there is more before the ``~``, or ``by`` twice.
    """
    if not isinstance(specs, str) or specs in known or not set("~|*+:") & set(specs):
        return specs, by
    left, _, right = specs.rpartition("~")
    own, bar, within = right.partition("|")
    names = [[name.strip() for name in re.split("[*+:]", part)] for part in (own, within)]
    if left.strip():
        listed = names[0] if len(names[0]) > 1 else repr(names[0][0])
        raise ArgumentError(
            f"specs: {left.strip()!r} before the '~' in {specs!r}; contrasts are asked of the "
            f"means, emmeans({listed}).contrast({left.strip()!r})"
        )
    if bar and by is not None:
        raise ArgumentError(f"specs {specs!r} says by what already; leave out by=")
    return names[0], names[1] if bar else by


def _averaged(
    fixed: FixedEffects, built: BuiltDesign, grid: ReferenceGrid,
    rows: tuple[FloatArray, FloatArray], variables: tuple[Any, Any], options: Options, name: str,
) -> MarginalMeans:  # fmt: skip
    """Averages of rows of X and of offsets over the cells of some variables."""
    nests = nested_factors(built, grid)
    variables = specified(*variables, tuple(grid.levels))
    within = _names(variables[1], grid, "by")
    wanted = tuple(n for n in _names(variables[0], grid, "specs") if n not in within)
    if not wanted:
        raise ArgumentError(f"by names all that specs does, {variables[0]!r}: no variable is left")
    within = (*dict.fromkeys((*_nests_of(nests, within), *within)),)
    inner = [n for n in wanted if n in nests]
    wanted = (*dict.fromkeys((*inner, *_nests_of(nests, wanted), *wanted)),)
    wanted = tuple(n for n in wanted if n not in within)
    kept = (*wanted, *within)
    average, there = _averages(grid, kept, nests, options.weights)
    first = np.unique(grid.code(kept), return_index=True)[1][there]
    cells = grid.frame.iloc[first][list(kept)].reset_index(drop=True)
    L, offset = (np.asarray(average @ x)[there] for x in rows)
    return MarginalMeans(
        wanted, within, cells, L, offset, options.ddf, options.alpha, options.type, name, fixed,
        options.scale, str(built.layout.y_name),
    )  # fmt: skip


def _nests_of(nests: Mapping[str, tuple[str, ...]], names: Sequence[str]) -> list[str]:
    return [outer for name in names for outer in nests.get(name, ())]


def _averages(
    grid: ReferenceGrid, kept: Sequence[str], nests: Mapping[str, tuple[str, ...]], weights: str
) -> tuple[CSR, BoolArray]:
    """Averages of the rows of a grid over the cells of some variables, and which cells exist.

    As in R's emmeans, a nested factor is averaged within each of its nests first, over the levels
    that occur there; frequencies then are those within the nest.
    """
    names, counts = list(grid.levels), grid.counts
    place, total = np.arange(len(counts)), sp.eye_array(len(counts), format="csr")
    inner = [n for n in nests if n not in kept]
    while inner:
        one = max(reversed(inner), key=lambda n: len(nests[n]))
        inner.remove(one)
        group = [*dict.fromkeys((*nests[one], *inner))]
        occurs = np.bincount(grid.code([one, *group]), grid.counts)[grid.code([one, *group])] > 0
        share = occurs[place] * _shares(grid, place, counts, (names, kept, group), weights)
        names = [n for n in names if n in kept or n in group]
        cell = grid.code(names)[place]
        found, first, cell = np.unique(cell[share > 0], return_index=True, return_inverse=True)
        rows = np.flatnonzero(share > 0)
        step = marginal_means.averaging_matrix(cell, share[rows], len(found))
        total, counts = step @ total[rows], np.bincount(cell, counts[rows]).astype(float)
        place = place[rows][first]
    share = _shares(grid, place, counts, (names, kept, []), weights)
    n_cells = grid.size(kept)
    average = marginal_means.averaging_matrix(grid.code(kept)[place], share, n_cells) @ total
    there = np.ones(n_cells, dtype=bool)
    for one in (n for n in nests if n in kept):
        own = [one, *nests[one]]
        filled = np.bincount(grid.code(own), grid.counts)[grid.code(own)] > 0
        there &= np.bincount(grid.code(kept), filled, n_cells) > 0
    return average, there


def _shares(
    grid: ReferenceGrid, place: IntArray, counts: FloatArray,
    variables: tuple[list[str], Sequence[str], list[str]], weights: str,
) -> FloatArray:  # fmt: skip
    """Weights of rows of the grid, at ``place``, in averages within the levels of a group.

    ``variables`` are those of the rows, those that are kept, and those of the group.
    """
    names, kept, group = variables
    others = [n for n in names if n not in kept and n not in group]
    if weights == "equal" or not others:
        return np.ones(len(place))
    if weights in ("cells", "flat"):
        return counts if weights == "cells" else (counts > 0).astype(float)
    share = np.ones(len(place))
    for own in [others] if weights == "proportional" else [[name] for name in others]:
        code = grid.code([*own, *group])[place]
        share *= np.bincount(code, counts)[code]
    return share


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


def _names(given: Any, grid: ReferenceGrid, argument: str) -> tuple[str, ...]:
    names = () if given is None else tuple(check_strings(given, argument))
    unknown = [name for name in names if name not in grid.levels]
    if len(set(names)) < len(names):
        raise DataError(f"{argument} names a variable twice: {given!r}")
    if unknown or (argument == "specs" and not names):
        known = ", ".join(map(repr, grid.levels)) or "none"
        hint = suggestion(unknown[0], grid.levels) if unknown else ""
        raise DataError(
            f"{argument} must name variables of the fixed effects ({known}), got {given!r}{hint}"
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
