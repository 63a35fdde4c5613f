"""The dense twin: textbook formulas with the n x n matrix V, the oracle of every test.

    V = R + Z Lambda Lambda'Z',   R = W^-1,   beta = (X'V^-1X)^-1 X'V^-1y
    P = V^-1 - V^-1X(X'V^-1X)^-1X'V^-1
    -2 log L = n log(2 pi sigma^2) + log det V + (y - X beta)'V^-1(y - X beta) / sigma^2

(Searle, Casella & McCulloch 1992, sections 6.2 and 6.6; the gradient is their section 6.3.)
Nothing is shared with the sparse engine but the design.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg as sla

from sparselmm.base.smallmatrix import SecondMoments
from sparselmm.base.types import FloatArray
from sparselmm.design.terms import Design
from sparselmm.factor.basis import working_basis
from sparselmm.likelihood.covariance import Covariance, theta_units
from sparselmm.likelihood.curvature import add_root_curvature
from sparselmm.likelihood.evaluations import PLSFit, residual_part


class DenseDeviance:
    """Profiled deviance by dense linear algebra on the rows; memory n^2, time n^3.

    Parameters
    ----------
    design : Design
        The rows.
    covariance : Covariance
        Map from theta to Lambda.
    reml : bool
        REML criterion instead of -2 log-likelihood.
    known_scale : float, optional
        Residual variance, when it is known.
    R : ndarray, (n, n), optional
        Covariance of the residuals relative to sigma^2, in place of ``W^-1``.
    """

    model_is_exact = False

    def __init__(
        self, design: Design, covariance: Covariance, *, reml: bool,
        known_scale: float | None = None, R: FloatArray | None = None,
    ):  # fmt: skip
        w = np.ones(design.n) if design.weights is None else design.weights
        rows = w > 0
        y = design.y if design.offset is None else design.y - design.offset
        kept = working_basis(design.X, y, design.weights).kept
        self.X, self.y = design.X[rows][:, kept], y[rows]
        self.Z, self.w = design.Z.toarray()[rows], w[rows]
        self.terms, self.covariance, self.reml = design.terms, covariance, reml
        moments = [
            SecondMoments(np.einsum("n,nja,njb->ab", self.w, Zt, Zt) / len(self.y))
            for Zt in self._by_coefficient()
        ]
        self.levels = [term.n_levels for term in design.terms]
        self.units = theta_units(covariance, moments)
        self.unit_roots = covariance.unit_roots(moments)
        self.df = len(self.y) - (self.X.shape[1] if reml else 0)
        self.known_scale = known_scale
        self.R = np.diag(1.0 / self.w) if R is None else R

    def _lambda(self, theta: FloatArray) -> FloatArray:
        factors = self.covariance.factors(theta)
        blocks = [
            np.kron(np.eye(term.n_levels), lam)
            for term, lam in zip(self.terms, factors, strict=True)
        ]
        return np.asarray(sla.block_diag(*blocks)) if blocks else np.zeros((0, 0))

    def at(self, theta: FloatArray) -> PLSFit:
        """The solution at theta, with ``b = Psi Z'V^-1(y - X beta)``."""
        theta = np.asarray(theta, dtype=float)
        X, y, Lam = self.X, self.y, self._lambda(theta)
        ZL = self.Z @ Lam
        V = self.R + ZL @ ZL.T
        root = sla.cho_factor(V, lower=True)
        XtVX = X.T @ sla.cho_solve(root, X)
        vcov = np.linalg.inv(XtVX)
        beta = vcov @ (X.T @ sla.cho_solve(root, y))
        residual = y - X @ beta
        weighted = sla.cho_solve(root, residual)
        pwrss = float(residual @ weighted)
        logdet = float(2.0 * np.log(np.diag(root[0])).sum())
        ldRX2 = float(np.linalg.slogdet(XtVX)[1]) if X.shape[1] else 0.0
        deviance = logdet + residual_part(pwrss, self.df, self.known_scale)
        u = ZL.T @ weighted
        return PLSFit(
            theta=theta, beta=beta, vcov_unscaled=vcov, u=u, b=Lam @ u,
            ldL2=logdet + float(np.log(self.w).sum()), ldRX2=ldRX2, pwrss=pwrss,
            deviance=float(deviance + (ldRX2 if self.reml else 0.0)), df=self.df, reml=self.reml,
            known_scale=self.known_scale,
        )  # fmt: skip

    def value(self, theta: FloatArray) -> float:
        """Deviance at theta."""
        return self.at(theta).deviance

    def gradient(self, theta: FloatArray) -> FloatArray:
        """``tr(V^-1 V_i)`` (ML) or ``tr(P V_i)`` (REML) less ``y'P V_i P y / sigma^2``."""
        return self.tangent_model(theta)[0][self.covariance.in_tangent]

    def tangent_model(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Gradient, and average information plus root curvature, by their definitions.

        ``AI_ij = y'P V_i P V_j P y / sigma^2``, an unknown sigma^2 profiled out (Gilmour, Thompson
        & Cullis 1995, eq. 7), and ``dD/dPsi_t = sum_j Z_j'(P - P y y'P / sigma^2)Z_j``.
        """
        theta = np.asarray(theta, dtype=float)
        fit, ZL = self.at(theta), self.Z @ self._lambda(theta)
        Vinv = np.linalg.inv(self.R + ZL @ ZL.T)
        VX = Vinv @ self.X
        P = Vinv - VX @ fit.vcov_unscaled @ VX.T
        Py, trace_of = P @ self.y, P if self.reml else Vinv
        directions = [E @ ZL.T + ZL @ E.T for E in self._root_directions(theta)]
        VPy = np.array([Vi @ Py for Vi in directions])
        quadratic = VPy @ Py
        traces = np.array([np.sum(trace_of * Vi) for Vi in directions])
        H = VPy @ P @ VPy.T / fit.scale
        if self.known_scale is None:
            H -= np.outer(quadratic, quadratic) / fit.pwrss / fit.scale
        lams = self.covariance.factors(theta)
        for t, Zt in enumerate(self._by_coefficient()):
            d = np.einsum("njk,n->jk", Zt, Py)
            psi = np.einsum("nja,nm,mjb->ab", Zt, trace_of, Zt, optimize=True)
            slope = psi - d.T @ d / fit.scale
            add_root_curvature(H, self.covariance, t, slope, theta, 2.0 * slope @ lams[t])
        return traces - quadratic / fit.scale, H

    def tangent_gradient(self, theta: FloatArray) -> FloatArray:
        """The gradient alone."""
        return self.tangent_model(theta)[0]

    def rounding(self, theta: FloatArray) -> float:
        """Estimate of the rounding error of the deviance: V is known to a share eps of itself."""
        fit, ZL = self.at(theta), self.Z @ self._lambda(theta)
        V = self.R + ZL @ ZL.T
        weighted = np.linalg.solve(V, self.y - self.X @ fit.beta)
        size = np.sum(np.diag(V) * (np.diag(np.linalg.inv(V)) + weighted**2 / fit.scale))
        return float(np.finfo(float).eps * size)

    def working(self, theta: FloatArray) -> tuple[DenseDeviance, FloatArray]:
        """These coordinates, whatever the engine works in."""
        return self, theta

    def original(self, inner: FloatArray) -> FloatArray:
        """The same theta."""
        return inner

    def newton_matrix(self, theta: FloatArray) -> FloatArray:
        """The model Hessian in theta, (n_theta, n_theta)."""
        inner = self.covariance.in_tangent
        return self.tangent_model(theta)[1][np.ix_(inner, inner)]

    def _by_coefficient(self) -> list[FloatArray]:
        """Z of every term as (n, l, k)."""
        ends = np.cumsum([term.q for term in self.terms])
        return [
            self.Z[:, end - term.q : end].reshape(len(self.Z), term.n_levels, term.k)
            for term, end in zip(self.terms, ends, strict=True)
        ]

    def _root_directions(self, theta: FloatArray) -> list[FloatArray]:
        """``Z dLambda`` for every tangent coordinate, each (n, q)."""
        out, first = [], 0
        for t, (Zt, term) in enumerate(zip(self._by_coefficient(), self.terms, strict=True)):
            own = self.covariance.terms[t]
            slopes = own.slopes(theta[self.covariance.slices[t]])
            if slopes is None:
                slopes = np.zeros((own.n_tangent, own.k, own.k))
                slopes[(np.arange(own.n_tangent), *own.tangent)] = 1.0
            for slope in slopes:
                E = np.zeros(self.Z.shape)
                E[:, first : first + term.q] = (Zt @ slope).reshape(len(Zt), term.q)
                out.append(E)
            first += term.q
        return out
