"""Second-order quantities over the variances of random effects and the parameters of R.

To the directions ``G_i = Z E_i Z'`` of :mod:`sparselmm.inference.hypotheses.information` come
``R_j = dR/dphi_j``. With the fixed effects scaled so that ``X'V^-1X = I`` and ``F = V^-1X``,

    C_j  = F'R_j F,    Q_jk = (R_j F)'V^-1(R_k F),    Q_ij = (E_i D)'Z'V^-1 R_j F.

V is not linear in phi; first derivatives alone enter, which for ``us`` is the same as taking its
covariances for parameters, in which V is linear. Estimation covariances of both methods come from
the Hessian of the deviance, not from its expectation: SAS (DDFM=KR(LINEAR); for ``us``, ``cs`` and
``toep`` also KR) and mmrm's "Kenward-Roger-Linear". Neither depends on how phi is written.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg as sla

from sparselmm.base.types import FloatArray
from sparselmm.factor.solver import apply_lambda
from sparselmm.inference.hypotheses.directions import directions, images
from sparselmm.inference.hypotheses.information import Information, covariance_of, information
from sparselmm.inference.residual import JointFit


@dataclass(frozen=True, eq=False)
class JointInformation(Information):
    """Information of (theta, phi, log s); the directions of R stand before the last one."""

    joint: JointFit

    @property
    def observed(self) -> FloatArray:
        """Hessian of the deviance in (theta, phi, log s), sigma not profiled out."""
        joint = self.joint
        H = joint.hessian
        if joint.deviance.known_scale is not None:
            return H
        slope = -joint.pwrss_gradient / self.scale
        df = float(self.df)
        H = H + np.outer(slope, slope) / df
        return np.block([[H, slope[:, None]], [slope[None], np.array([[df]])]])

    def for_adjustment(self) -> FloatArray:
        """As Satterthwaite's."""
        return covariance_of(self.observed, self.units, self.to_theta, self.C)


def joint_information(joint: JointFit, second: bool) -> JointInformation:
    """Second-order quantities at a joint estimate.

    Parameters
    ----------
    second : bool
        Whether Q of Kenward and Roger's method is wanted; zeros otherwise.
    """
    deviance = joint.deviance
    theta, phi = deviance.split(joint.x)
    inner = deviance.engine(phi)
    plain = information(inner, theta)
    m, J = len(plain.C) - 1, len(phi)
    parts = _Parts.of(joint)
    C = np.concatenate([plain.C[:-1], parts.C, plain.C[-1:]])
    Q = np.zeros((m + J, m + J, *plain.Q.shape[2:]))
    Q[:m, :m] = plain.Q
    if second:
        parts.fill(Q)
    return JointInformation(
        **{
            **{name: getattr(plain, name) for name in Information.__dataclass_fields__},
            "C": C, "Q": Q, "to_theta": _with_phi(plain.to_theta, m, J, len(theta)),
            "units": np.concatenate([plain.units[: len(theta)], np.ones(J),
                                     plain.units[len(theta) :]]),
            "joint": joint,
        }
    )  # fmt: skip


def _with_phi(slopes: FloatArray, m: int, J: int, n: int) -> FloatArray:
    """Rows and columns of phi before those of ``log s``."""
    last = slopes[m:, n:]
    return np.asarray(sla.block_diag(slopes[:m, :n], np.eye(J), last))


@dataclass(frozen=True, eq=False)
class _Parts:
    """Products of the rows with the R_j.

    Attributes
    ----------
    moved : ndarray, (n, J r)
        ``R_j V^-1 X`` of the scaled fixed effects, side by side.
    C : ndarray, (J, r, r)
    """

    joint: JointFit
    moved: FloatArray
    C: FloatArray

    @classmethod
    def of(cls, joint: JointFit) -> _Parts:
        deviance = joint.deviance
        theta, phi = deviance.split(joint.x)
        dev, backend, state = deviance.engine(phi), deviance.backend, deviance._state(phi)
        at, products = dev.state_at(theta), deviance.products
        root = at.inverse_root
        LK = apply_lambda(dev.cross, at.lams, at.K[:, :-1], transpose=False)
        F = backend.solve(state, (products.Xy[:, :-1] - products.Z @ LK) @ root)  # type: ignore[arg-type]
        J, r = len(phi), F.shape[1]
        moved = np.empty((len(F), J * r))
        for j in range(J):
            moved[:, j * r : (j + 1) * r] = backend.moved(state, j, F)  # type: ignore[arg-type]
        return cls(joint, moved, (F.T @ moved).reshape(r, J, r).transpose(1, 0, 2))

    def _solved(self, own: FloatArray) -> FloatArray:
        """``V^-1`` times columns, (n, r)."""
        deviance = self.joint.deviance
        theta, phi = deviance.split(self.joint.x)
        dev, backend, products = deviance.engine(phi), deviance.backend, deviance.products
        state = deviance._state(phi)
        out = backend.solve(state, own)  # type: ignore[arg-type]
        if dev.cross.q:
            dev.state_at(theta)
            inner = dev.conditional_columns(theta, np.ascontiguousarray(products.Zt @ out))
            out = out - backend.solve(state, products.Z @ inner)  # type: ignore[arg-type, operator]
        return np.asarray(out)

    def fill(self, Q: FloatArray) -> None:
        """The rows and columns of R's directions in Q (m + J, m + J, r, r)."""
        deviance = self.joint.deviance
        theta, phi = deviance.split(self.joint.x)
        dev, m = deviance.engine(phi), len(Q) - len(phi)
        at = dev.state_at(theta)
        D = dev.products(at)[:, :-1] @ at.inverse_root
        ED = images(dev.cross, directions(deviance.theta_covariance, theta), D)
        J, r = len(phi), Q.shape[-1]
        for j in range(J):
            solved = self._solved(np.ascontiguousarray(self.moved[:, j * r : (j + 1) * r]))
            Q[m:, m + j] = (self.moved.T @ solved).reshape(J, r, r)
            down = deviance.products.Zt @ solved
            Q[:m, m + j] = (ED.T @ down).reshape(m, D.shape[1], down.shape[1])
            Q[m + j, :m] = Q[:m, m + j].transpose(0, 2, 1)
