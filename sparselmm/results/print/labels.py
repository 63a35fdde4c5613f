"""pandas labels for arrays of results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd

from sparselmm.base.exceptions import ArgumentTypeError, MemoryLimitError
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design.exact_labels import label_index
from sparselmm.design.rows import mixed
from sparselmm.design.terms import Design, DesignLayout
from sparselmm.inference.effects import (
    FactorTable,
    Units,
    table_modes,
    table_variances,
    unit_covariances,
)
from sparselmm.inference.estimates import Estimates
from sparselmm.inference.variances import VarianceRow
from sparselmm.results.print.notebook import frame_html

MAX_COVARIANCES = 200_000_000
"""Most numbers in one dict of conditional covariance matrices (1.6 GB)."""


def unit_series(est: Estimates) -> dict[Any, pd.Series]:
    """Conditional means of every unit."""
    out: dict[Any, pd.Series] = {}
    for units in est.units:
        values = mixed(est.terms, est.pls.b)[units.columns]
        for key, index, at in _labelled(units, len(est.units) > 1):
            out[key] = pd.Series(values[at], index=index)
    return out


def unit_frames(est: Estimates) -> dict[Any, pd.DataFrame]:
    """Conditional covariance matrices of every unit.

    Raises
    ------
    MemoryLimitError
        When they hold more than `MAX_COVARIANCES` numbers.
    """
    total = sum(units.n_covariances for units in est.units)
    if total > MAX_COVARIANCES:
        raise MemoryLimitError(
            f"random_effects_cov would hold {total:.3g} numbers ({8e-9 * total:.3g} GB); "
            "use ranef_var for the conditional variances alone"
        )
    out: dict[Any, pd.DataFrame] = {}
    for units in est.units:
        blocks = unit_covariances(units, est.terms, est.deviance, est.pls.theta, est.pls.scale)
        labelled = _labelled(units, len(est.units) > 1)
        for (key, index, _), block in zip(labelled, blocks, strict=True):
            out[key] = pd.DataFrame(block, index=index, columns=index, copy=False)
    return out


def _labelled(units: Units, several: bool) -> Iterator[tuple[Any, pd.Index, slice]]:
    """Key, coefficient names and positions of every unit; equal names share one Index."""
    made: dict[tuple[str, ...], pd.Index] = {}
    names = units.names.tolist()
    bounds = pairwise(units.indptr.tolist())
    for label, (start, end) in zip(units.labels.tolist(), bounds, strict=True):
        own = tuple(names[start:end])
        if own not in made:
            made[own] = pd.Index(own, dtype=object)
        yield ((units.factor, label) if several else label), made[own], slice(start, end)


class LevelTables(dict[str, pd.DataFrame]):
    """Tables by factor, which may also be called, as lme4's ``ranef()`` is."""

    def __call__(self, *args: Any, **options: Any) -> LevelTables:
        """The tables themselves."""
        if args or options:
            raise ArgumentTypeError(
                "ranef takes no arguments: ranef['factor'] is a table, ranef_var has conditional "
                "variances, ranef_se() standard errors and tidy('ran_vals') one row per effect"
            )
        return self

    def _repr_html_(self) -> str:
        """The tables one below the other."""
        return "".join(frame_html(frame, name) for name, frame in self.items())


def mode_tables(est: Estimates, tables: Sequence[FactorTable]) -> LevelTables:
    """Conditional means by factor, levels by coefficients."""
    b = mixed(est.terms, est.pls.b)
    frames = ((t.name, _level_frame(est, t, table_modes(t, est.terms, b))) for t in tables)
    return LevelTables(frames)


def variance_tables(est: Estimates, tables: Sequence[FactorTable]) -> dict[str, pd.DataFrame]:
    """Conditional variances in the same shape."""
    at = (est.terms, est.deviance, est.pls.theta, est.pls.scale)
    return {t.name: _level_frame(est, t, table_variances(t, *at)) for t in tables}


def _level_frame(est: Estimates, table: FactorTable, values: FloatArray) -> pd.DataFrame:
    name = ":".join(est.terms[table.terms[0]].levels.names)
    index = label_index(table.labels, name)
    return pd.DataFrame(values, index=index, columns=list(table.columns))


def varcorr_frame(rows: Sequence[VarianceRow]) -> pd.DataFrame:
    """lme4's ``as.data.frame(VarCorr(fit))``."""
    labels = [[row.group, row.first, row.second] for row in rows]
    frame = pd.DataFrame(labels, columns=["grp", "var1", "var2"], dtype=object)
    return frame.assign(vcov=[row.vcov for row in rows], sdcor=[row.sdcor for row in rows])


def grouping_names(layout: DesignLayout) -> list[str]:
    """Names of the grouping factors, those of `row_groups` in its order."""
    groups = [] if layout.groups is None else [layout.groups.name]
    coded = [":".join(t.levels.names) for t in layout.terms if t.form != "block"]
    return list(dict.fromkeys([*groups, *coded]))


def row_groups(design: Design) -> dict[str, tuple[pd.Index, IntArray]]:
    """Labels of the levels and the level of every row, (n,), of each grouping factor."""
    known: dict[str, tuple[pd.Index, IntArray]] = {}
    if design.groups is not None:
        known[design.groups.name] = label_index(design.groups.labels), design.groups.codes
    for term in design.terms:
        if term.codes is not None:
            pair = label_index(term.levels.labels()), term.codes
            known.setdefault(":".join(term.levels.names), pair)
    rows = design.residual
    if rows is not None and rows.kind:
        known.setdefault(rows.group_name, (label_index(rows.labels), rows.group))
    return known
