"""M at one theta after another by conjugate gradients, its traces from fixed probes.

Solves are exact (to `EXACT` of the right-hand side). What needs the inverse itself, the sums of its
diagonal blocks and ``log|M|``, is exact on a space V of some vectors and estimated off it, with
Rademacher vectors z that are drawn once: for any orthonormal V and any F

    trace F = sum_v v'Fv + E[z~'F z~],   z~ = (I - VV') z.

V holds the unit vectors of small terms, whose traces are exact then, and approximate outliers of
the spectrum of E. With ``x = (I - E)^-1 z``, and ``B(a, b) = sum_j (T^-T a)_j (T^-T b)_j'`` summed
over the levels of a term, symmetrized,

    trailing:  sum_j P_j^-1 + sum_v B(Ev, x_v - v) + mean_z B(Ez, x - z)
    leading:   sum_l R_l'(I + sum_j Y_lj Y_lj')R_l + the same with (R_l'Y_l v), (R_l'Y_l (x_v - v))
    log|M|:    sum log|D_l| + sum log|P_j| + sum_v (v'log(I - E)v + v'Ev) + mean_z (the same of z)

in which the exact first terms are the diagonal blocks of the inverse to second order in E, and
``B(Ez, x - z)``, in place of ``B(z, x - z - Ez)``, carries lambda_t on both sides, so that nothing
is lost by dividing by a nearly singular lambda_t. Each trailing term with many columns has probes
of its own, zero elsewhere.

References: Hutchinson (1990); Meyer, Musco, Musco & Woodruff (2021); Ubaru, Chen & Saad (2017).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparselmm.base.cholesky import NotPositiveDefiniteError
from sparselmm.base.exceptions import ArgumentError, UnsupportedError
from sparselmm.base.types import CSR, FloatArray, IntArray
from sparselmm.factor.krylov.crossing import Crossing, leading_term
from sparselmm.factor.krylov.iterations import (
    Coarse,
    Iterated,
    conjugate_gradients,
    dots,
    log_forms,
)
from sparselmm.factor.krylov.operator import ScaledComplement
from sparselmm.factor.pattern import Pair, Pattern, Values
from sparselmm.factor.solver import apply_blocks, apply_lambda

EXACT = 1e-10
"""Residual of solves that count as exact, as a share of the right-hand side."""

ROUGH = 0.7
"""Power of that where a few digits are enough."""

PROBES = 1e-3
"""The same of solves with probes: what they leave changes the estimate less than the probes do."""

FORMS = 1e-5
"""The same for ``log|M|``: quadrature errs by its square, which may not show beside the probes."""

BLOCKS = 3
"""Products that turn first vectors into approximate outliers."""

BATCH = 64
"""Right-hand sides solved together."""


@dataclass(frozen=True)
class Settings:
    """What is drawn, and how much of it.

    Attributes
    ----------
    probes : int
        Random vectors for every trailing term with many columns.
    seed : int
    vectors : int
        Approximate outliers in V.
    tolerance : float
        Residual of solves that count as exact, as a share of the right-hand side.
    """

    probes: int = 16
    seed: int = 0
    vectors: int = 16
    tolerance: float = EXACT

    @property
    def rough(self) -> float:
        """The same where a few digits are enough."""
        return self.tolerance**ROUGH


@dataclass(frozen=True, eq=False)
class Traced:
    """Solutions for V and the probes, and what is made of them.

    Attributes
    ----------
    fixed : dict
        For every term, the part of the sum of the diagonal blocks of ``M^-1`` that is exact given
        V, (k, k).
    each : dict
        What every probe adds, (probes, k, k).
    W, EW, X : ndarray, (r, m)
        V and the probes off it, their products with E, and their solutions.
    """

    fixed: dict[int, FloatArray]
    each: dict[int, FloatArray]
    W: FloatArray
    EW: FloatArray
    X: FloatArray


class KrylovSolver:
    """M at one theta after another; see the module's head.

    Parameters
    ----------
    pattern : Pattern
        Where A has blocks; their numbers are an argument of `factorize`.
    settings : Settings, optional
    crossing : Crossing, optional
        Of this pattern, when it is known already.

    Attributes
    ----------
    holds : object
        Whatever the caller last said the operator belongs to; None after a new one.
    frozen : bool
        Whether V, once there is one, stays as it is, so that what the probes say is a smooth
        function of theta.

    Raises
    ------
    ArgumentError
        If no term can lead, or nothing is left behind it.
    """

    def __init__(
        self, pattern: Pattern, settings: Settings | None = None,
        crossing: Crossing | None = None,
    ):  # fmt: skip
        self.pattern, self.settings = pattern, settings or Settings()
        if crossing is None:
            lead = leading_term(pattern)
            if lead is None or len(pattern.sizes) < 2:
                raise ArgumentError(
                    "conjugate gradients need two or more random-effects terms, one of them a "
                    "grouping factor; use engine='sparse'"
                )
            crossing = Crossing.of(pattern, lead)
        self.crossing = crossing
        sizes, small = pattern.sizes, crossing.small(pattern.sizes)
        self.big = [t for t in crossing.trailing if t not in small]
        columns = [np.arange(crossing.parts[t].start, crossing.parts[t].stop) for t in small]
        self._units = np.concatenate(columns) if columns else np.zeros(0, dtype=np.int64)
        self._sizes = sizes
        self.holds: object = None
        self.frozen = True
        self.V: FloatArray | None = None
        self._forget()

    exact = False

    def _forget(self) -> None:
        self.holds = None
        self._lams: list[FloatArray] | None = None
        self._values: Values | None = None
        self._scaled: ScaledComplement | None = None
        self._coarse: Coarse | None = None
        self._traced: Traced | None = None
        self._warm: FloatArray | None = None

    def __getstate__(self) -> dict[str, Any]:
        """The recipe and V, without which probes would answer otherwise; no operator."""
        return {
            "pattern": self.pattern, "settings": self.settings, "V": self.V,
            "frozen": self.frozen,
        }  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        KrylovSolver.__init__(self, state["pattern"], state["settings"])
        self.V, self.frozen = state["V"], state["frozen"]

    def twin(self) -> KrylovSolver:
        """Another solver of the same pattern with the same probes and V."""
        other = KrylovSolver(self.pattern, self.settings, self.crossing)
        other.V, other.frozen = self.V, self.frozen
        return other

    def like(self, pattern: Pattern) -> KrylovSolver:
        """A solver with the same probes for another pattern of the same terms."""
        return self.twin() if pattern is self.pattern else KrylovSolver(pattern, self.settings)

    def reset(self, settings: Settings) -> None:
        """Other probes or another V from the next factorization on."""
        if settings.vectors != self.settings.vectors:
            self.V = None
        self.settings = settings
        self._traced = self._lams = self.holds = None

    @property
    def n_groups(self) -> int:
        """Trailing terms with probes of their own."""
        return len(self.big)

    @property
    def group(self) -> IntArray:
        """The group of every probe, (groups * probes,)."""
        return np.repeat(np.arange(self.n_groups), self.settings.probes)

    @property
    def scaled(self) -> ScaledComplement:
        """The scaled Schur complement of the last factorization."""
        assert self._scaled is not None
        return self._scaled

    # ------------------------------------------------------------------------ factorize

    def factorize(self, lams: Sequence[FloatArray], values: Values) -> float:
        """Set up ``Lambda'A Lambda + I``; returns the exact part of its log determinant.

        The rest, which `log_determinant` adds, does not matter to the gradient.

        Raises
        ------
        NotPositiveDefiniteError
            If rounding destroyed positive definiteness (theta far too large).
        """
        same = self._lams is not None and values is self._values
        same = same and all(map(np.array_equal, lams, self._lams or ()))
        self.holds = None
        if not same:
            self._lams = self._coarse = self._traced = None
            self._scaled = ScaledComplement.of(self.pattern, self.crossing, lams, values)
            self._coarse = self._space()
            self._lams, self._values = list(lams), values
        return self.scaled.logdet

    def _space(self) -> Coarse:
        """V for the operator as it stands."""
        E, r, n_units = self.scaled.E, self.crossing.n_trailing, len(self._units)
        U = np.zeros((r, n_units))
        U[self._units, np.arange(n_units)] = 1.0
        if self.V is None or not self.frozen:
            AU = U - E(U) if n_units else U
            inverse = np.linalg.inv(AU[self._units]) if n_units else np.zeros((0, 0))

            def left(v: FloatArray) -> FloatArray:
                """E of the Schur complement after the small terms."""
                out = E(v) + AU @ (inverse @ (AU.T @ v))
                out[self._units] = 0.0
                return out

            if self.V is not None and self.V.shape[1] > n_units:  # warm: two more products
                V = np.linalg.qr(left(left(self.V[:, n_units:])))[0]
            else:
                V = _outliers(left, self._first_vectors())
            self.V = np.hstack([U, V])
        V = self.V
        AV = V - E(V) if V.shape[1] else V
        inverse = np.linalg.inv(V.T @ AV) if V.shape[1] else np.zeros((0, 0))
        return Coarse(V, AV, np.asarray(inverse))

    def _first_vectors(self) -> FloatArray:
        """Nearly null directions, one for each trailing coefficient, and random vectors."""
        r, out = self.crossing.n_trailing, []
        most = min(self.settings.vectors, (r - len(self._units)) // 4)
        for t in self.big:
            part, k = self.crossing.parts[t], self._sizes[t][0]
            for c in range(k):
                one = np.zeros((r, 1))
                one[part.start + c : part.stop : k] = 1.0
                out.append(self.scaled.unscale(one, True))
        rng = np.random.default_rng([self.settings.seed, len(self.big), r])
        out.append(rng.normal(size=(r, max(most - len(out), 0))))
        V = np.hstack(out)[:, :most]
        V[self._units] = 0.0
        return np.ascontiguousarray(V)

    # ---------------------------------------------------------------------------- solve

    def iterated(
        self, B: FloatArray, tolerance: float, x0: FloatArray | None = None,
        product: FloatArray | None = None,
    ) -> Iterated:  # fmt: skip
        """Solutions of ``(I - E) X = B``; by V alone where it is everything."""
        E, space = self.scaled.E, self.space
        if self.big:
            return conjugate_gradients(E, B, tolerance, space, x0, product)
        X, R = np.zeros_like(B), B
        for _ in range(2):
            X = X + space.V @ (space.inverse @ (space.V.T @ R))
            R = B - (X - E(X))
        none = np.zeros((0, B.shape[1]))
        return Iterated(X, R, product, none, none)

    def solve(self, rhs: FloatArray, tolerance: float = EXACT) -> FloatArray:
        """``M^-1 rhs``, (q, m)."""
        out = np.empty_like(rhs)
        for start in range(0, rhs.shape[1], BATCH):
            f, right = self.scaled.reduced(rhs[:, start : start + BATCH])
            x = self.iterated(right, tolerance).X
            out[:, start : start + BATCH] = self.scaled.expanded(f, x)
        return out

    def project(self, lams: Sequence[FloatArray], B: FloatArray) -> tuple[FloatArray, FloatArray]:
        """``K = M^-1 Lambda'B`` (q, m) and ``B'Lambda K`` (m, m), for the factored ``lams``.

        Iterations start from the last solution. What they leave, a residual ``rho``, is added to
        the product, whose error is then of second order in it.
        """
        rhs = apply_lambda(self.pattern, lams, B)
        f, right = self.scaled.reduced(rhs)
        x0 = None
        if self._warm is not None and self._warm.shape == right.shape:
            x0 = self.scaled.unscale(self._warm, True)
        found = self.iterated(right, self.settings.tolerance, x0)
        self._warm = self.scaled.scale(found.X, True)
        K = self.scaled.expanded(f, found.X)
        S = rhs.T @ K + found.X.T @ found.residual
        return K, 0.5 * (S + S.T)

    def quadratic_forms(self, H: CSR, batch: int) -> FloatArray:
        """``h'M^-1 h`` of sparse rows h, (m,)."""
        out = np.empty(H.shape[0])
        for start in range(0, len(out), BATCH):
            h = H[start : start + BATCH].toarray().T.copy()
            out[start : start + BATCH] = dots(h, self.solve(h))
        return out

    def bilinear_forms(self, H: CSR, batch: int) -> FloatArray:
        """``H M^-1 H'`` of sparse rows, (m, m)."""
        out = np.empty((H.shape[0], H.shape[0]))
        for start in range(0, len(out), BATCH):
            h = H[start : start + BATCH].toarray().T.copy()
            out[:, start : start + BATCH] = H @ self.solve(h)
        return 0.5 * (out + out.T)

    # --------------------------------------------------------------------------- traces

    def _probes(self) -> FloatArray:
        """Probes off V, (r, groups * probes); more of them leave the first as they are."""
        n, seed = self.settings.probes, self.settings.seed
        Z = np.zeros((self.crossing.n_trailing, self.n_groups * n))
        for g, t in enumerate(self.big):
            part = self.crossing.parts[t]
            for i in range(n):
                draw = np.random.default_rng([seed, g, i]).random(part.stop - part.start)
                Z[part, g * n + i] = np.where(draw < 0.5, -1.0, 1.0)
        V = self.space.V
        return Z - V @ (V.T @ Z)

    @property
    def space(self) -> Coarse:
        """V and what iterations need of it."""
        assert self._coarse is not None
        return self._coarse

    def traced(self) -> Traced:
        """What V and the probes say at the factored theta."""
        if self._traced is None:
            V, Z = self.space.V, self._probes()
            EW = np.hstack([V - self.space.AV, self.scaled.E(Z)])
            W = np.hstack([V, Z])
            self._traced = self.solved(W, self.iterated(W, PROBES, product=EW))
        return self._traced

    def solved(self, W: FloatArray, found: Iterated) -> Traced:
        """What is made of the solutions for V and the probes W."""
        scaled, s = self.scaled, self.space.V.shape[1]
        X = found.X + found.residual  # a free step of Richardson's iteration: z + E x
        assert found.product is not None
        EW = found.product
        fixed, each = {}, {}
        near, far = scaled.scale(EW, True), scaled.scale(X - W, True)
        for t, part in self.crossing.parts.items():
            k, l = self._sizes[t]
            a, b = near[part], far[part]
            if t not in self.big:  # exact, since V holds its unit vectors
                a, b = scaled.scale(W, True)[part], scaled.scale(X - W - EW, True)[part]
            blocks = column_sums(a.reshape(l, k, -1), b.reshape(l, k, -1))
            own = np.einsum("jba,jbc->ac", scaled.Ti[t], scaled.Ti[t])
            fixed[t], each[t] = own + blocks[:s].sum(axis=0), blocks[s:]
        lead, blocks = self.crossing.leading, self.leading_sums(W, X - W)
        fixed[lead], each[lead] = self.leading_sum() + blocks[:s].sum(axis=0), blocks[s:]
        return Traced(fixed, each, W, EW, X)

    def leading_sums(self, V: FloatArray, W: FloatArray) -> FloatArray:
        """``sum_l (R_l'Y_l v)(R_l'Y_l w)'`` of every column, symmetrized, (m, k, k)."""
        scaled, R = self.scaled, self.scaled.R
        if R.shape[1] == 1 and not scaled.crossing.full:
            return dots(V, scaled.gram(R[:, 0, 0] ** 2, W))[:, None, None]
        return column_sums(*[apply_blocks(R, scaled.up(v), transpose=True) for v in (V, W)])

    def leading_sum(self) -> FloatArray:
        """What the blocks of the leading levels sum to without E, (k, k)."""
        R, inner = self.scaled.R, self.scaled.leading_sum
        return np.asarray(np.einsum("lba,lbc,lcd->ad", R, inner, R, optimize=True))

    def _mean(self, each: FloatArray) -> FloatArray:
        """Sum over the groups of the means over their probes."""
        return np.asarray(each.sum(axis=0) / self.settings.probes)

    def inverse_sum(self, t: int) -> FloatArray:
        """Estimate of the sum over the levels of term t of the diagonal blocks of ``M^-1``."""
        return self.sum_of(self.traced(), t)

    def sum_of(self, traced: Traced, t: int) -> FloatArray:
        """The same of given traces."""
        return np.asarray(traced.fixed[t] + self._mean(traced.each[t]))

    def own_blocks(self, t: int) -> FloatArray:
        """What these blocks are without E, (l, k, k)."""
        if t == self.crossing.leading:
            R, inner = self.scaled.R, self.scaled.leading_sum
            return np.asarray(np.einsum("lba,lbc,lcd->lad", R, inner, R, optimize=True))
        Ti = self.scaled.Ti[t]
        return np.asarray(np.einsum("jba,jbc->jac", Ti, Ti))

    def inverse_blocks(self, t: int) -> FloatArray:
        """Estimate of the diagonal block of ``M^-1`` of every level of term t, (l, k, k)."""
        traced, scaled = self.traced(), self.scaled
        k, l = self._sizes[t]
        W, X, EW = traced.W, traced.X, traced.EW
        s = self.space.V.shape[1]
        weight = np.append(np.ones(s), np.full(W.shape[1] - s, 1.0 / self.settings.probes))
        if t == self.crossing.leading:
            a, b = (apply_blocks(scaled.R, scaled.up(v), transpose=True) for v in (W, X - W))
        else:
            part = self.crossing.parts[t]
            a, b = (scaled.scale(v, True)[part].reshape(l, k, -1) for v in (W, X - W - EW))
        blocks = (a * weight) @ b.transpose(0, 2, 1)
        return self.own_blocks(t) + 0.5 * (blocks + blocks.transpose(0, 2, 1))

    def inverse_on_pattern(self, pair: Pair) -> FloatArray:
        """Refused: probes know diagonal blocks only."""
        raise UnsupportedError(
            "this needs the inverse between different levels, of which conjugate gradients know "
            "single columns only; fit with engine='sparse', or finish='exact'"
        )

    def log_determinant(self) -> tuple[float, FloatArray]:
        """``log|M|`` but for what the probes add on average, and what each adds, (probes,)."""
        if not self.big:  # V is everything
            sign, value = np.linalg.slogdet(self.space.V.T @ self.space.AV)
            if sign <= 0.0:
                raise NotPositiveDefiniteError("the Schur complement is not positive definite")
            return self.scaled.logdet + float(value), np.zeros(0)
        V = self.space.V
        known = self._traced
        W = np.hstack([V, self._probes()]) if known is None else known.W
        product = None if known is None else known.EW
        found = conjugate_gradients(self.scaled.E, W, FORMS, product=product)
        assert found.product is not None
        forms = log_forms(found, W) + dots(W, found.product)
        s = V.shape[1]
        return self.scaled.logdet + float(forms[:s].sum()), forms[s:]


def _outliers(E: Callable[[FloatArray], FloatArray], V: FloatArray) -> FloatArray:
    """As many vectors as V has for the largest eigenvalues of E, by block Lanczos from V."""
    s = V.shape[1]
    basis, products = np.zeros((len(V), 0)), np.zeros((len(V), 0))
    for _ in range(BLOCKS if s else 0):
        V = np.linalg.qr(V - basis @ (basis.T @ V))[0]
        V = np.linalg.qr(V - basis @ (basis.T @ V))[0]
        basis = np.hstack([basis, V])
        V = E(V)
        products = np.hstack([products, V])
    ritz = np.linalg.eigh(basis.T @ products)[1][:, ::-1]
    return np.asarray(basis @ ritz[:, :s])


def column_sums(a: FloatArray, b: FloatArray) -> FloatArray:
    """Symmetrized ``sum_j a_j b_j'`` of every column; a and b (l, k, m), out (m, k, k)."""
    k, m = a.shape[1:]
    out = np.empty((m, k, k))
    for i in range(k):
        for j in range(k):
            out[:, i, j] = dots(a[:, i], b[:, j])
    return out if k == 1 else np.asarray(0.5 * (out + out.transpose(0, 2, 1)))
