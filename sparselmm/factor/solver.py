"""Factorization of ``M = Lambda'A Lambda + I`` by elimination in two steps.

A *leading* grouping factor has a block-diagonal part of A, so its columns are eliminated in
closed form, level by level. What is left, the *remainder* (the Schur complement of the leading
columns, or all of M when there is no leading factor), is factored densely by LAPACK or
sparsely by CHOLMOD. With ``D_l = C_l C_l'`` the block of leading level ``l``, ``R_l = C_l^-1``
and ``Y_l = R_l M_lN`` its scaled coupling to the trailing columns N it meets,

    S       = M_RR - sum_l Y_l'Y_l                            remainder
    logdet  = sum_l log det D_l + log det S
    K_R     = S^-1 (rhs_R - sum_l Y_l'R_l rhs_l),   K_l = R_l'(R_l rhs_l - Y_l K_R)
    G_RR    = S^-1,   G_lN = -R_l'Y_l G_NN,   G_ll = R_l'(I + Y_l G_NN Y_l')R_l

where ``G = M^-1`` is only ever formed on the pattern of A (block inversion; on the sparse
remainder the Takahashi equations). One grouping factor has an empty remainder; a small model
has no leading factor and a dense remainder; a model with no dominant factor has no leading
factor and a sparse remainder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import scipy.sparse as sp
from scipy.linalg import lapack

from sparselmm.base import kernels
from sparselmm.base.cholesky import (
    CholeskyFactor,
    NotPositiveDefiniteError,
)
from sparselmm.base.smallmatrix import identity, kron
from sparselmm.base.threads import equal_parts, in_parts
from sparselmm.base.types import CSR, FloatArray, IntArray
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.layout import Layout, Strategy
from sparselmm.factor.pattern import Pair, Pattern, Values
from sparselmm.factor.remainders import DenseRemainder, Remainder, SparseRemainder

WIDE = 24
"""Numbers of a level up to which one product with ``lambda (x) I`` beats many k x k products."""

WIDE_BLOCK = 64
"""Entries of a block up to which one product with ``left (x) right`` beats two per block."""

NARROW_LEVEL = 3
"""Coefficients per level up to which a few sums over all levels beat LAPACK level by level."""

WIDE_LEVEL = 32
"""Coefficients per level from which LAPACK and BLAS take the levels one by one."""

FEW_LEVELS = 500
"""Levels up to which NumPy handles their blocks, and no compiled kernel is loaded for them."""

MANY_LEVELS = 20_000
"""Levels of a lone factor from which one compiled pass beats products of whole arrays."""


def congruence(data: FloatArray, left: FloatArray, right: FloatArray) -> FloatArray:
    """``left' block right`` for every block; data (nb, k_s, k_t)."""
    nb, ks, kt = data.shape
    if ks == kt == 1:
        return data * (left[0, 0] * right[0, 0])
    if ks * kt > WIDE_BLOCK:
        half = (data.reshape(nb * ks, kt) @ right).reshape(nb, ks, -1)
        return np.asarray(np.matmul(left.T, half))
    return (data.reshape(nb, ks * kt) @ kron(left, right)).reshape(nb, ks, kt)


def apply_lambda(
    cross: CrossProducts | Pattern, lams: Sequence[FloatArray], x: FloatArray,
    transpose: bool = True,
) -> FloatArray:  # fmt: skip
    """``Lambda'x`` or ``Lambda x``, (q, m)."""
    out = np.empty_like(x)
    for lam, part, (k, l) in zip(lams, cross.slices, cross.sizes, strict=True):
        block = x[part].reshape(l, k, -1)
        if k == 1:
            np.multiply(x[part], lam[0, 0], out=out[part])
        elif (m := block.shape[2]) == 1 or k * m <= WIDE:
            wide = kron(lam if transpose else lam.T, identity(m))
            out[part] = (block.reshape(l, -1) @ wide).reshape(out[part].shape)
        else:
            out[part] = np.matmul(lam.T if transpose else lam, block).reshape(out[part].shape)
    return out


