"""Fits with penalized fixed effects."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np

from sparselmm.base.arguments import (
    check_count,
    check_methods,
    check_number,
    check_numbers,
    in_order,
    wrong_type,
    wrong_value,
)
from sparselmm.base.exceptions import ArgumentError
from sparselmm.base.types import FloatArray
from sparselmm.design import BuiltDesign
from sparselmm.design.validate import need_white
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.likelihood.evaluations import PLSFit
from sparselmm.model.statsmodels.packed_likelihood import fit_at
from sparselmm.results import MixedLMResults


class RegularizedFits:
    """``fit_regularized``, for :class:`sparselmm.MixedLM`."""

    built: BuiltDesign
    use_sqrt: bool

    @property
    def cross(self) -> CrossProducts:
        """Cross-products of the rows."""
        raise NotImplementedError

    def fit(self, *args: Any, **kwargs: Any) -> MixedLMResults:
        """Fit without a penalty."""
        raise NotImplementedError

    def fit_regularized(
        self,
        start_params: Any = None,
        method: Any = "l1",
        alpha: Any = 0,
        ceps: float = 1e-4,
        ptol: float = 1e-6,
        maxit: int = 200,
        **fit_kwargs: Any,
    ) -> MixedLMResults:
        """Estimate the model with penalized fixed effects.

        Parameters
        ----------
        start_params : array-like, optional
            Not used; statsmodels has it.
        method : "l1" or object
            "l1": coordinate descent on the fixed effects with the variance parameters of the
            unpenalized fit. An object with ``func`` and ``deriv``: `fit` with a copy of it,
            whose ``alpha`` is set, as ``fe_pen``.
        alpha : float or array-like, (k_fe,)
            Weight of the penalty, on the scale of twice the log-likelihood for "l1".
        ceps : float
            A coefficient smaller than this counts as zero.
        ptol : float
            Change of the coefficients at which the iteration stops.
        maxit : int
            Most sweeps.
        **fit_kwargs
            Arguments of :meth:`fit`.

        Returns
        -------
        MixedLMResults
            For "l1" ``cov_re`` and ``vcomp`` are those of the unpenalized fit, ``scale`` belongs
            to the penalized residuals, and standard errors of coefficients at zero are NaN.

        Raises
        ------
        ValueError
            When the method is unknown.
        """
        need_white(self.built.design, "fit_regularized")
        alpha = in_order(alpha, self.built.design.x_names, argument="alpha")
        weights = check_numbers(alpha, "alpha")
        if weights.shape not in ((), (self.built.design.p,)) or (weights < 0).any():
            raise wrong_value(
                "alpha", f"one number or {self.built.design.p}, none of them negative", alpha
            )
        if method is None:
            raise wrong_type("method", "'l1' or a penalty", method)
        if not isinstance(method, str):
            check_methods(method, "method", ("func", "deriv"))
            penalty = copy.copy(method)  # another fit may set another alpha
            penalty.alpha = alpha
            return self.fit(**{**fit_kwargs, "fe_pen": penalty})
        if method.lower() != "l1":
            raise ArgumentError(f"invalid regularization method {method!r}; use 'l1' or a penalty")
        ceps = check_number(ceps, "ceps", "a number, not negative", low=0.0)
        ptol = check_number(ptol, "ptol", "a number, not negative", low=0.0)
        maxit = check_count(maxit, "maxit")
        plain = self.fit(**fit_kwargs)
        weights = np.broadcast_to(weights, (self.built.design.p,))
        weights = weights[self.cross.basis.kept]
        beta = shooting(plain.pls, weights, ceps, ptol, maxit)
        fit = known_only(fit_at(plain.deviance, plain.theta, beta), ceps)
        return MixedLMResults(
            self, self.built, plain.deviance, fit, plain.opt, use_sqrt=self.use_sqrt,
            psi_scale=plain.scale, given=plain.given,
        )  # fmt: skip


def shooting(fit: PLSFit, alpha: FloatArray, ceps: float, ptol: float, maxit: int) -> FloatArray:
    """L1-penalized fixed effects by cyclic coordinate descent, (r,).

    Minimizes ``(y - X b)'V^-1(y - X b) + sum alpha_j |b_j|``, V in the units of the data, from the
    unpenalized estimate; a coefficient smaller than ``ceps`` is left where it is (Friedman, Hastie
    & Tibshirani 2010, section 2).

    Parameters
    ----------
    fit : PLSFit
        The unpenalized fit.
    alpha : ndarray, (r,)
    ceps, ptol : float
    maxit : int
    """
    S = np.linalg.inv(fit.vcov_unscaled) / fit.scale
    target = S @ fit.beta
    beta = fit.beta.copy()
    for _ in range(maxit):
        before = beta.copy()
        for j in range(len(beta)):
            if abs(beta[j]) < ceps:
                continue
            beta[j] = 0.0
            slope = -2.0 * float(target[j] - S[j] @ beta)
            if abs(slope) > alpha[j]:
                beta[j] = -(slope - np.copysign(alpha[j], slope)) / (2.0 * S[j, j])
        if np.abs(before - beta).max(initial=0.0) < ptol:
            break
    return beta


def known_only(fit: PLSFit, ceps: float) -> PLSFit:
    """The fit with NaN for the covariance of coefficients that the penalty removed."""
    stay = np.flatnonzero(np.abs(fit.beta) > ceps)
    information = np.linalg.inv(fit.vcov_unscaled)[np.ix_(stay, stay)]
    vcov = np.full_like(fit.vcov_unscaled, np.nan)
    vcov[np.ix_(stay, stay)] = np.linalg.inv(information)
    return replace(fit, vcov_unscaled=vcov)
