"""How many threads the linear-algebra libraries use while a model is fitted.

Small blocks are quicker on one thread: handing work to a second one costs more than the work.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

from sparselmm.solvers import Strategy

MANY_COLUMNS = 500
"""Order of a dense remainder from which a second thread pays (measured, see docs/design.md)."""

MANY_FLOPS = 1e9
"""Operations of a sparse factorization from which a second thread pays."""


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def blas_threads(strategy: Strategy, n_trailing: int, flops: float) -> AbstractContextManager[Any]:
    """Context in which BLAS, LAPACK and OpenMP use one thread, unless the work is large.

    Parameters
    ----------
    strategy : Strategy
        How M is factored.
    n_trailing : int
        Columns of the remainder.
    flops : float
        Operations of one factorization.
    """
    large = n_trailing >= MANY_COLUMNS if strategy.remainder == "dense" else flops >= MANY_FLOPS
    return nullcontext() if large else one_thread()


def one_thread() -> AbstractContextManager[Any]:
    """Context in which BLAS, LAPACK and OpenMP use one thread."""
    context: AbstractContextManager[Any] = _controller().limit(limits=1)
    return context
