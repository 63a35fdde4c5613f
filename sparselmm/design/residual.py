"""What residual= and dispersion= say of every row: group, time or visit, stratum, log sd."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sparselmm.base.types import AnyArray, BoolArray, FloatArray, IntArray, Snapshot

KINDS = ("ar1", "car1", "exp", "gau", "cs", "us", "toep", "ad")
"""Structures of the residuals within a group."""

MARKOV = ("ar1", "car1", "exp", "ad")
"""Kinds whose inverse joins neighbours alone (exp along one coordinate)."""

POSITIONS = ("car1", "exp", "gau")
"""Kinds of positions, in whose units their range is; they have no visits."""


MOST_STEPS = 100_000
"""Distances that a median is taken of, where groups alike were added up."""


@dataclass(frozen=True, eq=False)
class ResidualRows(Snapshot):
    """The residual covariance structure of a design, row by row.

    ``R_ij = s_i s_j C_ij`` within a group and zero between groups, ``log s_i = D_i gamma - log(w_i)
    / 2``; for "us" ``R_ij`` is a free covariance of the visits of i and j.

    Attributes
    ----------
    kind : str
        One of `KINDS`, or empty when rows are independent.
    group : ndarray of int, (n,)
        Group of every row.
    labels : ndarray, (n_groups,)
        Labels of the groups.
    coords : ndarray, (n, c)
        Times or positions; of visits their number.
    visits : ndarray of int, (n,)
        Visit of every row, zero where the structure has none.
    stratum : ndarray of int, (n,)
        Rows of each stratum have parameters of their own.
    D : ndarray, (n, a)
        Covariates of the log standard deviation, less ``origin``.
    text : str
        As the user wrote it, for messages.
    stands : ndarray, (n,), or None
        Groups that the row's group stands for, where groups alike were added up
        (:mod:`sparselmm.design.passes.alike`); None where each is itself.
    origin : ndarray, (a,), or None
        What was taken off columns of D that are far from zero: sigma stands for rows that have
        these values. None where nothing was.
    """

    kind: str
    group: IntArray
    labels: AnyArray
    coords: FloatArray
    visits: IntArray
    visit_labels: tuple[str, ...]
    stratum: IntArray
    strata: tuple[str, ...]
    D: FloatArray
    d_names: tuple[str, ...]
    nugget: bool = False
    text: str = ""
    group_name: str = ""
    stands: FloatArray | None = None
    origin: FloatArray | None = None

    @property
    def counts(self) -> FloatArray:
        """Rows of the data that each row stands for, (n,)."""
        return np.ones(len(self.group)) if self.stands is None else self.stands

    @property
    def n_rows(self) -> int:
        """Rows of the data."""
        return len(self.group) if self.stands is None else round(float(self.stands.sum()))

    @property
    def n_visits(self) -> int:
        """Number of visits."""
        return max(len(self.visit_labels), 1)

    @cached_property
    def largest(self) -> int:
        """Rows of the largest group."""
        return int(np.bincount(self.group).max(initial=1))

    @cached_property
    def order(self) -> IntArray:
        """Rows by group, within it by time."""
        return np.lexsort((self.coords[:, 0], self.group))

    @cached_property
    def _steps(self) -> FloatArray:
        """Distances of rows that follow each other in a group, ascending, none of zero."""
        o = self.order
        same = np.diff(self.group[o]) == 0
        step = np.sqrt((np.diff(self.coords[o], axis=0)[same] ** 2).sum(axis=1))
        if self.stands is not None:  # at most some are needed for a median
            each, place = np.unique(step, return_inverse=True)
            counts = np.bincount(place, self.stands[o[1:]][same])
            shares = np.rint(counts * min(1.0, MOST_STEPS / max(counts.sum(), 1.0)))
            step = np.repeat(each, np.maximum(shares, 1.0).astype(int))
        return np.sort(step[step > 0])

    @property
    def typical_distance(self) -> float:
        """Median distance of rows that follow each other in a group."""
        return float(np.median(self._steps)) if len(self._steps) else 1.0

    @property
    def nearest_distance(self) -> float:
        """Smallest distance of such rows."""
        return float(self._steps[0]) if len(self._steps) else 1.0

    @property
    def even(self) -> bool:
        """Whether all distances within groups are even numbers."""
        return bool(len(self._steps)) and not (self._steps % 2.0).any()

    @property
    def markov(self) -> bool:
        """Whether R^-1 joins neighbours alone."""
        return self.kind in MARKOV and not self.nugget and self.coords.shape[1] == 1

    def kept(self, rows: BoolArray | IntArray) -> ResidualRows:
        """Of some of the rows; groups keep their codes."""
        return replace(
            self, group=self.group[rows], coords=self.coords[rows], visits=self.visits[rows],
            stratum=self.stratum[rows], D=self.D[rows],
            stands=None if self.stands is None else self.stands[rows],
        )  # fmt: skip
