"""From ``residual=`` and ``dispersion=`` to one entry per row, of the fit and of new data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import shown
from sparselmm.base.exceptions import DataError, MissingDataError
from sparselmm.base.types import AnyArray, FloatArray, IntArray
from sparselmm.design.column_types import CATEGORIES, NUMBERS, TEXT, as_float, kind_of, label_kind
from sparselmm.design.factors import Crossing, factorize, match, match_crossed
from sparselmm.design.formula.namespace import Namespace, rebuild
from sparselmm.design.formula.remembered import DesignInfo
from sparselmm.design.formula.residual_bar import (
    ResidualBar,
)
from sparselmm.design.kinds.coded import grouping
from sparselmm.design.residual import POSITIONS, ResidualRows
from sparselmm.design.validate import Rows, check_codes, origins

VISITS = ("us", "toep", "ad")
"""Kinds with parameters of every visit."""

ORDERED = ("ar1", "toep", "ad")
"""Kinds for which the order of visits counts."""

FAR = 10.0
"""Standard deviations of a covariate of the dispersion from which its mean is far from zero, where
sigma would be the standard deviation of a row that cannot be: a round number is taken off."""

FARTHEST = 1e9
"""Steps of time, between rows that follow each other, up to which ar1 has digits for one step."""


@dataclass(frozen=True, eq=False)
class ResidualSpec:
    """What the structure remembers.

    Attributes
    ----------
    bar : ResidualBar or None
    crossing : Crossing or None
        Levels of the groups, without codes.
    labels : ndarray
        Labels of the groups as shown.
    visits : ndarray or None
        Labels of the visits, in order.
    strata : ndarray or None
    dispersion : DesignInfo or None
    kept : ndarray of int
        Columns of the dispersion's design in use.
    template : ResidualRows
        Without anything of the length of the data.
    """

    bar: ResidualBar | None
    crossing: Crossing | None
    labels: AnyArray
    visits: AnyArray | None
    strata: AnyArray | None
    dispersion: DesignInfo | None
    kept: IntArray
    template: ResidualRows

    @property
    def visits_count(self) -> bool:
        """Whether anything but the distance depends on the visit."""
        bar = self.bar
        assert bar is not None
        labelled = self.visits is not None and kind_of(pd.Series(self.visits)) != NUMBERS
        return bar.kind in VISITS or not bar.hom or (bar.kind == "ar1" and labelled)

    @property
    def n_indicators(self) -> int:
        """Standard deviations of visits and strata among the columns of D, its last ones."""
        none = np.zeros(0, int)
        return int(_indicators(self.template, self.bar, none, none).shape[1])

    def codes_used(self) -> list[str]:
        """Expressions it evaluates on the data, those of the dispersion apart."""
        return [] if self.bar is None else self.bar.codes

    def evaluate(self, space: Namespace, every_visit: bool = False) -> ResidualRows:
        """The structure on new rows; groups the fit has not seen are -1.

        Visits are numbered where they count, or wherever there are some if ``every_visit``.
        """
        bar, n = self.bar, space.n
        group = np.full(n, -1)
        coords, visits, stratum = np.zeros((n, 1)), np.zeros(n, int), np.zeros(n, int)
        if bar is not None and self.crossing is not None:
            codes = [
                match(labels, space.labels(code))
                for code, labels in zip(bar.factors, self.crossing.labels, strict=True)
            ]
            group = match_crossed(self.crossing.table, codes) if len(codes) > 1 else codes[0]
            if bar.by is not None and self.strata is not None:
                stratum = _known(self.strata, space.labels(bar.by), bar.by, space.rows)
            some = self.visits is not None and len(self.visits) > 0
            if self.visits is not None and (self.visits_count or (every_visit and some)):
                visits = _known(self.visits, space.labels(bar.coords[0]), bar.coords[0], space.rows)
            coords = _positions(bar, space, visits, self.visits)
        D = np.zeros((n, 0))
        if self.dispersion is not None:
            D = rebuild(self.dispersion, space)[:, self.kept]
        D = np.hstack([D, _indicators(self.template, bar, visits, stratum)])
        t = self.template
        D = D if t.origin is None else D - t.origin
        return ResidualRows(
            t.kind, group, t.labels, coords, visits, t.visit_labels, stratum, t.strata, D,
            t.d_names, t.nugget, t.text, t.group_name, origin=t.origin,
        )  # fmt: skip


def residual_rows(
    bar: ResidualBar | None, dispersion: tuple[FloatArray, DesignInfo] | None, space: Namespace,
    checked: bool = True,
) -> tuple[ResidualRows, ResidualSpec]:  # fmt: skip
    """The structure of a formula's rows, ``checked`` for what a fit needs, and its memory."""
    n = space.n
    crossing = None
    group: IntArray = np.arange(n)
    visits: IntArray = np.zeros(n, int)
    stratum: IntArray = np.zeros(n, int)
    labels: AnyArray = np.arange(n)
    visit_labels = strata = None
    coords = np.zeros((n, 1))
    if bar is not None:
        crossing = grouping(bar.factors, space)
        group, labels = crossing.codes, crossing.levels(bar.factors).labels()
        if bar.by is not None:
            factor = factorize(space.labels(bar.by), sort=True)
            check_codes(factor.codes, bar.by, "the stratum", space.rows)
            stratum, strata = factor.codes.astype(int), np.asarray(factor.labels)
        if bar.coords:
            visits, visit_labels = _visits(bar, space)
        coords = _positions(bar, space, visits, visit_labels)
    kept, D = np.zeros(0, int), np.zeros((n, 0))
    names: tuple[str, ...] = ()
    info = None if dispersion is None else dispersion[1]
    if dispersion is not None:
        kept, D, names = _dispersion(dispersion[0], dispersion[1].column_names)
    rows = assembled(
        bar, group, labels, coords, visits, visit_labels, stratum, strata, D, names, space.rows,
        checked,
    )  # fmt: skip
    template = rows.kept(np.zeros(0, int))
    memory = None if crossing is None else _without_codes(crossing)
    return rows, ResidualSpec(bar, memory, labels, visit_labels, strata, info, kept, template)


