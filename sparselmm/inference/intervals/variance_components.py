"""Variance components with their uncertainty, shares of the variance of a row, ICC and R2.

A row with covariates z_i of term t gets ``z_i'Psi_t z_i`` of its variance from that term. With the
mean products ``M_t = mean_i z_i z_i'`` the mean over the rows is

    v_t = tr(M_t Psi_t),        v_e = sigma^2 mean_i(1 / w_i)

(Johnson 2014, the mean random-effects variance of models with slopes; with intercepts only ``v_t``
is the variance itself), and with ``v_f`` the variance of ``X beta`` over the rows

    R2 marginal = v_f / (v_f + sum v_t + v_e)
    R2 conditional = (v_f + sum v_t) / (v_f + sum v_t + v_e)
    ICC of term t = v_t / (sum v_t + v_e)

(Nakagawa & Schielzeth 2013, eqs. 26 and 29 (marginal) and 30 (conditional); Nakagawa, Johnson &
Schielzeth 2017, their adjusted ICC).
``v_t`` and ``v_e`` are linear in the variance parameters, so the delta method needs only their
estimation covariance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
import scipy.sparse as sp

from sparselmm.base.grid import pairs_html, pairs_text
from sparselmm.base.types import BoolArray, FloatArray
from sparselmm.design.terms import Design, RandomTerm
from sparselmm.inference.estimates import Estimates
from sparselmm.inference.intervals.constrained import Parameter
from sparselmm.inference.wald import quantile
from sparselmm.likelihood.patterned import PATTERNED


@dataclass(frozen=True, eq=False)
class VarianceIntervals:
    """One entry per variance and covariance, those of term after term, sigma^2 last.

    Attributes
    ----------
    se : ndarray, (m,)
        Standard errors of variances and covariances, in squared units of the data.
    sdcor, sdcor_se : ndarray, (m,)
        Standard deviations and correlations, and their standard errors.
    ends : ndarray, (m, 2)
        Confidence intervals of ``sdcor``.
    share : ndarray, (m,)
        Part of the mean variance of a row; sums to one. Where covariances count, the whole term
        has its part at its first entry, the others NaN.
    """

    se: FloatArray
    sdcor: FloatArray
    sdcor_se: FloatArray
    ends: FloatArray
    share: FloatArray


def entry_order(est: Estimates) -> list[int]:
    """Packed variance parameters in lme4's order: term by term, variances before covariances."""
    layout = est.places
    keys = [
        (int(t), int(a != b), int(b), int(a))
        for t, a, b in zip(layout.terms, layout.rows, layout.cols, strict=True)
    ]
    return sorted(range(len(keys)), key=keys.__getitem__)


