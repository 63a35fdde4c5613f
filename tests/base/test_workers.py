"""How work reaches the workers of a cluster."""

import pytest

from sparselmm.base.workers import in_parallel
from sparselmm.model.cluster import OnWorkers


class Local:
    """A client that does every task at once, as a worker would, and remembers the functions."""

    def __init__(self):
        self.functions = []

    def submit(self, function, *args, pure):
        self.functions.append(function)
        return Done(function(*(a.value if isinstance(a, Done) else a for a in args)))

    def nthreads(self):
        return {"here": 1}

    def cancel(self, waiting):
        assert not waiting


class Done:
    def __init__(self, value):
        self.value = value

    def result(self):
        return self.value


def test_workers_import_the_package_before_their_threads_unpickle():
    """With pickle's own function two threads waited for each other's half of the import."""
    pytest.importorskip("distributed")
    pytest.importorskip("cloudpickle")
    client = Local()
    assert list(in_parallel(abs, [-1, 2, -3], client)) == [1, 2, 3]
    assert OnWorkers(client)._sent(abs).result() is abs
    assert client.functions
    assert all(one.__module__.startswith("sparselmm.") for one in client.functions)
