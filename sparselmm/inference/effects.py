"""Random effects at the optimum: conditional means, conditional covariances, their tables.

Numbers only; :mod:`sparselmm.results` puts pandas labels on them. A *unit* is one key of the
``random_effects`` dict, a group or a level of a grouping factor, with all its columns of Z.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import scipy.sparse as sp

from sparselmm.base.arguments import check_choice
from sparselmm.base.types import AnyArray, FloatArray, IntArray
from sparselmm.design.levels import apart
from sparselmm.design.rows import GroupRows, mixed, of_columns
from sparselmm.design.terms import GroupLabels, TermLayout, term_slices
from sparselmm.inference.variances import coefficient_names, is_component
from sparselmm.likelihood.deviance import MAX_BATCH, ProfiledDeviance

BATCH_NUMBERS = 4_000_000
"""Numbers in one batch of right-hand sides (32 MB)."""


# ------------------------------------------------------------------------ tables by factor


@dataclass(frozen=True, eq=False)
class FactorTable:
    """Coefficients of one grouping factor: one row per level, one column per coefficient.

    Attributes
    ----------
    name : str
        Grouping factor, or name of the variance component.
    terms : tuple of int
        Terms that make up the columns.
    labels : ndarray, (l,)
        Level labels; ``"a:A"`` strings for interactions.
    columns : tuple of str
        Coefficient names.
    """

    name: str
    terms: tuple[int, ...]
    labels: AnyArray
    columns: tuple[str, ...]


def factor_tables(terms: Sequence[TermLayout]) -> list[FactorTable]:
    """One table per grouping factor; several terms of one factor share it."""
    tables: list[FactorTable] = []
    place: dict[tuple[str, ...], int] = {}
    names: set[str] = set()
    columns: tuple[str, ...]
    for t, term in enumerate(terms):
        joined = ":".join(term.levels.names)
        if is_component(term):
            name, columns = term.name, (term.name,)
        else:
            at = place.get(term.levels.names)
            if at is not None and _same_levels(terms[tables[at].terms[0]], term):
                old = tables[at]
                columns = (*old.columns, *term.columns)
                tables[at] = replace(old, terms=(*old.terms, t), columns=columns)
                continue
            name, columns = term.name if joined in names else joined, term.columns
            place.setdefault(term.levels.names, len(tables))
        names.add(name)
        tables.append(FactorTable(name, (t,), term.levels.labels(), columns))
    return tables


def _same_levels(a: TermLayout, b: TermLayout) -> bool:
    return a.levels is b.levels or (
        len(a.levels) == len(b.levels)
        and all(np.array_equal(x, y) for x, y in zip(a.levels.parts, b.levels.parts, strict=True))
    )


def factor_table(terms: Sequence[TermLayout], name: str, argument: str = "term") -> FactorTable:
    """The table of one grouping factor.

    Raises
    ------
    DataError
        When there is none of that name.
    """
    tables = {table.name: table for table in factor_tables(terms)}
    known = tuple(tables)
    return tables[check_choice(name, argument, known, "random effects of", "those of ")]


def table_columns(table: FactorTable, terms: Sequence[TermLayout]) -> IntArray:
    """Column of Z of every entry of a table, (l, number of columns)."""
    parts = term_slices(tuple(terms))
    return np.hstack(
        [np.arange(parts[t].start, parts[t].stop).reshape(-1, terms[t].k) for t in table.terms]
    )


def table_modes(table: FactorTable, terms: Sequence[TermLayout], b: FloatArray) -> FloatArray:
    """Conditional means of a table, (l, number of columns)."""
    return np.asarray(b[table_columns(table, terms)])


def table_variances(
    table: FactorTable, terms: Sequence[TermLayout], deviance: ProfiledDeviance,
    theta: FloatArray, scale: float,
) -> FloatArray:  # fmt: skip
    """Conditional variances of a table, (l, number of columns), fixed effects taken as known."""
    parts = [
        np.einsum("bii->bi", deviance.conditional_blocks(theta, t))
        if terms[t].root is None
        else _mixed_variances(t, terms, deviance, theta)
        for t in table.terms
    ]
    return scale * np.hstack(parts)


def _mixed_variances(
    t: int, terms: Sequence[TermLayout], deviance: ProfiledDeviance, theta: FloatArray
) -> FloatArray:
    """Conditional variances of the levels of a term with a known covariance, (l, k)."""
    part = term_slices(tuple(terms))[t]
    c = part.stop - part.start
    rows = (np.ones(c), np.arange(part.start, part.stop), np.arange(c + 1))
    H = of_columns(terms, sp.csr_array(rows, shape=(c, deviance.cross.q)))
    out = deviance.conditional_squares(theta, H)
    return out.reshape(terms[t].n_levels, terms[t].k)


# ------------------------------------------------------------------------------- by unit


@dataclass(frozen=True, eq=False)
class Units:
    """Columns of Z sorted by the unit they belong to.

    Attributes
    ----------
    factor : str
        Name of the grouping factor.
    labels : ndarray, (m,)
        Label of each unit.
    indptr : ndarray of int, (m + 1,)
        Unit ``j`` owns ``columns[indptr[j]:indptr[j + 1]]``.
    columns : ndarray of int, (c,)
        Columns of Z.
    names : ndarray of str, (c,)
        Coefficient name of each column.
    independent : bool
        Whether no row of the data involves two units, so that M is block diagonal by unit.
    terms : tuple of int
        Terms the columns come from.
    """

    factor: str
    labels: AnyArray
    indptr: IntArray
    columns: IntArray
    names: AnyArray
    independent: bool
    terms: tuple[int, ...]

    @cached_property
    def sizes(self) -> IntArray:
        """Columns of each unit, (m,)."""
        return np.diff(self.indptr)

    @cached_property
    def owner(self) -> IntArray:
        """Unit of each column, (c,)."""
        return np.repeat(np.arange(len(self.labels)), self.sizes)

    @cached_property
    def rank(self) -> IntArray:
        """Place of each column within its unit, (c,)."""
        return np.arange(len(self.columns)) - self.indptr[self.owner]

    @property
    def n_covariances(self) -> int:
        """Numbers in all units' covariance matrices together."""
        return int((self.sizes.astype(np.int64) ** 2).sum())


