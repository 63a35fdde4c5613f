"""Second-order quantities over the variances of random effects and the parameters of R.

To the directions ``G_i = Z E_i Z'`` of :mod:`sparselmm.inference.hypotheses.information` come
``R_j = dR/dphi_j``. With the fixed effects scaled so that ``X'V^-1X = I`` and ``F = V^-1X``,

    C_j  = F'R_j F,    Q_jk = (R_j F)'V^-1(R_k F),    Q_ij = (E_i D)'Z'V^-1 R_j F
    K_jk = tr(V^-1 R_j V^-1 R_k),    K_ij = tr(Z'V^-1 R_j V^-1 Z E_i),    K_j,log s = tr(V^-1 R_j).

V is not linear in phi; first derivatives alone enter, which for ``us`` is the same as taking its
covariances for parameters, in which V is linear. Estimation covariances of Satterthwaite's method
come from the Hessian of the deviance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.linalg as sla

from sparselmm.base.exceptions import UnsupportedError
from sparselmm.base.smallmatrix import upper_inverse
from sparselmm.base.types import FloatArray
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.solver import apply_lambda
from sparselmm.inference.hypotheses.directions import Directions, directions, images
from sparselmm.inference.hypotheses.information import Information, information
from sparselmm.inference.residual import JointFit
from sparselmm.likelihood.residual.blocks import Blocks, BlockState
from sparselmm.likelihood.residual.products import PairMap

MOST_COLUMNS = 4_000
"""Random effects up to which traces of products with R are formed (dense, q x q)."""


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


def joint_information(joint: JointFit, expected: bool) -> JointInformation:
    """Second-order quantities at a joint estimate.

    Parameters
    ----------
    expected : bool
        Whether the traces of Kenward and Roger's method are wanted; zeros otherwise.
    """
    deviance = joint.deviance
    theta, phi = deviance.split(joint.x)
    inner = deviance.engine(phi)
    plain = information(inner, theta)
    if not isinstance(deviance.backend, Blocks):
        raise UnsupportedError(
            "degrees of freedom are not available for groups of this size; use ddf='z'"
        )
    parts = _Parts.of(joint)
    m, J = len(plain.C) - 1, len(phi)
    C = np.concatenate([plain.C[:-1], parts.C, plain.C[-1:]])
    Q = _grown(plain.Q, m, J, 0.0)
    K = np.zeros((m + J + 1, m + J + 1))
    if expected:
        Q, K = parts.second_order(plain, Q, K)
    to_theta = _with_phi(plain.to_theta, m, J, len(theta))
    n_linear = plain.linear.shape[1] - int(inner.known_scale is None)
    return JointInformation(
        **{
            **{name: getattr(plain, name) for name in Information.__dataclass_fields__},
            "C": C, "Q": Q, "K": K, "to_theta": to_theta,
            "linear": _with_phi(plain.linear, m, J, n_linear),
            "units": _with_ones(plain.units, len(theta), J),
            "linear_units": _with_ones(plain.linear_units, n_linear, J),
            "joint": joint,
        }
    )  # fmt: skip


def _with_phi(slopes: FloatArray, m: int, J: int, n: int) -> FloatArray:
    """Rows and columns of phi before those of ``log s``."""
    last = slopes[m:, n:]
    return np.asarray(sla.block_diag(slopes[:m, :n], np.eye(J), last))


def _with_ones(units: FloatArray, n: int, J: int) -> FloatArray:
    return np.concatenate([units[:n], np.ones(J), units[n:]])


def _grown(Q: FloatArray, m: int, J: int, fill: float) -> FloatArray:
    out = np.full((m + J, m + J, *Q.shape[2:]), fill)
    out[:m, :m] = Q
    return out


@dataclass(frozen=True, eq=False)
class _Parts:
    """Products of the rows with the R_j.

    Attributes
    ----------
    F : ndarray, (n, r)
        ``V^-1 X`` of the scaled fixed effects.
    moved : list of ndarray, (n, r)
        ``R_j F``.
    C : ndarray, (J, r, r)
    """

    joint: JointFit
    state: BlockState
    F: FloatArray
    moved: list[FloatArray]
    C: FloatArray

    @classmethod
    def of(cls, joint: JointFit) -> _Parts:
        deviance = joint.deviance
        theta, phi = deviance.split(joint.x)
        dev, backend = deviance.engine(phi), deviance.backend
        assert isinstance(backend, Blocks)
        state = deviance._state(phi)
        assert isinstance(state, BlockState)
        at, products = dev.state_at(theta), deviance.products
        root = upper_inverse(at.Rxx)
        LK = apply_lambda(dev.cross, at.lams, at.K[:, :-1], transpose=False)
        F = backend.solve(state, (products.Xy[:, :-1] - products.Z @ LK) @ root)
        moved = []
        for j in range(len(phi)):
            out = np.empty_like(F)
            for batch, R1 in zip(backend.batches, state.R1, strict=True):
                out[batch.index] = batch.products(R1[j], F)
            moved.append(out)
        r = F.shape[1]
        C = np.array([F.T @ own for own in moved]).reshape(len(phi), r, r)
        return cls(joint, state, F, moved, C)

    @cached_property
    def _solved(self) -> list[FloatArray]:
        """``V^-1 R_j F``, each (n, r)."""
        deviance = self.joint.deviance
        theta, phi = deviance.split(self.joint.x)
        dev, backend, products = deviance.engine(phi), deviance.backend, deviance.products
        out = []
        for own in self.moved:
            Qw = backend.solve(self.state, own)  # type: ignore[arg-type]
            if dev.cross.q:
                inner = dev.conditional_columns(theta, np.ascontiguousarray(products.Zt @ Qw))
                moved: FloatArray = products.Z @ inner
                Qw = Qw - backend.solve(self.state, moved)  # type: ignore[arg-type, operator]
            out.append(Qw)
        return out

    def second_order(
        self, plain: Information, Q: FloatArray, K: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Q (m + J, m + J, r, r) and K (m + J + 1, m + J + 1)."""
        deviance = self.joint.deviance
        theta, phi = deviance.split(self.joint.x)
        dev = deviance.engine(phi)
        m, J = len(plain.C) - 1, len(phi)
        at = dev.state_at(theta)
        D = dev.products(at)[:, :-1] @ upper_inverse(at.Rxx)
        which = directions(deviance.theta_covariance, theta)
        ED = images(dev.cross, which, D)
        for j, solved in enumerate(self._solved):
            for k, other in enumerate(self.moved):
                Q[m + k, m + j] = other.T @ solved
            down = deviance.products.Zt @ solved
            Q[:m, m + j] = (ED.T @ down).reshape(m, D.shape[1], down.shape[1])
            Q[m + j, :m] = Q[:m, m + j].transpose(0, 2, 1)
        K[:m, :m], K[:m, -1], K[-1, :m] = plain.K[:-1, :-1], plain.K[:-1, -1], plain.K[-1, :-1]
        K[-1, -1] = plain.K[-1, -1]
        Kpp, Kpt, Ks = self._traces(J, which)
        K[m:-1, m:-1], K[m:-1, :m], K[:m, m:-1] = Kpp, Kpt, Kpt.T
        K[m:-1, -1] = K[-1, m:-1] = Ks
        return Q, K

    def _traces(self, J: int, which: list[Directions]) -> tuple[FloatArray, FloatArray, FloatArray]:
        """``tr(V^-1 R_j V^-1 R_k)``, ``tr(Z'V^-1 R_j V^-1 Z E_i)`` and ``tr(V^-1 R_j)``."""
        deviance, state = self.joint.deviance, self.state
        theta, phi = deviance.split(self.joint.x)
        dev, backend = deviance.engine(phi), deviance.backend
        assert isinstance(backend, Blocks)
        Kpp, Ks = np.zeros((J, J)), np.zeros(J)
        for batch, R1, inverse in zip(backend.batches, state.R1, state.Q, strict=True):
            QR = inverse @ R1  # (J, P, m, m)
            Ks += np.einsum("jpii,p->j", QR, batch.counts)
            Kpp += np.einsum("japb,kbpa,p->jk", QR.transpose(0, 2, 1, 3), QR.transpose(0, 2, 1, 3),
                             batch.counts, optimize=True)  # fmt: skip
        q = dev.cross.q
        if not q:
            return Kpp, np.zeros((J, 0)), Ks
        if q > MOST_COLUMNS:
            raise UnsupportedError(
                f"ddf='kenward-roger' with residual= forms {q} x {q} matrices for {q} random "
                "effects; use ddf='satterthwaite'"
            )
        dev.state_at(theta)
        G = dev.conditional_columns(theta, np.eye(q))
        N = [
            _on_pattern(dev.cross, deviance.products.maps, self._sandwiched([j])) for j in range(J)
        ]
        NG = [own @ G for own in N]
        A = dev.cross.A.toarray()
        side = np.eye(q) - A @ G
        for j in range(J):
            Ks[j] -= np.trace(NG[j])
            for k in range(j + 1):
                twice = _on_pattern(
                    dev.cross, deviance.products.maps, self._sandwiched([j, k])
                )  # symmetrized, which a trace with G does not see
                value = -2.0 * np.sum(twice * G) + np.sum(NG[j] * NG[k].T)
                Kpp[j, k] += value
                Kpp[k, j] = Kpp[j, k]
        Kpt = [_level_traces(dev.cross, side @ own @ side.T, which) for own in N]
        return Kpp, np.array(Kpt).reshape(J, -1), Ks

    def _sandwiched(self, which: list[int]) -> FloatArray:
        """Cells of ``R^-1 R_j R^-1`` or of ``R^-1 R_j R^-1 R_k R^-1``, symmetrized."""
        backend = self.joint.deviance.backend
        assert isinstance(backend, Blocks)
        out = []
        for R1, Q in zip(self.state.R1, self.state.Q, strict=True):
            product = Q
            for j in which:
                product = product @ R1[j] @ Q
            out.append(0.5 * (product + product.transpose(0, 2, 1)))
        return backend._triangles(out)


def _on_pattern(
    cross: CrossProducts, maps: dict[tuple[int, int], PairMap], cells: FloatArray
) -> FloatArray:
    """``Z'BZ`` for B of some cells, dense (q, q)."""
    values = {pair: one.at(cells) for pair, one in maps.items()}
    return np.asarray(replace(cross, values=values).A.toarray())


def _level_traces(cross: CrossProducts, U: FloatArray, which: list[Directions]) -> FloatArray:
    """``tr(U (I (x) E_i))`` of every direction of every term, (m,)."""
    out = [np.zeros(0)]
    for own, part, (k, l) in zip(which, cross.slices, cross.sizes, strict=True):
        out.append(own.traces(np.einsum("aiaj->ij", U[part, part].reshape(l, k, l, k))))
    return np.concatenate(out)
