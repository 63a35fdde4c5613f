"""Estimates of a generalized model with their uncertainty, as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sparselmm.base.types import BoolArray, FloatArray, IntArray, Snapshot
from sparselmm.design.terms import DesignLayout
from sparselmm.inference.estimates import Estimates
from sparselmm.inference.variances import VarianceLayout, psi_jacobian
from sparselmm.likelihood.evaluations import PLSFit
from sparselmm.likelihood.laplace.conditional import ConditionalEngine
from sparselmm.likelihood.laplace.deviance import LaplaceDeviance
from sparselmm.likelihood.laplace.fit import difference_hessian
from sparselmm.likelihood.laplace.optimum import Optimum

FLAT = 1e-4
"""Curvature, scaled to a unit diagonal, that is zero but for the error of differences."""

LEAST_CURVATURE = 1e-2
"""Curvature per unit of theta that counts as one at least when the diagonal is scaled."""

INVOLVED = 1e-4
"""Share of a flat direction from which a parameter takes part in it."""


@dataclass(frozen=True, eq=False)
class GeneralEstimates(Snapshot):
    """A fit in numbers; costly parts are computed when first asked for.

    Attributes
    ----------
    layout : DesignLayout
        Of the user's rows, or they themselves.
    columns : ndarray of int
        Columns of the user's X that the engine has.
    """

    layout: DesignLayout
    deviance: LaplaceDeviance
    opt: Optimum
    columns: IntArray
    from_arrays: bool

    @cached_property
    def parts(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """``theta, gamma, phi``."""
        return self.deviance.parameters.split(self.opt.x)

    @property
    def free(self) -> BoolArray:
        """Parameters off the boundary."""
        return ~self.opt.at_boundary

    @cached_property
    def hessian(self) -> FloatArray:
        """Hessian of the deviance by differences of the exact gradient; NaN at the boundary."""
        return difference_hessian(self.deviance, self.opt.x, self.free)

    @cached_property
    def covariance(self) -> FloatArray:
        """Covariance of theta, gamma, phi; NaN at the boundary, or where there is none.

        A singular ``lambda_t`` that is not zero can be turned without changing its covariance:
        along such directions of theta the deviance is flat. So it is along a combination of
        coefficients of a dispersion, or of excess zeros, that has left for its limit. What lies in
        them has no standard error, and everything else has the one it has with them held.
        """
        out = np.full(self.hessian.shape, np.nan)
        at = np.flatnonzero(self.free)
        if not len(at):
            return out
        T = self.deviance.natural[np.ix_(at, at)]
        H = T.T @ self.hessian[np.ix_(at, at)] @ T
        held, least = self._may_be_flat
        curvature = np.maximum(np.diag(H), least[at])
        if not (curvature > 0.0).all():
            return out
        size = 1.0 / np.sqrt(curvature)
        values, vectors = np.linalg.eigh(H * np.outer(size, size))
        flat = values < FLAT
        lost = T @ (size[:, None] * vectors[:, flat])
        taking = np.sum(lost**2, axis=1) > INVOLVED * np.sum((T * size) ** 2, axis=1)
        if values[0] < -FLAT * values[-1] or (taking & ~held[at]).any():
            return out  # no maximum in these coordinates
        root = T @ (size[:, None] * vectors[:, ~flat] * np.sqrt(2.0 / values[~flat]))
        out[np.ix_(at, at)] = root @ root.T
        out[at[taking]] = out[:, at[taking]] = np.nan
        return out

    @property
    def _may_be_flat(self) -> tuple[BoolArray, FloatArray]:
        """Parameters along which the deviance may be flat, and what counts as their curvature."""
        held, least = np.zeros(len(self.opt.x), dtype=bool), np.zeros(len(self.opt.x))
        theta, _, phi = self._slices
        held[theta], least[theta] = True, LEAST_CURVATURE / self.deviance.units**2
        for part, _ in self.deviance.leaving():
            held[phi][part.columns], least[phi][part.columns] = True, LEAST_CURVATURE
        return held, least

    @cached_property
    def _slices(self) -> tuple[slice, slice, slice]:
        a = self.deviance.covariance.n_theta
        b = a + self.deviance.fixed.r
        return slice(0, a), slice(a, b), slice(b, len(self.opt.x))

    @cached_property
    def vcov_gamma(self) -> FloatArray:
        """Covariance of the fixed effects in the working basis, (r, r)."""
        return self.covariance[self._slices[1], self._slices[1]]

    @cached_property
    def vcov_theta(self) -> FloatArray:
        """Covariance of theta, (n_theta, n_theta)."""
        return self.covariance[self._slices[0], self._slices[0]]

    @cached_property
    def vcov_phi(self) -> FloatArray:
        """Covariance of the coefficients of the further predictors."""
        return self.covariance[self._slices[2], self._slices[2]]

    @cached_property
    def kept(self) -> IntArray:
        """Columns of the user's X that were estimated."""
        return np.asarray(self.columns[self.deviance.fixed.basis.kept])

    @cached_property
    def beta(self) -> FloatArray:
        """Fixed effects of the columns the engine has, NaN for dependent ones."""
        out = np.full(self.layout.p, np.nan)
        out[self.kept] = self.deviance.fixed.basis.T @ self.parts[1]
        return out[self.columns]

    @cached_property
    def vcov(self) -> FloatArray:
        """Their covariance."""
        T = self.deviance.fixed.basis.T
        out = np.full((self.layout.p,) * 2, np.nan)
        out[np.ix_(self.kept, self.kept)] = T @ self.vcov_gamma @ T.T
        return out[np.ix_(self.columns, self.columns)]

    @cached_property
    def joint(self) -> FloatArray:
        """Covariance of the estimated fixed effects and the further coefficients, (r + J,)."""
        T, mixed = self.deviance.fixed.basis.T, self.covariance[self._slices[1], self._slices[2]]
        return np.block([
            [T @ self.vcov_gamma @ T.T, T @ mixed], [(T @ mixed).T, self.vcov_phi],
        ])  # fmt: skip

    @cached_property
    def joint_held(self) -> FloatArray:
        """The same, coefficients at a limit held there: without error."""
        out = self.joint.copy()
        held = self.deviance.fixed.r + np.flatnonzero(self.opt.at_boundary[self._slices[2]])
        out[held] = out[:, held] = 0.0
        return out

    # -------------------------------------------------------------------- random effects

    @cached_property
    def u(self) -> FloatArray:
        """Spherical modes, (q,)."""
        point = self.deviance.at(self.opt.x)
        assert point is not None
        return point.mode.u

    @cached_property
    def b(self) -> FloatArray:
        """Modes of the random effects, (q,)."""
        point = self.deviance.at(self.opt.x)
        assert point is not None
        return point.mode.b

    @cached_property
    def working(self) -> Estimates:
        """The working linear model's estimates, which answer questions about random effects."""
        x = self.opt.x
        engine = ConditionalEngine(self.deviance, x, self.vcov_gamma, self.columns, self.layout.p)
        fit: PLSFit = engine.at(self.parts[0])
        return Estimates.of(self.layout, engine, fit, self.from_arrays)

    @cached_property
    def psi(self) -> list[FloatArray]:
        """Covariance of every term's coefficients, each (k, k)."""
        return self.deviance.covariance.psi(self.parts[0])

    @cached_property
    def places(self) -> VarianceLayout:
        """Where each packed variance parameter stands."""
        return VarianceLayout.of(self.layout.terms)

    @cached_property
    def variance_se(self) -> FloatArray:
        """Standard errors of the packed variances and covariances, NaN at the boundary."""
        theta = self.parts[0]
        J = psi_jacobian(self.deviance.covariance, theta, self.places)
        free = self.free[self._slices[0]]
        V = self.vcov_theta[np.ix_(free, free)]
        inner = J[:, free]
        undefined = (J[:, ~free] != 0).any(axis=1) | ~inner.any(axis=1)
        variance = np.einsum("ij,jk,ik->i", inner, V, inner)
        return np.where(undefined, np.nan, np.sqrt(np.maximum(variance, 0.0)))
