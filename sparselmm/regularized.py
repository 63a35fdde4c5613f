"""Fits with penalized fixed effects."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from sparselmm.arguments import (
    check_count,
    check_methods,
    check_number,
    check_numbers,
    wrong_type,
    wrong_value,
)
from sparselmm.crossprod import CrossProducts
from sparselmm.exceptions import ArgumentError
from sparselmm.fitting import known_only, shooting
from sparselmm.formula import BuiltDesign
from sparselmm.profiled import fit_at
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
