"""The map from phi to the blocks of R, with first and second derivatives.

    R_ij = s_i s_j C(delta_ij; psi),   log s_i = D_i gamma - log(w_i) / 2,   phi = (gamma, psi)

with psi once per stratum. ``us`` is :mod:`sparselmm.likelihood.residual.unstructured` instead.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sparselmm.base.smallmatrix import block_diagonal
from sparselmm.base.types import BoolArray, FloatArray, IntArray
from sparselmm.design.residual import ResidualRows
from sparselmm.likelihood.residual.correlations import FAR, Correlation, Stack
from sparselmm.likelihood.residual.geometry import Geometry
from sparselmm.likelihood.residual.jets import CAPPED
from sparselmm.likelihood.residual.unstructured import Unstructured, VisitSlopes


class Structured:
    """Standard deviations times correlations; sigma is profiled out."""

    known_scale: float | None = None

    def __init__(self, rows: ResidualRows):
        self.rows = rows
        self.correlation = Correlation(rows)
        self.a = rows.D.shape[1]
        self.n_strata = max(len(rows.strata), 1)
        self.n = self.a + self.n_strata * self.correlation.n

    @property
    def has_several_angles(self) -> bool:
        """Whether groups have several correlations that may be one."""
        return self.correlation.n_own > 1

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

    def gradient(
        self, R1: FloatArray, at: Geometry, Gamma: FloatArray, left: FloatArray
    ) -> FloatArray:  # fmt: skip
        """``<Gamma, R_j>`` summed over the blocks, (n,).

        For log standard deviations that is ``2 sum_i D_i left_i``, with ``left`` (P, m) the
        diagonal of ``Gamma R``, which keeps its digits where R is nearly singular.
        """
        out = np.empty(self.n)
        out[: self.a] = 2.0 * np.einsum("pia,pi->a", at.D[..., : self.a], left)
        out[self.a :] = np.tensordot(R1[self.a :], Gamma, axes=([1, 2, 3], [0, 1, 2]))
        return out

    def moved(self, R1: FloatArray, pattern: IntArray, x: FloatArray) -> FloatArray:
        """``R_j x`` of the rows of every group x (G, m), for all j, (G, m, n)."""
        columns = [R1[j][pattern] @ x[:, :, None] for j in range(self.n)]
        return np.concatenate([np.zeros((*x.shape, 0)), *columns], axis=2)

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


Structure = Structured | Unstructured

Slopes = FloatArray | VisitSlopes
"""Derivatives of blocks: an array (n, P, m, m), or what makes them."""


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
