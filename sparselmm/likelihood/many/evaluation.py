"""The profiled deviance of many responses to one design, each at its own theta.

For m responses only the last columns of B and C differ (see :mod:`sparselmm.factor.crossprod`), so
that a model is set up once and the algebra of :mod:`sparselmm.likelihood.deviance` is done on
stacks of small matrices. As in :mod:`sparselmm.factor.solver` a *head*, a grouping factor with
block-diagonal part ``A_l`` of A (levels l), is eliminated in closed form. With ``E_l`` the rows of
``[A, B_x]`` that couple it to the other random effects and to the fixed effects (together the
*rest*), ``v`` the last column of B,

    D_l = lambda'A_l lambda + I,    W_l = lambda D_l^-1 lambda'
    T = [[A_RR, B_Rx], [B_xR, C_xx]] - sum_l E_l'W_l E_l,      t = (v_R, c_xy) - sum_l E_l'W_l v_l
    Omega = Lambda'T Lambda + diag(I, 0)                       (Lambda: identity for fixed effects)
    (u_R, gamma) = Omega^-1 Lambda't,    pwrss = s - sum_l v_l'W_l v_l - t'Lambda Omega^-1 Lambda't

which are Henderson's mixed model equations (Henderson 1950; Searle, Casella & McCulloch 1992,
section 7.6) after absorption of the head. ``log det M + log det S_xx`` is that of all ``D_l`` and
Omega, the fixed effects' block of ``Omega^-1`` is ``S_xx^-1``, and the sums over l are linear in
the entries of ``W_l``: for all responses together they are one matrix product with a tensor of
the products of the rows of ``E_l`` made once, of which symmetry leaves half. Gradient, with
``z_l = v_l - E_l Lambda (u_R, gamma)``, ``u_l = D_l^-1 lambda'z_l``, ``d = Z'V^-1(y - X beta)``
and ``O`` the inverse ``Omega^-1`` (REML), or the inverse of its random-effects block (ML), padded
with zeros,

    Gamma_t    = 2 sum_j { [T Lambda O]_jj - (df / pwrss) d_j u_j' }         terms of the rest
    Gamma_head = 2 sum_l { [A_l - (I - A_l W_l) E_l Lambda O Lambda'E_l'] lambda D_l^-1
                           - (df / pwrss) d_l u_l' }

in which nothing is divided by ``lambda``. Curvature: the average information of
:mod:`sparselmm.likelihood.deviance` in the same absorbed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.linalg import lapack

from sparselmm.base import kernels_stacks as kernels_batched
from sparselmm.base.types import BoolArray, FloatArray, IntArray
from sparselmm.likelihood.deviance import SMALLEST_PIVOT
from sparselmm.likelihood.many.reduced import Responses
from sparselmm.likelihood.many.setup import BatchedModel, Operator

SMALL_ORDER = 96
"""Up to this order compiled loops beat one call of LAPACK per matrix."""


@dataclass(frozen=True, eq=False)
class Points:
    """The deviance of some responses, each at its theta.

    Attributes
    ----------
    theta : ndarray, (m, n_theta)
    value : ndarray, (m,)
        Deviance; ``inf`` where the factorization failed.
    gradient : ndarray, (m, n_tangent)
        In all entries of every ``lambda_t``.
    information : ndarray, (m, n_tangent, n_tangent)
        Average information.
    slopes : ndarray, (m, n_blocks)
        Derivative in ``Psi_t / sigma^2`` of every term, flattened; NaN at a singular ``lambda_t``.
    gamma : ndarray, (m, r)
        Fixed effects in the working basis.
    covariance : ndarray, (m, r, r)
        ``S_xx^-1`` in the working basis.
    pwrss : ndarray, (m,)
    """

    theta: FloatArray
    value: FloatArray
    gradient: FloatArray
    information: FloatArray
    slopes: FloatArray
    gamma: FloatArray
    covariance: FloatArray
    pwrss: FloatArray

    def __len__(self) -> int:
        return len(self.value)

    def take(self, rows: IntArray | BoolArray) -> Points:
        """Some of the points."""
        return Points(*(getattr(self, f.name)[rows] for f in fields(self)))

    def put(self, rows: IntArray, other: Points) -> None:
        """Overwrite some of the points; slopes stay where the new ones are unknown."""
        for f in fields(self):
            if f.name != "slopes":
                getattr(self, f.name)[rows] = getattr(other, f.name)
        self.slopes[rows] = np.where(np.isnan(other.slopes), self.slopes[rows], other.slopes)

    @classmethod
    def joined(cls, parts: Sequence[Points]) -> Points:
        """Points one after the other."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


