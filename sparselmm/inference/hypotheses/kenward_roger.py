"""Kenward and Roger's adjusted covariance and F tests, with the expected information.

With ``Phi = sigma^2 (X'V^-1X)^-1``, ``S = Var(y)`` linear in the variance parameters, derivatives
``G_i`` of S, ``P_i = -X'S^-1 G_i S^-1 X``, ``Q_ij = X'S^-1 G_i S^-1 G_j S^-1 X`` and W the inverse
of the expected REML information,

    Phi_A = Phi + 2 Phi { sum_ij W_ij (Q_ij - P_i Phi P_j) } Phi                              (1)
    2 (W^-1)_ij = tr(S^-1 G_i S^-1 G_j) - 2 tr(Phi Q_ij) + tr(Phi P_i Phi P_j)                (2)

(Kenward & Roger 1997, their adjusted estimator of the covariance, without its term in second
derivatives of S, which are zero here; expected information as in pbkrtest, Halekoh & Hojsgaard
2014). The test of ``L beta = 0`` with q rows refers
``lambda (L beta)'(L Phi_A L')^-1 (L beta) / q`` to F(q, m). From ``Theta = L'(L Phi L')^-1 L``,

    A1 = sum_ij W_ij tr(Theta Phi P_i Phi) tr(Theta Phi P_j Phi)
    A2 = sum_ij W_ij tr(Theta Phi P_i Phi Theta Phi P_j Phi),   B = (A1 + 6 A2) / (2 q)
    g = [(q + 1) A1 - (q + 4) A2] / [(q + 2) A2],   d = 3q + 2 (1 - g)
    (c1, c2, c3) = (g, q - g, q + 2 - g) / d
    rho = [(1 - A2/q) / (1 - c2 B)]^2 (1 + c1 B) / (1 - c3 B) / q
    m = 4 + (q + 2) / (q rho - 1),   lambda = m (1 - A2/q) / (m - 2)                          (3)

(Kenward & Roger 1997, their scaled Wald statistic with the moments corrected to be exact in two
balanced cases). With one row lambda is 1 and m is Satterthwaite's df with W for the covariance of
the variance parameters. Where ``Psi_t`` has a pattern its parameters are taken
to first order, as with SAS's DDFM=KR(FIRSTORDER). With the fixed effects scaled to ``X'V^-1X = I``
every ``Phi`` is ``s I``, and the direction of V drops out of ``Phi_A``. Of fits with a residual
structure W is the inverse of the observed information, as in SAS and mmrm
(:mod:`sparselmm.inference.hypotheses.joint_information`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sparselmm.base.exceptions import ArgumentError
from sparselmm.base.types import FloatArray, Snapshot
from sparselmm.inference.estimates import Estimates
from sparselmm.inference.hypotheses.hypotheses import FTest, Principal, f_test_of, full_covariance
from sparselmm.inference.hypotheses.information import Information, information
from sparselmm.inference.hypotheses.satterthwaite import row_df

ZERO = 1e-10
"""Below this a factor of the moments of F counts as zero, as in pbkrtest."""

NEAR_TWO = 1e-2
"""Next to ``m = 2``, where the mean of F does not exist, lambda is taken as one, as in pbkrtest."""


@dataclass(frozen=True, eq=False)
class KenwardRoger(Snapshot):
    """Tests of a REML fit by Kenward and Roger's method.

    Attributes
    ----------
    info : Information
        Derivatives at the estimates.
    covariance : ndarray, (m + 1, m + 1)
        ``W`` in the coordinates of `Information`.
    """

    est: Estimates
    info: Information
    covariance: FloatArray
    method = "kenward-roger"

    @classmethod
    def of(cls, est: Estimates, info: Information | None = None) -> KenwardRoger:
        """From the information at the optimum of a REML fit.

        Raises
        ------
        ValueError
            For a fit by maximum likelihood.
        """
        if not est.pls.reml:
            raise ArgumentError(
                "Kenward-Roger is defined for REML estimates and this fit is ML; fit again with "
                "reml=True, or use ddf='satterthwaite'"
            )
        info = information(est.deviance, est.pls.theta) if info is None else info
        return cls(est, info, info.for_adjustment())

    @cached_property
    def _adjusted(self) -> FloatArray:
        """``Phi_A / s`` of the scaled fixed effects, (r, r)."""
        W, C = self.covariance[:-1, :-1], self.info.C[:-1]
        U = np.einsum("ij,ijab->ab", W, self.info.Q)
        U -= np.einsum("ij,iac,jcb->ab", W, C, C, optimize=True)
        return np.asarray(np.eye(len(U)) + U + U.T)

    @cached_property
    def _vcov(self) -> FloatArray:
        root = self.info.root
        return self.info.scale * root @ self._adjusted @ root.T

    @cached_property
    def vcov(self) -> FloatArray:
        """Adjusted covariance ``Phi_A``, (p, p); NaN for dropped columns."""
        return full_covariance(self.est, self._vcov)

    def t_df(self, L: FloatArray) -> FloatArray:
        """Degrees of freedom of every row of L, (m,); NaN on a dropped column.

        Parameters
        ----------
        L : ndarray, (m, p)
        """
        return row_df(self.est, self.info, self.covariance, L)

    def f_test(self, L: FloatArray, rhs: FloatArray | None = None) -> FTest:
        """Joint test of ``L beta = rhs``.

        Parameters
        ----------
        L : ndarray, (m, p)
            Dependent rows count once.
        rhs : ndarray, (m,), optional
            Default zero.
        """
        parts, scale = Principal.of(self.est, L, rhs), self.est.pls.scale
        size = np.sqrt(parts.variances / scale)
        effect = parts.effects / size
        N = self.info.scaled(parts.rows / size[:, None])  # orthonormal rows
        wald = effect @ np.linalg.solve(N @ self._adjusted @ N.T, effect) / scale
        q = len(effect)
        c = np.einsum("ma,iab,nb->imn", N, self.info.C, N, optimize=True)
        trace = np.einsum("imm->i", c)
        A1 = float(trace @ self.covariance @ trace)
        A2 = float(np.einsum("ij,imn,jnm->", self.covariance, c, c, optimize=True))
        df_den, scaling = moments(A1, A2, q)
        return f_test_of(scaling * float(wald) / q, q, df_den, scaling)


def moments(A1: float, A2: float, q: int) -> tuple[float, float]:
    """Denominator df m and scaling lambda of Kenward and Roger's F.

    Parameters
    ----------
    A1, A2 : float
        As in the module's head.
    q : int
        Rows of L.
    """
    B = (A1 + 6.0 * A2) / (2.0 * q)
    g = ((q + 1) * A1 - (q + 4) * A2) / ((q + 2) * A2)
    size = 3.0 * q + 2.0 * (1.0 - g)
    c1, c2, c3 = g / size, (q - g) / size, (q + 2 - g) / size
    V0, V1, V2 = 1.0 + c1 * B, 1.0 - c2 * B, 1.0 - c3 * B
    V0 = 0.0 if abs(V0) < ZERO else V0
    ratio = 1.0 if abs(V1) < ZERO and abs(1.0 - A2 / q) < ZERO else (1.0 - A2 / q) / V1
    rho = ratio**2 * V0 / V2 / q
    m = 4.0 + (q + 2) / (q * rho - 1.0)
    scaling = 1.0 if abs(m - 2.0) < NEAR_TWO else m * (1.0 - A2 / q) / (m - 2.0)
    return m, scaling
