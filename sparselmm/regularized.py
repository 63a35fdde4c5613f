"""Fits with penalized fixed effects."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from sparselmm.design import BuiltDesign
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.fitting import known_only, shooting
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
        if not isinstance(method, str):
            penalty = copy.copy(method)  # another fit may set another alpha
            penalty.alpha = alpha
            return self.fit(**{**fit_kwargs, "fe_pen": penalty})
        if method.lower() != "l1":
            raise ValueError(f"invalid regularization method {method!r}; use 'l1' or a penalty")
        plain = self.fit(**fit_kwargs)
        weights = np.broadcast_to(np.asarray(alpha, dtype=float), (self.built.design.p,))
        weights = weights[self.cross.basis.kept]
        beta = shooting(plain.pls, weights, ceps, ptol, maxit)
        fit = known_only(fit_at(plain.deviance, plain.theta, beta), ceps)
        return MixedLMResults(
            self, self.built, plain.deviance, fit, plain.opt, use_sqrt=self.use_sqrt,
            psi_scale=plain.scale, given=plain.given,
        )  # fmt: skip