def evaluate(model: BatchedModel, theta: FloatArray, responses: Responses) -> Points:
    """Deviance, gradient and curvature of every response at its own theta, (m, n_theta)."""
    m = len(responses)
    if m <= model.stack:
        return _Evaluation(model, theta, responses).points()
    cuts = [slice(a, a + model.stack) for a in range(0, m, model.stack)]
    return Points.joined(
        [_Evaluation(model, theta[cut], responses.take(cut)).points() for cut in cuts]
    )


def _times(x: FloatArray, operator: Operator) -> FloatArray:
    """``x @ operator`` for dense or sparse operators, x (m, a)."""
    if isinstance(operator, np.ndarray):
        return x @ operator
    return np.ascontiguousarray((operator.T @ x.T).T)


def _times_transposed(x: FloatArray, operator: Operator) -> FloatArray:
    """``x @ operator'``, x (m, b)."""
    if isinstance(operator, np.ndarray):
        return x @ operator.T
    return np.ascontiguousarray((operator @ x.T).T)


def _kron(a: FloatArray, b: FloatArray) -> FloatArray:
    """Kronecker products of two stacks of matrices, (m, k k, k k)."""
    m, k = a.shape[:2]
    return np.einsum("mij,mkl->mikjl", a, b).reshape(m, k * k, k * k)


def _multiply(S: FloatArray, x: FloatArray) -> FloatArray:
    """``S x`` of matrices (m, a, b) and vectors (m, b)."""
    return np.matmul(S, x[:, :, None])[:, :, 0]


def _blockwise(blocks: FloatArray, x: FloatArray) -> FloatArray:
    """``blocks[..., l] @ x[..., l]`` for blocks (..., l, k, k) and vectors (..., l, k)."""
    k = x.shape[-1]
    if k == 1:
        return blocks[..., 0] * x
    out = np.empty(np.broadcast_shapes(blocks.shape[:-1], x.shape))
    for a in range(k):
        np.multiply(blocks[..., a, 0], x[..., 0], out=out[..., a])
        for b in range(1, k):
            out[..., a] += blocks[..., a, b] * x[..., b]
    return out


