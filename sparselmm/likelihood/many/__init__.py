"""Many responses to one design: evaluation and search on stacks of small dense matrices."""

from sparselmm.likelihood.many.reduced import Projector, Responses
from sparselmm.likelihood.many.search import search
from sparselmm.likelihood.many.setup import BatchedModel

__all__ = ["BatchedModel", "Projector", "Responses", "search"]
