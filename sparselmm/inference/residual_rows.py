"""What the rows see of R at an estimate: standard deviations, whitening, draws, neighbours.

With ``R = L L'`` block by block, rows of a group in order of time, ``L^-1 e / sigma`` are
normalized residuals and ``sigma L z`` are draws. New rows of known groups share residuals with the
old ones: with ``c = Cov(e_new, e) / sigma^2``,

    E[y_new | y] = x'beta + z'b + c'R^-1(y - X beta - Z b),   Var(e_new | e) = r - c'R^-1 c.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.linalg import solve_banded

from sparselmm.base.arguments import shown
from sparselmm.base.exceptions import DataError
from sparselmm.base.types import CSR, FloatArray, IntArray
from sparselmm.design.residual import ResidualRows
from sparselmm.inference.residual import JointFit
from sparselmm.likelihood.residual.blocks import Blocks, BlockState
from sparselmm.likelihood.residual.geometry import Geometry
from sparselmm.likelihood.residual.markov import Markov
from sparselmm.likelihood.residual.structure import Structured

IMPOSSIBLE = 1e-6
"""Share of a variance by which what others leave of it is below zero, not by rounding."""


def row_sd(joint: JointFit, rows: ResidualRows, weights: FloatArray | None) -> FloatArray:
    """Standard deviation of the residual of some rows relative to sigma, (m,)."""
    structure = joint.deviance.structure
    half = np.zeros(len(rows.group)) if weights is None else 0.5 * np.log(weights)
    if isinstance(structure, Structured):
        return np.asarray(np.exp(structure.log_sd(joint.phi, rows.D, half)))
    S = structure.covariances(joint.phi)
    variances = np.einsum("sii->si", S)[rows.stratum, rows.visits]
    return np.asarray(np.sqrt(variances) * np.exp(-half))


def block(joint: JointFit, rows: ResidualRows, at: IntArray, half: FloatArray) -> FloatArray:
    """R of some rows of one group, (m, m)."""
    coords = rows.coords[at]
    step = coords[:, None, :] - coords[None, :, :]
    geometry = Geometry(
        np.sqrt((step**2).sum(axis=2))[None], rows.visits[at][None], rows.stratum[at][:1],
        rows.D[at][None], half[at][None],
    )  # fmt: skip
    return joint.deviance.structure.blocks(joint.phi, geometry)[0][0]


def whitened(joint: JointFit, e: FloatArray) -> FloatArray:
    """``L^-1 e``, (n,)."""
    backend, state = joint.deviance.backend, joint.deviance._state(joint.phi)
    out = np.empty_like(e)
    if isinstance(backend, Markov):
        diagonal, link = _bidiagonal(joint, backend)
        own, later = e[backend.order], backend.later
        x = diagonal * own
        x[later] += link * own[later - 1]
        out[backend.order] = x
        return out
    assert isinstance(backend, Blocks) and isinstance(state, BlockState)
    for batch, R in zip(backend.batches, state.R, strict=True):
        L = np.linalg.cholesky(R)
        rows = e[batch.index][..., None]
        out[batch.index] = np.linalg.solve(L[batch.pattern], rows)[..., 0]
    return out


def coloured(joint: JointFit, z: FloatArray) -> FloatArray:
    """``L z`` of columns z, (n, c)."""
    backend, state = joint.deviance.backend, joint.deviance._state(joint.phi)
    out = np.empty_like(z)
    if isinstance(backend, Markov):
        diagonal, link = _bidiagonal(joint, backend)
        band = np.zeros((2, len(diagonal)))
        band[0] = diagonal
        band[1, backend.later - 1] = link
        out[backend.order] = solve_banded((1, 0), band, z[backend.order])
        return out
    assert isinstance(backend, Blocks) and isinstance(state, BlockState)
    for batch, R in zip(backend.batches, state.R, strict=True):
        L = np.asarray(np.linalg.cholesky(R), dtype=np.float64)
        out[batch.index] = batch.products(L, z)
    return out


def _bidiagonal(joint: JointFit, backend: Markov) -> tuple[FloatArray, FloatArray]:
    """``L^-1`` of rows in order: its diagonal (n,) and the entries before it (L,)."""
    r, _ = backend._links(joint.phi)
    inverse = np.exp(-backend.structure.log_sd(joint.phi, backend.D, backend.half))
    root = 1.0 / np.sqrt(1.0 - r * r)
    diagonal = inverse.copy()
    diagonal[backend.later] *= root
    return diagonal, -r * root * inverse[backend.later - 1]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """What new rows share with the rows of the fit.

    Attributes
    ----------
    weights : csr_array, (m, n)
        ``c'R^-1``; empty rows for groups the fit has not seen.
    left : ndarray, (m,)
        Variance of the new residuals given the old ones, relative to sigma^2.
    """

    weights: CSR
    left: FloatArray


def neighbours(
    joint: JointFit, old: ResidualRows, new: ResidualRows, old_weights: FloatArray | None,
    new_weights: FloatArray | None,
) -> Neighbours:  # fmt: skip
    """The residuals of new rows given those of the fit."""
    m, n = len(new.group), len(old.group)
    left = row_sd(joint, new, new_weights) ** 2
    rows, cols, data = [], [], []
    if old.kind:
        both = _joined(old, new)
        half = np.zeros(n + m)
        half[:n] = 0.0 if old_weights is None else 0.5 * np.log(old_weights)
        half[n:] = 0.0 if new_weights is None else 0.5 * np.log(new_weights)
        order = np.argsort(old.group, kind="stable")
        bounds = np.searchsorted(old.group[order], np.arange(int(old.group.max()) + 2))
        for g in np.unique(new.group[new.group >= 0]):
            own = order[bounds[g] : bounds[g + 1]]
            there = np.flatnonzero(new.group == g)
            if (new.stratum[there] != old.stratum[own[0]]).any():
                raise DataError(
                    f"{old.text}: the group {shown(old.labels[g])} lies in the stratum "
                    f"{old.strata[old.stratum[own[0]]]}, and new rows of it in another; by= must "
                    "be constant within groups"
                )
            R = block(joint, both, np.concatenate([own, n + there]), half)
            k = len(own)
            w = np.linalg.solve(R[:k, :k], R[:k, k:])
            own_left = np.diag(R)[k:] - np.einsum("ij,ij->j", R[:k, k:], w)
            if old.kind == "cs" and (own_left < -IMPOSSIBLE * np.diag(R)[k:]).any():
                raise DataError(
                    f"{old.text}: with a correlation as negative as the estimated one the group "
                    f"{shown(old.labels[g])} cannot have more than its {k} rows of the fit; "
                    "pass re=False"
                )
            left[there] = np.maximum(own_left, 0.0)
            rows.append(np.repeat(there, k))
            cols.append(np.tile(own, len(there)))
            data.append(w.T.ravel())
    if not rows:
        return Neighbours(sp.csr_array((m, n)), left)
    entries = (np.concatenate(rows), np.concatenate(cols))
    return Neighbours(sp.csr_array((np.concatenate(data), entries), shape=(m, n)), left)


def _joined(old: ResidualRows, new: ResidualRows) -> ResidualRows:
    """Rows of the fit, then new ones."""
    return ResidualRows(
        old.kind, np.concatenate([old.group, new.group]), old.labels,
        np.vstack([old.coords, new.coords]), np.concatenate([old.visits, new.visits]),
        old.visit_labels, np.concatenate([old.stratum, new.stratum]), old.strata,
        np.vstack([old.D, new.D]), old.d_names, old.nugget, old.text, old.group_name,
        origin=old.origin,
    )  # fmt: skip
