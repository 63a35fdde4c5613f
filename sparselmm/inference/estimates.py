"""Everything estimated, as arrays: what :mod:`sparselmm.results` labels and ``summary`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.linalg as sla

from sparselmm.base.arguments import check_strings
from sparselmm.base.exceptions import ArgumentError
from sparselmm.base.types import FloatArray, IntArray, Snapshot
from sparselmm.design.terms import Design, DesignLayout, Grouping, TermLayout
from sparselmm.inference.effects import Units, all_units, group_coefficients
from sparselmm.inference.variances import (
    VarianceCovariance,
    VarianceLayout,
    VarianceRow,
    coefficient_names,
    variance_covariance,
    variance_rows,
)
from sparselmm.inference.wald import Wald
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.evaluations import PLSFit

SLOPE_STEP = 1e-5
"""Relative step of central differences in theta: eps^(1/3) balances truncation and rounding."""


@dataclass(frozen=True, eq=False)
class Estimates(Snapshot):
    """A solution and what follows from it; costly parts are computed when first asked for.

    Attributes
    ----------
    layout : DesignLayout
        Names, levels and structures; a `Design` while there are rows.
    deviance : ProfiledDeviance
        The sparse engine.
    pls : PLSFit
        Its solution at the optimum.
    group_names : tuple of str
        Coefficient names of the ``groups`` term in tables of random effects.
    psi_scale : float or None
        Residual variance that ``Psi_t`` is formed with, when it is not the scale of ``pls``.
    n_fixed : int
        Parameters held fixed among beta and theta.
    """

    layout: DesignLayout
    deviance: ProfiledDeviance
    pls: PLSFit
    group_names: tuple[str, ...]
    psi_scale: float | None = None
    n_fixed: int = 0

    @classmethod
    def of(
        cls, layout: DesignLayout, deviance: ProfiledDeviance, pls: PLSFit, from_arrays: bool,
        psi_scale: float | None = None, n_fixed: int = 0,
    ) -> Estimates:  # fmt: skip
        """Estimates of a model built from a formula or from arrays."""
        names = group_coefficients(layout.terms, from_arrays)
        return cls(layout, deviance, pls, names, psi_scale, n_fixed)

    @property
    def design(self) -> Design:
        """The rows."""
        return self.layout.rows("the design")

    @property
    def terms(self) -> tuple[TermLayout, ...]:
        """Random-effects terms."""
        return self.layout.terms

    @property
    def nobs(self) -> int:
        """Rows with positive weight."""
        return self.deviance.cross.n

    @property
    def n_parameters(self) -> int:
        """Fixed effects, covariance parameters and sigma."""
        return len(self.pls.beta) + len(self.pls.theta) + 1 - self.n_fixed

    @cached_property
    def working(self) -> Estimates:
        """The same in the coordinates the engine works in."""
        deviance, theta = self.deviance.working(self.pls.theta)
        if deviance is self.deviance:
            return self
        layout = self.layout
        if isinstance(layout, Design):
            layout = self.deviance.rows(layout)
        return replace(self, layout=layout, deviance=deviance, pls=deviance.at(theta))

    @cached_property
    def dropped(self) -> tuple[str, ...]:
        """Names of the columns of X left out as dependent."""
        kept = set(self.deviance.cross.basis.kept.tolist())
        return tuple(name for j, name in enumerate(self.layout.x_names) if j not in kept)

    @cached_property
    def singular(self) -> bool:
        """Whether an estimated random-effects covariance matrix is singular."""
        deviance = self.deviance
        return bool(deviance.covariance.singular(deviance.cross, self.pls.theta).any())

    # ---------------------------------------------------------------------- fixed effects

    @cached_property
    def beta(self) -> FloatArray:
        """Fixed effects, (p,); NaN for dropped columns."""
        beta = np.full(self.layout.p, np.nan)
        beta[self.deviance.cross.basis.kept] = self.pls.beta
        return beta

    @cached_property
    def vcov(self) -> FloatArray:
        """``sigma^2 (X'V^-1X)^-1``, (p, p); NaN for dropped columns."""
        kept = self.deviance.cross.basis.kept
        out = np.full((self.layout.p, self.layout.p), np.nan)
        out[np.ix_(kept, kept)] = self.pls.scale * self.pls.vcov_unscaled
        return out

    @cached_property
    def bse_fe(self) -> FloatArray:
        """Standard errors of the fixed effects, (p,)."""
        return np.sqrt(np.diag(self.vcov))

    # ----------------------------------------------------------------- variance parameters

    @cached_property
    def places(self) -> VarianceLayout:
        """Where each packed variance parameter stands."""
        return VarianceLayout.of(self.terms)

    @cached_property
    def psi(self) -> list[FloatArray]:
        """``Psi_t`` of every term in the units of the data, each (k, k)."""
        scale = self.pls.scale if self.psi_scale is None else self.psi_scale
        return self.deviance.covariance.psi(self.pls.theta, scale)

    @cached_property
    def ratios(self) -> FloatArray:
        """Packed variance parameters divided by the residual variance, (m,)."""
        return self.places.pick(self.deviance.covariance.psi(self.pls.theta))

    @cached_property
    def variances(self) -> FloatArray:
        """Packed variance parameters in the units of the data, (m,)."""
        return self.places.pick(self.psi)

    @cached_property
    def _of_theta(self) -> tuple[VarianceCovariance, FloatArray]:
        return variance_covariance(self.deviance, self.pls.theta, self.pls.scale, self.places)

    @property
    def variance_covariance(self) -> VarianceCovariance:
        """Their estimation covariance."""
        return self._of_theta[0]

    @property
    def added_variance(self) -> FloatArray:
        """What not knowing them adds to the variances of the fixed effects, (r,)."""
        return self._of_theta[1]

    @cached_property
    def bse_re(self) -> FloatArray:
        """Standard errors of ``variances``, (m,)."""
        return np.sqrt(self.variance_covariance.of_absolute[:-1])

    @cached_property
    def variance_rows(self) -> list[VarianceRow]:
        """The variance-component table."""
        return variance_rows(self.terms, self.psi, self.pls.scale)

    @cached_property
    def cov_re(self) -> FloatArray:
        """``Psi_t`` of the terms with coefficients, block diagonal, (k_re, k_re)."""
        blocks = [self.psi[t] for t in self.places.cov_terms]
        return sla.block_diag(*blocks) if blocks else np.zeros((0, 0))

    @cached_property
    def cov_re_unscaled(self) -> FloatArray:
        """``cov_re`` divided by the residual variance."""
        psi = self.deviance.covariance.psi(self.pls.theta)
        blocks = [psi[t] for t in self.places.cov_terms]
        return sla.block_diag(*blocks) if blocks else np.zeros((0, 0))

    @cached_property
    def group_sizes(self) -> IntArray | None:
        """Rows of every group of the ``groups`` argument; None without it."""
        groups = self.layout.groups
        if groups is None:
            return None
        assert isinstance(groups, Grouping)
        return np.bincount(groups.codes, minlength=len(groups.labels))

    @cached_property
    def cov_re_names(self) -> list[str]:
        """Names of the rows of ``cov_re``."""
        terms = [self.terms[t] for t in self.places.cov_terms]
        return [
            name
            for term in terms
            for name in (self.group_names if term.origin == "re" else coefficient_names(term))
        ]

    # ----------------------------------------------------------------------- all parameters

    @cached_property
    def names(self) -> list[str]:
        """Names of ``params``."""
        return [*self.layout.x_names, *self.places.names]

    @cached_property
    def params(self) -> FloatArray:
        """Fixed effects, then ``variances / sigma^2``, (p + m,)."""
        return np.append(self.beta, self.ratios)

    @cached_property
    def bse(self) -> FloatArray:
        """Standard errors of ``params``, from the joint information of all of them.

        To the variance of a fixed effect comes ``J Var(theta) J'``, J its derivative in theta:
        the off-diagonal blocks of the joint information, which statsmodels inverts with the rest.
        """
        ratios = np.sqrt(self.variance_covariance.of_ratios)
        var = np.diag(self.vcov).copy()
        var[self.deviance.cross.basis.kept] += self.added_variance
        return np.append(np.sqrt(var), ratios)

    @cached_property
    def cov_params(self) -> FloatArray:
        """Estimation covariance of ``params``; zero between fixed effects and variances."""
        return np.asarray(sla.block_diag(self.vcov, self.variance_covariance.ratios))

    @cached_property
    def wald(self) -> Wald:
        """Parameters in statsmodels' order, (p + m,), with the normal distribution."""
        return Wald(self.params, self.bse)

    # ---------------------------------------------------------------------- random effects

    @cached_property
    def units(self) -> list[Units]:
        """Keys of ``random_effects`` and their columns of Z."""
        return all_units(self.terms, self.layout.groups, self.group_names)


def names_or(given: Sequence[str] | None, default: Sequence[str], argument: str) -> list[str]:
    """The user's names, or the model's.

    Raises
    ------
    ValueError
        When their number is wrong.
    """
    if given is None:
        return list(default)
    names = check_strings(given, argument, "a list of names")
    if isinstance(given, str) or len(names) != len(default):
        raise ArgumentError(f"{argument} should be a list of length {len(default)}, got {given!r}")
    return names
