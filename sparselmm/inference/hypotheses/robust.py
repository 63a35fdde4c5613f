"""Cluster-robust covariance of the fixed effects, from per-cluster cross-products.

With ``V_g`` the model's covariance of cluster g over sigma^2, ``M = (X'V^-1X)^-1`` and residuals
``e = y - X beta`` (Bell & McCaffrey 2002; Pustejovsky & Tipton 2018, eqs. 4 to 8)

    Var(beta) = M [ sum_g E_g e_g e_g'E_g' ] M,     E_g = X_g'V_g^-1 A_g

where ``A_g = I`` for CR0, ``sqrt(J / (J - 1)) I`` for CR1 and for CR2 the matrix with

    A_g (V_g - X_g M X_g') A_g = V_g,   A_g = D'[D (V_g - X_g M X_g') D']^-1/2 D,   V_g = D'D

which makes the estimate unbiased when the model is right. With prior weights all of this holds for
rows multiplied by the root of their weight. Tests use a t distribution whose degrees of freedom
match mean and variance of the estimated variance under the model (proposed by Bell & McCaffrey
2002; ``nu_M`` of Pustejovsky & Tipton 2018, section 3.1): with
``p_gh = c'M E_g [delta_gh V_g - X_g M X_h'] E_h'M c``

    df = (sum_g p_gg)^2 / sum_gh p_gh^2.

Nothing of the size of a cluster is formed. ``V_g = I + U_g U_g'`` with ``U_g = Z_g Lambda`` differs
from the identity only in the span of ``G = [X_g, U_g]``, and on its complement A_g is the identity
and annihilates nothing that counts. With ``G = F R`` (F orthonormal, from the eigenvectors of
``G'G``) everything is done in coordinates of F; columns of F beyond the rank of G are zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse as sp

from sparselmm.base.arguments import shown
from sparselmm.base.exceptions import DataError
from sparselmm.base.types import BoolArray, FloatArray, IntArray
from sparselmm.design.rows import GroupRows, blocks
from sparselmm.design.terms import Design, RandomTerm
from sparselmm.factor.basis import Basis
from sparselmm.factor.solver import apply_lambda
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.evaluations import State

Kind = Literal["CR0", "CR1", "CR2"]
KINDS = ("CR0", "CR1", "CR2")

RANK = 1e-11
"""Share of the largest eigenvalue below which a direction of ``G'G`` counts as none."""

NULL = 1e-9
"""Share of the largest eigenvalue below which one of ``D (V - XMX') D'`` counts as zero."""

BATCH = 4_000_000
"""Numbers in a stack of cluster matrices."""


@dataclass(frozen=True, eq=False)
class ClusterRobust:
    """Cluster-robust covariance and, for each tested combination, its degrees of freedom.

    Attributes
    ----------
    vcov : ndarray, (r, r)
        Covariance of the independent fixed effects, in the units of the data.
    df : ndarray, (m,)
        Satterthwaite degrees of freedom of each combination; empty when none was given.
    """

    vcov: FloatArray
    df: FloatArray
    n_clusters: int


def cluster_robust(
    deviance: ProfiledDeviance,
    theta: FloatArray,
    design: Design,
    clusters: IntArray,
    kind: Kind,
    contrasts: FloatArray | None = None,
) -> ClusterRobust:
    """Cluster-robust covariance of the fixed effects.

    Parameters
    ----------
    theta : ndarray, (n_theta,)
        The estimate.
    design : Design
        The rows.
    clusters : ndarray of int, (n,)
        Cluster of every row, 0 to J - 1. Every level of every random effect lies in one cluster.
    kind : {"CR0", "CR1", "CR2"}
    contrasts : ndarray, (m, r), optional
        Combinations of the independent fixed effects whose degrees of freedom are wanted.

    Raises
    ------
    DataError
        When a level has rows in several clusters, or there is only one cluster.
    """
    state, basis = deviance.state_at(theta), deviance.cross.basis
    n_clusters = int(clusters.max()) + 1 if len(clusters) else 0
    J = counted_clusters(design, clusters)
    sums = _Sums(np.zeros((basis.rank, basis.rank)), _Moments.of(contrasts, basis))
    inverse_root = state.inverse_root
    factor = np.sqrt(J / (J - 1.0)) if kind == "CR1" else 1.0
    columns = level_clusters(design.terms, clusters)
    for gram, cross_y in _gram_batches(deviance, state, design, clusters, n_clusters, columns):
        sums.add(gram, cross_y, inverse_root, basis.rank, kind, factor)
    bread = basis.T @ inverse_root @ inverse_root.T
    df = np.zeros(0) if contrasts is None else sums.moments.degrees_of_freedom()
    return ClusterRobust(bread @ sums.meat @ bread.T, df, J)


def counted_clusters(design: Design, clusters: IntArray) -> int:
    """Clusters with a row of positive weight.

    Raises
    ------
    DataError
        When there is only one.
    """
    counted = clusters if design.weights is None else clusters[design.weights > 0]
    J = len(np.unique(counted))
    if J < 2:
        raise DataError(f"a cluster-robust covariance needs at least two clusters, got {J}")
    return J


