"""Independent tasks in this process, on processes of joblib, or on the workers of a cluster."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from sparselmm.base.arguments import check_jobs, wrong_type
from sparselmm.base.exceptions import ArgumentError, DataError
from sparselmm.base.threads import one_thread

T = TypeVar("T")
R = TypeVar("R")

Workers = Any
"""How many, as joblib counts them; or a ``distributed.Client``."""

AHEAD = 3
"""Tasks for each thread of a cluster that are under way at a time."""


def check_client(client: Any) -> None:
    """Refuse what is no client of a cluster."""
    if not all(hasattr(client, name) for name in ("submit", "compute", "gather")):
        raise wrong_type("client", "a distributed.Client", client)


def check_workers(n_jobs: Any, client: Any) -> Workers:
    """Who does the tasks: the arguments ``n_jobs`` and ``client`` of a method."""
    n_jobs = check_jobs(n_jobs)
    if client is None:
        return n_jobs
    check_client(client)
    if n_jobs != 1:
        raise ArgumentError(
            "client= shares the tasks among the workers of a cluster; leave out n_jobs"
        )
    return client


def in_parallel(
    function: Callable[[T], R], tasks: Iterable[T], workers: Workers
) -> Iterator[R]:  # fmt: skip
    """Results of the tasks in their order; in this process when there is one worker.

    Parameters
    ----------
    tasks : iterable
        Read as far as there are workers to do them.
    """
    if not isinstance(workers, int):
        return _on_cluster(function, tasks, workers)
    if workers == 1:
        return map(function, tasks)
    # processes: the numeric factor inside a deviance belongs to one thread at a time
    import joblib
    from joblib.parallel import get_active_backend

    cluster = type(get_active_backend()[0]).__name__ == "DaskDistributedBackend"
    backend = None if cluster else "loky"  # threads are no choice
    parallel = joblib.Parallel(n_jobs=workers, backend=backend, return_as="generator")
    results: Iterator[R] = parallel(joblib.delayed(function)(task) for task in tasks)
    return results


def _on_cluster(function: Callable[[T], R], tasks: Iterable[T], client: Any) -> Iterator[R]:
    """The same on a cluster; what all tasks need is itself a task, which any worker can repeat."""
    import cloudpickle
    from distributed import KilledWorker

    shared = client.submit(received, cloudpickle.dumps(function), pure=False)
    most = AHEAD * max(sum(client.nthreads().values()), 1)
    waiting: deque[Any] = deque()
    try:
        for task in tasks:
            waiting.append(client.submit(_done, shared, task, pure=False))
            if len(waiting) >= most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except KilledWorker as error:
        raise DataError(
            f"workers died while they worked on a task: {error}. Give them more memory; on "
            "machines that may be taken away raise Dask's setting "
            "distributed.scheduler.allowed-failures"
        ) from error
    finally:
        client.cancel(list(waiting))


def _done(function: Callable[[T], R], task: T) -> R:
    with one_thread():
        return function(task)


def received(sent: bytes) -> Any:
    """What was pickled.

    A worker imports the package with this function, before its threads do: threads that unpickle
    names of several of its modules would each wait for a module that the other is importing.
    """
    return pickle.loads(sent)
