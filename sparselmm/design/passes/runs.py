"""Where the partitions of a pass are worked on: here, or on the workers of a cluster."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import pandas as pd

from sparselmm.base.exceptions import DataError
from sparselmm.base.progress import PATIENCE
from sparselmm.base.reduction import Tree
from sparselmm.base.threads import processors
from sparselmm.design.sources.readers import Columns, Part

T = TypeVar("T")

MOST_THREADS = 2
"""Partitions worked on at a time: each holds its rows in memory."""


class Runner(Protocol):
    """Reduces a function of the partitions by a tree in the order of their numbers."""

    def run(
        self, function: Callable[[Part], T], parts: Sequence[Part],
        merge: Callable[[Sequence[T]], T], title: str,
    ) -> T:  # fmt: skip
        """The function of all partitions, merged."""


class Meter:
    """A line on stderr: partitions done and the time left, where that can be seen."""

    def __init__(self, title: str, total: int, wanted: bool | None) -> None:
        interactive = sys.stderr.isatty() or "ipykernel" in sys.modules
        self._after = 0.0 if wanted else PATIENCE if wanted is None and interactive else None
        self._title, self._total, self._open = title, total, False
        self._start = time.perf_counter()

    @property
    def shows(self) -> bool:
        """Whether anything is ever shown."""
        return self._after is not None

    def __call__(self, done: int, rows: int | None = None) -> None:
        """Show how far it is."""
        spent = time.perf_counter() - self._start
        if self._after is None or spent < self._after or not done:
            return
        left = spent * (self._total - done) / done
        seen = "" if rows is None else f"{rows:,} rows, "
        line = f"{self._title}: {seen}partition {done} of {self._total}"
        sys.stderr.write(f"\r{line}, about {left:.0f} s left   ")
        sys.stderr.flush()
        self._open = True

    def rows(self, count: int) -> None:
        """Show how many rows of a stream were read."""
        if self._after is not None and time.perf_counter() - self._start >= self._after:
            sys.stderr.write(f"\r{self._title}: {count:,} rows   ")
            sys.stderr.flush()
            self._open = True

    def close(self) -> None:
        """End the line."""
        if self._open:
            sys.stderr.write("\n")
            self._open = False


class Here:
    """Threads of this process, each with a partition; merged in the order of their numbers."""

    def __init__(self, progress: bool | None = None) -> None:
        self._progress = progress

    def run(
        self, function: Callable[[Part], T], parts: Sequence[Part],
        merge: Callable[[Sequence[T]], T], title: str,
    ) -> T:  # fmt: skip
        """The function of all partitions, merged."""
        tree, rows = Tree(merge), 0
        meter = Meter(title, len(parts), self._progress)
        try:
            if len(parts) == 1 and meter.shows:
                parts = [_Counted(parts[0], meter)]
            for done, found in enumerate(_in_order(function, parts), start=1):
                rows += sum(read for read, _ in found.counts)
                tree.add(found)
                meter(done, rows)
        finally:
            meter.close()
        result = tree.result()
        if result is None:
            raise DataError("the data have no partition at all; a fit needs at least two rows")
        return result


class _Counted:
    """A stream whose rows are counted on the meter as they come."""

    def __init__(self, part: Part, meter: Meter) -> None:
        self._part, self._meter = part, meter

    @property
    def label(self) -> str:
        """What messages call it."""
        return self._part.label

    def frames(self, columns: Columns, rows: int) -> Iterator[pd.DataFrame]:
        """Its rows in order, in frames of at most that many."""
        count = 0
        for frame in self._part.frames(columns, rows):
            count += len(frame)
            self._meter.rows(count)
            yield frame


def _in_order(function: Callable[[Part], Any], parts: Sequence[Part]) -> Iterator[Any]:
    """The function of each partition; a few are under way at a time."""
    threads = min(processors(), MOST_THREADS, len(parts))
    if threads < 2:
        yield from map(function, parts)
        return
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[Any]] = deque()
    try:
        for part in parts:
            waiting.append(pool.submit(function, part))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
