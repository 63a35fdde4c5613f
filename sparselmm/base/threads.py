"""How many threads the linear-algebra libraries use.

Small blocks are quicker on one thread: handing work to a second one costs more than the work,
and on a busy machine the libraries' waiting threads cost a hundred times more. Long compiled loops
are cut into parts that write to different places, so their results are the same for any number
of threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, TypeVar

import numpy as np

from sparselmm.base.types import FloatArray, IntArray

T = TypeVar("T")
R = TypeVar("R")

PART = 2e6
"""Operations of a compiled loop that are worth a thread of their own."""


@cache
def _controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def libraries_changed() -> None:
    """Have the linear-algebra libraries looked for again, after another one was loaded."""
    _controller.cache_clear()


def _libraries() -> list[Any]:
    """What has a number of threads: threadpoolctl's dictionaries of them cost more than that."""
    found: list[Any] = _controller().lib_controllers
    return found


class _Limit(AbstractContextManager[None]):
    """One limit for all threads of the process, as the libraries have one setting.

    The first to enter sets it and the last to leave restores what was there: each on its own
    would restore the limit another one had set, and the process would keep it.
    """

    def __init__(self) -> None:
        self.lock, self.inside = threading.Lock(), 0
        self.before: list[tuple[Any, Any]] = []

    def __enter__(self) -> None:
        with self.lock:
            if self.inside == 0:
                self.before = [(lib, lib.get_num_threads()) for lib in _libraries()]
                for lib, n in self.before:
                    if n != 1:
                        lib.set_num_threads(1)
            self.inside += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                for lib, n in self.before:
                    if n != 1:
                        lib.set_num_threads(n)


_LIMIT = _Limit()
if hasattr(os, "register_at_fork"):  # no other thread lives on in a child to release the lock
    os.register_at_fork(after_in_child=_LIMIT.__init__)  # type: ignore[misc]


def one_thread() -> AbstractContextManager[Any]:
    """Context in which BLAS, LAPACK and OpenMP use one thread, in the whole process."""
    return _LIMIT


@cache
def _available() -> int:
    """Threads for compiled loops: numba's environment variable, or the processors we may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return int(os.environ.get("NUMBA_NUM_THREADS", cores or 1))


def processors() -> int:
    """Threads that are worth having."""
    return _available()


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads of this process; one that was forked makes its own."""
    return ThreadPoolExecutor(_available(), thread_name_prefix="sparselmm")


def equal_parts(work: FloatArray) -> IntArray:
    """Bounds that cut a loop into parts of equal work, one per thread; ``work`` (n,) by index."""
    total = np.cumsum(work, dtype=float)
    parts = max(1, min(_available(), int(total[-1] / PART))) if len(total) else 1
    inner = np.searchsorted(total, total[-1] * np.arange(1, parts) / parts) if parts > 1 else []
    return np.concatenate([[0], inner, [len(work)]]).astype(np.int64)


def in_parts(loop: Callable[[int, int], None], bounds: IntArray) -> None:
    """Run ``loop(begin, end)`` for neighbouring bounds, at the same time; loops free the GIL."""
    parts = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
    if len(parts) == 1 or _available() < 2:
        for part in parts:
            loop(*part)
        return
    for done in [_pool(os.getpid()).submit(loop, *part) for part in parts]:
        done.result()


def in_threads(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """``function(item)`` of every item, at the same time."""
    if len(items) < 2:
        return [function(item) for item in items]
    return list(_pool(os.getpid()).map(function, items))
