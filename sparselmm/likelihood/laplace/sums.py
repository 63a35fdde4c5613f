"""Passes over the rows that the gradient of Laplace's deviance and its curvature are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparselmm.base.types import FloatArray
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.likelihood.laplace.data import FixedRows, GeneralData, Passes
from sparselmm.likelihood.laplace.predictors import leaving
from sparselmm.likelihood.laplace.rows import RandomRows, Reader, blocks

LEAVING = 3.0
"""Logarithm of a dispersion, towards its limit, beyond which it is taken to be on its way there."""

MOST_SHARE = 4.0
"""Largest change of the logarithm of the weights with that of a dispersion that is believed."""


FAR = 1e3
"""Largest value of a column of X, as a multiple of those of Q, at which its products are taken."""

FEW = 100
"""Rows in which columns are compared first."""


@dataclass(frozen=True, eq=False)
class FirstSums:
    """``Z't`` (q,), ``Q'(t - 2g)`` (r,), ``Q'WQ`` and ``Z'WQ``."""

    Zt: FloatArray
    X: FloatArray
    S: FloatArray
    B: FloatArray


@dataclass(frozen=True, eq=False)
class SecondSums:
    """Sums of the further predictors.

    These are slope (J,), curvature (J, J), ``Z'g_p`` and ``Z'D'g`` (q, J), ``Q'g_p`` (r, J),
    ``tau'w`` (1,) and ``tau'w_p`` (J,).
    """

    slope: FloatArray
    H: FloatArray
    ZG: FloatArray
    ZD: FloatArray
    XG: FloatArray
    tw: FloatArray
    tp: FloatArray

    @property
    def shares(self) -> FloatArray:
        """By what share of themselves the weights move with each further coefficient, (J,)."""
        return np.clip(self.tp / max(float(self.tw[0]), 1e-300), -MOST_SHARE, MOST_SHARE)


class RowSums:
    """Sums over the rows where a pass through the family left them."""

    def __init__(
        self, data: GeneralData, random: RandomRows, fixed: FixedRows, passes: Passes,
        cross: CrossProducts,
    ):  # fmt: skip
        self.data, self.random, self.fixed, self.passes = data, random, fixed, passes
        self.cross = cross
        self.roots = [_root_within(random, t, fixed) for t in range(len(random.terms))]

    def first(self, readers: Sequence[Reader]) -> FirstSums:
        """One pass over the rows: ``tau``, which replaces w' where the second needs it, and t."""
        data, q, r, passes = self.data, self.random.q, self.fixed.r, self.passes
        sums = FirstSums(np.zeros(q), np.zeros(r), np.zeros((r, r)), np.zeros((q, r)))
        within = {t: G for t, G in enumerate(self.roots) if G is not None}
        every = 0 < len(within) == len(self.roots)
        for rows in blocks(data.n):
            tau = np.zeros(rows.stop - rows.start)
            for read in readers:
                read(rows, tau)
            own = tau * passes.dw[rows]
            if data.n_phi:
                passes.dw[rows] = tau
            self.random.add_products(own, rows, sums.Zt)
            if not every:
                Q = self.fixed.columns(rows)
                sums.X[:] += Q.T @ (own - 2.0 * passes.g[rows])
                scaled = self.fixed.add_gram(passes.w[rows], Q, sums.S)
                self.random.add_columns(scaled, rows, sums.B, within)
        for t, G in within.items():
            part, A = self.cross.slices[t], self.cross.values[t, t]
            sums.B[part] = A.reshape(-1, len(G)) @ G
            if every and t == 0:
                sums.S[:] = G.T @ A.sum(axis=0) @ G
                own = sums.Zt[part] - 2.0 * passes.Zg[part]
                sums.X[:] = own.reshape(-1, len(G)).sum(axis=0) @ G
        return sums

    def second(self, moved: FloatArray, phi: FloatArray) -> SecondSums:
        """Another, where there are further predictors, with ``Z Lambda s`` = Z moved."""
        random, J = self.random, self.data.n_phi
        q, r = random.q, self.fixed.r
        sums = SecondSums(
            np.zeros(J), np.zeros((J, J)), np.zeros((q, J)), np.zeros((q, J)), np.zeros((r, J)),
            np.zeros(1), np.zeros(J),
        )  # fmt: skip
        for rows in blocks(self.data.n if J else 0):
            spread = np.zeros(rows.stop - rows.start)
            random.add_effects(moved, rows, spread)
            self._add_further(sums, phi, rows, spread)
        return sums

    def _add_further(
        self, sums: SecondSums, phi: FloatArray, rows: slice, spread: FloatArray
    ) -> None:  # fmt: skip
        """Add what some rows say of the further predictors."""
        data, Q, tau = self.data, self.fixed.columns(rows), self.passes.dw[rows]
        jet = data.jet(self.passes.eta[rows], phi, rows, True)
        slopes = [tuple(np.broadcast_to(x, Q.shape[:1]) for x in own) for own in jet.a]
        signs, flat = {part.name: sign for part, sign in leaving(self.data)}, np.ones(len(Q))
        for (f, e, ee), part in zip(slopes, data.further, strict=True):
            sums.slope[part.columns] += part.products(-2.0 * f - tau * ee + spread * e, rows)
            if signs.get(part.name):  # far out all falls like exp(-d), of log det M too
                far = part.values(phi, rows) * signs[part.name] > LEAVING
                bent = part.scaled(signs[part.name] * far * tau * ee, rows)
                sums.H[part.columns, part.columns] += bent.T @ part.scaled(flat, rows)
        w, g = self.passes.w[rows], self.passes.g[rows]
        sums.tw[:] += tau @ w
        for i, (part, (_, e, ee)) in enumerate(zip(data.further, slopes, strict=True)):
            mixed = part.scaled(e, rows)
            sums.XG[:, part.columns] += Q.T @ mixed
            self._add_products(sums.ZG[:, part.columns], mixed, rows)
            if data.family.name != "ordinal":  # whose thresholds are places, not sizes
                sums.tp[part.columns] -= tau @ ee
                self._add_products(sums.ZD[:, part.columns], part.scaled(g, rows), rows)
            for j, other in enumerate(data.further[: i + 1]):
                own = (jet.aa or {}).get((j, i))
                if own is None:
                    continue
                own = np.broadcast_to(own, Q.shape[:1])
                block = part.scaled(own, rows).T @ other.scaled(flat, rows)
                sums.H[part.columns, other.columns] -= 2.0 * block
                if j != i:
                    sums.H[other.columns, part.columns] -= 2.0 * block.T

    def _add_products(self, out: FloatArray, x: FloatArray, rows: slice) -> None:
        """Add ``Z'x`` of some rows, column by column."""
        for c, column in enumerate(x.T):
            product = np.zeros(self.random.q)
            self.random.add_products(np.ascontiguousarray(column), rows, product)
            out[:, c] += product


def _root_within(random: RandomRows, t: int, fixed: FixedRows) -> FloatArray | None:
    """The matrix G, (k, r), by which ``Q = Z_t G`` at every level; None where there is none.

    Columns of X are looked for among the covariates of the term, as in ``y ~ x + (x | g)``; far
    from their origin their products have not the digits of those of Q.
    """
    term, T, n = random.terms[t], fixed.basis.T, len(fixed.X)
    far = fixed.r and (fixed.largest @ np.abs(T)).max() * np.sqrt(n) > FAR
    if not random.compiled or term.codes is None or far or term.codes.min() < 0:
        return None
    place = np.zeros((term.k, fixed.r))
    for j, column in enumerate(fixed.X[:, fixed.kept].T):
        for a in range(term.k):
            own = np.ones(1) if term.values is None else term.values[:, a]
            if (own[:FEW] == column[:FEW]).all() and (own == column).all():
                place[a, j] = 1.0
                break
        else:
            return None
    return np.asarray(place @ T)
