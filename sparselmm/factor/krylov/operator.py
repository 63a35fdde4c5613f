"""The Schur complement of the leading term at one theta, scaled by its own diagonal blocks.

With ``D_l = C_l C_l'`` the block of leading level l, ``R_l = C_l^-1``, ``Y_l = R_l M_lN`` and

    S = M_RR - sum_l Y_l'Y_l,   P_j = M_jj - sum_l Y_lj'Y_lj = T_j T_j'   (every trailing level j),

the scaled complement ``T^-1 S T^-T = I - E`` has an E whose diagonal blocks are zero. All P_j are
exact and cost one pass over A; a product with E costs another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy.sparse as sp

from sparselmm.base import kernels_krylov as kernels
from sparselmm.base.cholesky import NotPositiveDefiniteError
from sparselmm.base.threads import in_parts
from sparselmm.base.types import CSR, FloatArray, IntArray
from sparselmm.factor.krylov.crossing import Crossing
from sparselmm.factor.pattern import Pattern, Values
from sparselmm.factor.solver import apply_blocks, congruence, inverse_factors

WIDTH = 16
"""Right-hand sides that one thread multiplies at a time; narrow blocks cost more for each."""


@dataclass(frozen=True, eq=False)
class ScaledComplement:
    """``T^-1 S T^-T`` at one theta.

    Attributes
    ----------
    R : ndarray, (l, k, k)
        Of the leading levels.
    T, Ti : dict
        ``T_j`` and its inverse for every level of each trailing term, (l, k, k).
    Y : ndarray, (entries, k)
        ``Y_l T^-T`` by leading level; (l k, r) where it is full.
    H : csr_array, (r, r)
        ``T^-1 M_RR T^-T``.
    leading_sum : ndarray, (l, k, k)
        ``I + sum_j Y_lj Y_lj'`` of the scaled coupling.
    logdet : float
        ``sum log|D_l| + sum log|P_j|``.
    """

    pattern: Pattern
    crossing: Crossing
    R: FloatArray
    T: dict[int, FloatArray]
    Ti: dict[int, FloatArray]
    Y: FloatArray
    H: CSR
    leading_sum: FloatArray
    logdet: float

    @classmethod
    def of(
        cls, pattern: Pattern, crossing: Crossing, lams: Sequence[FloatArray], values: Values
    ) -> ScaledComplement:
        """At one theta, by its factors ``lambda_t``, and the blocks of A.

        Raises
        ------
        NotPositiveDefiniteError
            If rounding destroyed positive definiteness.
        """
        lead, sizes = crossing.leading, pattern.sizes
        k, l = sizes[lead]
        D = congruence(values[lead, lead], lams[lead], lams[lead]) + np.eye(k)
        R, logdet = inverse_factors(D)
        back = lams[lead] @ R.transpose(0, 2, 1)
        entries = l * crossing.n_trailing if crossing.full else int(crossing.indptr[-1])
        Y = np.zeros((entries, k))
        T, Ti, own = {}, {}, {}
        for s in crossing.trailing:
            pair, blocks = crossing.outer[s], pattern.pairs[s, s]
            place = crossing.first[s], crossing.full
            left = np.ascontiguousarray(lams[s])
            data = pattern.oriented(values, s, lead)
            kernels.couple_blocks(pair.indptr, pair.rows, data, left, back, *place, Y)
            own[s] = congruence(values[s, s], lams[s], lams[s])
            same = blocks.rows == blocks.cols
            own[s][same] += np.eye(sizes[s][0])
            P = own[s][same].copy()
            kernels.subtract_own(pair.indptr, pair.rows, *place, Y, P)
            Ti[s], own_logdet = inverse_factors(P)
            T[s] = _inverse(Ti[s])
            logdet += own_logdet
            kernels.scale_blocks(pair.indptr, pair.rows, *place, Ti[s], Y)
        if not np.isfinite(logdet):
            raise NotPositiveDefiniteError("a diagonal block of the Schur complement is singular")
        sums = np.empty((l, k, k))
        kernels.level_grams(crossing.indptr, Y, sums)
        sums += np.eye(k)
        if crossing.full:
            Y = np.ascontiguousarray(Y.reshape(l, -1, k).transpose(0, 2, 1)).reshape(l * k, -1)
        H = _inner(crossing, lams, values, Ti, own)
        return cls(pattern, crossing, R, T, Ti, Y, H, sums, logdet)

    @property
    def n_trailing(self) -> int:
        """Order of the matrix, r."""
        return self.crossing.n_trailing

    # -------------------------------------------------------------------------- products

    def E(self, V: FloatArray) -> FloatArray:
        """``(I - T^-1 S T^-T) V``, (r, m)."""
        out = np.asarray(V - self.H @ V)
        if self.crossing.full:
            out += self.Y.T @ (self.Y @ V)
            return out
        out += self.gram(np.ones(len(self.R)), V)
        return out

    def gram(self, weights: FloatArray, V: FloatArray) -> FloatArray:
        """``sum_l w_l Y_l'Y_l V`` by blocks of columns, the last one filled up with zeros."""
        (r, m), crossing = V.shape, self.crossing
        width = 4 if m <= 4 else 8
        count = -(-m // width)
        blocks = np.zeros((count, r, width))
        for b in range(count):
            own = V[:, b * width : (b + 1) * width]
            blocks[b, :, : own.shape[1]] = own
        total = np.zeros(blocks.shape)
        kernel = kernels.gram_four if width == 4 else kernels.gram_eight
        loop = partial(kernel, crossing.indptr, crossing.cols, self.Y, weights, blocks, total)
        in_parts(loop, np.arange(count + 1))
        return np.asarray(total.transpose(1, 0, 2).reshape(r, -1)[:, :m])

    def up(self, V: FloatArray) -> FloatArray:
        """``Y_l V`` of every leading level, (l, k, m)."""
        k, l = self.pattern.sizes[self.crossing.leading]
        if self.crossing.full:
            return np.asarray(self.Y @ V).reshape(l, k, -1)
        out = np.zeros((l, k, V.shape[1]))
        self._in_columns(kernels.to_leading, np.ascontiguousarray(V), out, V.shape[1])
        return out

    def down(self, F: FloatArray) -> FloatArray:
        """``sum_l Y_l'F_l``, (r, m)."""
        m = F.shape[2]
        if self.crossing.full:
            return np.asarray(self.Y.T @ F.reshape(-1, m))
        out = np.zeros((self.n_trailing, m))
        self._in_columns(kernels.to_trailing, np.ascontiguousarray(F), out, m)
        return out

    def _in_columns(
        self, kernel: Callable[..., None], x: FloatArray, out: FloatArray, m: int
    ) -> None:
        """Run a kernel on blocks of columns, whose bounds do not depend on the threads."""
        pieces = max(-(-m // WIDTH), 1)
        bounds = np.linspace(0, m, pieces + 1).astype(np.int64)
        loop = partial(kernel, self.crossing.indptr, self.crossing.cols, self.Y, x, out)
        in_parts(loop, bounds)

    def scale(self, V: FloatArray, transpose: bool) -> FloatArray:
        """``T^-1 V`` or ``T^-T V``, (r, m)."""
        return self._levelwise(self.Ti, V, transpose)

    def unscale(self, V: FloatArray, transpose: bool) -> FloatArray:
        """``T V`` or ``T'V``, (r, m)."""
        return self._levelwise(self.T, V, transpose)

    def _levelwise(
        self, blocks: dict[int, FloatArray], V: FloatArray, transpose: bool
    ) -> FloatArray:
        out = np.empty(V.shape)
        for t, part in self.crossing.parts.items():
            k, l = self.pattern.sizes[t]
            out[part] = apply_blocks(blocks[t], V[part].reshape(l, k, -1), transpose).reshape(
                l * k, -1
            )
        return out

    # ----------------------------------------------------------------------- right-hand sides

    def reduced(self, rhs: FloatArray) -> tuple[FloatArray, FloatArray]:
        """``R_l rhs_l`` of the leading levels, and the scaled right-hand side of the others."""
        k, l = self.pattern.sizes[self.crossing.leading]
        f = apply_blocks(self.R, self.leading_rows(rhs).reshape(l, k, -1))
        return f, self.scale(self.trailing_rows(rhs), False) - self.down(f)

    def expanded(self, f: FloatArray, x: FloatArray) -> FloatArray:
        """The solution for all columns from that of the scaled complement, (q, m)."""
        pattern, rest = self.pattern, self.scale(x, True)
        out = np.empty((pattern.q, x.shape[1]))
        for t, part in self.crossing.parts.items():
            out[pattern.slices[t]] = rest[part]
        f = apply_blocks(self.R, f - self.up(x), transpose=True)
        out[pattern.slices[self.crossing.leading]] = f.reshape(-1, x.shape[1])
        return out

    def leading_rows(self, x: FloatArray) -> FloatArray:
        """Rows of the leading term."""
        return x[self.pattern.slices[self.crossing.leading]]

    def trailing_rows(self, x: FloatArray) -> FloatArray:
        """Rows of the trailing terms, (r, m)."""
        return np.concatenate([x[self.pattern.slices[t]] for t in self.crossing.trailing])


def _inverse(Ti: FloatArray) -> FloatArray:
    """Inverses of lower-triangular blocks."""
    return np.asarray(1.0 / Ti if Ti.shape[1] == 1 else np.tril(np.linalg.inv(Ti)))


def _inner(
    crossing: Crossing, lams: Sequence[FloatArray], values: Values, Ti: dict[int, FloatArray],
    own: dict[int, FloatArray],
) -> CSR:  # fmt: skip
    """``T^-1 M_RR T^-T`` by rows."""
    flat = []
    for (s, t), pair in crossing.inner.items():
        M = own[s] if s == t else congruence(values[s, t], lams[s], lams[t])
        M = Ti[s][pair.rows] @ M @ Ti[t][pair.cols].transpose(0, 2, 1)
        flat += [M.ravel()] if s == t else [M.ravel(), M.ravel()]
    data: IntArray | FloatArray = np.concatenate(flat)[crossing.inner_order]
    shape = (crossing.n_trailing, crossing.n_trailing)
    return sp.csr_array((data, crossing.inner_cols, crossing.inner_rows), shape=shape)
