"""How many threads the linear-algebra libraries use.

Small blocks are quicker on one thread: handing work to a second one costs more than the work,
and on a busy machine the libraries' waiting threads cost a hundred times more.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def one_thread() -> AbstractContextManager[Any]:
    """Context in which BLAS, LAPACK and OpenMP use one thread."""
    context: AbstractContextManager[Any] = _controller().limit(limits=1)
    return context
