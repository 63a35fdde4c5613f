"""Loops compiled by numba at their first call, and where their machine code is kept.

Importing the package compiles nothing, and a fit that needs no loop never loads numba.
``NUMBA_DISABLE_JIT=1`` runs them as plain Python. The machine code is kept where numba keeps it:
in ``NUMBA_CACHE_DIR``, else beside the package, else in the user's cache. numba itself only looks
where it may write; what was compiled ahead is used here from a folder that can only be read, too,
and a file that was cut short or damaged is made again.
"""

from __future__ import annotations

import functools
import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from sparselmm.base import vectors

RELAXED = {"contract", "reassoc"}
"""Sums may be reordered to use vector instructions; the order is fixed when compiling."""

TELL_AFTER = 1.0
"""Seconds of compiling after which that is said."""

TRIED = (0, 60), (0, 68)
"""Releases of numba of which it is known what machine code needs that was compiled before."""

COMPILING = (
    "sparselmm: compiling loops for large models, once; 'python -m sparselmm warm' does it ahead\n"
)

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile with numba at the first call, caching on disk where that can be written."""
    jitted: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if jitted:
            result: R = jitted[0](*args, **kwargs)
            return result
        with _without_collection():
            jitted.append(_dispatcher(function))
            _MADE[function.__name__] = jitted
            result = jitted[0](*args, **kwargs)
        return result

    return call


@contextmanager
def _without_collection() -> Iterator[None]:
    """While numba makes objects by the hundred thousand, all to stay.

    Looking for garbage among them takes a third of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


_WATCHING: list[Any] = []

_MADE: dict[str, list[Callable[..., Any]]] = {}


def compiled_functions() -> dict[str, Callable[..., Any]]:
    """Numba's functions so far, by the names of the kernels."""
    return {name: made[0] for name, made in _MADE.items()}


def _dispatcher(function: Callable[..., Any]) -> Callable[..., Any]:
    """Numba's function, which compiles when it meets arguments of new types."""
    import numba  # loaded late: a fit that needs no kernel does not pay for it

    if not _WATCHING:
        _tell_of_compiling()
        vectors.register()
    made: Any = numba.njit(nogil=True, fastmath=RELAXED)(function)
    settings: Any = numba.config
    if not settings.DISABLE_JIT:
        made._cache = MachineCode(function)
    return made


class MachineCode:
    """Numba's cache of one function, as its dispatchers use it.

    Parameters
    ----------
    function : callable
        The function in Python.
    """

    def __init__(self, function: Callable[..., Any]):
        from numba.core import caching

        def reading(locator: type) -> type:
            return type(locator.__name__, (locator,), {"ensure_cache_path": lambda self: None})

        kind: Any = caching.CompileResultCacheImpl
        places = {"_locator_classes": [reading(own) for own in kind._locator_classes]}
        ahead = {"_impl_class": type(kind.__name__, (kind,), places)}
        self._places: list[Any] = []
        for cache in (caching.FunctionCache, type("Ahead", (caching.FunctionCache,), ahead)):
            try:
                self._places.append(cache(function))
            except RuntimeError:  # no folder
                self._places.append(caching.NullCache())
        self._own, other = self._places
        if self._own.cache_path == other.cache_path:
            self._places.pop()

    @property
    def cache_path(self) -> Any:
        """Folder that is written, None where there is none."""
        return self._own.cache_path

    def load_overload(self, signature: Any, context: Any) -> Any:
        """What was compiled before, None where it was not or is damaged."""
        for cache in self._places:
            try:
                found = _loaded(cache, signature, context)
            except Exception:  # whatever reading a damaged file ends in: it is compiled again
                self.flush()
                continue
            if found is not None:
                return found
        return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep what was compiled, where there is room."""
        try:
            self._own.save_overload(signature, compiled)
        except OSError:  # a full disk, or a folder that cannot be written any more
            return

    def flush(self) -> None:
        """Forget what is kept."""
        try:
            self._own.flush()
        except OSError:
            return

    def enable(self) -> None:
        """Part of what numba asks of a cache."""

    disable = enable


def _loaded(cache: Any, signature: Any, context: Any) -> Any:
    """What a cache holds, without all that compiling needs, which takes 0.15 s to import."""
    import numba
    from numba.core import caching
    from numba.core.runtime import nrt

    if isinstance(cache, caching.NullCache) or not TRIED[0] <= numba.version_info[:2] <= TRIED[1]:
        return cache.load_overload(signature, context)
    runtime: Any = nrt.rtsys
    runtime.initialize(context)
    with cache._guard_against_spurious_io_errors():
        return cache._load_overload(signature, context)


def _tell_of_compiling() -> None:
    """Have one line on stderr once compiling has taken a second, in whatever pieces."""
    from numba.core import event

    class Watch(event.Listener):
        spent, since, timer = 0.0, 0.0, None
        told = False

        def on_start(self, event: Any) -> None:
            left = TELL_AFTER - self.spent
            if self.timer is None and not self.told:
                if left <= 0.0:
                    self.tell()
                    return
                self.since = time.perf_counter()
                self.timer = threading.Timer(left, self.tell)
                self.timer.daemon = True
                self.timer.start()

        def on_end(self, event: Any) -> None:
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None
                self.spent += time.perf_counter() - self.since

        def tell(self) -> None:
            self.told = True
            sys.stderr.write(COMPILING)
            sys.stderr.flush()

    _WATCHING.append(Watch())
    event.register("numba:compile", _WATCHING[0])  # type: ignore[no-untyped-call]
