"""Passes over the rows on the workers of a cluster, with Dask."""

from __future__ import annotations

from typing import Any, TypeVar

from sparselmm.design.passes.runs import Here, Runner
from sparselmm.design.sources.readers import Source

T = TypeVar("T")


def runner_of(client: Any, source: Source, progress: bool | None) -> Runner:
    """Where the partitions of a source are worked on."""
    return Here(progress)
