"""Predictions of rows from a fit without them, in closed form at given theta.

At given theta fitted values are linear in y: ``S D y`` with D the prior weights and S the
unscaled error covariance of the fitted values. Without the rows of a set the prediction errors of
these rows are ``(I - S D)^-1 e`` over the set, e their residuals in the whole fit, and the
predictive covariance of their observations is ``sigma^2 D^-1/2 (I - D^1/2 S D^1/2)^-1 D^-1/2``: a
level that only the set has is then predicted by zero, all other random effects by what the rest
of the data say (the deletion formula of linear smoothers; Christensen, Pearson & Johnson 1992,
*Technometrics* 34(1), 38-45, for mixed models).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg as sla
import scipy.sparse as sp

from sparselmm.base.exceptions import MemoryLimitError
from sparselmm.base.types import CSR, FloatArray, IntArray
from sparselmm.design.subsets import take_rows
from sparselmm.design.terms import Design, assemble_z
from sparselmm.inference.estimates import Estimates
from sparselmm.inference.prediction.means import fixed_part
from sparselmm.inference.prediction.variance import fixed_roots, joint_forms
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.engine import fit_design
from sparselmm.likelihood.evaluations import PLSFit

MOST_ROWS = 20_000
"""Most rows left out together: their covariance is formed (3.2 GB)."""

NEAR_ONE = 1e-10
"""Share of a row's own variance below which nothing is left to predict it by."""

NO_SHARE = 1e-6
"""A row with a smaller part in what the rest of the data cannot tell is predicted by them."""


@dataclass(frozen=True, eq=False)
class LeftOut:
    """Errors of the rows predicted without their fold.

    Attributes
    ----------
    error : ndarray, (n,)
        Observation less prediction; NaN where the rest of the data cannot predict the row.
    se : ndarray, (n,)
        Standard deviation of the observation around its prediction.
    """

    error: FloatArray
    se: FloatArray


def left_out(est: Estimates, folds: Sequence[IntArray], refit: bool) -> LeftOut:
    """Leave every fold out.

    Parameters
    ----------
    folds : sequence of ndarray of int
        Rows of each fold; rows of none are never left out.
    refit : bool
        Estimate theta without each fold; otherwise it stays that of the whole fit.

    Raises
    ------
    MemoryLimitError
        When a fold has more than `MOST_ROWS` rows.
    """
    largest = max((len(rows) for rows in folds), default=0)
    if largest > MOST_ROWS:
        raise MemoryLimitError(
            f"a fold has {largest:,} rows, and the covariance of their predictions would take "
            f"{8e-9 * largest**2:.3g} GB; use more folds"
        )
    design = est.design
    error, se = np.full(design.n, np.nan), np.full(design.n, np.nan)
    Z = sp.csr_array(assemble_z(design.terms, design.n))
    theta, scale = est.pls.theta, est.pls.scale
    residual = _residual(est, Z, est.pls)
    for rows in folds:
        if refit:
            kept = np.setdiff1d(np.arange(design.n), rows)
            other, opt = fit_design(take_rows(design, kept), est.deviance, est.pls.theta)
            theta, scale = opt.theta, other.at(opt.theta).scale
            residual = _residual(est, Z, est.deviance.at(theta))
        spread = _Spread(est.deviance, theta, scale)
        error[rows], se[rows] = spread.errors(design, Z, rows, residual[rows])
    return LeftOut(error, se)


def _residual(est: Estimates, Z: CSR, pls: PLSFit) -> FloatArray:
    """Residuals of all rows at some theta, (n,)."""
    beta = np.zeros(est.layout.p)
    beta[est.deviance.cross.basis.kept] = pls.beta
    return est.design.y - fixed_part(est.design.X, beta, est.design.offset) - Z @ pls.b


@dataclass(frozen=True)
class _Spread:
    """The fit that predicts: its engine, theta and scale."""

    engine: ProfiledDeviance
    theta: FloatArray
    scale: float

    def errors(
        self, design: Design, Z: CSR, rows: IntArray, residual: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Prediction errors of the rows of one fold and their standard deviations."""
        root = np.ones(len(rows)) if design.weights is None else np.sqrt(design.weights[rows])
        H = sp.csr_array(Z[rows])
        roots = fixed_roots(self.engine, self.theta, design.X[rows], H)
        S = roots @ roots.T
        if H.nnz:
            S = S + joint_forms(self.engine, self.theta, H, False)
        values, vectors = sla.eigh(np.eye(len(rows)) - root[:, None] * S * root)
        known = values > NEAR_ONE
        lost = (np.abs(vectors[:, ~known]) > NO_SHARE).any(axis=1)
        vectors, values = vectors[:, known], values[known]  # the residuals have nothing beside
        inverse = (vectors / values) @ vectors.T
        with np.errstate(divide="ignore", invalid="ignore"):
            error = inverse @ (root * residual) / root
            se = np.sqrt(self.scale * np.diag(inverse)) / root
        good = (root > 0) & ~lost
        return np.where(good, error, np.nan), np.where(good, se, np.nan)


def rows_left_out(est: Estimates, leverage: FloatArray) -> LeftOut:
    """Leave every row out by itself, theta held: from the leverages alone."""
    design = est.design
    Z = sp.csr_array(assemble_z(design.terms, design.n))
    w = np.ones(design.n) if design.weights is None else design.weights
    own = 1.0 - leverage
    good = (own > NEAR_ONE) & (w > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.where(good, _residual(est, Z, est.pls) / own, np.nan)
        return LeftOut(error, np.where(good, np.sqrt(est.pls.scale / (w * own)), np.nan))
