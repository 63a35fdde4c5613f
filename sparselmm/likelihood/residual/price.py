"""How cross-products are formed at one phi after another, in a sentence with its price."""

from __future__ import annotations

from dataclasses import replace

from sparselmm.factor.plan import FitPlan, make_plan
from sparselmm.likelihood.residual.blocks import Blocks
from sparselmm.likelihood.residual.deviance import ResidualDeviance


def residual_plan(deviance: ResidualDeviance, limit: int | None) -> FitPlan:
    """The price of a factorization, and the route of the cross-products."""
    cross = deviance.engine(deviance.phi_start).cross
    names = tuple(term.name for term in deviance.design.terms)
    if names:
        plan = make_plan(cross, names, limit, deviance.theta_covariance)
    else:
        plan = FitPlan(cross.n, cross.basis.p, 0, (), 0, (), limit)
    return replace(plan, residuals=route(deviance))


def route(deviance: ResidualDeviance) -> str:
    """Which numbers of R^-1 are kept, and from how many of them ``Z'R^-1 Z`` is made."""
    backend, maps = deviance.backend, deviance.products.maps
    entries = sum(one.T.nnz for one in maps.values())
    if isinstance(backend, Blocks):
        groups = sum(len(batch.index) for batch in backend.batches)
        patterns = sum(len(batch.counts) for batch in backend.batches)
        kept = f"{patterns:,} matrices for {groups:,} groups"
        few = backend.n_cells < deviance.design.n
    else:
        kept, few = "one neighbour of every row", False
    how = "cells" if few else "rows"
    text = f"residuals: {kept}, {backend.n_cells:,} different entries of the inverse"
    if not maps:
        return text
    return f"{text}; Z'R^-1 Z by {how}, {entries:,} products"
