"""Variance parameters as users read them: which entry of which Psi, its name and its error.

Packed order, as in statsmodels: for every term of correlated coefficients (the ``groups`` term,
then the bars) the lower triangle of ``Psi_t`` row by row, then one variance for every component
(``vc_formula``, then ``z_terms``).

Standard errors come from the observed information. With sigma^2 not profiled out the deviance is

    d(theta, s2) = log det M + [REML: log det S_xx] + df log(2 pi s2) + pwrss(theta) / s2,

so that at its minimum ``s2 = pwrss / df``

    H_ss = df / s2^2,   H_ts = -(d pwrss / d theta) / s2^2,   H_tt = H + H_ts H_ts' / H_ss

with H the Hessian of the profiled deviance. The covariance of the estimates is twice the inverse,
carried over to ``Psi = s2 lambda lambda'`` by the Jacobian.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg as sla

from sparselmm.base.smallmatrix import lower_triangle
from sparselmm.base.types import BoolArray, FloatArray, IntArray
from sparselmm.design.terms import TermLayout
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.deviance import ProfiledDeviance

FLAT = 1e-9
"""Share of its curvature that a parameter keeps beside the others, below which it has none of its
own: a Hessian by differences says no more."""


def is_component(term: TermLayout) -> bool:
    """Whether the term is reported in ``vcomp`` and not in ``cov_re``."""
    return term.origin in ("vc", "array")


def coefficient_names(term: TermLayout) -> tuple[str, ...]:
    """Names of a term's coefficients in ``cov_re`` and ``params``.

    statsmodels' own for the ``groups`` term; for a bar the grouping factor stands for the
    intercept and ``"factor[column]"`` for any other coefficient.
    """
    if term.origin != "bar":
        return term.columns
    factor = ":".join(term.levels.names)
    return tuple(factor if name == "Intercept" else f"{factor}[{name}]" for name in term.columns)


@dataclass(frozen=True, eq=False)
class VarianceLayout:
    """Where each packed variance parameter stands.

    Attributes
    ----------
    terms : ndarray of int, (m,)
        Term of each parameter.
    rows, cols : ndarray of int, (m,)
        Its entry of ``Psi_t``; ``rows >= cols``.
    names : tuple of str, (m,)
        ``"a Var"``, ``"a x b Cov"``.
    cov_terms, components : tuple of int
        Terms reported in ``cov_re`` and in ``vcomp``.
    """

    terms: IntArray
    rows: IntArray
    cols: IntArray
    names: tuple[str, ...]
    cov_terms: tuple[int, ...]
    components: tuple[int, ...]

    @classmethod
    def of(cls, terms: Sequence[TermLayout]) -> VarianceLayout:
        """Layout of a design's terms."""
        cov_terms = tuple(t for t, term in enumerate(terms) if not is_component(term))
        components = tuple(t for t, term in enumerate(terms) if is_component(term))
        places: list[tuple[int, int, int]] = []
        names: list[str] = []
        for t in (*cov_terms, *components):
            term = terms[t]
            labels = (term.name,) if is_component(term) else coefficient_names(term)
            for i, j in zip(*map(list, lower_triangle(term.k)), strict=True):
                if i != j and term.is_uncorrelated:
                    continue
                places.append((t, int(i), int(j)))
                names.append(f"{labels[i]} Var" if i == j else f"{labels[j]} x {labels[i]} Cov")
        table = np.array(places, dtype=np.intp).reshape(-1, 3)
        return cls(table[:, 0], table[:, 1], table[:, 2], tuple(names), cov_terms, components)

    def pick(self, psi: Sequence[FloatArray]) -> FloatArray:
        """Packed entries of the terms' (k, k) matrices, (m,)."""
        places = zip(self.terms, self.rows, self.cols, strict=True)
        return np.array([psi[t][i, j] for t, i, j in places], dtype=float)