def assembled(
    bar: ResidualBar | None, group: IntArray, labels: AnyArray, coords: FloatArray,
    visits: IntArray, visit_labels: AnyArray | None, stratum: IntArray, strata: AnyArray | None,
    D: FloatArray, names: Sequence[str], where: Rows, checked: bool = True,
) -> ResidualRows:  # fmt: skip
    """The rows, ``checked``, with the indicators of visits and strata among the columns of D."""
    shown_visits = () if visit_labels is None else tuple(map(str, visit_labels))
    rows = ResidualRows(
        "" if bar is None else bar.kind, group.astype(int), labels, coords, visits, shown_visits,
        stratum, () if strata is None else tuple(map(str, strata)), D, tuple(names),
        bar is not None and bar.nugget, "" if bar is None else bar.text,
        "" if bar is None else bar.name,
    )  # fmt: skip
    if bar is not None and checked:
        check_groups(rows, bar, where)
        check_all_groups(rows, bar)
    own = _indicators(rows, bar, visits, stratum)
    D, all_names = np.hstack([D, own]), (*names, *_indicator_names(rows, bar))
    if checked:
        check_dispersion(D, all_names)
    origin = origins(D, FAR)
    return ResidualRows(
        rows.kind, rows.group, labels, coords, visits, shown_visits, stratum, rows.strata,
        D - origin, tuple(all_names), rows.nugget, rows.text, rows.group_name,
        origin=origin if origin.any() else None,
    )  # fmt: skip


def _without_codes(crossing: Crossing) -> Crossing:
    return replace(crossing, codes=np.empty(0, dtype=np.int32))


def _known(labels: AnyArray, values: Any, code: str, rows: Rows) -> IntArray:
    found = match(labels, values)
    if (found < 0).any():
        first = int(np.flatnonzero(found < 0)[0])
        if pd.isna(np.asarray(values, dtype=object)[first]):
            raise MissingDataError(
                f"{code!r} is missing in the new data, first in {rows.where(first)}; the residual "
                "structure needs it"
            )
        raise DataError(
            f"{code!r} has a value in the new data, first in {rows.where(first)}, that the fit "
            "has not seen; the residual structure has no parameter for it"
        )
    return np.asarray(found).astype(int)


def _visits(bar: ResidualBar, space: Namespace) -> tuple[IntArray, AnyArray]:
    """Number of every row's visit, and the labels in order."""
    if len(bar.coords) > 1 or bar.kind in POSITIONS:
        return np.zeros(space.n, int), np.zeros(0)
    code = bar.coords[0]
    values = space.labels(code)
    series = values if isinstance(values, pd.Series) else pd.Series(values)
    factor = factorize(values)  # a Categorical in its own order
    _check_times(factor.codes < 0, code, bar, space.rows)
    coded = isinstance(series.dtype, pd.CategoricalDtype) and isinstance(
        space.frame.get(code, series).dtype, pd.CategoricalDtype
    )
    if not coded and kind_of(series) != NUMBERS and bar.kind in ORDERED:
        raise _no_times(code, series, bar)
    return np.asarray(factor.codes).astype(int), np.asarray(factor.labels)


def _no_times(code: str, column: pd.Series, bar: ResidualBar) -> DataError:
    holds = kind_of(column)
    what = "is text" if holds in (TEXT, CATEGORIES) else f"holds {holds}"
    hint = "" if bar.kind in POSITIONS else (
        ", or for visits in order a pandas Categorical with its categories in that order"
    )  # fmt: skip
    return DataError(
        f"{bar.text}: {code!r} {what}, and {bar.kind} needs times; make it a number{hint}"
    )


