"""The reference grid of a formula: every combination of levels, covariates at their means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_hashable, check_list, check_mapping, shown
from sparselmm.base.exceptions import ArgumentError, DataError, MemoryLimitError, RemovedRowsError
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design import BuiltDesign
from sparselmm.design.built import Numbers
from sparselmm.design.new_rows import check_new

MAX_GRID = 200_000
"""Most rows of a reference grid."""


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