def variance_intervals(est: Estimates, alpha: float) -> VarianceIntervals:
    """Wald intervals on the scales on which the estimates are closest to normal.

    Standard deviations on the log scale, correlations on Fisher's z scale (Pinheiro & Bates 2000,
    section 2.4.3): with the standard error s of a variance v, ``log sd`` has ``s / (2 v)``.

    Parameters
    ----------
    alpha : float
        One minus the confidence level.
    """
    layout, cov = est.places, est.variance_covariance
    values = np.append(est.variances, est.pls.scale)
    se = np.sqrt(cov.of_absolute)
    place = {
        (t, a, b): j
        for j, (t, a, b) in enumerate(zip(layout.terms, layout.rows, layout.cols, strict=True))
    }
    half = float(quantile(alpha))
    sdcor, sdcor_se = np.empty(len(values)), np.empty(len(values))
    ends = np.empty((len(values), 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        for j, value in enumerate(values):
            on_diagonal = j == len(values) - 1 or layout.rows[j] == layout.cols[j]
            if on_diagonal:
                sdcor[j] = np.sqrt(value)
                sdcor_se[j] = se[j] / (2.0 * sdcor[j])
                ratio = np.exp(half * se[j] / (2.0 * value) * np.array([-1.0, 1.0]))
                ends[j] = sdcor[j] * ratio
                continue
            t, a, b = layout.terms[j], layout.rows[j], layout.cols[j]
            at = [j, place[t, a, a], place[t, b, b]]
            size = np.sqrt(values[at[1]] * values[at[2]])
            rho = value / size
            slope = np.array([1.0 / size, *(-rho / (2.0 * values[at[1:]]))])
            sdcor[j], sdcor_se[j] = rho, np.sqrt(slope @ cov.absolute_among(at) @ slope)
            z = np.arctanh(rho) + half * sdcor_se[j] / (1.0 - rho**2) * np.array([-1.0, 1.0])
            ends[j] = np.tanh(z)
    return VarianceIntervals(se, sdcor, sdcor_se, ends, _shares(est, values))


def _shares(est: Estimates, values: FloatArray) -> FloatArray:
    """Parts of the mean variance of a row.

    Those of single entries of a term whose coefficients covary would change with the origins of
    the covariates, and be below zero or above one.
    """
    layout = est.places
    parts = variance_weights(est).sum(axis=0) * values
    parts = parts / parts.sum()
    for t in range(len(est.terms)):
        own = np.flatnonzero(layout.terms == t)
        crossed = parts[own][layout.rows[own] != layout.cols[own]]
        if np.abs(crossed).max(initial=0.0) > 1e-8:
            parts[own] = np.r_[parts[own].sum(), np.full(len(own) - 1, np.nan)]
    return parts


def profile_ends(est: Estimates, parameters: Sequence[Parameter], limits: FloatArray) -> FloatArray:
    """Intervals of a profile in the order of the packed variances, sigma last, (m + 1, 2).

    Parameters
    ----------
    parameters : sequence of Parameter
        What was profiled: standard deviations, correlations, sigma.
    limits : ndarray, (number of parameters, 2)

    Returns
    -------
    ndarray, (m + 1, 2)
        Where a term has one standard deviation or one correlation in common, that of every entry
        it stands for. NaN for an entry that no parameter stands for.
    """
    layout = est.places
    ends = {
        (p.kind, p.term, p.first, p.second): limit
        for p, limit in zip(parameters, limits, strict=True)
    }
    out = np.full((len(layout.names) + 1, 2), np.nan)
    entries = zip(layout.terms.tolist(), layout.rows.tolist(), layout.cols.tolist(), strict=True)
    for j, (t, a, b) in enumerate(entries):
        low, high = min(a, b), max(a, b)
        structure = est.terms[t].structure
        if low == high:
            at = [("sd", t, low, -1), ("sd", t, 0, -1)][: 2 if "homogeneous" in structure else 1]
        elif structure in PATTERNED:
            place = est.terms[t].positions
            lag = high - low if place is None else abs(place[high] - place[low])
            neighbours = lag == 1 or "autoregressive" not in structure
            at = [("cor", t, 0, 1)] if neighbours else []
        else:
            at = [("cor", t, low, high)]
        out[j] = next((ends[key] for key in at if key in ends), out[j])
    out[-1] = ends.get(("sigma", -1, -1, -1), out[-1])
    return out


# --------------------------------------------------------------- shares of a row's variance


def variance_weights(est: Estimates) -> FloatArray:
    """What each variance parameter adds to the mean variance of a row, by term.

    Returns
    -------
    ndarray, (n_terms + 1, m + 1)
        Row t times ``(variances, sigma^2)`` is ``v_t``; the last row gives ``v_e``.
    """
    layout = est.places
    out = np.zeros((len(est.terms) + 1, len(layout.names) + 1))
    moments = [second_moments(est, t) for t in range(len(est.terms))]
    for j, (t, a, b) in enumerate(zip(layout.terms, layout.rows, layout.cols, strict=True)):
        out[t, j] = moments[t][a, b] * (1.0 if a == b else 2.0)
    out[-1, -1] = _inverse_weight(est)
    return out


def _inverse_weight(est: Estimates) -> float:
    """Mean of 1 / w over rows of positive weight."""
    if est.layout.sums is not None:
        return est.layout.sums.inverse_weight
    weights = _weights(est)
    return 1.0 if weights is None else float(np.mean(1.0 / weights[weights > 0]))


def _weights(est: Estimates) -> FloatArray | None:
    """Prior weights, (n,); None without.

    Raises
    ------
    DataError
        When there were weights and the rows are gone.
    """
    if isinstance(est.layout, Design) or est.deviance.cross.sum_log_w != 0.0:
        return est.layout.rows("variance_components of a fit with weights").weights
    return None


def second_moments(est: Estimates, t: int) -> FloatArray:
    """Mean over the rows of ``z_i z_i'``, (k, k); rows without a level count as zero."""
    if est.layout.sums is not None:
        return est.layout.sums.moments[t]
    weights = _weights(est)
    if weights is None:
        return est.deviance.cross.model_moments(t)
    return _moments(est.design.terms[t], weights > 0)


def _moments(term: RandomTerm, used: BoolArray) -> FloatArray:
    if term.block is not None:
        block = term.block[np.flatnonzero(used)]
        own = [sp.csr_array(block[:, a :: term.k]) for a in range(term.k)]
        return np.array([[a.multiply(b).sum() for b in own] for a in own]) / used.sum()
    assert term.codes is not None
    rows = used & (term.codes >= 0)
    if term.values is None:
        return np.array([[rows.sum() / used.sum()]])
    return np.asarray(term.values[rows].T @ term.values[rows] / used.sum())


@dataclass(frozen=True, eq=False)
class ICC:
    """Intraclass correlations: one entry per term, then that of all terms together.

    Attributes
    ----------
    icc, se : ndarray, (n_terms + 1,)
        Share of the variance that the fixed effects leave, and its standard error.
    ends : ndarray, (n_terms + 1, 2)
        Confidence intervals, made on the logit scale.
    """

    icc: FloatArray
    se: FloatArray
    ends: FloatArray


def icc_values(weights: FloatArray, variances: FloatArray) -> FloatArray:
    """ICC of every term and of all, one row per set of variances, (R, n_terms + 1).

    Parameters
    ----------
    weights : ndarray, (n_terms + 1, m + 1)
        From `variance_weights`.
    variances : ndarray, (R, m + 1)
        Packed variances and sigma^2.
    """
    parts = variances @ weights.T
    of_terms = parts[:, :-1]
    together = np.column_stack([of_terms, of_terms.sum(axis=1)])
    return np.asarray(together / parts.sum(axis=1, keepdims=True))


def icc_delta(est: Estimates, alpha: float) -> ICC:
    """ICCs with the delta method on the logit scale.

    With ``r = v_t / v`` and a the weights of ``v_t``, c those of v, the gradient in the variances
    is ``(a - r c) / v`` and that of ``logit r`` is the same divided by ``r (1 - r)``.

    Parameters
    ----------
    alpha : float
        One minus the confidence level.
    """
    weights = variance_weights(est)
    values = np.append(est.variances, est.pls.scale)
    r = icc_values(weights, values[None])[0]
    cov = est.variance_covariance.absolute
    known = np.isfinite(np.diag(cov))
    a = np.vstack([weights[:-1], weights[:-1].sum(axis=0)])
    c = weights.sum(axis=0)
    slopes = (a - r[:, None] * c) / (c @ values)
    var = np.einsum("ij,jk,ik->i", slopes[:, known], cov[np.ix_(known, known)], slopes[:, known])
    undefined = a[:, ~known].any(axis=1)  # a variance of zero has no standard error
    se = np.where(undefined, np.nan, np.sqrt(var))
    with np.errstate(divide="ignore", invalid="ignore"):
        half = quantile(alpha) * se / (r * (1.0 - r))
        logit = scipy.special.logit(r)
        ends = scipy.special.expit(np.column_stack([logit - half, logit + half]))
    return ICC(r, se, ends)


@dataclass(frozen=True, repr=False)
class RSquared:
    """Shares of the variance of the response explained by the model.

    Attributes
    ----------
    marginal : float
        By the fixed effects.
    conditional : float
        By fixed and random effects.
    var_fixed, var_random, var_residual : float
        ``v_f``, ``sum v_t`` and ``v_e`` in squared units of the data.
    """

    marginal: float
    conditional: float
    var_fixed: float
    var_random: float
    var_residual: float

    @property
    def _pairs(self) -> list[tuple[str, str]]:
        return [
            ("marginal R2 (fixed effects)", f"{self.marginal:.4f}"),
            ("conditional R2 (fixed and random effects)", f"{self.conditional:.4f}"),
            ("variance of the fixed part", f"{self.var_fixed:.5g}"),
            ("variance of the random part", f"{self.var_random:.5g}"),
            ("residual variance", f"{self.var_residual:.5g}"),
        ]

    def __repr__(self) -> str:
        return pairs_text(self._pairs)

    def _repr_html_(self) -> str:
        return pairs_html(self._pairs, "Variance explained")


def r_squared(est: Estimates) -> RSquared:
    """Marginal and conditional R2.

    Raises
    ------
    DataError
        When the rows are gone.
    """
    v_f = _fixed_variance(est)
    parts = variance_weights(est) @ np.append(est.variances, est.pls.scale)
    v_r, v_e = float(parts[:-1].sum()), float(parts[-1])
    total = v_f + v_r + v_e
    return RSquared(v_f / total, (v_f + v_r) / total, v_f, v_r, v_e)


def _fixed_variance(est: Estimates) -> float:
    """Variance of ``X beta`` over the rows of positive weight."""
    sums = est.layout.sums
    beta = np.where(np.isfinite(est.beta), est.beta, 0.0)
    if not len(beta):
        return 0.0
    if sums is not None:
        return float(beta @ sums.cov @ beta)
    design = est.layout.rows("r2")
    mean = design.X @ beta
    return float(np.var(mean if design.weights is None else mean[design.weights > 0], ddof=1))
