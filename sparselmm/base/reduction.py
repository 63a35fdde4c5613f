"""Reductions: by a fixed tree, whichever part is finished first, and of the columns of a matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

import numpy as np

from sparselmm.base.types import AnyArray

WIDTH = 4
"""Parts that are merged at a time."""

FOLDED = 512
"""Numbers that stand side by side while the extremes of columns are taken."""

T = TypeVar("T")


class Tree(Generic[T]):
    """Parts merged in fours as they come, in their order; never more than a few are held."""

    def __init__(self, merge: Callable[[Sequence[T]], T]) -> None:
        self._merge = merge
        self._floors: list[list[T]] = []

    def add(self, part: T) -> None:
        """Take the next part."""
        self._put(0, part)

    def _put(self, floor: int, part: T) -> None:
        if floor == len(self._floors):
            self._floors.append([])
        held = self._floors[floor]
        held.append(part)
        if len(held) == WIDTH:
            self._floors[floor] = []
            self._put(floor + 1, self._merge(held))

    def result(self) -> T | None:
        """Everything merged, as `reduced` does; None without parts."""
        up: list[T] = []
        for held in self._floors:
            level = [*held, *up]
            up = [self._merge(level)] if len(level) > 1 else level
        return up[0] if up else None


def reduced(parts: Iterable[T], merge: Callable[[Sequence[T]], T]) -> T | None:
    """Parts merged in fours, what comes of that in fours again."""
    tree = Tree(merge)
    for part in parts:
        tree.add(part)
    return tree.result()


def extremes(values: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Least and largest number of every column, (c,) each; values (n,) or (n, c), n > 0.

    Some rows lie side by side: NumPy is many times slower along few columns.
    """
    values = values.reshape(len(values), -1)
    n, c = values.shape
    k = max(FOLDED // c, 1) if c and values.flags.c_contiguous else 1
    if k == 1 or n < 2 * k:
        return values.min(axis=0), values.max(axis=0)
    whole, rest = values[: n // k * k].reshape(-1, k * c), values[n // k * k - 1 :]
    low, high = (f(axis=0).reshape(k, c) for f in (whole.min, whole.max))
    return np.vstack([low, rest]).min(axis=0), np.vstack([high, rest]).max(axis=0)
