"""The linear model that a generalized one is at its mode.

With working weights w and the random effects at their mode, conditional covariances, predictions
and contrasts of random effects are those of a linear model with ``sigma = 1`` and the same
``Lambda`` and M. Its information of the fixed effects is replaced by the inverse of their
covariance in the generalized model, so that every variance counts what was really estimated.
"""

from __future__ import annotations

import numpy as np

from sparselmm.base.types import FloatArray, IntArray
from sparselmm.factor.basis import Basis
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.solver import apply_lambda
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.evaluations import Projected, State
from sparselmm.likelihood.laplace.deviance import LaplaceDeviance


class ConditionalEngine(ProfiledDeviance):
    """The working linear model at the optimum of a generalized one; knows no other theta.

    Parameters
    ----------
    deviance : LaplaceDeviance
        Evaluated at x anew if need be.
    x : ndarray
        The optimum.
    vcov : ndarray, (r, r)
        Covariance of gamma, the fixed effects in the working basis.
    columns : ndarray of int
        Which columns of the user's design the engine's X has.
    p : int
        Columns of the user's design.
    """

    def __init__(
        self, deviance: LaplaceDeviance, x: FloatArray, vcov: FloatArray, columns: IntArray, p: int
    ):
        own, theta = deviance.cross, deviance.parameters.split(x)[0]
        B = np.zeros_like(own.B)
        with deviance.lock:
            point = deviance.at(x)
            assert point is not None
            values = {
                key: data.copy() for key, data in deviance.modes.refill(deviance.passes.w).items()
            }
            B[:, :-1] = deviance.fixed.weighted(deviance.passes.w, deviance.random)[1]
        kept = columns[own.basis.kept]
        basis = Basis(p, kept, own.basis.T, own.basis.shift)
        C = np.eye(basis.rank + 1)
        cross = CrossProducts(own.pattern, values, B, C, basis, own.n, 0.0)
        self._x, self._value = np.array(x), point.value
        self._theta, self._u, self._gamma = (
            np.array(theta),
            point.mode.u,
            deviance.parameters.split(x)[1],
        )
        self._information = _root_of_inverse(vcov)
        solver = deviance.solver.twin()
        super().__init__(cross, deviance.covariance, solver, reml=False, known_scale=1.0)

    def _evaluate(self, theta: FloatArray) -> State:
        if not np.array_equal(theta, self._theta):
            raise ValueError("the conditional model of a generalized one knows its optimum alone")
        lams = self.covariance.factors(theta)
        ldM = self.solver.factorize(lams, self.cross.values)
        right = apply_lambda(self.cross, lams, np.ascontiguousarray(self.cross.B[:, :-1]))
        Kx = self.solver.solve(right)
        K = np.column_stack([Kx, self._u + Kx @ self._gamma])
        r = len(self._gamma)
        S = np.zeros((r + 1, r + 1))
        S[:r, :r] = self._information.T @ self._information
        S[r, r] = float(self.df)
        return State(
            theta=theta, lams=lams, found=Projected(K, K, S, np.diag(S)), Rxx=self._information,
            gamma=self._gamma, ldM=ldM, pwrss=float(self.df), deviance=self._value,
        )  # fmt: skip


def _root_of_inverse(V: FloatArray) -> FloatArray:
    """Upper triangular R with ``R'R = V^-1``; NaN where V has none."""
    if not len(V):
        return np.zeros((0, 0))
    try:
        L = np.linalg.cholesky(np.linalg.inv(V))
    except np.linalg.LinAlgError:
        return np.full(V.shape, np.nan)
    return np.asarray(L.T)