def times_lambda(pattern: Pattern, lams: Sequence[FloatArray], H: CSR) -> CSR:
    """``H Lambda`` of sparse rows H, (m, q)."""
    parts = []
    for lam, part, (k, l) in zip(lams, pattern.slices, pattern.sizes, strict=True):
        own = H[:, part]
        if own.nnz:
            own = own * lam[0, 0] if k == 1 else own @ sp.kron(sp.eye_array(l), lam, "csr")
        parts.append(own)
    return sp.csr_array(sp.hstack(parts, "csr"))


def apply_blocks(blocks: FloatArray, x: FloatArray, transpose: bool = False) -> FloatArray:
    """``blocks[l] @ x[l]`` or ``blocks[l]' @ x[l]`` for every level, (l, k, m)."""
    if blocks.shape[1] == 1:
        return blocks * x
    if len(blocks) <= FEW_LEVELS or blocks.shape[1] > WIDE_LEVEL:
        return np.asarray((blocks.transpose(0, 2, 1) if transpose else blocks) @ x)
    out = np.empty(x.shape)
    kernels.apply_blocks(blocks, np.ascontiguousarray(x), out, transpose)
    return out


def inverse_factors(D: FloatArray) -> tuple[FloatArray, float]:
    """Inverse Cholesky factors (l, k, k) of small matrices, and their log determinant.

    NaN where a matrix is not positive definite.
    """
    if D.shape[1] > WIDE_LEVEL:
        return _wide_inverse_factors(D)
    if len(D) > FEW_LEVELS:
        R, logdet = kernels.inverse_factors(D)
        return R, float(logdet)
    if D.shape[1] <= NARROW_LEVEL:
        return _narrow_inverse_factors(D)
    try:
        C = np.linalg.cholesky(D)
    except np.linalg.LinAlgError:
        return np.full(D.shape, np.nan), np.nan
    diagonal, k = C.diagonal(axis1=1, axis2=2), C.shape[1]
    R, scale = np.zeros(C.shape), 1.0 / diagonal
    R.reshape(len(R), -1)[:, :: k + 1] = scale
    for i in range(1, k):  # rows of the inverse from those above
        R[:, i : i + 1, :i] = (-scale[:, i, None, None] * C[:, i : i + 1, :i]) @ R[:, :i, :i]
    return R, float(2.0 * np.log(diagonal).sum())


def _narrow_inverse_factors(D: FloatArray) -> tuple[FloatArray, float]:
    """The same entry by entry, with one number of every level in an array."""
    k, logdet = D.shape[1], 0.0
    C, R = np.zeros((k, k, len(D))), np.zeros(D.shape)
    for a in range(k):
        for b in range(a + 1):
            s = D[:, a, b]
            for c in range(b):
                s = s - C[a, c] * C[b, c]
            if b < a:
                C[a, b] = s * R[:, b, b]
                continue
            if not s.min() > 0.0:
                return np.full(D.shape, np.nan), np.nan
            logdet += float(np.log(s).sum())
            R[:, a, a] = 1.0 / np.sqrt(s)
        for b in range(a):
            s = C[a, b] * R[:, b, b]
            for c in range(b + 1, a):
                s = s + C[a, c] * R[:, c, b]
            R[:, a, b] = -s * R[:, a, a]
    return R, logdet


def _wide_inverse_factors(D: FloatArray) -> tuple[FloatArray, float]:
    """The same by LAPACK, matrix by matrix."""
    out, logdet = np.empty(D.shape), 0.0
    for level, block in enumerate(D):
        C, info = lapack.dpotrf(block, lower=1)
        if info:
            return np.full(D.shape, np.nan), np.nan
        logdet += 2.0 * float(np.log(np.diag(C)).sum())
        out[level] = lapack.dtrtri(C, lower=1)[0]
    return out, logdet


