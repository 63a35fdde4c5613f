"""Cluster-robust covariance of the fixed effects when the rows of a cluster share residuals.

The formulas of :mod:`sparselmm.inference.hypotheses.robust` with ``V_g = R_gg + Z_g Psi Z_g'``, a
matrix for each cluster: nothing lets the rows drop out. With prior weights they hold for rows
multiplied by the root of their weight.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from sparselmm.base.arguments import shown
from sparselmm.base.exceptions import DataError
from sparselmm.base.types import CSR, FloatArray, IntArray
from sparselmm.design.rows import GroupRows, response
from sparselmm.design.terms import Design
from sparselmm.inference.hypotheses.robust import (
    ClusterRobust,
    Kind,
    _adjustment,
    _Moments,
    counted_clusters,
    level_clusters,
)
from sparselmm.inference.residual import JointFit
from sparselmm.inference.residual_rows import block


def cluster_robust_rows(
    joint: JointFit, design: Design, clusters: IntArray, kind: Kind,
    contrasts: FloatArray | None = None,
) -> ClusterRobust:  # fmt: skip
    """Cluster-robust covariance of the fixed effects under a residual structure.

    Arguments and errors as of `cluster_robust`; groups of residuals must lie in one cluster, too.
    """
    deviance = joint.frozen
    state, basis = deviance.state_at(joint.theta), deviance.cross.basis
    n_clusters = int(clusters.max()) + 1 if len(clusters) else 0
    J = counted_clusters(design, clusters)
    _check_groups(design, clusters)
    level_clusters(design.terms, clusters)
    Xy = basis.apply(design.X, response(design))
    e, X = Xy @ state.residual, Xy[:, :-1]
    ZL = _z_lambda(joint, design)
    half = np.zeros(design.n) if design.weights is None else 0.5 * np.log(design.weights)
    inverse_root = state.inverse_root
    factor = np.sqrt(J / (J - 1.0)) if kind == "CR1" else 1.0
    meat, moments = np.zeros((basis.rank, basis.rank)), _Moments.of(contrasts, basis)
    for rows in GroupRows.of(clusters, n_clusters):
        if not len(rows):
            continue
        size = np.exp(half[rows])
        V = _covariance(joint, design, ZL, rows, half)
        Xg = X[rows] * size[:, None]
        values, vectors = np.linalg.eigh(V)
        D = (vectors * np.sqrt(values)) @ vectors.T
        Xm = Xg @ inverse_root
        E = np.linalg.solve(V, Xg).T * factor
        if kind == "CR2":
            E = E @ _adjustment(D[None], Xm[None])[0]
        score = E @ (e[rows] * size)
        meat += np.outer(score, score)
        if contrasts is not None:
            led = inverse_root @ inverse_root.T @ E
            moments.add((led @ D)[None], (led @ Xm)[None])
    bread = basis.T @ inverse_root @ inverse_root.T
    df = np.zeros(0) if contrasts is None else moments.degrees_of_freedom()
    return ClusterRobust(bread @ meat @ bread.T, df, J)


def _z_lambda(joint: JointFit, design: Design) -> CSR:
    """``Z Lambda`` of the model, sparse (n, q)."""
    factors = joint.frozen.covariance.factors(joint.theta)
    if not factors:
        return sp.csr_array((design.n, 0))
    blocks = [
        sp.kron(sp.eye_array(term.n_levels), lam)
        for term, lam in zip(design.terms, factors, strict=True)
    ]
    return sp.csr_array(design.Z @ sp.block_diag(blocks, format="csr"))


def _covariance(
    joint: JointFit, design: Design, ZL: CSR, rows: IntArray, half: FloatArray
) -> FloatArray:
    """``V_g`` over sigma^2 of some rows times the roots of their weights."""
    structure = design.residual
    assert structure is not None
    own = ZL[rows]
    V = np.asarray((own @ own.T).toarray())
    for group in np.unique(structure.group[rows]):
        at = np.flatnonzero(structure.group[rows] == group)
        V[np.ix_(at, at)] += block(joint, structure, rows[at], half)
    size = np.exp(half[rows])
    return V * np.outer(size, size)


def _check_groups(design: Design, clusters: IntArray) -> None:
    """Refuse groups of residuals with rows in several clusters."""
    structure = design.residual
    assert structure is not None
    of_group = np.zeros(int(structure.group.max()) + 1, dtype=np.int64)
    of_group[structure.group] = clusters
    wrong = np.flatnonzero(of_group[structure.group] != clusters)
    if len(wrong):
        label = structure.labels[structure.group[wrong[0]]]
        raise DataError(
            f"groups: the group {shown(label)} of {structure.text} has rows in several clusters; "
            "choose clusters that contain all rows of every group"
        )
