"""What a fit needs of each response, in the working basis of the design."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import scipy.sparse as sp

from sparselmm.base.types import BoolArray, FloatArray, IntArray
from sparselmm.design.terms import Design
from sparselmm.factor.crossprod import CrossProducts

STACK_NUMBERS = 150_000
"""Numbers in one stack of responses: about what stays in the cache next to the processor."""


@dataclass(frozen=True, eq=False)
class Responses:
    """What a fit needs of each response, in the working basis.

    Attributes
    ----------
    v : ndarray, (m, q)
        ``Z'We`` with e the least-squares residual.
    c : ndarray, (m, r)
        ``Q'We``, zero up to rounding.
    s : ndarray, (m,)
        ``e'We``.
    shift : ndarray, (m, r)
        Least-squares coefficients of the independent columns of X.
    total : ndarray, (m,)
        ``y'Wy``, what rounding errors of ``s`` are measured by.
    """

    v: FloatArray
    c: FloatArray
    s: FloatArray
    shift: FloatArray
    total: FloatArray

    def __len__(self) -> int:
        return len(self.s)

    def take(self, rows: IntArray | BoolArray | slice) -> Responses:
        """Some of the responses."""
        return Responses(*(getattr(self, f.name)[rows] for f in fields(self)))

    @classmethod
    def joined(cls, parts: list[Responses]) -> Responses:
        """Responses one after the other."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    @property
    def exact(self) -> BoolArray:
        """Responses that the fixed effects explain exactly, (m,): nothing is left to estimate."""
        return np.asarray(self.s <= (1e4 * np.finfo(float).eps) ** 2 * self.total)


class Projector:
    """Turns responses into `Responses`: the part of the rows that every response needs.

    Parameters
    ----------
    design : Design
        Its response is not used.
    cross : CrossProducts
        Supplies the working basis.
    """

    def __init__(self, design: Design, cross: CrossProducts):
        basis = cross.basis
        self.weights = design.weights
        self.offset = design.offset
        self.T = basis.T
        self.Q = (design.X if basis.rank == basis.p else design.X[:, basis.kept]) @ basis.T
        self.Zt = sp.csr_array(design.Z.T)

    def __call__(self, Y: FloatArray) -> Responses:
        """Responses (m, n), one per row, less the offset and reduced to cross-products."""
        few = max(1, STACK_NUMBERS // max(Y.shape[1], 1))
        return Responses.joined([self._some(Y[a : a + few]) for a in range(0, len(Y), few)])

    def _some(self, Y: FloatArray) -> Responses:
        e = Y if self.offset is None else Y - self.offset
        gamma = np.zeros((len(e), self.Q.shape[1]))
        total = self._squares(e)
        for _ in range(2):  # a second pass removes the rounding error of the first
            step = self._weighted(e) @ self.Q
            e = e - step @ self.Q.T
            gamma += step
        weighted = self._weighted(e)
        v = np.ascontiguousarray((self.Zt @ weighted.T).T)
        return Responses(v, weighted @ self.Q, self._squares(e), gamma @ self.T.T, total)

    def _weighted(self, e: FloatArray) -> FloatArray:
        return e if self.weights is None else e * self.weights

    def _squares(self, e: FloatArray) -> FloatArray:
        return np.einsum("ij,ij->i", e, self._weighted(e))
