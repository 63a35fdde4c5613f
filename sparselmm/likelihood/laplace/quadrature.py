"""Adaptive Gauss-Hermite quadrature over one scalar effect per level, with its exact gradient.

With ``F_j(u)`` the log-likelihood of the rows of level j less ``u^2 / 2``, its mode ``u_j``,
``H_j = -F_j''(u_j)``, ``s_j = H_j^-1/2`` and nodes ``z_k`` of weights ``w_k``,

    L_j = s_j sum_k w_k exp(F_j(u_j + s_j z_k) + z_k^2 / 2),     deviance = -2 sum_j log L_j.

Let E_j average over the nodes, weighted as in the sum, ``A_j = E_j F_j'``, ``C_j = E_j F_j' z``.
Because ``du_j/dp = F'_p / H_j`` and ``ds_j/dp = -s_j^3 (H_p + H_u du_j/dp) / 2``,

    d log L_j / dp = E_j[F_p] + a_j F'_p / H_j + c_j H_p,
    c_j = -s_j^3 (C_j + 1 / s_j) / 2,     a_j = A_j + c_j H_u.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparselmm.base.arguments import shown
from sparselmm.base.exceptions import DataError
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.likelihood.laplace.data import GeneralData
from sparselmm.likelihood.laplace.deviance import PER_ROW, LaplaceDeviance
from sparselmm.likelihood.laplace.parameters import Model, Point, alone
from sparselmm.likelihood.laplace.rows import blocks

MOST_NODES = 100


def check_nodes(nodes: int) -> None:
    """Refuse what is no number of nodes."""
    if isinstance(nodes, bool) or not isinstance(nodes, (int, np.integer)):
        raise DataError(f"nagq must be a whole number of nodes, got {shown(nodes)}")
    if not 1 <= nodes <= MOST_NODES:
        raise DataError(f"nagq must be between 1 (Laplace) and {MOST_NODES}, got {nodes}")


def check_quadrature(data: GeneralData, nodes: int) -> None:
    """Refuse a model over which quadrature does not integrate.

    Raises
    ------
    DataError
        If there is more than one scalar effect per level of one factor.
    """
    check_nodes(nodes)
    if nodes == 1:
        return
    if len(data.terms) != 1 or data.terms[0].codes is None or data.terms[0].k != 1:
        shapes = ", ".join(f"{t.name!r} with {t.k} coefficient(s)" for t in data.terms)
        raise DataError(
            f"nagq = {nodes} integrates over a single random effect per level of one grouping "
            f"factor; this model has {shapes}. Use nagq=1 (Laplace), or leave terms out"
        )


@dataclass(frozen=True, eq=False)
class Nodes:
    """Posterior weights of the nodes at every level, (l, K), and the steps ``s_j``, (l,)."""

    weights: FloatArray
    s: FloatArray
    logs: FloatArray


class QuadratureDeviance(LaplaceDeviance):
    """Minus twice the log-likelihood by quadrature, for one scalar effect per level.

    Parameters
    ----------
    nodes : int
    memory_limit : int, optional
    """

    def __init__(self, data: GeneralData, nodes: int, memory_limit: int | None = None):
        check_quadrature(data, nodes)
        super().__init__(data, memory_limit)
        z, w = np.polynomial.hermite_e.hermegauss(nodes)
        self.seconds += 0.5 * nodes * PER_ROW * data.n
        self.z, self.log_w = z, np.log(w / np.sqrt(2.0 * np.pi)) + 0.5 * z**2
        codes = data.terms[0].codes
        assert codes is not None
        self._present = codes >= 0
        self._codes: IntArray = np.where(self._present, codes, 0)
        values = data.terms[0].values
        ones = np.ones(data.n) if values is None else values[:, 0]
        self._values = np.where(self._present, ones, 0.0)
        self._integrals: tuple[Point, Nodes] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_integrals": None}

    @alone
    def at(self, x: FloatArray, u: FloatArray | None = None) -> Point | None:
        """The evaluation at x; its value by quadrature around the mode."""
        known = self._point
        point = super().at(x, u)
        if point is None or point is known:
            return point
        nodes = self._nodes(point)
        value = -2.0 * (float(nodes.logs.sum()) + self._lone(point) + self.constant)
        self._point = point = replace(point, value=value)
        self._integrals = point, nodes
        return point

    def _sum(self, x: FloatArray) -> FloatArray:
        """Sums over the rows of every level, (l,)."""
        out = np.bincount(self._codes, x, minlength=self.cross.sizes[0][1])
        return np.asarray(out, dtype=float)

    def _lone(self, point: Point) -> float:
        """Log-likelihood of rows that belong to no level."""
        if self._present.all():
            return 0.0
        phi = self.parameters.split(point.x)[2]
        f = self.data.jet(self.passes.eta, phi, slice(0, self.data.n), False).f
        return float(f[~self._present].sum())

    def _eta(self, point: Point, shift: FloatArray) -> FloatArray:
        """Predictors with every effect moved by ``shift`` (l,)."""
        return np.asarray(self.passes.eta + point.lams[0][0, 0] * self._values * shift[self._codes])

    def _nodes(self, point: Point) -> Nodes:
        theta, phi = point.lams[0][0, 0], self.parameters.split(point.x)[2]
        u = point.mode.u
        s = 1.0 / np.sqrt(1.0 + theta**2 * self.cross.pairs[0, 0].data[:, 0, 0])
        logs = np.empty((len(u), len(self.z)))
        every = slice(0, self.data.n)
        for k, z in enumerate(self.z):
            f = self.data.jet(self._eta(point, s * z), phi, every, False).f
            logs[:, k] = self._sum(np.where(self._present, f, 0.0)) - 0.5 * (u + s * z) ** 2
        logs += self.log_w
        top = logs.max(axis=1)
        parts = np.exp(logs - top[:, None])
        total = parts.sum(axis=1)
        return Nodes(parts / total[:, None], s, top + np.log(total) + np.log(s))

    @alone
    def model(self, x: FloatArray) -> Model:
        """Exact gradient; the model Hessian is that of Laplace's deviance."""
        point = self.at(x)
        if point is None:
            raise FloatingPointError("the log-likelihood is not finite")
        if self._model is None or self._model[0] is not point:
            slope, self._point = self._slope(point), None  # which reads what the model overwrites
            self._model = point, replace(self._modelled(point), gradient=slope)
            self._point = point
        return self._model[1]

    def _slope(self, point: Point) -> FloatArray:
        assert self._integrals is not None
        nodes = self._integrals[1]
        data, code, v = self.data, self._codes, self._values
        theta, phi = point.lams[0][0, 0], self.parameters.split(point.x)[2]
        u, g, w, dw = point.mode.u, self.passes.g, self.passes.w, self.passes.dw
        mean, first = np.zeros(data.n), np.zeros(data.n)
        A, C, s = np.zeros(len(u)), np.zeros(len(u)), nodes.s
        slopes = np.zeros((len(data.further), data.n))
        for k, z in enumerate(self.z):
            p, own = nodes.weights[:, k], u + s * z
            jet = data.jet(self._eta(point, s * z), phi, slice(0, data.n), data.n_phi > 0)
            e = np.where(self._present, jet.e, 0.0)
            mean += p[code] * e
            first += (p * own)[code] * e
            F = theta * self._sum(v * e) - own
            A += p * F
            C += p * F * z
            for i, (f, _, _) in enumerate(jet.a):
                slopes[i] += p[code] * f
        H = 1.0 / s**2
        c = -0.5 * s**3 * (C + 1.0 / s)
        a = (A + c * theta**3 * self._sum(v**3 * dw)) / H
        outside = np.where(self._present, 0.0, g)
        row = mean + outside - theta * a[code] * v * w + c[code] * (theta * v) ** 2 * dw
        F_theta = self._sum(v * g) - theta * u * self._sum(v**2 * w)
        H_theta = 2.0 * theta * self._sum(v**2 * w) + theta**2 * u * self._sum(v**3 * dw)
        by_theta = float((self._sum(v * first) + a * F_theta + c * H_theta).sum())
        by_phi = self._by_phi(phi, theta, a, c, slopes)
        theta_slope = self.covariance.tangent_vector(
            self.parameters.split(point.x)[0], [np.array([[-2.0 * by_theta]])]
        )
        return np.concatenate([theta_slope, -2.0 * self.fixed.products(row), -2.0 * by_phi])

    def _by_phi(
        self, phi: FloatArray, theta: float, a: FloatArray, c: FloatArray, slopes: FloatArray
    ) -> FloatArray:
        """Derivative of the log-likelihood in the coefficients of further predictors."""
        data, out = self.data, np.zeros(self.data.n_phi)
        if not len(out):
            return out
        code, v = self._codes, self._values
        for rows in blocks(data.n):
            jet = data.jet(self.passes.eta[rows], phi, rows, True)
            for i, part in enumerate(data.further):
                f, e, ee = (np.broadcast_to(x, jet.f.shape) for x in jet.a[i])
                own = np.where(self._present[rows], slopes[i][rows], f)
                own = own + theta * (a[code] * v)[rows] * e - (theta**2 * c[code] * v**2)[rows] * ee
                out[part.columns] += part.products(own, rows)
        return out
