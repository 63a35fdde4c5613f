"""The map from phi to the blocks of R, with first and second derivatives.

    R_ij = s_i s_j C(delta_ij; psi),   log s_i = D_i gamma - log(w_i) / 2,   phi = (gamma, psi)

with psi once per stratum. ``us`` is ``R = (lambda lambda')_visits`` instead, phi the entries of
lambda by columns, and absolute: sigma^2 is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sparselmm.base.smallmatrix import block_diagonal, columns_of_triangle
from sparselmm.base.types import AnyArray, BoolArray, FloatArray, IntArray
from sparselmm.design.residual import ResidualRows
from sparselmm.likelihood.residual.correlations import FAR, Correlation, Stack
from sparselmm.likelihood.residual.jets import LEFT

SHARE = 1e-4
"""Share of the variances that is added to a covariance of visits where it measures steps."""

TINY = 1e-10
"""The least of it that leaves a matrix its root."""

CAPPED = 2.0
"""Distance of a correlation from one, in those of the nearest one, at which it stands there."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """What R depends on, for P blocks of m rows.

    Attributes
    ----------
    distance : ndarray, (P, m, m)
    visits : ndarray of int, (P, m)
    stratum : ndarray of int, (P,)
    D : ndarray, (P, m, a)
    half_log_w : ndarray, (P, m)
        Half the log of the weights.
    """

    distance: FloatArray
    visits: AnyArray
    stratum: IntArray
    D: FloatArray
    half_log_w: FloatArray

    def of(self, blocks: BoolArray) -> Geometry:
        """Some of the blocks."""
        return Geometry(
            self.distance[blocks], self.visits[blocks], self.stratum[blocks], self.D[blocks],
            self.half_log_w[blocks],
        )  # fmt: skip


class Structured:
    """Standard deviations times correlations; sigma is profiled out."""

    known_scale: float | None = None

    def __init__(self, rows: ResidualRows):
        self.rows = rows
        self.correlation = Correlation(rows)
        self.a = rows.D.shape[1]
        self.n_strata = max(len(rows.strata), 1)
        self.n = self.a + self.n_strata * self.correlation.n

    def psi(self, phi: FloatArray) -> FloatArray:
        """Parameters of the correlation, (strata, n)."""
        return phi[self.a :].reshape(self.n_strata, -1)

    def start(self) -> FloatArray:
        """Where a search starts, (n,)."""
        return np.concatenate([np.zeros(self.a), np.tile(self.correlation.start(), self.n_strata)])

    def others(self, phi: FloatArray) -> list[FloatArray]:
        """Where further searches start: ``phi`` with other correlations."""
        places = self.correlation.others()
        out = [np.append(phi[: self.a], np.tile(place, self.n_strata)) for place in places]
        if self.n_strata == 1 or not places:
            return out
        plain = np.append(np.zeros(self.a), np.tile(places[2], self.n_strata))
        weak = self.correlation.weakest()  # one stratum differs from the others
        return [*out, *(self._with(plain, s, weak) for s in range(self.n_strata))]

    def near_limits(self, phi: FloatArray) -> list[FloatArray]:
        """``phi`` with one of its correlations near one or minus one."""
        return [
            self._with(phi, s, place)
            for s, psi in enumerate(self.psi(phi))
            for place in self.correlation.near_limits(psi)
        ]

    def at_limits(self, phi: FloatArray, *times: float) -> Iterator[list[FloatArray]]:
        """``phi`` with one angle at a time so many times `LEFT` from one, and from minus one."""
        for s, psi in enumerate(self.psi(phi)):
            for place in np.flatnonzero(np.isfinite(self.correlation.left_by(psi))).tolist():
                for sign in (-1.0, 1.0):
                    each = (self.correlation.leaving(psi, place, sign, t) for t in times)
                    yield [self._with(phi, s, moved) for moved in each]

    def capped(self, phi: FloatArray, factor: float) -> Iterator[tuple[str, FloatArray]]:
        """Angles at the last sine short of one, in words, and ``phi`` a factor away from there."""
        for s, psi in enumerate(self.psi(phi)):
            left = self.correlation.left_by(psi)
            for place in np.flatnonzero(left < CAPPED).tolist():
                sign = float(np.sign(np.sin(psi[place])))
                moved = self.correlation.leaving(psi, place, sign, factor * left[place])
                yield f"{self._name(s, place)} goes to {sign:.0f}", self._with(phi, s, moved)

    def towards(self, phi: FloatArray, factor: float) -> Iterator[tuple[str, FloatArray]]:
        """What is far on its way to a limit at infinity, and ``phi`` a factor nearer to it."""
        for s, psi in enumerate(self.psi(phi)):
            for place, where, moved in self.correlation.towards(psi, factor):
                yield f"{self._name(s, place)} goes to {where}", self._with(phi, s, moved)
        log_sd = self.rows.D @ phi[: self.a]
        width = float(np.ptp(log_sd)) if self.a else 0.0
        if width > np.log(FAR):
            moved = phi.copy()
            moved[: self.a] *= 1.0 + np.log(factor) / width
            yield "the ratio of the largest to the smallest standard deviation grows", moved

    def _name(self, stratum: int, place: int) -> str:
        """Of a parameter of the correlation; angles of toep are partial correlations."""
        if self.rows.kind == "toep":
            name = f"the partial correlation at lag {place + 1}"
        else:
            name = self.correlation.names()[place]
        return name if self.n_strata == 1 else f"{name}[{self.rows.strata[stratum]}]"

    def _with(self, phi: FloatArray, stratum: int, psi: FloatArray) -> FloatArray:
        out = phi.copy()
        self.psi(out)[stratum] = psi
        return out

    def strength(self, phi: FloatArray) -> float:
        """Largest correlation of rows at a typical distance."""
        return max(self.correlation.strength(psi) for psi in self.psi(phi))

    def drawn(self, phi: FloatArray, rng: np.random.Generator) -> FloatArray:
        """A random place to start from."""
        psi = [self.correlation.drawn(rng) for _ in range(self.n_strata)]
        sizes = np.diag(self.metric(phi))[: self.a]
        return np.concatenate([phi[: self.a] + 0.5 * sizes * rng.normal(size=self.a), *psi])

    def log_sd(self, phi: FloatArray, D: FloatArray, half_log_w: FloatArray) -> FloatArray:
        """Log standard deviation relative to sigma."""
        return np.asarray(D @ phi[: self.a] - half_log_w)

    def _correlations(self, phi: FloatArray, at: Geometry) -> Stack:
        """Of all strata, every stratum's derivatives in its own parameters."""
        psi, k = self.psi(phi), self.correlation.n
        if self.n_strata == 1:
            return self.correlation.stack(psi[0], at.distance, at.visits)
        shape = at.distance.shape
        C, J = np.zeros(shape), self.n_strata * k
        C1 = [np.zeros(shape) for _ in range(J)]
        none = np.zeros(shape)
        C2 = [[none for _ in range(J)] for _ in range(J)]
        for s in range(self.n_strata):
            own = at.stratum == s
            part = at.of(own)
            C[own], first, second = self.correlation.stack(psi[s], part.distance, part.visits)
            for i in range(k):
                C1[s * k + i][own] = first[i]
                for j in range(k):
                    C2[s * k + i][s * k + j] = _spread(second[i][j], own, shape)
        return C, C1, C2

    def blocks(self, phi: FloatArray, at: Geometry) -> tuple[FloatArray, FloatArray]:
        """R (P, m, m) and its derivatives in phi (n, P, m, m)."""
        C, C1, _ = self._correlations(phi, at)
        s = np.exp(self.log_sd(phi, at.D, at.half_log_w))
        ss = s[:, :, None] * s[:, None, :]
        R = ss * C
        both = at.D[:, :, None, :] + at.D[:, None, :, :]
        R1 = np.empty((self.n, *R.shape))
        for j in range(self.a):
            R1[j] = both[..., j] * R
        for j, c in enumerate(C1):
            R1[self.a + j] = ss * c
        return R, R1

    def curvature(self, phi: FloatArray, at: Geometry, Gamma: FloatArray) -> FloatArray:
        """``<Gamma, R_jk>`` summed over the blocks, (n, n)."""
        C, C1, C2 = self._correlations(phi, at)
        s = np.exp(self.log_sd(phi, at.D, at.half_log_w))
        weighted = Gamma * (s[:, :, None] * s[:, None, :])
        H = np.zeros((self.n, self.n))
        a = self.a
        if a:
            GR = weighted * C
            row = GR.sum(axis=2)
            H[:a, :a] = 2.0 * np.einsum("pia,pi,pib->ab", at.D, row, at.D, optimize=True)
            H[:a, :a] += 2.0 * np.einsum("pia,pij,pjb->ab", at.D, GR, at.D, optimize=True)
        for j, c in enumerate(C1):
            if a:
                slope = 2.0 * np.einsum("pia,pi->a", at.D, (weighted * c).sum(axis=2))
                H[a + j, :a] = H[:a, a + j] = slope
            for k in range(j + 1):
                H[a + j, a + k] = H[a + k, a + j] = np.sum(weighted * C2[j][k])
        return H

    def metric(self, phi: FloatArray) -> FloatArray:
        """Steps that count as one, (n, n) by columns: of gamma, in units of its covariate."""
        spread = _spreads(self.rows)
        psi = np.tile(self.correlation.sizes, self.n_strata)
        return np.diag(np.append(1.0 / np.where(spread > 0, spread, 1.0), psi))

    def distance(self, phi: FloatArray, other: FloatArray) -> float:
        """Largest change, by what counts as one."""
        return float(np.max(np.abs(other - phi) / np.diag(self.metric(phi)), initial=0.0))

    def rectify(self, phi: FloatArray) -> FloatArray:
        """The phi of the same R in the range shown to users."""
        out = phi.copy()
        psi, own = self.psi(out), self.correlation.n_own  # a view
        if self.rows.kind in ("ar1", "ad", "toep"):
            psi[:, :own] = _within(psi[:, :own])
        if self.rows.kind == "ar1" and self.rows.even:  # rho and -rho are the same
            psi[:, 0] = np.abs(psi[:, 0])
        if self.correlation.nugget:
            psi[:, -1] = np.abs(_within(psi[:, -1]))
        return out

    def within(self, phi: FloatArray) -> FloatArray:
        """Phi with angles no further than a right one, of a nugget not below zero."""
        out, right = phi.copy(), 0.5 * np.pi
        psi, own = self.psi(out), self.correlation.n_own  # a view
        if self.rows.kind in ("ar1", "ad", "toep"):
            psi[:, :own] = np.clip(psi[:, :own], -right, right)
        if self.correlation.nugget:
            psi[:, -1] = np.clip(psi[:, -1], 0.0, right)
        return out

    @property
    def names(self) -> list[str]:
        """Of the parameters on their natural scale, (n,)."""
        own = self.correlation.names()
        if self.n_strata == 1:
            return [*self.rows.d_names, *own]
        return [*self.rows.d_names, *(f"{name}[{s}]" for s in self.rows.strata for name in own)]

    def natural(self, phi: FloatArray, scale: float) -> FloatArray:
        """The parameters as users know them, (n,)."""
        parts = [self.correlation.natural(psi) for psi in self.psi(phi)]
        return np.concatenate([phi[: self.a], *parts])

    def natural_slopes(self, phi: FloatArray) -> FloatArray:
        """Derivatives of `natural` in phi, (n, n)."""
        parts = (
            [self.correlation.slopes(psi) for psi in self.psi(phi)] if self.correlation.n else []
        )
        return block_diagonal([np.eye(self.a), *parts])