# -------------------------------------------------------------------------- one batch of clusters


@dataclass(eq=False)
class _Moments:
    """Sums over clusters from which the degrees of freedom follow.

    ``p_gh = delta_gh a_g - b_g'b_h``, so that ``sum p_gg = sum (a_g - |b_g|^2)`` and
    ``sum p_gh^2 = sum a_g^2 - 2 sum a_g |b_g|^2 + |sum b_g b_g'|^2``.
    """

    contrasts: FloatArray  # (m, r), in the working basis
    trace: FloatArray  # (m,)
    squares: FloatArray  # (m,)
    outer: FloatArray  # (m, r, r)

    @classmethod
    def of(cls, contrasts: FloatArray | None, basis: Basis) -> _Moments:
        rows = np.zeros((0, basis.rank)) if contrasts is None else contrasts @ basis.T
        m, r = rows.shape
        return cls(rows, np.zeros(m), np.zeros(m), np.zeros((m, r, r)))

    def add(self, own: FloatArray, shared: FloatArray) -> None:
        """Add clusters: ``E_g V_g^1/2`` (G, r, d) and ``E_g X_g M^1/2`` (G, r, r), led by M."""
        for i, c in enumerate(self.contrasts):
            a = np.sum(np.einsum("r,grd->gd", c, own) ** 2, axis=1)
            b = np.einsum("r,grs->gs", c, shared)
            norms = np.sum(b**2, axis=1)
            self.trace[i] += np.sum(a - norms)
            self.squares[i] += np.sum(a**2 - 2.0 * a * norms)
            self.outer[i] += b.T @ b

    def degrees_of_freedom(self) -> FloatArray:
        """Satterthwaite's approximation, (m,)."""
        total = self.squares + np.sum(self.outer**2, axis=(1, 2))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.trace**2 / total)


@dataclass(eq=False)
class _Sums:
    """Running sums over clusters."""

    meat: FloatArray
    moments: _Moments

    def add(
        self, gram: FloatArray, cross_y: FloatArray, inverse_root: FloatArray, r: int, kind: Kind,
        factor: float,
    ) -> None:  # fmt: skip
        """Add clusters given ``G'G`` (G, d, d) and ``G'e`` (G, d); columns of X come first."""
        R, to_F = _orthonormal(gram)
        X, U = R[:, :, :r], R[:, :, r:]
        values, vectors = np.linalg.eigh(_plus_identity(U @ U.transpose(0, 2, 1)))
        XW = (vectors / values[:, None, :]) @ vectors.transpose(0, 2, 1) @ X  # V^-1 X
        E = XW.transpose(0, 2, 1) * factor
        Xm = X @ inverse_root
        if kind == "CR2":
            D = (vectors * np.sqrt(values)[:, None, :]) @ vectors.transpose(0, 2, 1)
            E = E @ _adjustment(D, Xm)
        e = (to_F.transpose(0, 2, 1) @ cross_y[:, :, None])[:, :, 0]
        scores = np.einsum("grd,gd->gr", E, e)
        self.meat += scores.T @ scores
        if len(self.moments.contrasts):
            D = vectors * np.sqrt(values)[:, None, :]
            led = inverse_root @ inverse_root.T @ E
            self.moments.add(led @ D, led @ Xm)


def _orthonormal(gram: FloatArray) -> tuple[FloatArray, FloatArray]:
    """``G = F R`` from ``G'G``: R (G, d, d) and T with ``F = G T`` (G, d, d)."""
    size = np.sqrt(np.einsum("gii->gi", gram))
    scale = np.where(size > 0, size, 1.0)
    values, vectors = np.linalg.eigh(gram / (scale[:, :, None] * scale[:, None, :]))
    keep = values > RANK * values[:, -1:]
    root = np.sqrt(np.where(keep, values, 0.0))
    inverse = np.where(keep, 1.0 / np.where(keep, root, 1.0), 0.0)
    R = root[:, :, None] * vectors.transpose(0, 2, 1) * scale[:, None, :]
    return R, vectors * inverse[:, None, :] / scale[:, :, None]


def _plus_identity(blocks: FloatArray) -> FloatArray:
    return blocks + np.eye(blocks.shape[1])


def _adjustment(D: FloatArray, Xm: FloatArray) -> FloatArray:
    """``D [D (V - Xm Xm') D]^-1/2 D`` with the Moore-Penrose inverse; D symmetric, (G, d, d)."""
    DX = D @ Xm
    DD = D @ D
    values, vectors = np.linalg.eigh(DD @ DD - DX @ DX.transpose(0, 2, 1))
    keep = values > NULL * values[:, -1:]
    quarter = np.where(keep, 1.0 / np.where(keep, values, 1.0) ** 0.25, 0.0)
    half = (D @ vectors) * quarter[:, None, :]
    return np.asarray(half @ half.transpose(0, 2, 1))