def invert(S: FloatArray, lead: int) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Inverses of a stack of symmetric positive definite matrices, and log determinants.

    Parameters
    ----------
    S : ndarray, (m, n, n)
    lead : int
        Order of the leading minor whose log determinant is wanted as well.

    Returns
    -------
    inverse : ndarray, (m, n, n)
    logdets : ndarray, (m, 2)
        Of the leading minor and of the whole.
    good : ndarray of bool, (m,)
        False where the matrix is not positive definite.
    """
    m, n = S.shape[:2]
    inverse, logdets, good = np.empty(S.shape), np.zeros((m, 2)), np.ones(m, dtype=bool)
    if n == 1:
        x = S[:, 0, 0]
        good = np.asarray(x > 0)
        safe = np.where(good, x, np.nan)
        logdets[:, 1] = np.log(safe)
        logdets[:, 0] = logdets[:, 1] if lead else 0.0 * logdets[:, 1]
        return 1.0 / safe[:, None, None], logdets, good
    if 0 < n < SMALL_ORDER:
        kernels_batched.invert_stack(np.ascontiguousarray(S), lead, inverse, logdets, good)
        return inverse, logdets, good
    if n == 0:
        return inverse, logdets, good
    inverse[...] = S
    for b in range(m):  # LAPACK sees the transposed matrix
        _, info = lapack.dpotrf(inverse[b].T, lower=0, clean=0, overwrite_a=1)
        good[b] = not info
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = 2.0 * np.log(np.einsum("mii->mi", inverse))
    logdets[:, 0], logdets[:, 1] = logs[:, :lead].sum(axis=1), logs.sum(axis=1)
    for b in np.flatnonzero(good).tolist():
        lapack.dpotri(inverse[b].T, lower=0, overwrite_c=1)
    kernels_batched.mirror(inverse)
    inverse[~good], logdets[~good] = np.nan, np.nan
    return inverse, logdets, good


class _Evaluation:
    """One stack of responses; the steps follow the module's head from top to bottom."""

    def __init__(self, model: BatchedModel, theta: FloatArray, responses: Responses):
        self.model, self.theta, self.y = model, theta, responses
        self.m, self.lams = len(theta), model.covariance.factors(theta)
        self._absorb()
        self._solve()

    def _absorb(self) -> None:
        model, head = self.model, self.model.head
        self.t = np.concatenate([self.y.v[:, model.columns], self.y.c], axis=1)
        self.s = self.y.s
        if head is None:
            self.T = np.broadcast_to(model.rest, (self.m, *model.rest.shape))
            self.log_head, self.head_good = np.zeros(self.m), np.ones(self.m, dtype=bool)
            return
        l, k = head.A.shape[:2]
        lam = self.lams[head.term]
        self.v0 = self.y.v[:, model.cross.slices[head.term]].reshape(self.m, l, k)
        if k == 1:
            D = 1.0 + head.A * (lam**2)[:, None]
        else:
            D = (head.A.reshape(l, k * k) @ _kron(lam, lam)).reshape(self.m, l, k, k) + np.eye(k)
        F, logs, good = invert(D.reshape(-1, k, k), 0)
        self.F = F.reshape(self.m, l, k, k)
        self.log_head = logs[:, 1].reshape(self.m, l).sum(axis=1)
        self.head_good = np.asarray(good.reshape(self.m, l).all(axis=1))
        if k == 1:
            self.W = self.F * (lam**2)[:, None]
        else:
            flat = self.F.reshape(self.m, l, k * k)
            turned = lam.transpose(0, 2, 1)
            self.W = (flat @ _kron(turned, turned)).reshape(self.m, l, k, k)
        Wv = _blockwise(self.W, self.v0)
        self.s = self.s - np.einsum("mla,mla->m", self.v0, Wv)
        self.t = self.t - _times(Wv.reshape(self.m, l * k), head.E)
        self.T = np.empty((self.m, *model.rest.shape))
        absorbed = _times(self.W.reshape(self.m, -1), head.tensor)
        kernels_batched.unpack_rest(model.rest, absorbed, self.T)

    def _right(self, x: FloatArray, turned: bool = False) -> FloatArray:
        """``x Lambda`` (or ``x Lambda'``) over the last axis of x (m, a, N + r)."""
        model = self.model
        if model.scalar:
            return x * self.scales[:, None, :]
        out = x.copy()
        for t, part in model.parts.items():
            k, l = model.cross.sizes[t]
            lam = self.lams[t].transpose(0, 2, 1) if turned else self.lams[t]
            block = x[:, :, part].reshape(self.m, -1, k)
            out[:, :, part] = (block @ lam).reshape(self.m, x.shape[1], l * k)
        return out

    def _both(self, S: FloatArray) -> FloatArray:
        """``Lambda S Lambda'`` of symmetric matrices (m, N + r, N + r)."""
        return self._right(self._right(S, turned=True).transpose(0, 2, 1), turned=True)

    def _vector(self, x: FloatArray, transpose: bool) -> FloatArray:
        """``Lambda x`` or ``Lambda'x`` of vectors (m, N + r)."""
        return self._right(x[:, None, :], turned=not transpose)[:, 0, :]

    def _solve(self) -> None:
        model, n = self.model, self.model.n_random
        if model.scalar:
            self.scales = np.ones((self.m, len(model.rest)))
            for t, part in model.parts.items():
                self.scales[:, part] = self.lams[t][:, 0]
        self.TL = self._right(self.T)
        if model.scalar:
            Omega = self.TL * self.scales[:, :, None]
        else:
            Omega = self._right(self.TL.transpose(0, 2, 1))
        at = np.arange(n)
        Omega[:, at, at] += 1.0
        self.O, logs, good = invert(Omega, n)
        right = self._vector(self.t, transpose=True)
        x = _multiply(self.O, right)
        x += _multiply(self.O, right - _multiply(Omega, x))
        self.x, self.good = x, good & self.head_good
        self.pwrss = self.s - np.einsum("mi,mi->m", right, x)
        self.good = self.good & (self.pwrss > 0)
        self.logdet = self.log_head + logs[:, 0]
        if model.reml:
            self.logdet += logs[:, 1] - logs[:, 0] - model.cross.basis.logdet

    def points(self) -> Points:
        """Everything at this theta."""
        model, n = self.model, self.model.n_random
        good = self.good
        self.pwrss = np.where(good, self.pwrss, np.nan)
        self.ratio = model.df / self.pwrss
        value = self.logdet + model.df * (1.0 + np.log(2.0 * np.pi * self.pwrss / model.df))
        value -= model.cross.sum_log_w
        self._residuals()
        gammas = self._gammas()
        names = [
            gamma[(slice(None), *term.tangent)]
            for term, gamma in zip(model.covariance.terms, gammas, strict=True)
        ]
        slopes = [self._slope(t, gamma).reshape(self.m, -1) for t, gamma in enumerate(gammas)]
        return Points(
            theta=self.theta.copy(),
            value=np.where(good, value, np.inf),
            gradient=np.concatenate(names, axis=1),
            information=self._information(),
            slopes=np.concatenate(slopes, axis=1),
            gamma=self.x[:, n:],
            covariance=self.O[:, n:, n:],
            pwrss=self.pwrss,
        )

    def _residuals(self) -> None:
        """``u`` and ``d`` of every term, each (m, l, k)."""
        model, head = self.model, self.model.head
        b = self._vector(self.x, transpose=False)
        d = self.t - _multiply(self.T, b)
        self.u, self.d = {}, {}
        for t, part in model.parts.items():
            k, l = model.cross.sizes[t]
            self.u[t] = self.x[:, part].reshape(self.m, l, k)
            self.d[t] = d[:, part].reshape(self.m, l, k)
        if head is not None:
            l, k = head.A.shape[:2]
            lam = self.lams[head.term]
            z = self.v0 - _times_transposed(b, head.E).reshape(self.m, l, k)
            self.u[head.term] = _blockwise(self.F, z @ lam)
            self.d[head.term] = z - _blockwise(head.A, _blockwise(self.W, z))

    def _gammas(self) -> list[FloatArray]:
        """Derivative in all entries of every ``lambda_t``, each (m, k, k)."""
        model, head, n = self.model, self.model.head, self.model.n_random
        O = self.O
        if not model.reml and model.cross.basis.rank:
            side = O[:, :, n:]
            O = O - side @ np.linalg.solve(self._safe(O[:, n:, n:]), side.transpose(0, 2, 1))
        out: list[FloatArray] = [np.zeros(0)] * len(model.cross.sizes)
        for t, part in model.parts.items():
            k, l = model.cross.sizes[t]
            left, right = self.TL[:, part], O[:, part]
            if k == 1:
                total = np.einsum("mij,mij->m", left, right)[:, None, None]
            else:
                total = self._by_row(left, l, k) @ self._by_row(right, l, k).transpose(0, 2, 1)
            out[t] = 2.0 * (total - self._outer(t))
        if head is not None:
            out[head.term] = 2.0 * (self._head_total(O) - self._outer(head.term))
        return out

    @staticmethod
    def _safe(S: FloatArray) -> FloatArray:
        """The same stack with the identity in place of failed matrices."""
        bad = np.isnan(S[:, 0, 0])
        return np.where(bad[:, None, None], np.eye(S.shape[1]), S) if bad.any() else S

    def _by_row(self, x: FloatArray, l: int, k: int) -> FloatArray:
        """(m, l k, c) as (m, k, l c)."""
        return x.reshape(self.m, l, k, -1).transpose(0, 2, 1, 3).reshape(self.m, k, -1)

    def _outer(self, t: int) -> FloatArray:
        """``(df / pwrss) sum_j d_j u_j'``, (m, k, k)."""
        return self.ratio[:, None, None] * (self.d[t].transpose(0, 2, 1) @ self.u[t])

    def _head_total(self, O: FloatArray) -> FloatArray:
        """Sum over the head's levels of ``Z'HZ lambda``, (m, k, k)."""
        head = self.model.head
        assert head is not None
        l, k = head.A.shape[:2]
        lam = self.lams[head.term]
        n = O.shape[1]
        packed = np.empty((self.m, n * (n + 1) // 2))
        if self.model.scalar:
            kernels_batched.pack_scaled(O, self.scales, packed)
        else:
            full = np.ascontiguousarray(self._both(O))
            kernels_batched.pack_scaled(full, np.ones((self.m, n)), packed)
        Phi = _times_transposed(packed, head.tensor).reshape(self.m, l, k, k)
        if k == 1:
            A, F, W, P = head.A[:, 0, 0], self.F[..., 0, 0], self.W[..., 0, 0], Phi[..., 0, 0]
            total = ((A - (1.0 - A * W) * P) * F).sum(axis=1)
            return total[:, None, None] * lam
        inner = head.A - Phi + np.einsum("lab,mlbc,mlcd->mlad", head.A, self.W, Phi, optimize=True)
        J = (lam[:, None] @ self.F).reshape(self.m, l, k, k)
        left = inner.transpose(0, 2, 1, 3).reshape(self.m, k, l * k)
        return left @ J.reshape(self.m, l * k, k)

    def _slope(self, t: int, gamma: FloatArray) -> FloatArray:
        """Derivative in ``Psi_t / sigma^2``, (m, k, k); NaN where ``lambda_t`` is singular."""
        lam = self.lams[t]
        cov = self.model.covariance
        pivots = cov.terms[t].pivot(lam, self.model.units[cov.slices[t]])
        regular = (pivots > SMALLEST_PIVOT)[:, None, None]
        safe = np.where(regular, lam, np.eye(lam.shape[1]))
        if lam.shape[1] == 1:
            return np.where(regular, 0.5 * gamma / safe, np.nan)
        psi = np.linalg.solve(safe.transpose(0, 2, 1), gamma.transpose(0, 2, 1))
        return np.where(regular, 0.5 * psi.transpose(0, 2, 1), np.nan)

    def _information(self) -> FloatArray:
        """Average information in tangent coordinates, (m, n_tangent, n_tangent)."""
        model, head, n = self.model, self.model.head, self.model.n_random
        m, cov = self.m, model.covariance
        c = cov.tangent_slices[-1].stop
        g = np.zeros((m, c, len(model.rest)))  # directions as rows
        gd = np.empty((m, c))
        for t, part in model.parts.items():
            at = cov.tangent_slices[t]
            block = self._directions(t)
            g[:, at, part] = block.reshape(m, at.stop - at.start, -1)
            gd[:, at] = np.einsum("mclk,mlk->mc", block, self.d[t])
        h = (g[:, :, :n].reshape(m * c, n) @ model.rest[:n]).reshape(m, c, -1)
        quad = g[:, :, :n] @ h[:, :, :n].transpose(0, 2, 1)
        if head is not None:
            at = cov.tangent_slices[head.term]
            g0 = self._directions(head.term)
            gd[:, at] = np.einsum("mclk,mlk->mc", g0, self.d[head.term])
            quad = self._absorb_directions(g, g0, h, quad, at)
        right = self._right(h)
        quad -= right @ self.O @ right.transpose(0, 2, 1)
        quad -= gd[:, :, None] * gd[:, None, :] / self.pwrss[:, None, None]
        return quad * self.ratio[:, None, None]

    def _absorb_directions(
        self, g: FloatArray, g0: FloatArray, h: FloatArray, quad: FloatArray, at: slice
    ) -> FloatArray:
        """Add the head's directions ``g0`` (m, c0, l, k) to ``h`` and ``quad`` in place."""
        head, m = self.model.head, self.m
        assert head is not None
        c = g.shape[1]
        l, k = head.A.shape[:2]
        c0 = g0.shape[1]
        a = _times_transposed(g.reshape(m * c, -1), head.E).reshape(m, c, l, k)
        flat = g0.reshape(m, c0, l * k)
        quad[:, at] += flat @ a.reshape(m, c, l * k).transpose(0, 2, 1)
        own = _blockwise(head.A, g0.reshape(m * c0, l, k)).reshape(m, c0, l, k)
        quad[:, :, at] += (a.reshape(m, c, -1)) @ flat.transpose(0, 2, 1)
        quad[:, at, at] += own.reshape(m, c0, -1) @ flat.transpose(0, 2, 1)
        a[:, at] += own
        Wa = _blockwise(self.W[:, None], a)
        quad -= a.reshape(m, c, -1) @ Wa.reshape(m, c, -1).transpose(0, 2, 1)
        h[:, at] += _times(flat.reshape(m * c0, -1), head.E).reshape(m, c0, -1)
        h -= _times(Wa.reshape(m * c, -1), head.E).reshape(h.shape)
        return quad

    def _directions(self, t: int) -> FloatArray:
        """``E_i u + Lambda E_i'd`` for the tangent entries of term t, (m, c, l, k)."""
        u, d, lam = self.u[t], self.d[t], self.lams[t]
        rows, cols = self.model.covariance.terms[t].tangent
        out = (
            d[:, :, rows].transpose(0, 2, 1)[..., None]
            * lam[:, :, cols].transpose(0, 2, 1)[:, :, None, :]
        )
        at = np.arange(len(rows))
        out[:, at, :, rows] += u[:, :, cols].transpose(2, 0, 1)
        return out
