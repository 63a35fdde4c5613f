"""Passes over the rows that the gradient of Laplace's deviance and its curvature are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparselmm.base.types import FloatArray
from sparselmm.likelihood.laplace.data import FixedRows, GeneralData, Passes
from sparselmm.likelihood.laplace.predictors import leaving
from sparselmm.likelihood.laplace.rows import RandomRows, Reader, blocks

LEAVING = 3.0
"""Logarithm of a dispersion, towards its limit, beyond which it is taken to be on its way there."""

MOST_SHARE = 4.0
"""Largest change of the logarithm of the weights with that of a dispersion that is believed."""


@dataclass(frozen=True, eq=False)
class FirstSums:
    """``t`` and, where it is needed again, ``tau`` (n,); ``Z't`` (q,), ``Q'WQ`` and ``Z'WQ``."""

    t: FloatArray
    tau: FloatArray
    Zt: FloatArray
    S: FloatArray
    B: FloatArray


@dataclass(frozen=True, eq=False)
class SecondSums:
    """``Z't~`` (q,), ``Q't~`` (r,), and sums of the further predictors.

    These are slope (J,), curvature (J, J), ``Z'g_p`` and ``Z'D'g`` (q, J), ``Q'g_p`` (r, J),
    ``tau'w`` (1,) and ``tau'w_p`` (J,).
    """

    Z: FloatArray
    X: FloatArray
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
    """Sums over the rows where a pass through the family left them.

    Attributes
    ----------
    mixed : list of ndarray, (n,)
        ``l_ea`` of every further predictor, after the second sums.
    """

    def __init__(
        self, data: GeneralData, random: RandomRows, fixed: FixedRows, passes: Passes
    ):  # fmt: skip
        self.data, self.random, self.fixed, self.passes = data, random, fixed, passes
        self.mixed: list[FloatArray] = []

    def first(self, readers: Sequence[Reader]) -> FirstSums:
        """One pass over the rows: ``tau``, ``t`` in place of w', and products with the weights."""
        data, q, r = self.data, self.random.q, self.fixed.r
        if len(self.mixed) < len(data.further):  # the third derivatives are not read again
            more = max(len(data.further), 2) - 1
            self.mixed = [self.passes.dw, *(np.empty(data.n) for _ in range(more))]
        t, tau = self.passes.dw, self.mixed[1] if data.n_phi else np.zeros(0)
        Zt, S, B = np.zeros(q), np.zeros((r, r)), np.zeros((q, r))
        for rows in blocks(data.n):
            own = np.zeros(rows.stop - rows.start)
            for read in readers:
                read(rows, own)
            if len(tau):
                tau[rows] = own
            own *= t[rows]
            t[rows] = own
            self.random.add_products(own, rows, Zt)
            self.fixed.add_weighted(self.passes.w[rows], rows, self.random, S, B)
        return FirstSums(t, tau, Zt, S, B)

    def second(self, first: FirstSums, moved: FloatArray, phi: FloatArray) -> SecondSums:
        """Another, with ``Z Lambda s`` = Z moved: sums of ``t~`` and of the further predictors."""
        passes, random, J = self.passes, self.random, self.data.n_phi
        q, r = random.q, self.fixed.r
        sums = SecondSums(
            np.zeros(q), np.zeros(r), np.zeros(J), np.zeros((J, J)), np.zeros((q, J)),
            np.zeros((q, J)), np.zeros((r, J)), np.zeros(1), np.zeros(J),
        )  # fmt: skip
        for rows in blocks(self.data.n):
            tilde, Q = first.t[rows], self.fixed.columns(rows)
            spread = np.zeros(len(tilde))
            random.add_effects(moved, rows, spread)
            tilde -= passes.w[rows] * spread
            tilde -= 2.0 * passes.g[rows]
            random.add_products(tilde, rows, sums.Z)
            sums.X[:] += Q.T @ tilde
            if J:
                self._add_further(sums, phi, rows, Q, first.tau[rows].copy(), spread)
        return sums

    def _add_further(
        self, sums: SecondSums, phi: FloatArray, rows: slice, Q: FloatArray, tau: FloatArray,
        spread: FloatArray,
    ) -> None:  # fmt: skip
        """Add what some rows say of the further predictors; the arrays of t and tau take theirs."""
        data = self.data
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
            self.mixed[i][rows] = e
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