class BlockSolver:
    """M factored at one theta after another; see the module's head for the algebra.

    Parameters
    ----------
    pattern : Pattern
        Where A has blocks; their numbers are an argument of `factorize`.
    strategy : Strategy
        What is eliminated how.
    factor : CholeskyFactor, optional
        The remainder as CHOLMOD already analysed it, when it is sparse.
    layout : Layout, optional
        Of this pattern and this strategy, when it is known already.

    Attributes
    ----------
    holds : object
        Whatever the caller last said the factor belongs to; None after a new factorization. One
        for all solvers that share a factor.
    """

    def __init__(
        self, pattern: Pattern, strategy: Strategy, factor: CholeskyFactor | None = None,
        layout: Layout | None = None,
    ):  # fmt: skip
        self.pattern = pattern
        self.strategy = strategy
        self.holds: object = None
        self.layout = layout = layout or Layout.of(pattern, strategy.leading)
        self._rest: Remainder | None = None
        if layout.trailing and strategy.remainder == "dense":
            self._rest = DenseRemainder(layout)
        elif layout.trailing:
            if factor is None:
                factor = CholeskyFactor(
                    layout.remainder_pattern(), strategy.ordering, strategy.mode
                )
            self._rest = SparseRemainder(layout, factor)
        self._R = np.zeros((0, 1, 1))
        self._Y = np.zeros((1, 0))
        self._P: FloatArray | None = None
        self._Dinv: FloatArray | None = None
        self._outer: tuple[Values, dict[int, FloatArray]] = {}, {}

    exact = True

    def __reduce__(self) -> tuple[type[BlockSolver], tuple[Pattern, Strategy]]:
        """Pickled as its recipe: numeric factors are not portable."""
        return BlockSolver, (self.pattern, self.strategy)

    def twin(self) -> BlockSolver:
        """Another solver of the pattern, with a factor of its own; reads nothing that changes."""
        factor = None
        if isinstance(self._rest, SparseRemainder):
            own = self._rest.factor
            factor = CholeskyFactor(own.pattern, own.ordering, own.mode)
        return BlockSolver(self.pattern, self.strategy, factor, self.layout)

    def like(self, pattern: Pattern) -> BlockSolver:
        """A solver by the same strategy for another pattern of the same terms."""
        return self.twin() if pattern is self.pattern else BlockSolver(pattern, self.strategy)

    # ------------------------------------------------------------------------ factorize

    def factorize(self, lams: Sequence[FloatArray], values: Values) -> float:
        """Factor ``Lambda'A Lambda + I``; returns its log determinant.

        Parameters
        ----------
        lams : sequence of ndarray, (k, k)
            ``lambda_t`` of every term.
        values : mapping
            The blocks of A.

        Raises
        ------
        NotPositiveDefiniteError
            If rounding destroyed positive definiteness (theta far too large).
        """
        self._P = self._Dinv = self.holds = None
        logdet = self._eliminate(lams, values)
        if self._rest is not None:
            self._rest.assemble(
                {(s, t): congruence(values[s, t], lams[s], lams[t]) for s, t in self.layout.inner}
            )
            if self.layout.coupling is not None:
                self._couple(lams, values)
                self._rest.subtract(self.layout.coupling, self._Y)
            logdet += self._rest.factorize()
        if not math.isfinite(logdet):
            raise NotPositiveDefiniteError("a leading block is not positive definite")
        return logdet

    def _eliminate(self, lams: Sequence[FloatArray], values: Values) -> float:
        lead = self.strategy.leading
        if lead is None:
            return 0.0
        D = congruence(values[lead, lead], lams[lead], lams[lead])
        k = D.shape[1]
        D = D + identity(k)
        if k == 1:
            self._R = 1.0 / np.sqrt(D)
            return float(np.log(D).sum())
        self._R, logdet = inverse_factors(D)
        return logdet

    def _couple(self, lams: Sequence[FloatArray], values: Values) -> None:
        lead, coupling = self.strategy.leading, self.layout.coupling
        assert lead is not None and coupling is not None
        k = self.pattern.sizes[lead][0]
        Y = np.zeros((k, len(coupling.cols)))
        if self._outer[0] is not values:
            outer = {s: self.pattern.oriented(values, s, lead) for s in self.layout.outer}
            self._outer = values, outer
        for s, data in self._outer[1].items():
            block = congruence(data, lams[s], lams[lead])
            for c in range(block.shape[1]):
                Y[:, coupling.places[s] + c] = block[:, c].T
        coupling.scale(self._R, Y)
        self._Y = Y

    # ---------------------------------------------------------------------------- solve

    def solve(self, rhs: FloatArray) -> FloatArray:
        """``M^-1 rhs``, (q, m)."""
        lead, layout, coupling = self.strategy.leading, self.layout, self.layout.coupling
        if not self.pattern.sizes:
            return rhs.copy()
        if self._rest is None:
            k, l = self.pattern.sizes[0]
            return apply_blocks(self._leading_blocks(), rhs.reshape(l, k, -1)).reshape(rhs.shape)
        if lead is None:  # all columns trail, in their order
            return np.ascontiguousarray(self._rest.solve(rhs))
        out = np.empty_like(rhs)
        slices, sizes, m = self.pattern.slices, self.pattern.sizes, rhs.shape[1]
        k, l = sizes[lead]
        f = apply_blocks(self._R, rhs[slices[lead]].reshape(l, k, m))
        rest = np.concatenate([rhs[slices[t]] for t in layout.trailing])
        if coupling is not None:
            coupling.subtract_leading(self._Y, f, rest)
        rest = self._rest.solve(rest)
        for t in layout.trailing:
            start = layout.starts[t]
            out[slices[t]] = rest[start : start + sizes[t][0] * sizes[t][1]]
        if coupling is not None:
            coupling.subtract_trailing(self._Y, rest, f)
        out[slices[lead]] = apply_blocks(self._R, f, transpose=True).reshape(l * k, m)
        return out

    def project(self, lams: Sequence[FloatArray], B: FloatArray) -> tuple[FloatArray, FloatArray]:
        """``K = M^-1 Lambda'B`` (q, m) and ``B'Lambda K`` (m, m), for the factored ``lams``."""
        if self._rest is not None or len(self._R) < MANY_LEVELS:
            right = apply_lambda(self.pattern, lams, B)
            K = self.solve(right)
            return K, right.T @ K
        (l, k, _), m = self._R.shape, B.shape[1]
        K, S = np.empty(B.shape), np.empty((-(-l // kernels.LEVELS), m, m))
        blocks = B.reshape(l, k, m), K.reshape(l, k, m)
        loop = partial(kernels.project_levels, self._R, np.ascontiguousarray(lams[0]), *blocks, S)
        in_parts(loop, equal_parts(np.full(len(S), kernels.LEVELS * k * m * (m + 4.0))))
        return K, S.sum(axis=0)

    def quadratic_forms(self, H: CSR, batch: int) -> FloatArray:
        """``h'M^-1 h`` of sparse rows h, (m,), without touching the leading levels they leave out.

        With ``f_l = R_l h_l`` and ``v = h_R - sum_l Y_l'f_l`` it is ``f'f + v'S^-1 v``.

        Parameters
        ----------
        H : csr_array, (m, q)
        batch : int
            Rows solved for together.
        """
        F, rest = self._eliminated(H)
        out = np.asarray(F.multiply(F).sum(axis=1), dtype=float)
        if self._rest is None:
            return out
        for start in range(0, len(out), batch):
            v = rest[start : start + batch].toarray().T.copy()
            out[start : start + batch] += (v * self._rest.solve(v)).sum(axis=0)
        return out

    def bilinear_forms(self, H: CSR, batch: int) -> FloatArray:
        """``H M^-1 H'`` of sparse rows, (m, m): ``F F' + V'S^-1 V`` in the same way.

        Rows of trailing columns alone are answered by the remainder, however many levels lead.
        """
        F, rest = self._eliminated(H)
        out = np.asarray((F @ F.T).toarray(), dtype=float)
        if self._rest is None:
            return 0.5 * (out + out.T)
        for start in range(0, len(out), batch):
            v = rest[start : start + batch].toarray().T.copy()
            out[:, start : start + batch] += rest @ self._rest.solve(v)
        return 0.5 * (out + out.T)

    def _eliminated(self, H: CSR) -> tuple[CSR, CSR]:
        """``f`` of the leading levels that sparse rows use, and their ``v``, (m, n_trailing)."""
        lead, slices = self.strategy.leading, self.pattern.slices
        rest = sp.hstack([H[:, slices[t]] for t in self.layout.trailing] or [H[:, :0]], "csr")
        if lead is None:
            return sp.csr_array((H.shape[0], 0)), rest
        own = sp.csr_array(H[:, slices[lead]])
        levels = np.unique(own.indices // self.pattern.sizes[lead][0])
        if not len(levels):
            return sp.csr_array((H.shape[0], 0)), rest
        F, Y = self._leading_part(own, levels)
        return F, rest - F @ Y

    def _leading_part(self, own: CSR, levels: IntArray) -> tuple[CSR, CSR]:
        """``f`` of sparse rows at the leading levels they use, and Y of those levels."""
        k, c = self._R.shape[1], len(levels)
        columns = (levels[:, None] * k + np.arange(k)).ravel()
        where = np.arange(c)
        shape = (c * k, c * k)
        R = sp.bsr_array((self._R[levels], where, np.arange(c + 1)), shape=shape)
        F = sp.csr_array(own[:, columns] @ R.T)
        coupling = self.layout.coupling
        if coupling is None:
            return F, sp.csr_array((c * k, self.layout.n_trailing))
        counts = np.diff(coupling.indptr)[levels]
        first = np.repeat(coupling.indptr[levels] - (np.cumsum(counts) - counts), counts)
        entries = first + np.arange(int(counts.sum()))
        rows = np.repeat(where, counts) * k + np.arange(k)[:, None]
        cols = np.broadcast_to(coupling.cols[entries], rows.shape)
        data = self._Y[:, entries]
        shape = (c * k, self.layout.n_trailing)
        return F, sp.csr_array((data.ravel(), (rows.ravel(), cols.ravel())), shape=shape)

    # -------------------------------------------------------------------------- inverse

    def _invert(self, coupled: bool) -> None:
        """Have the inverse on the pattern ready: of the remainder, and where it is coupled."""
        if self._rest is not None:
            self._rest.invert()
            if coupled and self.layout.coupling is not None and self._P is None:
                self._P = self._rest.couple(self.layout.coupling, self._Y)

    def inverse_blocks(self, t: int) -> FloatArray:
        """Diagonal blocks of ``M^-1`` of every level of term t, (l, k, k).

        A term whose levels share columns (a user-made block) has k = 1.
        """
        self._invert(t == self.strategy.leading)
        if t == self.strategy.leading:
            return self._leading_blocks()
        pair = self.layout.inner[t, t]
        entries = self._rest.entries((t, t))  # type: ignore[union-attr]
        return entries if pair.is_block_diagonal else entries[pair.rows == pair.cols]

    def inverse_sum(self, t: int) -> FloatArray:
        """Sum of the same over the levels, (k, k)."""
        return np.asarray(self.inverse_blocks(t).sum(axis=0))

    def _leading_blocks(self) -> FloatArray:
        if self.layout.coupling is None:
            if self._Dinv is None:
                self._Dinv = apply_blocks(self._R, self._R, transpose=True)
            return self._Dinv
        k = self._R.shape[1]
        inner = np.broadcast_to(np.eye(k), self._R.shape).copy()
        if self._P is not None:
            inner += self.layout.coupling.products(self._Y, self._P)
        if k == 1:
            return self._R**2 * inner
        half = apply_blocks(self._R, inner, transpose=True)
        return apply_blocks(self._R, half.transpose(0, 2, 1), transpose=True)

    def inverse_on_pattern(self, pair: Pair) -> FloatArray:
        """Blocks of ``M^-1`` where ``A[s, t]`` has blocks, for ``s >= t``, (nb, k_s, k_t)."""
        s, t = pair
        lead = self.strategy.leading
        self._invert(lead in pair)
        if s == t == lead:
            return self._leading_blocks()
        if lead not in pair:
            return self._rest.entries(pair)  # type: ignore[union-attr]
        return self._outer_inverse(s if t == lead else t, flip=s == lead)

    def _outer_inverse(self, trailing: int, flip: bool) -> FloatArray:
        """``G[trailing, leading]`` on the pattern; ``flip`` gives ``G[leading, trailing]``."""
        assert self.layout.coupling is not None and self._P is not None
        pair = self.layout.outer[trailing]
        ks = self.pattern.sizes[trailing][0]
        places = self.layout.coupling.places[trailing][:, None] + np.arange(ks)
        blocks = -np.matmul(self._P[:, places].transpose(1, 2, 0), self._R[pair.cols])
        if not flip:
            return blocks
        order = pair.transpose_order
        return np.ascontiguousarray(blocks[order].transpose(0, 2, 1))