class Unstructured:
    """A free covariance matrix of the visits in every stratum, absolute.

    ``R = lambda lambda'`` with a diagonal greater by the share `LEFT`: as for other structures
    correlations stop short of one, and ``lambda`` may be singular.
    """

    known_scale: float | None = 1.0
    a = 0

    def __init__(self, rows: ResidualRows):
        self.rows, self.T = rows, rows.n_visits
        self.r, self.c = columns_of_triangle(self.T)
        self.n_strata = max(len(rows.strata), 1)
        self.own = len(self.r)
        self.n = self.n_strata * self.own
        self.apart = 1.0 + LEFT * np.eye(self.T)
        self.initial: FloatArray | None = None

    def roots(self, phi: FloatArray) -> FloatArray:
        """Lambda of every stratum, (strata, T, T)."""
        out = np.zeros((self.n_strata, self.T, self.T))
        out[:, self.r, self.c] = phi.reshape(self.n_strata, self.own)
        return out

    def covariances(self, phi: FloatArray) -> FloatArray:
        """Of the visits in every stratum, (strata, T, T)."""
        L = self.roots(phi)
        return np.asarray(L @ L.transpose(0, 2, 1) * self.apart)

    def start(self) -> FloatArray:
        """Where a search starts, (n,): what `initial_from` found."""
        if self.initial is None:
            return np.tile(np.eye(self.T)[self.r, self.c], self.n_strata)
        return self.initial

    def others(self, phi: FloatArray) -> list[FloatArray]:
        """Where further searches start: the first start, and ``phi`` without correlations."""
        L = self.roots(phi)
        plain = np.zeros_like(L)
        np.einsum("sii->si", plain)[:] = np.sqrt(np.einsum("sij,sij->si", L, L))
        return [self.start(), plain[:, self.r, self.c].ravel()]

    def near_limits(self, phi: FloatArray) -> list[FloatArray]:
        """None: the root of a singular covariance is a place like others."""
        return []

    def _away(self, phi: FloatArray, share: float) -> FloatArray:
        """Roots with every variance greater by a share, (strata, T, T)."""
        L = self.roots(phi)
        S = L @ L.transpose(0, 2, 1)
        return np.asarray(np.linalg.cholesky(S * (1.0 + max(share, TINY) * np.eye(self.T))))

    def capped(self, phi: FloatArray, factor: float) -> Iterator[tuple[str, FloatArray]]:
        """Singular covariances, in words, and ``phi`` a factor away from there."""
        L = self.roots(phi)
        L = L / np.linalg.norm(L, axis=2, keepdims=True)
        lowest = np.linalg.eigvalsh(L @ L.transpose(0, 2, 1))[:, 0]
        away = self._away(phi, (factor - 1.0) * LEFT)
        for s in np.flatnonzero(lowest < (CAPPED - 1.0) * LEFT).tolist():
            within = f" in the stratum {self.rows.strata[s]}" if self.rows.strata else ""
            out = phi.copy()
            out.reshape(self.n_strata, self.own)[s] = away[s][self.r, self.c]
            yield f"the covariance of the visits{within} becomes singular", out

    def towards(self, phi: FloatArray, factor: float) -> Iterator[tuple[str, FloatArray]]:
        """None: no parameter has its limit at infinity."""
        yield from ()

    def strength(self, phi: FloatArray) -> float:
        """Zero: correlations of any size are as good as others."""
        return 0.0

    def drawn(self, phi: FloatArray, rng: np.random.Generator) -> FloatArray:
        """A random place to start from."""
        turn = np.tril(0.5 * rng.normal(size=(self.n_strata, self.T, self.T))) + np.eye(self.T)
        return np.asarray((self.roots(phi) @ turn)[:, self.r, self.c].ravel())

    def initial_from(self, residual: FloatArray) -> None:
        """Start from pairwise moments of least-squares residuals, eigenvalues floored."""
        rows, out = self.rows, []
        o = rows.order
        for s in range(self.n_strata):
            kept = o[rows.stratum[o] == s]
            groups, g = np.unique(rows.group[kept], return_inverse=True)
            wide, seen = np.zeros((len(groups), self.T)), np.zeros((len(groups), self.T))
            wide[g, rows.visits[kept]] = residual[kept]
            seen[g, rows.visits[kept]] = np.sqrt(rows.counts[kept])
            S = wide.T @ wide / np.maximum(seen.T @ seen, 1.0)
            values, vectors = np.linalg.eigh(S)
            S = (vectors * np.maximum(values, 0.05 * values[-1])) @ vectors.T
            out.append(np.linalg.cholesky(S)[self.r, self.c])
        self.initial = np.concatenate(out)

    def blocks(self, phi: FloatArray, at: Geometry) -> tuple[FloatArray, FloatArray]:
        """R (P, m, m) and its derivatives in phi (n, P, m, m)."""
        L, S = self.roots(phi), self.covariances(phi)
        s, a, b = at.stratum[:, None, None], at.visits[:, :, None], at.visits[:, None, :]
        R1 = np.empty((self.n, *at.distance.shape))
        for j in range(self.n):
            stratum, (r, c) = j // self.own, (self.r[j % self.own], self.c[j % self.own])
            E = np.zeros_like(S)
            E[stratum, r] += L[stratum, :, c]
            E[stratum, :, r] += L[stratum, :, c]
            R1[j] = (E * self.apart)[s, a, b]
        return S[s, a, b] * self._weights(at), R1 * self._weights(at)

    @staticmethod
    def _weights(at: Geometry) -> FloatArray:
        s = np.exp(-at.half_log_w)
        return s[:, :, None] * s[:, None, :]

    def curvature(self, phi: FloatArray, at: Geometry, Gamma: FloatArray) -> FloatArray:
        """``<Gamma, R_jk>`` summed over the blocks, (n, n)."""
        G = np.zeros((self.n_strata, self.T, self.T))
        s, a, b = at.stratum[:, None, None], at.visits[:, :, None], at.visits[:, None, :]
        np.add.at(G, (s, a, b), Gamma * self._weights(at))
        G *= self.apart
        same = self.c[:, None] == self.c[None, :]
        return block_diagonal([np.where(same, 2.0 * g[np.ix_(self.r, self.r)], 0.0) for g in G])

    def metric(self, phi: FloatArray) -> FloatArray:
        """Steps ``lambda X`` with X of one entry, (n, n) by columns.

        Lambda is that of correlations a little apart, so that a singular one can be left.
        """
        blocks = []
        for L in self._away(phi, SHARE):
            B = np.zeros((self.own, self.own))
            for j, (r, c) in enumerate(zip(self.r, self.c, strict=True)):
                step = np.zeros_like(L)
                step[:, c] = L[:, r]
                B[:, j] = step[self.r, self.c]
            blocks.append(B)
        return block_diagonal(blocks)

    def distance(self, phi: FloatArray, other: FloatArray) -> float:
        """Of the covariances, relative to those at phi."""
        here, far = self.roots(phi), self.roots(other)
        turned = np.linalg.lstsq(block_diagonal(list(here)), block_diagonal(list(far)))[0]
        return float(np.linalg.norm(turned @ turned.T - np.eye(len(turned))))

    def rectify(self, phi: FloatArray) -> FloatArray:
        """With non-negative diagonals of every root."""
        L = self.roots(phi)
        sign = np.where(np.einsum("sii->si", L) < 0, -1.0, 1.0)
        return np.asarray((L * sign[:, None, :])[:, self.r, self.c].ravel())

    @property
    def names(self) -> list[str]:
        """Of the covariances, by columns."""
        v = self.rows.visit_labels
        pairs = zip(self.r, self.c, strict=True)
        own = [f"var({v[r]})" if r == c else f"cov({v[c]},{v[r]})" for r, c in pairs]
        if self.n_strata == 1:
            return own
        return [f"{name}[{s}]" for s in self.rows.strata for name in own]

    def natural(self, phi: FloatArray, scale: float) -> FloatArray:
        """Variances and covariances, (n,)."""
        return np.asarray(self.covariances(phi)[:, self.r, self.c].ravel())

    def natural_slopes(self, phi: FloatArray) -> FloatArray:
        """Derivatives of `natural` in phi, (n, n)."""
        blocks = []
        for L in self.roots(phi):
            J = np.zeros((self.own, self.own))
            for j, (r, c) in enumerate(zip(self.r, self.c, strict=True)):
                E = np.zeros_like(L)
                E[r] += L[:, c]
                E[:, r] += L[:, c]
                J[:, j] = (E * self.apart)[self.r, self.c]
            blocks.append(J)
        return block_diagonal(blocks)


Structure = Structured | Unstructured


def _spreads(rows: ResidualRows) -> FloatArray:
    """Standard deviations of the columns of D over the rows of the data."""
    if rows.stands is None:
        return np.asarray(rows.D.std(axis=0))
    share = rows.stands / rows.stands.sum()
    return np.asarray(np.sqrt(share @ (rows.D - share @ rows.D) ** 2))


def structure_of(rows: ResidualRows) -> Structure:
    """The structure that a design asks for."""
    return Unstructured(rows) if rows.kind == "us" else Structured(rows)


def _within(psi: FloatArray) -> FloatArray:
    """Angles of the same sine up to a right one; those that are stay as they are."""
    return np.where(np.abs(psi) > 0.5 * np.pi, np.arcsin(np.sin(psi)), psi)


def _spread(values: FloatArray, own: BoolArray, shape: tuple[int, ...]) -> FloatArray:
    out = np.zeros(shape)
    out[own] = values
    return out