def _positions(
    bar: ResidualBar, space: Namespace, visits: IntArray, labels: AnyArray | None
) -> FloatArray:
    """Times or coordinates of the rows, (n, c); of visits that are labels their number."""
    if not bar.coords:
        return np.arange(space.n, dtype=float)[:, None]
    if bar.kind in ("us", "cs", "toep", "ad"):
        return visits[:, None].astype(float)
    if bar.kind == "ar1" and labels is not None and kind_of(pd.Series(labels)) != NUMBERS:
        return visits[:, None].astype(float)
    columns = []
    for code in bar.coords:
        values = space.evaluate(code)
        series = values if isinstance(values, pd.Series) else pd.Series(values)
        if label_kind(series) != NUMBERS:
            raise _no_times(code, series, bar)
        column = _as_numbers(series)
        _check_times(np.isnan(column), code, bar, space.rows)
        _check_times(np.isinf(column), code, bar, space.rows, "infinite")
        columns.append(column)
    if bar.kind == "ar1":
        _check_whole(columns[0], bar, space.rows)
    return np.column_stack(columns)


def _as_numbers(series: pd.Series) -> FloatArray:
    """Numbers, those of a Categorical of numbers too."""
    if not isinstance(series.dtype, pd.CategoricalDtype):
        return as_float(series)
    return np.append(as_float(pd.Series(series.cat.categories)), np.nan)[series.cat.codes]


def _check_whole(times: FloatArray, bar: ResidualBar, rows: Rows) -> None:
    broken = np.flatnonzero(times != np.round(times))
    if len(broken):
        raise DataError(
            f"{bar.text}: ar1 needs whole numbers as times, {rows.where(int(broken[0]))} has "
            f"{times[broken[0]]:g}; write car1({bar.coords[0]} | {bar.name}) for times in between"
        )


def _check_units(rows: ResidualRows, bar: ResidualBar) -> None:
    """Refuse times so far apart that the correlation one unit apart cannot be told from one."""
    if bar.kind == "ar1" and rows.typical_distance > FARTHEST:
        raise DataError(
            f"{bar.text}: rows of a group are {rows.typical_distance:.3g} units of time apart, and "
            "ar1 has the correlation of rows one unit apart; count the times in larger units"
        )


def _check_times(
    bad: AnyArray, code: str, bar: ResidualBar, rows: Rows, what: str = "missing"
) -> None:  # fmt: skip
    where = np.flatnonzero(bad)
    if len(where):
        raise MissingDataError(
            f"{bar.text}: {code!r} is {what} in {len(where)} row(s), the first is "
            f"{rows.where(int(where[0]))}; fill in the time or leave the rows out "
            "(missing='drop')"
        )


def check_groups(rows: ResidualRows, bar: ResidualBar, where: Rows) -> None:
    """Refuse groups with two rows at one time, or in two strata."""
    _check_ties(rows, bar, where)
    _check_strata(rows, bar)


def check_all_groups(rows: ResidualRows, bar: ResidualBar) -> None:
    """Refuse groups that together say too little of a structure."""
    if rows.strata and len(rows.strata) < 2:
        raise DataError(f"{bar.text}: by={bar.by} has a single value; leave by out")
    _check_units(rows, bar)
    if bar.kind in VISITS:
        _check_visits(rows)
    if not bar.hom:
        _check_cells(rows)


def _check_ties(rows: ResidualRows, bar: ResidualBar, where: Rows) -> None:
    """Refuse two rows of a group at one time."""
    if not bar.coords or bar.nugget:
        return
    keys = [*rows.coords.T[::-1], rows.group]
    o = np.lexsort(keys)
    table = np.column_stack([rows.group, rows.coords])[o]
    same = np.flatnonzero((np.diff(table, axis=0) == 0).all(axis=1))
    if len(same):
        i = same[0]
        first, second = sorted((int(o[i]), int(o[i + 1])))
        label = shown(rows.labels[rows.group[first]])
        raise DataError(
            f"{bar.text}: {where.where(first)} and {where.where(second)} are rows of the group "
            f"{label} at the same time, and {len(same)} such pair(s) in all; give each row a time "
            "of its own, or make the groups finer"
        )


def _check_strata(rows: ResidualRows, bar: ResidualBar) -> None:
    """Refuse groups that lie in two strata."""
    if not rows.strata:
        return
    o = np.argsort(rows.group, kind="stable")
    group, stratum = rows.group[o], rows.stratum[o]
    mixed = np.flatnonzero((np.diff(group) == 0) & (np.diff(stratum) != 0))
    if len(mixed):
        label = shown(rows.labels[group[mixed[0]]])
        raise DataError(
            f"{bar.text}: the group {label} has rows of two values of {bar.by}; by= must be "
            "constant within groups"
        )


