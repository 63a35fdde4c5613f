"""Many responses to one design: evaluation and search on stacks of small dense matrices."""

from sparselmm.batched.reduced import Projector, Responses
from sparselmm.batched.search import search
from sparselmm.batched.setup import BatchedModel

__all__ = ["BatchedModel", "Projector", "Responses", "search"]