def all_units(
    terms: Sequence[TermLayout], grouping: GroupLabels | None, group_names: tuple[str, ...]
) -> list[Units]:
    """Units of a model: its groups, then the levels of every other factor.

    Parameters
    ----------
    grouping : Grouping or None
        The statsmodels ``groups`` argument.
    group_names : tuple of str
        Coefficient names of the ``groups`` term.
    """
    grouped = tuple(t for t, term in enumerate(terms) if _is_of_groups(term, grouping))
    out = []
    if grouped:
        assert grouping is not None
        out.append(_group_units(terms, grouped, grouping, group_names))
    rest = [t for t in range(len(terms)) if t not in grouped]
    for table in factor_tables([terms[t] for t in rest]):
        inner = tuple(rest[t] for t in table.terms)
        out.append(_level_units(terms, replace(table, terms=inner)))
    if grouped and any(units.factor == out[0].factor for units in out[1:]):
        own = "+".join(terms[t].name for t in grouped)  # the groups are a table of their own too
        out[0] = replace(out[0], factor=own)
    alone = len(out) == 1 and not any(
        term.origin == "array" or term.root is not None for term in terms
    )
    return [replace(units, independent=alone) for units in out]


def _is_of_groups(term: TermLayout, grouping: GroupLabels | None) -> bool:
    """Whether the term's levels are the groups, or columns within them."""
    if term.root is not None:  # may have levels that are no groups
        return False
    if term.origin in ("re", "vc"):
        return True
    if grouping is None or term.levels.names != (grouping.name,) or term.origin != "bar":
        return False
    return set(term.levels.parts[0].tolist()) <= set(grouping.labels.tolist())


def _level_units(terms: Sequence[TermLayout], table: FactorTable) -> Units:
    columns = table_columns(table, terms)
    l, k = columns.shape
    names = np.tile(np.array(table.columns, dtype=object), l)
    return Units(
        table.name, table.labels, np.arange(0, l * k + 1, k), columns.ravel(), names,
        False, table.terms,
    )  # fmt: skip


def _group_units(
    terms: Sequence[TermLayout],
    grouped: tuple[int, ...],
    grouping: GroupLabels,
    group_names: tuple[str, ...],
) -> Units:
    """The ``groups`` term's coefficients, then the columns of each component, group by group."""
    parts = term_slices(tuple(terms))
    place = {label: j for j, label in enumerate(grouping.labels.tolist())}
    owners, columns, names = [], [], []
    for t in grouped:
        term, part = terms[t], parts[t]
        of_level = [place[label] for label in term.levels.parts[0].tolist()]
        owners.append(np.repeat(np.array(of_level, dtype=np.intp), term.k))
        columns.append(np.arange(part.start, part.stop))
        if is_component(term):
            names.append(np.array(component_labels(term), dtype=object))
        else:
            own = group_names if term.origin == "re" else term.columns
            names.append(np.tile(np.array(own, dtype=object), term.n_levels))
    owner = np.concatenate(owners)
    columns_of = GroupRows.of(owner, len(grouping.labels))
    order, indptr = columns_of.order, columns_of.bounds
    return Units(
        grouping.name, grouping.labels, indptr, np.concatenate(columns)[order],
        np.concatenate(names)[order], False, grouped,
    )  # fmt: skip