# ----------------------------------------------------------------------- cross-products by cluster


def level_clusters(terms: Sequence[RandomTerm], clusters: IntArray) -> IntArray:
    """Cluster of every column of Z, (q,); -1 for a column without rows.

    Raises
    ------
    DataError
        When a level has rows in more than one cluster.
    """
    parts = []
    for term in terms:
        if term.block is not None:
            entries = term.block.tocoo()
            used = entries.data != 0
            columns, at, each = entries.col[used], clusters[entries.row[used]], 1
        else:
            assert term.codes is not None
            used = term.codes >= 0
            columns, at, each = term.codes[used], clusters[used], term.k
        of_column = np.full(term.q // each, -1, dtype=np.int64)
        of_column[columns] = at
        wrong: BoolArray = of_column[columns] != at
        if wrong.any():
            level = int(columns[np.flatnonzero(wrong)[0]]) * each // term.k
            raise DataError(
                f"level {shown(term.levels.labels()[level])} of {term.name!r} has rows in several "
                "clusters, so clusters are not independent; choose clusters that contain all rows "
                "of every level of every random effect (with crossed factors there are none)"
            )
        parts.append(np.repeat(of_column, each))
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _gram_batches(
    deviance: ProfiledDeviance,
    state: State,
    design: Design,
    clusters: IntArray,
    n_clusters: int,
    columns: IntArray,
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """``G'G`` and ``G'e`` of the clusters, those with as many columns of Z together.

    ``G = [Q_g, Z_g Lambda]``, rows times the root of their weight.
    """
    cross = deviance.cross
    r = cross.basis.rank
    C = _fixed_grams(design, cross.basis, clusters, n_clusters)
    B = apply_lambda(cross, state.lams, cross.B)
    Lambda = _lambda(deviance, state)
    A = sp.csr_array(Lambda.T @ cross.A @ Lambda)
    of_cluster = GroupRows.of(columns, n_clusters)
    order = of_cluster.order[of_cluster.bounds[0] :]
    starts, counts = of_cluster.bounds[:-1] - of_cluster.bounds[0], np.diff(of_cluster.bounds)
    A = A[order][:, order].tocoo()
    rows_of = columns[order][A.row]
    held = GroupRows.of(rows_of, n_clusters)
    for width in np.unique(counts):
        members = np.flatnonzero(counts == width)
        d = r + int(width)
        step = max(1, BATCH // max(d * d, 1))
        for first in range(0, len(members), step):
            chosen = members[first : first + step]
            gram = np.zeros((len(chosen), d, d))
            gram[:, :r, :r] = C[chosen][:, :r, :r]
            target = np.zeros((len(chosen), d))
            target[:, :r] = C[chosen][:, :r, r] - C[chosen][:, :r, :r] @ state.gamma
            at = order[starts[chosen][:, None] + np.arange(width)]
            ZX = B[at]
            gram[:, r:, :r] = ZX[:, :, :r]
            gram[:, :r, r:] = ZX[:, :, :r].transpose(0, 2, 1)
            target[:, r:] = ZX @ state.residual
            first_entry, end = held.bounds[chosen], held.bounds[chosen + 1]
            entries = held.order[_ranges(first_entry, end)]
            place = np.repeat(np.arange(len(chosen)), end - first_entry)
            shift = starts[chosen][place]
            gram[place, r + A.row[entries] - shift, r + A.col[entries] - shift] = A.data[entries]
            yield gram, target


def _ranges(starts: IntArray, stops: IntArray) -> IntArray:
    """All integers of the ranges ``starts[i]:stops[i]``, one after the other."""
    lengths = stops - starts
    offsets = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    return offsets + np.arange(int(lengths.sum()))


def _lambda(deviance: ProfiledDeviance, state: State) -> sp.csc_array:
    """Lambda, sparse (q, q)."""
    blocks = [
        sp.kron(sp.eye_array(l), lam, format="csc")
        for lam, (_, l) in zip(state.lams, deviance.cross.sizes, strict=True)
    ]
    return sp.csc_array(sp.block_diag(blocks, format="csc")) if blocks else sp.csc_array((0, 0))


def _fixed_grams(design: Design, basis: Basis, clusters: IntArray, n_clusters: int) -> FloatArray:
    """``[Q, y - X shift]'W[Q, y - X shift]`` of every cluster, (J, r + 1, r + 1)."""
    y = design.y if design.offset is None else design.y - design.offset
    m = basis.rank + 1
    out = np.zeros((n_clusters, m, m))
    for rows in blocks(design.n):
        part = basis.apply(design.X[rows], y[rows])
        weighted = part if design.weights is None else part * design.weights[rows, None]
        present, local = np.unique(clusters[rows], return_inverse=True)
        sums = sp.csr_array(
            (np.ones(len(local)), (local, np.arange(len(local)))), (len(present), len(local))
        )
        for j in range(m):
            out[present, j] += sums @ (part * weighted[:, j : j + 1])
    return out