def _check_visits(rows: ResidualRows) -> None:
    """Refuse visits that are seen once, and pairs of visits that no group has."""
    T, strata = rows.n_visits, max(len(rows.strata), 1)
    for s in range(strata):
        own = rows.stratum == s
        counts = np.rint(np.bincount(rows.visits[own], rows.counts[own], T)).astype(int)
        few = np.flatnonzero(counts < 2)
        if len(few):
            within = f" in the stratum {rows.strata[s]}" if rows.strata else ""
            raise DataError(
                f"{rows.text}: the visit {rows.visit_labels[few[0]]} is seen "
                f"{counts[few[0]]} time(s){within}; its variance cannot be estimated. Leave its "
                "rows out, join visits, or use a structure with fewer parameters"
            )
        if rows.kind != "us":
            continue
        seen = np.zeros((int(rows.group.max()) + 1, T))
        seen[rows.group[own], rows.visits[own]] = 1.0
        a, b = np.nonzero(np.tril(seen.T @ seen < 1))
        if len(a):
            raise DataError(
                f"{rows.text}: no group has both visits {rows.visit_labels[b[0]]} and "
                f"{rows.visit_labels[a[0]]}; their covariance cannot be estimated. Use a "
                "structure with fewer parameters"
            )


def _check_cells(rows: ResidualRows) -> None:
    """Refuse visits without a row in a stratum, where each has a standard deviation there."""
    T, strata = rows.n_visits, max(len(rows.strata), 1)
    counts = np.bincount(rows.stratum * T + rows.visits, rows.counts, strata * T)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        s, visit = divmod(int(empty[0]), T)
        raise DataError(
            f"{rows.text}: the visit {rows.visit_labels[visit]} has no row in the stratum "
            f"{rows.strata[s]}; its standard deviation there cannot be estimated. Leave the visit "
            "out, join visits, or give all visits one standard deviation (hom=True)"
        )


def _dispersion(
    matrix: FloatArray, names: Sequence[str]
) -> tuple[IntArray, FloatArray, tuple[str, ...]]:
    """Columns of the dispersion's design but for the intercept, which is sigma."""
    if not np.isfinite(matrix).all():
        bad = int(np.flatnonzero(~np.isfinite(matrix).all(axis=0))[0])
        raise MissingDataError(
            f"dispersion: the column {names[bad]!r} is missing or infinite in some rows"
        )
    kept = np.array([j for j, name in enumerate(names) if name != "Intercept"], dtype=int)
    if not len(kept):
        raise DataError(
            "dispersion has no covariate; leave it out for equal variances, or write '~ x'"
        )
    return kept, matrix[:, kept], tuple(f"log_sd({names[j]})" for j in kept)


def check_dispersion(D: FloatArray, names: Sequence[str]) -> None:
    """Refuse columns that are constant or depend on each other and on sigma's column of ones."""
    if not D.shape[1]:
        return
    for column, name in zip(D.T, names, strict=True):
        if column.max() == column.min():
            raise DataError(
                f"dispersion: {name} is constant ({column[0]:g} in every row); it cannot be told "
                "from sigma. Leave it out"
            )
    centred = D - D.mean(axis=0)
    size = np.linalg.norm(centred, axis=0)
    R = np.linalg.qr(centred / size, mode="r")
    dependent = np.flatnonzero(np.abs(np.diag(R)) < 1e-7)
    if len(dependent):
        raise DataError(
            f"dispersion: {names[dependent[0]]} depends on the other columns and on sigma; their "
            "effects on the standard deviation cannot be told apart. Leave it out"
        )


def _indicators(
    rows: ResidualRows, bar: ResidualBar | None, visits: IntArray, stratum: IntArray
) -> FloatArray:
    """Of every visit and stratum with a standard deviation of its own, the first left out."""
    if bar is None or bar.kind == "us":
        return np.zeros((len(visits), 0))
    T = 1 if bar.hom else rows.n_visits
    cell = np.zeros(len(visits), dtype=int) if bar.hom else visits.astype(int)
    if rows.strata:
        cell = cell + T * stratum
    count = max(len(rows.strata), 1) * T
    return (cell[:, None] == np.arange(1, count)).astype(float)


def _indicator_names(rows: ResidualRows, bar: ResidualBar | None) -> list[str]:
    if bar is None or bar.kind == "us":
        return []
    visits = [""] if bar.hom else list(rows.visit_labels)
    strata = list(rows.strata) or [""]
    both = [",".join(part for part in (s, v) if part) for s in strata for v in visits]
    return [f"log_sd({name})" for name in both[1:]]
