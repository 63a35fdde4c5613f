"""Reductions by a fixed tree: the result does not depend on which part is finished first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

WIDTH = 4
"""Parts that are merged at a time."""

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