def component_labels(term: TermLayout) -> list[str]:
    """Statsmodels' labels of a component's columns, ``"cask[C(cask)[a]]"``, (l,)."""
    (template,) = term.columns
    group, *inner = term.levels.parts
    if not inner:
        return [f"{term.name}[{template}]"] * term.n_levels
    return apart(inner, lambda row: f"{term.name}[{template.format(*row)}]", group)


def group_coefficients(terms: Sequence[TermLayout], from_arrays: bool) -> tuple[str, ...]:
    """Statsmodels' labels of the ``groups`` term in ``random_effects`` and ``cov_re``."""
    for term in terms:
        if term.origin == "re":
            default = from_arrays and term.form == "levels"
            return ("Group Var",) if default else coefficient_names(term)
    return ()


def unit_covariances(
    units: Units, terms: Sequence[TermLayout], deviance: ProfiledDeviance, theta: FloatArray,
    scale: float,
) -> list[FloatArray]:  # fmt: skip
    """Conditional covariance of the coefficients of each unit, fixed effects taken as known.

    ``sigma^2 Lambda M^-1 Lambda'`` restricted to the unit's columns. When units are independent
    the i-th columns of all of them are solved for together.

    Returns
    -------
    list of ndarray, (size_j, size_j)
    """
    own = all(terms[t].root is None for t in units.terms)
    if own and len(units.terms) == 1 and (units.sizes == units.sizes[:1]).all():
        t = units.terms[0]
        k = int(units.sizes[0])
        if deviance.cross.sizes[t][0] == k:
            return list(scale * deviance.conditional_blocks(theta, t))
    if not units.independent:
        return _unit_products(units, terms, deviance, theta, scale)
    flat = np.empty(units.n_covariances)
    starts = np.concatenate([[0], np.cumsum(units.sizes.astype(np.int64) ** 2)])
    colour, q = units.rank, deviance.cross.q
    width = int(np.clip(BATCH_NUMBERS // max(q, 1), 1, MAX_BATCH))
    for first in range(0, int(colour.max(initial=-1)) + 1, width):
        inside = np.flatnonzero((colour >= first) & (colour < first + width))
        right = np.zeros((q, width))
        right[units.columns[inside], colour[inside] - first] = 1.0
        right = mixed(terms, right, transpose=True)
        solution = mixed(terms, deviance.conditional_columns(theta, right))
        _scatter(units, starts, inside, solution, colour - first, flat)
    flat *= scale
    shapes = zip(np.split(flat, starts[1:-1]), units.sizes, strict=True)
    return [block.reshape(size, size) for block, size in shapes]


def _unit_products(
    units: Units, terms: Sequence[TermLayout], deviance: ProfiledDeviance, theta: FloatArray,
    scale: float,
) -> list[FloatArray]:  # fmt: skip
    """The same for units that share rows of data, some units at a time."""
    c = len(units.columns)
    H = sp.csr_array((np.ones(c), units.columns, np.arange(c + 1)), shape=(c, deviance.cross.q))
    H = of_columns(terms, H)
    out: list[FloatArray] = []
    while len(out) < len(units.labels):
        first = len(out)
        start = units.indptr[first]
        end = np.searchsorted(units.indptr, start + MAX_BATCH, side="right") - 1
        end = max(int(end), first + 1)
        both = scale * deviance.conditional_products(theta, H[start : units.indptr[end]])
        ends = units.indptr[first : end + 1] - start
        out += [both[a:b, a:b].copy() for a, b in pairwise(ends)]
    return out


def _scatter(
    units: Units,
    starts: IntArray,
    inside: IntArray,
    solution: FloatArray,
    colour: IntArray,
    flat: FloatArray,
) -> None:
    """Write the solved columns ``inside`` into their units' matrices."""
    size = units.sizes[units.owner[inside]]
    total = int(size.sum())
    source = np.repeat(inside, size)  # one entry per (column, row of its unit)
    step = np.arange(total) - np.repeat(np.cumsum(size) - size, size)
    unit = units.owner[source]
    row = units.indptr[unit] + step
    to = starts[unit] + step * units.sizes[unit] + units.rank[source]
    flat[to] = solution[units.columns[row], colour[source]]
