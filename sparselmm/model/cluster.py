"""Passes over the rows on the workers of a cluster, with Dask.

Every partition is a task, and so is every merge of the fixed tree of `sparselmm.base.reduction`:
the result has the bits of one process, whichever worker does what and however often. What tasks
need to know travels as a task of its own, so that a worker that is lost takes nothing along.
"""

from __future__ import annotations

import pickle
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sparselmm.base.exceptions import ArgumentError, DataError
from sparselmm.base.reduction import WIDTH
from sparselmm.base.threads import one_thread
from sparselmm.base.workers import received
from sparselmm.design.passes.runs import Here, Meter, Runner
from sparselmm.design.sources.dask import DaskFrame, Partition
from sparselmm.design.sources.optional import package
from sparselmm.design.sources.readers import Part, Rows, Source

T = TypeVar("T")

MOMENT = 0.05
"""Seconds between two looks at the tasks."""


def runner_of(client: Any, source: Source, progress: bool | None) -> Runner:
    """Where the partitions of a source are worked on.

    Parameters
    ----------
    client : distributed.Client or None
        None: that in use, for a Dask data frame where there is one; else this process.
    source : Source
    progress : bool or None

    Raises
    ------
    ArgumentError
        When other processes cannot read the source.
    """
    if client is None:
        client = _in_use() if isinstance(source, DaskFrame) else None
        return Here(progress) if client is None else OnWorkers(client, progress)
    if not source.movable:
        raise ArgumentError(
            f"client= needs partitions that other processes can read, and {source.what} can only "
            "be read here; pass files, a dataset or a Dask data frame"
        )
    return OnWorkers(client, progress)


def _in_use() -> Any:
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        return distributed.default_client()
    except ValueError:  # there is none
        return None


class OnWorkers:
    """Tasks on the workers of a ``distributed.Client``."""

    def __init__(self, client: Any, progress: bool | None = None) -> None:
        self._client, self._progress = client, progress

    def run(
        self, function: Callable[[Part], T], parts: Sequence[Part],
        merge: Callable[[Sequence[T]], T], title: str,
    ) -> T:  # fmt: skip
        """The function of all partitions, merged."""
        if not parts:
            raise DataError("the data have no partition at all; a fit needs at least two rows")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending large graph")
            tasks = self._tasks(function, parts)
            level = tasks
            merging = self._sent(merge)
            while len(level) > 1:
                level = [self._merged(merging, level[i : i + WIDTH])
                         for i in range(0, len(level), WIDTH)]  # fmt: skip
        self._wait(level[0], tasks, title)
        try:
            result: T = level[0].result()
        except package("distributed", "client=").KilledWorker as error:
            raise DataError(
                f"workers died while they worked on a partition ({title}): {error}. Give them more "
                "memory or fewer chunk_rows; on machines that may be taken away raise Dask's "
                "setting distributed.scheduler.allowed-failures"
            ) from error
        return result

    def _sent(self, what: Any) -> Any:
        """Something all tasks need, as a task that any worker can do again."""
        return self._client.submit(received, pickle.dumps(what), pure=False)

    def _tasks(self, function: Any, parts: Sequence[Part]) -> list[Any]:
        sent = self._sent(function)
        tasks = []
        for part in parts:
            if isinstance(part, Partition):
                (piece,) = part.piece[list(function.reading_of(part).columns)].to_delayed()
                delayed = package("dask", "client=").delayed
                tasks.append(self._client.compute(delayed(_of_frame)(sent, piece, part.label)))
            else:
                tasks.append(self._client.submit(_of_part, sent, part, pure=False))
        return tasks

    def _merged(self, merging: Any, level: list[Any]) -> Any:
        if len(level) == 1:
            return level[0]
        return self._client.submit(_merge, merging, level, pure=False)

    def _wait(self, last: Any, tasks: list[Any], title: str) -> None:
        meter = Meter(title, len(tasks), self._progress)
        try:
            while meter.shows and not last.done():
                meter(sum(task.done() for task in tasks))
                time.sleep(MOMENT)
        finally:
            meter.close()


def _of_part(function: Callable[[Part], T], part: Part) -> T:
    with one_thread():
        return function(part)


def _of_frame(function: Callable[[Part], T], frame: Any, label: str) -> T:
    with one_thread():
        return function(Rows(frame, label))


def _merge(merge: Callable[[Sequence[T]], T], parts: list[T]) -> T:
    with one_thread():
        return merge(parts)
