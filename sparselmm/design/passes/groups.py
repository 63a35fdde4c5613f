"""Rows whose residuals depend on each other: whole groups of them, partition by partition.

The rows of a group lie in one run of rows read together, or in several that follow each other. A
group is *open* while the rows before or after may have more of it; one that is closed is added to
those that are alike (:mod:`sparselmm.design.passes.alike`), and must not be met again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

import numpy as np

from sparselmm.base.arguments import shown
from sparselmm.base.exceptions import DataError
from sparselmm.base.reduction import Tree
from sparselmm.base.types import AnyArray, IntArray
from sparselmm.design.kinds.residual import (
    ResidualSpec,
    check_all_groups,
    check_dispersion,
    check_groups,
)
from sparselmm.design.passes.alike import added_up, one_below_the_other
from sparselmm.design.passes.learned import Recipe
from sparselmm.design.passes.reading import Reading, named
from sparselmm.design.residual import ResidualRows
from sparselmm.design.sources.readers import Part
from sparselmm.design.terms import Design
from sparselmm.design.validate import Rows

NONE: IntArray = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Grouped:
    """Rows by group, of some rows that follow each other.

    Attributes
    ----------
    counts : tuple of (int, int)
        Rows read and rows in use, of every partition.
    closed : Design or None
        Groups of which there is no more, those alike added up; None without rows in use.
    seen : ndarray of int
        Their numbers, ascending.
    open : Design or None
        The others.
    first, last : ndarray of int
        Those of which the rows before, or after, may have more; ascending.
    """

    counts: tuple[tuple[int, int], ...]
    closed: Design | None = None
    seen: IntArray = field(default_factory=lambda: NONE)
    open: Design | None = None
    first: IntArray = field(default_factory=lambda: NONE)
    last: IntArray = field(default_factory=lambda: NONE)

    def __sizeof__(self) -> int:
        """Bytes, by which a cluster plans what it moves and holds."""
        designs = [part for part in (self.closed, self.open) if part is not None]
        return object.__sizeof__(self) + sum(8 * d.n * (d.p + 4) for d in designs)


@dataclass(frozen=True, eq=False)
class GroupPass:
    """The groups of a partition."""

    recipe: Recipe

    @property
    def _spec(self) -> ResidualSpec:
        spec = self.recipe.spec.residual
        assert spec is not None
        return spec

    def reading_of(self, part: Part) -> Reading:
        """How the rows of a partition are taken."""
        return self.recipe.reading

    def __call__(self, part: Part) -> Grouped:
        """Its groups."""
        tree = Tree(self.merge)
        for taken in self.recipe.reading.taken(part):
            with named(part.label):
                counts = ((taken.read, len(taken.frame)),)
                design = self.recipe.grouped(taken) if len(taken.frame) else None
                tree.add(Grouped(counts) if design is None else self._of(counts, design))
        found = tree.result() or Grouped(((0, 0),))
        read, used = np.sum(found.counts, axis=0)
        return replace(found, counts=((int(read), int(used)),))

    def _of(self, counts: tuple[tuple[int, int], ...], design: Design) -> Grouped:
        """Of rows that were read together: where groups stand in blocks, all but two are closed."""
        if self._spec.bar is None:
            return self._closing(counts, None, NONE, design, NONE, NONE)
        assert design.residual is not None
        group = design.residual.group
        found = np.unique(group)
        if 1 + np.count_nonzero(np.diff(group)) == len(found):
            return self._closing(counts, None, NONE, design, group[:1], group[-1:])
        return self._closing(counts, None, NONE, design, found, found)

    def merge(self, parts: Sequence[Grouped]) -> Grouped:
        """The groups of several partitions that follow each other."""
        return reduce(self._joined, parts)

    def _joined(self, one: Grouped, other: Grouped) -> Grouped:
        counts = (*one.counts, *other.counts)
        if one.closed is None or other.closed is None:
            return replace(other if one.closed is None else one, counts=counts)
        assert one.open is not None and other.open is not None
        mine, theirs = _numbers(one.open), _numbers(other.open)
        again = np.intersect1d(one.last, other.first)
        self._check_apart(np.append(mine, one.seen), np.append(theirs, other.seen), again)
        closed = _numbered_apart([one.closed, other.closed], self._sums_from)
        return self._closing(
            counts, closed, np.union1d(one.seen, other.seen),
            one_below_the_other([one.open, other.open]), one.first, other.last,
        )  # fmt: skip

    def _closing(
        self, counts: tuple[tuple[int, int], ...], closed: Design | None, seen: IntArray,
        design: Design, first: IntArray, last: IntArray,
    ) -> Grouped:  # fmt: skip
        """Close the groups that go on neither before nor after."""
        assert design.residual is not None
        goes_on = np.isin(design.residual.group, np.append(first, last))
        done, left = design.kept(~goes_on), design.kept(goes_on)
        self._check(done)
        seen = np.union1d(seen, _numbers(done)) if self._spec.bar is not None else seen
        ended = _numbered_apart(
            [part for part in (closed, done) if part is not None], self._sums_from
        )
        number = max(self._sums_from, int(_some_rows(ended).group.max(initial=-1)) + 1)
        return Grouped(counts, added_up(ended, number), seen, left, first, last)

    @property
    def _sums_from(self) -> int:
        """Numbers from here on are of sums of groups, or of rows that are their own."""
        return 0 if self._spec.bar is None else len(self._spec.labels)

    def _check(self, design: Design) -> None:
        bar, rows = self._spec.bar, design.residual
        if bar is not None and rows is not None and design.n:
            check_groups(rows, bar, _Anywhere(design.n))

    def _check_apart(self, one: IntArray, other: IntArray, again: IntArray) -> None:
        twice = np.setdiff1d(np.intersect1d(one, other), again)
        if len(twice):
            bar = self._spec.bar
            assert bar is not None
            others = f" (as {len(twice) - 1} others have)" if len(twice) > 1 else ""
            raise DataError(
                f"{bar.text}: the group {shown(self._spec.labels[twice[0]])} has rows in several "
                f"places{others}, and the rows of a group must be read together; sort the data by "
                f"{', '.join(bar.factors)}, or keep all rows in memory: keep_rows=True"
            )

    def finish(self, found: Grouped) -> Design:
        """The groups of all rows, those alike added up, as a design that can be fitted."""
        assert found.open is not None
        total = self._closing(found.counts, found.closed, found.seen, found.open, NONE, NONE)
        assert total.closed is not None
        rows = _some_rows(total.closed)
        if self._spec.bar is not None:
            check_all_groups(rows, self._spec.bar)
        check_dispersion(rows.D, rows.d_names)
        if rows.stands is None:
            return total.closed
        labels, group = np.unique(rows.group, return_inverse=True)
        return replace(total.closed, residual=replace(rows, group=group, labels=labels))


class _Anywhere(Rows):
    """Rows of a group that may have come from several partitions."""

    def where(self, i: int) -> str:
        """How to name a row."""
        return "a row"


def _some_rows(design: Design) -> ResidualRows:
    assert design.residual is not None
    return design.residual


def _numbers(design: Design) -> IntArray:
    """Numbers of the groups, ascending."""
    found: AnyArray = np.unique(_some_rows(design).group)
    return found


def _numbered_apart(parts: Sequence[Design], start: int) -> Design:
    """Designs one below the other; sums, which are numbered from ``start`` on, get new numbers."""
    out, first = [], start
    for part in parts:
        rows = _some_rows(part)
        group = np.where(rows.group < start, rows.group, rows.group - start + first)
        out.append(replace(part, residual=replace(rows, group=group)))
        first = max(first, int(group.max(initial=-1)) + 1)
    return one_below_the_other(out)