@dataclass(frozen=True, eq=False)
class VarianceCovariance:
    """Estimation covariance of the packed variance parameters; NaN where undefined.

    A term of k coefficients has up to k^2 / 2 of them, often made of a few entries of theta: their
    joint covariance, k^4 numbers, is formed only when asked for.

    Attributes
    ----------
    theta : ndarray, (n_theta, n_theta)
        Of theta; zero for the entries of a singular term.
    jacobian : ndarray, (m, n_free)
        Derivatives of the entries of ``Psi_t / sigma^2`` in the free entries of theta.
    inverse : ndarray, (n_free, n_free)
        Half the estimation covariance of the free entries of theta.
    to_absolute : ndarray, (m + 1, n_free + 1)
        Derivatives of the entries of ``Psi_t`` and, last, of sigma^2 in ``(theta, sigma^2)``.
    joint : ndarray, (n_free + 1, n_free + 1)
        Half the estimation covariance of these.
    undefined : ndarray of bool, (m,)
        Parameters of singular terms.
    """

    theta: FloatArray
    jacobian: FloatArray
    inverse: FloatArray
    to_absolute: FloatArray
    joint: FloatArray
    undefined: BoolArray

    @cached_property
    def ratios(self) -> FloatArray:
        """Of the entries of ``Psi_t / sigma^2``, (m, m)."""
        return _product(self.jacobian, self.inverse, self.undefined)

    @cached_property
    def absolute(self) -> FloatArray:
        """Of the entries of ``Psi_t`` and, last, of sigma^2, (m + 1, m + 1)."""
        return _product(self.to_absolute, self.joint, np.append(self.undefined, False))

    @cached_property
    def of_ratios(self) -> FloatArray:
        """The diagonal of ``ratios``, (m,)."""
        return _squares(self.jacobian, self.inverse, self.undefined)

    @cached_property
    def of_absolute(self) -> FloatArray:
        """The diagonal of ``absolute``, (m + 1,)."""
        return _squares(self.to_absolute, self.joint, np.append(self.undefined, False))

    def absolute_among(self, places: Sequence[int]) -> FloatArray:
        """Rows and columns of ``absolute``."""
        undefined = np.append(self.undefined, False)[places]
        return _product(self.to_absolute[places], self.joint, undefined)


def _product(slopes: FloatArray, half: FloatArray, undefined: BoolArray) -> FloatArray:
    """``2 slopes half slopes'`` with NaN in rows and columns that are undefined."""
    out = np.asarray(2.0 * slopes @ half @ slopes.T)
    out[undefined] = np.nan
    out[:, undefined] = np.nan
    return out


def _squares(slopes: FloatArray, half: FloatArray, undefined: BoolArray) -> FloatArray:
    """The diagonal of the same."""
    return np.where(undefined, np.nan, 2.0 * np.sum((slopes @ half) * slopes, axis=1))


def variance_covariance(
    deviance: ProfiledDeviance, theta: FloatArray, scale: float, layout: VarianceLayout
) -> tuple[VarianceCovariance, FloatArray]:
    """Estimation covariance of the variance parameters from the observed information.

    Parameters
    ----------
    deviance : ProfiledDeviance
        At whose minimum ``theta`` stands.
    theta : ndarray, (n_theta,)
    scale : float
        Residual variance at ``theta``.

    Returns
    -------
    VarianceCovariance
        NaN for the parameters of a singular term, whose estimates are not asymptotically
        normal; the others' are as if that term were known. NaN throughout when the Hessian is
        not positive definite.
    of_beta : ndarray, (r,)
        What not knowing theta adds to the variances of the fixed effects.
    """
    outer, outer_theta = deviance, theta
    singular = deviance.covariance.singular(deviance.cross, theta)
    deviance, theta = deviance.working(theta)
    covariance = deviance.covariance
    free = np.zeros(covariance.n_theta, dtype=bool)
    for t, part in enumerate(covariance.slices):
        free[part] = not singular[t]
    known = deviance.known_scale is not None  # then nothing is lost to its estimation
    # before the Hessian, whose evaluations take the place of that at theta
    J = deviance.cross.basis.T @ deviance.gamma_slopes(theta)[:, free]
    gradient = np.zeros(int(free.sum())) if known else deviance.pwrss_gradient(theta)[free]
    inverse = _inverse(deviance.hessian(theta)[np.ix_(free, free)])
    of_theta = np.zeros((covariance.n_theta, covariance.n_theta))
    of_theta[np.ix_(free, free)] = 2.0 * inverse
    found = _transform(
        outer.original_covariance(outer_theta, of_theta),
        jacobian=psi_jacobian(covariance, theta, layout, outer)[:, free],
        ratios=layout.pick(outer.covariance.psi(outer_theta)),
        inverse=inverse,
        h=-gradient / scale**2,
        h_ss=np.inf if known else deviance.df / scale**2,
        scale=scale,
        undefined=singular[layout.terms],
    )
    return found, 2.0 * np.einsum("ij,jk,ik->i", J, inverse, J)


