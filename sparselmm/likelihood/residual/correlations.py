"""Correlations within a group as functions of unbounded parameters psi, with derivatives.

Each kind gives C, its first and its second derivatives for a stack of blocks (P, m, m):

    ar1   rho^delta, rho = sin psi         car1, exp   e^-t, t = delta e^-psi
    gau   e^-t^2                           cs          rho = lo + (1 - lo) / (1 + e^-psi)
    toep  one correlation per lag, by partial correlations sin psi
    ad    the product of the correlations sin psi between neighbouring visits

Sines stop short of one (`sine`). A nugget multiplies what is off the diagonal by
``1 - sin(eta)^2``: like a standard deviation, eta reaches a nugget of zero within a finite step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from sparselmm.base.types import AnyArray, FloatArray
from sparselmm.design.residual import POSITIONS, ResidualRows
from sparselmm.likelihood.residual.jets import LEFT, Jet, lag_correlations, products_between, sine

Stack = tuple[FloatArray, list[FloatArray], list[list[FloatArray]]]
"""C (P, m, m), its J first derivatives, its J x J second ones."""

STRONG = 0.985
"""A correlation near one, from where searches end at one if that is better than elsewhere."""

STRENGTHS = 1.0 - np.array([0.98, 0.92, 0.85, 0.75, 0.65, 0.55, 0.45, 0.35, 0.25, 0.18, 0.12, 0.07,
                            0.03, 0.01])  # fmt: skip
"""Correlations at a typical distance that a start is chosen of."""

FAR = 1e4
"""Distance from a limit without end, as a factor, beyond which a parameter is on its way there."""

NUGGET_START = 0.37
"""Eta at the start: a share of 13 percent."""


class Correlation:
    """One kind of correlation and its parameters.

    Parameters
    ----------
    rows : ResidualRows
        Says which kind, how many visits, how large groups are.
    """

    def __init__(self, rows: ResidualRows):
        self.kind, self.nugget = rows.kind, rows.nugget
        self.visits = rows.n_visits
        self.lowest = -1.0 / max(rows.largest - 1, 1)
        self.typical, self.nearest = rows.typical_distance, rows.nearest_distance
        self.range = np.log(self.typical)
        self.step = max(self.typical, 1.0) if self.kind == "ar1" else 1.0
        self.left = LEFT / self.step

    @property
    def n_own(self) -> int:
        """Parameters without the nugget."""
        if self.kind in ("", "us"):
            return 0
        return self.visits - 1 if self.kind in ("toep", "ad") else 1

    @property
    def n(self) -> int:
        """Number of parameters."""
        return self.n_own + int(self.nugget)

    def angle(self, correlation: FloatArray | float) -> FloatArray:
        """Psi of correlations at the typical distance of ar1, of neighbouring visits."""
        root = np.abs(correlation) ** (1.0 / self.step)
        return np.asarray(np.arcsin(np.sign(correlation) * root))

    @property
    def sizes(self) -> FloatArray:
        """Steps of psi that count as one, (n,): an angle's are short where rho is near one."""
        own = np.full(self.n_own, 1.0 / np.sqrt(self.step))
        return np.append(own, [1.0] * int(self.nugget))

    def start(self) -> FloatArray:
        """Where a search starts, (n,)."""
        if self.kind == "cs":
            share = (0.3 - self.lowest) / (1.0 - self.lowest)
            own = [float(np.log(share / (1.0 - share)))]
        elif self.kind == "toep":
            own = [0.3] + [0.05] * (self.n_own - 1)
        elif self.kind in ("ar1", "ad"):
            own = [float(self.angle(0.3))] * self.n_own
        else:
            own = [self.range] * self.n_own
        return np.array(own + [NUGGET_START] * int(self.nugget))

    def ranges(self) -> FloatArray:
        """The first entry of psi at ranges, or correlations, from short to long."""
        if self.kind == "ar1":
            return self.angle(STRENGTHS)
        own = -np.log(STRENGTHS)
        return np.asarray(self.range - np.log(np.sqrt(own) if self.kind == "gau" else own))

    def along(self, own: float, distance: FloatArray) -> FloatArray:
        """Correlations at some distances, the nugget left out."""
        return self._own(np.array([own]), distance[:, None, None], distance)[0][:, 0, 0]

    def center(self) -> FloatArray:
        """Psi of no correlation, or of the typical distance for a range, (n,)."""
        at = self.range if self.kind in POSITIONS else 0.0
        return np.append(np.full(self.n_own, at), [0.0] * int(self.nugget))

    def others(self) -> list[FloatArray]:
        """Where other searches start: with weak and strong correlation, each (n,)."""
        out = []
        for strength, share in ((0.05, 0.15), (0.97, 0.15), (0.8, 0.8), (0.5, 1.2)):
            own = np.full(self.n_own, self.angle(strength))
            if self.kind == "toep":
                own[1:] = 0.1
            elif self.kind == "cs":
                own[:] = np.log(strength / (1.0 - strength))
            elif self.kind in POSITIONS:
                own[:] = self.range + np.log(-np.log(0.3) / -np.log(strength))
            out.append(np.append(own, [share] * int(self.nugget)))
        return [*out, self.weakest()] if self.kind in POSITIONS else out

    def weakest(self) -> FloatArray:
        """Where next to nothing is correlated, (n,): of positions the nearest rows alone."""
        if self.kind not in POSITIONS:
            return self.center()
        own = np.full(self.n_own, np.log(self.nearest / 5.0))
        return np.append(own, [0.02] * int(self.nugget))

    def near_limits(self, psi: FloatArray) -> list[FloatArray]:
        """``psi`` with one angle at a time near one and minus one."""
        angles = self.n_own if self.kind in ("ar1", "toep", "ad") else 0
        return [
            np.where(np.arange(self.n) == j, self.angle(sign * STRONG), psi)
            for j in range(angles)
            for sign in (-1.0, 1.0)
        ]

    def left_by(self, psi: FloatArray) -> FloatArray:
        """What each angle's sine leaves to one, in units of the least it leaves, (n,)."""
        angles = self.n_own if self.kind in ("ar1", "toep", "ad") else 0
        out = np.full(self.n, np.inf)
        out[:angles] = (1.0 - np.abs(sine(psi[:angles], self.left)[0])) / self.left
        return out

    def leaving(self, psi: FloatArray, place: int, sign: float, times: float) -> FloatArray:
        """``psi`` with one angle's sine so many times `LEFT` from plus or minus one."""
        out = psi.copy()
        out[place] = sign * np.arcsin((1.0 - times * self.left) / (1.0 - self.left))
        return out

    def towards(self, psi: FloatArray, factor: float) -> Iterator[tuple[int, str, FloatArray]]:
        """Place, limit and ``psi`` nearer to it by a factor, where that limit is at infinity.

        Only of parameters that have come far on their way to a singular C.
        """
        if self.kind == "cs" and abs(psi[0]) > np.log(FAR):
            where = "1" if psi[0] > 0 else f"{self.lowest:.3g}"
            step = np.copysign(np.log(factor), psi[0])
        elif self.kind in POSITIONS and psi[0] - self.range > np.log(FAR):
            where, step = "infinity", np.log(factor)
        else:
            return
        out = psi.copy()
        out[0] += step
        yield 0, where, out

    def strength(self, psi: FloatArray) -> float:
        """Largest correlation of rows at a typical distance."""
        own = psi[: self.n_own]
        if self.kind in ("ar1", "ad", "toep"):
            each = sine(own, self.left)[0] ** self.step
        elif self.kind in POSITIONS:
            step = np.exp(self.range - own)
            each = np.exp(-(step**2) if self.kind == "gau" else -step)
        else:
            each = self.natural(psi)[: self.n_own]
        return float(np.abs(each).max(initial=0.0))

    def drawn(self, rng: np.random.Generator) -> FloatArray:
        """A random place, (n,)."""
        own = rng.normal(size=self.n_own)
        own = self.angle(np.sin(own)) if self.kind == "ar1" else self.center()[: self.n_own] + own
        return np.append(own, rng.uniform(0.1, 1.4, int(self.nugget)))

    def names(self) -> list[str]:
        """Of the parameters on their natural scale."""
        if self.kind == "toep":
            own = [f"corr(lag {j})" for j in range(1, self.visits)]
        elif self.kind == "ad":
            own = [f"corr({j},{j + 1})" for j in range(1, self.visits)]
        else:
            own = {"ar1": ["rho"], "cs": ["rho"], "car1": ["phi"], "": []}.get(self.kind, ["range"])
        return own + ["nugget"] * int(self.nugget)

    def natural(self, psi: FloatArray) -> FloatArray:
        """The parameters as users know them, (n,)."""
        own = psi[: self.n_own]
        if self.kind in ("ar1", "ad"):
            out = sine(own, self.left)[0]
        elif self.kind == "toep":
            out = np.array([jet.value for jet in lag_correlations(own)[1:]])
        elif self.kind == "cs":
            out = self.lowest + (1.0 - self.lowest) / (1.0 + np.exp(-own))
        else:
            out = np.exp(-np.exp(-own)) if self.kind == "car1" else np.exp(own)
        if self.nugget:
            out = np.append(out, np.sin(psi[-1]) ** 2)
        return np.asarray(out)

    def slopes(self, psi: FloatArray) -> FloatArray:
        """Derivatives of `natural` in psi, (n, n)."""
        own = psi[: self.n_own]
        J = np.zeros((self.n, self.n))
        inner = J[: self.n_own, : self.n_own]
        if self.kind in ("ar1", "ad"):
            inner[...] = np.diag(sine(own, self.left)[1])
        elif self.kind == "toep":
            inner[...] = [jet.first for jet in lag_correlations(own)[1:]]
        elif self.kind == "cs":
            p = 1.0 / (1.0 + np.exp(-own))
            inner[...] = np.diag((1.0 - self.lowest) * p * (1.0 - p))
        elif self.kind == "car1":
            inner[...] = np.diag(np.exp(-np.exp(-own) - own))
        else:
            inner[...] = np.diag(np.exp(own))
        if self.nugget:
            J[-1, -1] = np.sin(2.0 * psi[-1])
        return J

    def stack(self, psi: FloatArray, d: FloatArray, visits: AnyArray) -> Stack:
        """C and its derivatives for blocks with distances d (P, m, m) and visits (P, m)."""
        C, C1, C2 = self._own(psi, d, visits)
        if not self.nugget:
            return C, C1, C2
        v, v1, v2 = np.sin(psi[-1]) ** 2, np.sin(2.0 * psi[-1]), 2.0 * np.cos(2.0 * psi[-1])
        off = ~np.eye(d.shape[1], dtype=bool)
        keep = np.where(off, 1.0 - v, 1.0)
        lost, bent = np.where(off, -v1, 0.0), np.where(off, -v2, 0.0)
        mixed = [lost * c for c in C1]
        second = [[keep * c for c in row] + [mixed[j]] for j, row in enumerate(C2)]
        return C * keep, [keep * c for c in C1] + [lost * C], [*second, [*mixed, bent * C]]

    def _own(self, psi: FloatArray, d: FloatArray, visits: AnyArray) -> Stack:
        if self.kind == "":
            return np.broadcast_to(np.eye(d.shape[1]), d.shape), [], []
        if self.kind == "ar1":
            return _powers(sine(psi[0], self.left), d)
        if self.kind == "cs":
            return self._exchangeable(psi[0], d)
        if self.kind in ("toep", "ad"):
            return self._by_visit(psi[: self.n_own], visits)
        t = d * np.exp(-psi[0])
        if self.kind == "gau":
            t = t * t
            e = np.exp(-t)
            return e, [2.0 * t * e], [[(4.0 * t * t - 4.0 * t) * e]]
        e = np.exp(-t)
        return e, [t * e], [[(t * t - t) * e]]

    def _exchangeable(self, psi: float, d: FloatArray) -> Stack:
        p = 1.0 / (1.0 + np.exp(-psi))
        off = np.broadcast_to(1.0 - np.eye(d.shape[1]), d.shape)
        width = (1.0 - self.lowest) * p * (1.0 - p)
        C = (1.0 - off) + off * (self.lowest + (1.0 - self.lowest) * p)
        return C, [off * width], [[off * width * (1.0 - 2.0 * p)]]

    def _by_visit(self, psi: FloatArray, visits: AnyArray) -> Stack:
        """Visits may be fewer than all of them."""
        a, b = visits[:, :, None], visits[:, None, :]
        if self.kind == "toep":
            value, first, second = _arrays(lag_correlations(psi))
            at = np.abs(a - b)
        else:
            grid = products_between(psi)
            value, first, second = _arrays([jet for row in grid for jet in row])
            at = a * self.visits + b
        J = len(psi)
        C2 = [[second[at, j, k] for k in range(J)] for j in range(J)]
        return value[at], [first[at, j] for j in range(J)], C2

    def links(self, psi: FloatArray, d: FloatArray, visits: AnyArray) -> tuple[FloatArray, ...]:
        """Correlation of every row with the one before it, and its derivatives, (L,), (n, L).

        Only of kinds whose correlation is Markov; d are the distances, ``visits`` those of the
        later rows with those of the earlier ones, (2, L).
        """
        if self.kind == "ad":
            grid = products_between(psi)
            value, first, _ = _arrays([jet for row in grid for jet in row])
            at = visits[0] * self.visits + visits[1]
            return value[at], first[at].T
        C, C1, _ = self._own(psi, d[:, None, None], visits)
        return C[:, 0, 0], np.array([c[:, 0, 0] for c in C1])


def _powers(rho: tuple[FloatArray, FloatArray], d: FloatArray) -> Stack:
    """``rho^d`` for whole numbers d; of an angle, whose second derivative is ``-rho``."""
    r, c = rho
    C = np.where(d == 0, 1.0, r**d)
    slope = np.where(d == 0, 0.0, d * r ** np.maximum(d - 1.0, 0.0))
    bend = np.where(d <= 1, 0.0, d * (d - 1.0) * r ** np.maximum(d - 2.0, 0.0))
    return C, [slope * c], [[bend * c * c - slope * r]]


def _arrays(jets: Sequence[Jet]) -> tuple[FloatArray, FloatArray, FloatArray]:
    value = np.array([jet.value for jet in jets])
    first = np.array([jet.first for jet in jets])
    return value, first, np.array([jet.second for jet in jets])
