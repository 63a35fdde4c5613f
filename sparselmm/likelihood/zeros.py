"""Variances of exactly zero: which ones a search may put there, and the ways out of false ones."""

from __future__ import annotations

import numpy as np

from sparselmm.base.types import FloatArray
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.record import Recorder
from sparselmm.likelihood.term_covariance import TermCovariance

SNAP = 1e-3
"""A diagonal of lambda_t below this is tried as exactly zero."""

RESTART = 0.3
"""Value of theta from which a variance that was falsely zero starts again."""

PROBE = 1e-3
"""Value of theta at which the derivative in the variance is read next to a zero."""


def snapped(covariance: Covariance, theta: FloatArray, units: FloatArray) -> FloatArray:
    """Theta with the columns of ``lambda_t`` that are all below `SNAP` set to zero."""
    if (np.abs(theta) >= SNAP * units).all():
        return theta
    out = theta.copy()
    for term, part in zip(covariance.terms, covariance.slices, strict=True):
        out[part] = term.snapped(theta[part], units[part], SNAP)
    return out


def out_of_false_zeros(
    recorder: Recorder, covariance: Covariance, theta: FloatArray
) -> FloatArray:  # fmt: skip
    """Theta with variances in place of zeros where the deviance falls with them, (n_theta,)."""
    zeros = covariance.on_diagonal & (theta == 0.0)
    probe = np.where(zeros, PROBE * recorder.units, theta)
    value = recorder.value(probe)
    slope = recorder.gradient(probe)
    recorder.record(probe, value, gradient_norm=float(np.abs(slope).max()), accepted=False)
    return away_from_zeros(covariance, recorder.units, theta, slope)


def away_from_zeros(
    covariance: Covariance, units: FloatArray, theta: FloatArray, slope: FloatArray
) -> FloatArray:
    """The same by the gradient ``slope`` beside them, (n_theta,)."""
    zeros = covariance.on_diagonal & (theta == 0.0)
    out = np.where(zeros & (slope < 0.0), RESTART * units, theta)
    for term, part in zip(covariance.terms, covariance.slices, strict=True):
        if term.is_unstructured and zeros[part].sum() > 1:
            out[part] = out_of_rank(term, theta[part], slope[part], units[part])
    return out


def out_of_rank(
    term: TermCovariance, theta: FloatArray, slope: FloatArray, units: FloatArray
) -> FloatArray:
    """Theta of one term with more rank, in the directions in which the deviance falls.

    With a small e in the diagonal of the columns of zeros, the derivative there is ``2 e G``, G
    being that in ``Psi_t``. Psi_t is at a minimum when the rows and columns of G that belong to
    these have no negative eigenvalue: every diagonal entry may be positive and yet not the matrix.
    """
    at = term.rows[term.on_diagonal & term.at_zero(theta)]
    G, size = np.zeros((term.k, term.k)), units[term.on_diagonal]
    G[term.rows, term.cols] = slope * units
    G = (G + np.tril(G, -1).T)[np.ix_(at, at)]
    values, vectors = np.linalg.eigh(G)
    falls = vectors[:, values < -1e-9 * np.abs(values).max(initial=0.0)]
    more = np.zeros((term.k, falls.shape[1]))
    more[at] = RESTART * size[at, None] * falls
    return term.retract(np.hstack([term.factor(theta), more])) if falls.size else theta