def _inverse(H: FloatArray) -> FloatArray:
    """Inverse of a positive definite matrix in any units; NaN when it is not one, or hardly."""
    diagonal = np.diag(H)
    if not (diagonal > 0).all():
        return np.full_like(H, np.nan)
    size = np.sqrt(diagonal)
    try:
        factor = sla.cho_factor(H / np.outer(size, size))
    except np.linalg.LinAlgError:
        return np.full_like(H, np.nan)
    if (factor[0].diagonal() ** 2 < FLAT).any():
        return np.full_like(H, np.nan)
    return np.asarray(sla.cho_solve(factor, np.eye(len(H))) / np.outer(size, size))


def _transform(
    theta: FloatArray,
    jacobian: FloatArray,
    ratios: FloatArray,
    inverse: FloatArray,
    h: FloatArray,
    h_ss: float,
    scale: float,
    undefined: BoolArray,
) -> VarianceCovariance:
    """From ``(theta, s2)`` to ``Psi / s2`` and to ``(Psi, s2)``."""
    m, n_theta = jacobian.shape
    joint = np.empty((n_theta + 1, n_theta + 1))
    joint[:-1, :-1] = inverse
    joint[-1, :-1] = joint[:-1, -1] = -inverse @ h / h_ss
    joint[-1, -1] = 1.0 / h_ss + h @ inverse @ h / h_ss**2
    to_absolute = np.zeros((m + 1, n_theta + 1))
    to_absolute[:-1, :-1] = scale * jacobian
    to_absolute[:-1, -1] = ratios
    to_absolute[-1, -1] = 1.0
    return VarianceCovariance(theta, jacobian, inverse, to_absolute, joint, undefined)


def psi_jacobian(
    covariance: Covariance, theta: FloatArray, layout: VarianceLayout,
    outer: ProfiledDeviance | None = None,
) -> FloatArray:  # fmt: skip
    """Derivatives of packed ``Psi / s2`` in theta, (m, n_theta), of the engine where it has one."""
    out = np.zeros((len(layout.terms), covariance.n_theta))
    bases = None if outer is None else outer.cross.bases
    for t, (term, part) in enumerate(zip(covariance.terms, covariance.slices, strict=True)):
        at = np.flatnonzero(layout.terms == t)
        a, b = layout.rows[at], layout.cols[at]
        lam, slopes = term.factor(theta[part]), term.slopes(theta[part])
        if slopes is None and (bases is None or bases[t] is None):
            own = (a[:, None] == term.rows) * lam[b][:, term.cols]
            out[at, part] = own + (b[:, None] == term.rows) * lam[a][:, term.cols]
            continue
        for i in range(term.n_theta):
            if slopes is None:
                slope = np.zeros((term.k, term.k))
                slope[term.rows[i], term.cols[i]] = 1.0
            else:
                slope = slopes[i]
            moved = slope @ lam.T
            psi = moved + moved.T
            out[at, part.start + i] = (psi if outer is None else outer.original_psi(t, psi))[a, b]
    return out


@dataclass(frozen=True)
class VarianceRow:
    """One line of the variance-component table, as lme4's ``as.data.frame(VarCorr(fit))``.

    Attributes
    ----------
    group : str
        Name of the term; ``"Residual"``.
    first, second : str or None
        Coefficients; the second only for a covariance.
    vcov, sdcor : float
        Variance and standard deviation, or covariance and correlation.
    """

    group: str
    first: str | None
    second: str | None
    vcov: float
    sdcor: float


def variance_rows(
    terms: Sequence[TermLayout], psi: Sequence[FloatArray], scale: float
) -> list[VarianceRow]:
    """Variances, then covariances, of every term in the order of Z; the residual last."""
    rows = []
    for term, block in zip(terms, psi, strict=True):
        names = (None,) if is_component(term) else term.columns
        sd = np.sqrt(np.diag(block))
        rows += [
            VarianceRow(term.name, name, None, float(block[j, j]), float(sd[j]))
            for j, name in enumerate(names)
        ]
        for i, j in zip(*np.triu_indices(term.k, 1), strict=True):
            if term.is_uncorrelated:
                break
            size = sd[i] * sd[j]
            cor = float(block[i, j] / size) if size > 0 else np.nan
            rows.append(VarianceRow(term.name, names[i], names[j], float(block[i, j]), cor))
    return [*rows, VarianceRow("Residual", None, None, scale, float(np.sqrt(scale)))]
