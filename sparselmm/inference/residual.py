"""What follows from a joint estimate of theta and phi."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sparselmm.base.types import BoolArray, FloatArray, Snapshot
from sparselmm.design.terms import Design, DesignLayout
from sparselmm.inference.effects import group_coefficients
from sparselmm.inference.estimates import SLOPE_STEP, Estimates
from sparselmm.inference.variances import (
    VarianceCovariance,
    VarianceLayout,
    _inverse,
    _transform,
    psi_jacobian,
)
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.evaluations import PLSFit
from sparselmm.likelihood.optimize import minimize
from sparselmm.likelihood.record import OptSummary
from sparselmm.likelihood.residual.deviance import ResidualDeviance

FLAT = 1e-6
"""Curvature of the deviance along a parameter of R below which it has no standard error."""


@dataclass(frozen=True, eq=False)
class JointFit(Snapshot):
    """The minimum over theta and phi.

    Attributes
    ----------
    deviance : ResidualDeviance
        In the working bases.
    opt : OptSummary
        Of its search.
    frozen : ProfiledDeviance
        The deviance of the model's theta with R held at the estimate.
    theta, phi : ndarray, (n_theta,) and (J,)
        Estimates; theta of the model.
    """

    deviance: ResidualDeviance
    opt: OptSummary
    frozen: ProfiledDeviance
    theta: FloatArray
    phi: FloatArray

    @classmethod
    def of(cls, deviance: ResidualDeviance, opt: OptSummary) -> JointFit:
        """From the end of a search."""
        inner, phi = deviance.split(opt.theta)
        frozen = deviance.frozen(phi)
        return cls(deviance, opt, frozen, np.asarray(frozen.original(inner)), phi)

    def again(self, design: Design, reml: bool) -> JointFit:
        """The fit to other numbers in the same rows, from these estimates."""
        strategy = self.deviance._strategy
        deviance = ResidualDeviance(design, reml=reml, strategy=strategy)
        opt = minimize(deviance, self.x)
        if not opt.converged:
            other = minimize(deviance, deviance.start())
            opt = other if other.converged or other.deviance < opt.deviance else opt
        return JointFit.of(deviance, opt)

    @cached_property
    def theta_summary(self) -> OptSummary:
        """The record of the search, with theta alone at its end."""
        opt, n = self.opt, len(self.theta)
        return replace(
            opt, theta=self.theta, gradient=opt.gradient[:n], hessian=opt.hessian[:n, :n],
            at_boundary=opt.at_boundary[:n],
        )  # fmt: skip

    @property
    def x(self) -> FloatArray:
        """Theta and phi in the working bases."""
        return self.opt.theta

    @property
    def origin(self) -> FloatArray:
        """Values of the covariates of the dispersion at which ``scale`` stands, (a,)."""
        rows = self.deviance.design.residual
        assert rows is not None
        return np.zeros(rows.D.shape[1]) if rows.origin is None else rows.origin

    @cached_property
    def hessian(self) -> FloatArray:
        """Hessian of the deviance at the estimate, sigma profiled out."""
        return self.deviance.hessian(self.x)

    @cached_property
    def free(self) -> BoolArray:
        """Parameters with a standard error: of no singular term, and not at a limit."""
        frozen, out = self.frozen, np.ones(len(self.x), dtype=bool)
        singular = frozen.covariance.singular(frozen.cross, self.theta)
        for part, flag in zip(frozen.covariance.slices, singular, strict=True):
            out[part] = not flag
        flat = np.diag(self.hessian) <= FLAT
        return out & ~(flat & self.deviance.is_phi)

    @cached_property
    def inverse(self) -> FloatArray:
        """Inverse of the Hessian of the free parameters; half their covariance."""
        return _inverse(self.hessian[np.ix_(self.free, self.free)])

    @cached_property
    def covariance(self) -> FloatArray:
        """Of (theta, phi) in the working bases; NaN for what has no standard error."""
        out = np.full(self.hessian.shape, np.nan)
        out[np.ix_(self.free, self.free)] = 2.0 * self.inverse
        return out

    @cached_property
    def cov_phi(self) -> FloatArray:
        """Estimation covariance of phi, (J, J)."""
        first = self.deviance.n_theta
        return self.covariance[first:, first:]

    @cached_property
    def pwrss_gradient(self) -> FloatArray:
        """Derivative of pwrss in (theta, phi), working bases."""
        return self.deviance.pwrss_gradient(self.x)


def log_sigma(joint: JointFit, scale: float, moved: FloatArray) -> tuple[float, float]:
    """Log of the residual standard deviation and its variance, covariates ``moved`` off the origin.

    At a given (theta, phi) the estimate has the variance ``1 / (2 df)``.
    """
    first, a = joint.deviance.n_theta, len(moved)
    slope = 0.5 * joint.pwrss_gradient / (scale * joint.deviance.df)
    slope[first : first + a] += moved
    variance = slope @ np.nan_to_num(joint.covariance) @ slope + 0.5 / joint.deviance.df
    return float(0.5 * np.log(scale) + moved @ joint.phi[:a]), float(variance)


@dataclass(frozen=True, eq=False)
class ResidualEstimates(Estimates):
    """Estimates of a fit with a residual covariance structure."""

    joint: JointFit | None = None

    @classmethod
    def jointly(
        cls, layout: DesignLayout, joint: JointFit, pls: PLSFit, from_arrays: bool
    ) -> ResidualEstimates:
        """Estimates of a joint fit."""
        names = group_coefficients(layout.terms, from_arrays)
        return cls(layout, joint.frozen, pls, names, None, 0, joint)

    @property
    def fit(self) -> JointFit:
        """The joint fit."""
        assert self.joint is not None
        return self.joint

    @property
    def n_parameters(self) -> int:
        """Fixed effects, covariance parameters, those of R, and sigma where it is estimated."""
        known = self.pls.known_scale is not None
        return len(self.pls.beta) + len(self.fit.x) + int(not known)

    @cached_property
    def variance_covariance(self) -> VarianceCovariance:
        """Estimation covariance of the variances, from the information of all parameters."""
        joint, scale = self.fit, self.pls.scale
        return joint_covariance(joint, scale, self.places)

    @cached_property
    def added_variance(self) -> FloatArray:
        """What not knowing theta and phi adds to the variances of the fixed effects, (r,)."""
        J = self._joint_slopes()
        return np.asarray(np.einsum("ij,jk,ik->i", J, np.nan_to_num(self.fit.covariance), J))

    def _joint_slopes(self) -> FloatArray:
        """Derivative of the GLS estimate in (theta, phi) by central differences, (r, n)."""
        joint = self.fit
        deviance, x = joint.deviance, joint.x
        J = np.zeros((len(self.pls.beta), len(x)))
        for i in np.flatnonzero(joint.free):
            step = np.zeros(len(x))
            step[i] = SLOPE_STEP * max(deviance.units[i], abs(x[i]))
            ends = []
            for sign in (1.0, -1.0):
                theta, phi = deviance.split(x + sign * step)
                ends.append(deviance.engine(phi).at(theta).beta)
            J[:, i] = (ends[0] - ends[1]) / (2.0 * step[i])
        return J


def joint_covariance(joint: JointFit, scale: float, layout: VarianceLayout) -> VarianceCovariance:
    """As `variance_covariance`, with phi among the parameters that are estimated."""
    frozen, deviance = joint.frozen, joint.deviance
    theta, _ = deviance.split(joint.x)
    n_theta, free = deviance.n_theta, joint.free
    covariance = deviance.theta_covariance
    singular = frozen.covariance.singular(frozen.cross, joint.theta)
    known = deviance.known_scale is not None
    gradient = np.zeros(int(free.sum())) if known else joint.pwrss_gradient[free]
    of_theta = np.zeros((n_theta, n_theta))
    own = free[:n_theta]
    m = int(own.sum())
    of_theta[np.ix_(own, own)] = 2.0 * joint.inverse[:m, :m]
    jacobian = np.zeros((len(layout.terms), len(free)))
    jacobian[:, :n_theta] = psi_jacobian(covariance, theta, layout, frozen)
    return _transform(
        frozen.original_covariance(joint.theta, of_theta),
        jacobian=jacobian[:, free],
        ratios=layout.pick(frozen.covariance.psi(joint.theta)),
        inverse=joint.inverse,
        h=-gradient / scale**2,
        h_ss=np.inf if known else deviance.df / scale**2,
        scale=scale,
        undefined=singular[layout.terms],
    )
