"""What a generalized model is made of, and one pass of its rows through the family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparselmm.base import kernels_families, kernels_rows
from sparselmm.base.reduction import extremes
from sparselmm.base.types import CSR, FloatArray
from sparselmm.design.terms import RandomTerm
from sparselmm.factor.basis import Basis, working_basis
from sparselmm.factor.crossprod import SMALL_ROWS
from sparselmm.likelihood.laplace.families import Family
from sparselmm.likelihood.laplace.jets import Jet
from sparselmm.likelihood.laplace.rows import RandomRows, blocks

DEPENDENT = 1e-10
"""Share of a column of a further predictor's design those before leave of dependent ones."""


@dataclass(frozen=True, eq=False)
class Further:
    """A predictor besides ``eta``: dispersion, zero inflation, a threshold.

    Attributes
    ----------
    name : str
    columns : slice
        Its coefficients among those of all further predictors.
    design : ndarray or csr_array, (n, m), or None
        None for an intercept alone.
    offset : ndarray, (n,), or None
    labels : tuple of str
        Names of the coefficients.
    """

    name: str
    columns: slice
    design: FloatArray | CSR | None = None
    offset: FloatArray | None = None
    labels: tuple[str, ...] = ("Intercept",)

    def steps(self) -> FloatArray:
        """Changes of the coefficients whose predictors are orthonormal over the rows, (m, m)."""
        if self.design is None:
            return np.ones((1, 1))
        n, m = self.design.shape
        size = np.sqrt(sum((self._dense(rows) ** 2).sum(axis=0) for rows in blocks(n)) / n)
        size = np.where(size > 0.0, size, 1.0)
        R = np.zeros((0, m))
        for rows in blocks(n):
            stacked = np.vstack([R, self._dense(rows) / (np.sqrt(n) * size)])
            R = np.asarray(np.linalg.qr(stacked, mode="r"))
        if len(R) < len(size) or np.abs(np.diag(R)).min() < DEPENDENT:
            return np.diag(1.0 / size)
        return np.asarray(np.linalg.inv(R) / size[:, None])

    def values(self, phi: FloatArray, rows: slice) -> FloatArray:
        """The predictor at some rows; an array of length one where all are the same."""
        out = self.change(phi, rows)
        return out if self.offset is None else out + self.offset[rows]

    def change(self, phi: FloatArray, rows: slice) -> FloatArray:
        """The same without the offset."""
        own = phi[self.columns]
        return own if self.design is None else np.asarray(self.design[rows] @ own)

    def products(self, x: FloatArray, rows: slice) -> FloatArray:
        """``D'x`` of some rows, (m,)."""
        if self.design is None:
            return np.array([x.sum()])
        return np.asarray(self.design[rows].T @ x)

    def scaled(self, x: FloatArray, rows: slice) -> FloatArray:
        """``diag(x) D`` of some rows, dense, (nb, m)."""
        if self.design is None:
            return x[:, None]
        return np.asarray(self._dense(rows) * x[:, None])

    def _dense(self, rows: slice) -> FloatArray:
        assert self.design is not None
        own = self.design[rows]
        return own if isinstance(own, np.ndarray) else np.asarray(own.toarray())


@dataclass(frozen=True, eq=False)
class GeneralData:
    """Rows of a generalized model.

    Attributes
    ----------
    y : ndarray, (n,)
        Response: successes, counts, categories from 0, or numbers.
    m : ndarray, (n,) or (1,)
        Trials; prior weights of a Gaussian response; otherwise ones.
    X : ndarray, (n, p)
    terms : tuple of RandomTerm
    further : tuple of Further
    weights : ndarray, (n,), or None
        How often a row counts.
    offset : ndarray, (n,), or None
    """

    y: FloatArray
    m: FloatArray
    X: FloatArray
    terms: tuple[RandomTerm, ...]
    family: Family
    further: tuple[Further, ...] = ()
    weights: FloatArray | None = None
    offset: FloatArray | None = None

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.y)

    @property
    def n_phi(self) -> int:
        """Number of coefficients of the further predictors."""
        return max((part.columns.stop for part in self.further), default=0)

    def trials(self, rows: slice) -> FloatArray:
        """``m`` of some rows."""
        return (
            self.m[rows] if len(self.m) == self.n else np.broadcast_to(self.m, self.y[rows].shape)
        )

    def jet(self, eta: FloatArray, phi: FloatArray, rows: slice, extra: bool) -> Jet:
        """Log-likelihoods of some rows and their derivatives.

        A further predictor that is the same in all rows stays one number, and so may derivatives.
        """
        y = self.y[rows]
        further = tuple(part.values(phi, rows) for part in self.further)
        with np.errstate(all="ignore"):
            jet = self.family.jet(y, self.trials(rows), eta, further, extra)
            return jet if self.weights is None else jet.times(self.weights[rows])

    def constant(self) -> float:
        """Part of the log-likelihood that depends on the data alone."""
        parts = self.family.constant(self.y, self.trials(slice(None)))
        return float(parts.sum() if self.weights is None else parts @ self.weights)


