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


EACH = 1e-3
"""Seconds of an evaluation of a small model."""

PER_NUMBER = 3e-9
"""Seconds for every number that is read or written once."""


def predicted_seconds(deviance: ResidualDeviance) -> float:
    """Seconds of one evaluation with its gradient."""
    n, r = deviance.products.Xy.shape
    J = deviance.structure.n
    entries = sum(one.T.nnz for one in deviance.products.maps.values())
    numbers = entries + deviance.backend.n_cells * (J + 2) + 4 * n * (r + J)
    return EACH + PER_NUMBER * numbers + deviance.factor_seconds


def route(deviance: ResidualDeviance) -> str:
    """Which numbers of R^-1 are kept, and from how many of them ``Z'R^-1 Z`` is made."""
    backend, maps = deviance.backend, deviance.products.maps
    entries = sum(one.T.nnz for one in maps.values())
    if isinstance(backend, Blocks):
        groups = round(float(sum(batch.counts.sum() for batch in backend.batches)))
        patterns = sum(len(batch.counts) for batch in backend.batches)
        kept = f"{patterns:,} matrices for {groups:,} groups"
        few = backend.n_cells < deviance.design.n
    else:
        kept, few = "one neighbour of every row", False
    how = "cells" if few else "rows"
    text = f"residuals: {kept}, {backend.n_cells:,} different entries of the inverse"
    rows = deviance.design.residual
    if rows is not None and rows.stands is not None:
        text += f"; {deviance.design.n:,} sums stand for {rows.n_rows:,} rows"
    if not maps:
        return text
    return f"{text}; Z'R^-1 Z by {how}, {entries:,} products"
