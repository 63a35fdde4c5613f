"""Averages over a reference grid, which marginal means are, and their joint tests."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from sparselmm.base.arguments import (
    check_choice,
    check_level,
    check_mapping,
    check_strings,
    check_text,
    suggestion,
)
from sparselmm.base.exceptions import ArgumentError, DataError
from sparselmm.base.types import CSR, BoolArray, FloatArray, IntArray
from sparselmm.design import BuiltDesign
from sparselmm.inference.hypotheses import marginal_means
from sparselmm.inference.hypotheses.ddf import DDF_METHODS, FTest
from sparselmm.inference.hypotheses.hypotheses import f_test_of
from sparselmm.inference.hypotheses.marginal_means import FixedEffects
from sparselmm.results.tables.means import TRENDS, MarginalMeans
from sparselmm.results.tables.reference_grid import (
    ReferenceGrid,
    nested_factors,
    numbers_of,
    variables_of,
)
from sparselmm.results.tables.scales import Scale
from sparselmm.results.tables.weights import existing_part

WEIGHTS = ("equal", "proportional", "outer", "cells", "flat")

TREND_STEP = 1e-3
"""Difference over which a slope is taken, as a share of the covariate's range."""

TYPES = ("link", "response")


# --------------------------------------------------------------------------- the grid


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
            out.setdefault(key, []).append(existing_part(C, means.L[own]))
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