class FixedRows:
    """The fixed-effects side of the rows, in a basis whose columns are orthonormal.

    Parameters
    ----------
    X : ndarray, (n, p)
    weights : ndarray, (n,), or None
        Rows of weight zero do not say which columns are independent.

    Attributes
    ----------
    r : int
        Independent columns.
    kept : slice or ndarray
        Which these are.
    largest : ndarray, (r,)
        Their largest absolute values.
    """

    def __init__(self, X: FloatArray, weights: FloatArray | None):
        self.X = X
        w = None if weights is None else (weights > 0).astype(float)
        self.basis: Basis = working_basis(X, np.zeros(len(X)), w)
        self.r = self.basis.rank
        every = self.r == X.shape[1]
        self.kept: Any = slice(None) if every else self.basis.kept
        self.largest = np.zeros(self.r)
        if len(X):
            low, high = extremes(X)
            self.largest = np.maximum(high, -low)[self.kept]
        small = len(X) < SMALL_ROWS
        self._Q = X[:, self.kept] @ self.basis.T if small else None

    def columns(self, rows: slice) -> FloatArray:
        """``Q`` of some rows, (nb, r)."""
        if self._Q is not None:
            return self._Q[rows]
        return np.asarray(self.X[rows][:, self.kept] @ self.basis.T)

    def gamma(self, beta: FloatArray) -> FloatArray:
        """Coefficients in the basis, (r,), from those of the columns of X that were kept."""
        return np.asarray(np.linalg.solve(self.basis.T, beta[self.kept]))

    def effects(
        self, gamma: FloatArray, offset: FloatArray | None, rows: slice = slice(None)
    ) -> FloatArray:
        """``Q gamma + offset`` of some rows, (nb,)."""
        if self._Q is not None:
            out = self._Q[rows] @ gamma
        else:
            beta = np.zeros(self.X.shape[1])
            beta[self.kept] = self.basis.T @ gamma
            out = self.X[rows] @ beta
        return np.asarray(out if offset is None else out + offset[rows])

    def reach(self, gamma: FloatArray) -> float:
        """What no ``abs(Q gamma)`` exceeds."""
        return float(self.largest @ np.abs(self.basis.T @ gamma))

    def products(self, x: FloatArray) -> FloatArray:
        """``Q'x``, (r,)."""
        out = np.zeros(self.r)
        for rows in blocks(len(x)):
            out += self.columns(rows).T @ x[rows]
        return out

    def weighted(self, w: FloatArray, random: RandomRows) -> tuple[FloatArray, FloatArray]:
        """``Q'WQ``, (r, r), and ``Z'WQ``, (q, r)."""
        S, B = np.zeros((self.r, self.r)), np.zeros((random.q, self.r))
        for rows in blocks(len(w)):
            random.add_columns(self.add_gram(w[rows], self.columns(rows), S), rows, B)
        return S, B

    def add_gram(self, w: FloatArray, columns: FloatArray, S: FloatArray) -> FloatArray:
        """Add ``C'WC`` of the columns C of some rows to S; and WC."""
        if self._Q is not None:
            scaled = columns * w[:, None]
        else:
            scaled = np.empty_like(columns)
            kernels_rows.scale_rows(columns, w, scaled)
        S += columns.T @ scaled
        return scaled


Loop = Callable[..., float]


class Passes:
    """One pass of all rows through the family, fused block by block with Z b.

    Attributes
    ----------
    eta, g, w, dw : ndarray, (n,)
        Predictor, first derivative, minus the second and the third, at the last pass.
    Zg : ndarray, (q,)
        ``Z'g`` at the last pass.
    """

    def __init__(self, data: GeneralData, random: RandomRows):
        self.data, self.random = data, random
        self.eta, self.g, self.w, self.dw = (np.empty(data.n) for _ in range(4))
        self.Zg = np.zeros(random.q)
        self.loop: Loop | None = None
        if random.compiled and not hasattr(data.family, "base"):  # excess zeros are NumPy's
            self.loop = kernels_families.loop_of(data.family.name, data.family.link)

    def run(self, fixed: FloatArray, b: FloatArray | None, phi: FloatArray) -> float:
        """Log-likelihood without its constant; NaN or infinite where there is none.

        Without b random effects are zero, and ``Zg`` stays as it is.
        """
        total = 0.0
        if b is not None:
            self.Zg = np.zeros(self.random.q)
        with np.errstate(all="ignore"):
            for rows in blocks(self.data.n):
                eta = self.eta[rows]
                eta[...] = fixed[rows]
                if b is not None:
                    self.random.add_effects(b, rows, eta)
                total += self._block(eta, phi, rows)
                if b is not None:
                    self.random.add_products(self.g[rows], rows, self.Zg)
        return total

    def _block(self, eta: FloatArray, phi: FloatArray, rows: slice) -> float:
        data = self.data
        if self.loop is None:
            jet = data.jet(eta, phi, rows, False)
            self.g[rows] = jet.e
            np.negative(jet.ee, out=self.w[rows])
            np.negative(jet.eee, out=self.dw[rows])
            return float(jet.f.sum())
        m = data.m[rows] if len(data.m) == data.n else data.m
        weights = np.zeros(0) if data.weights is None else data.weights[rows]
        d = data.further[0].values(phi, rows) if data.further else np.zeros(1)
        return self.loop(
            data.y[rows], m, weights, eta, d, self.g[rows], self.w[rows], self.dw[rows]
        )
