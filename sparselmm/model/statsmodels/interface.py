"""What statsmodels' ``MixedLM`` has besides the fit: attributes, packed parameters, likelihood."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from sparselmm.base.arguments import (
    check_flag,
    check_number,
    check_numbers,
    check_positive,
    in_order,
)
from sparselmm.base.cholesky import NotPositiveDefiniteError
from sparselmm.base.exceptions import ArgumentError, UnsupportedError
from sparselmm.base.smallmatrix import factor_of
from sparselmm.base.types import CSR, FloatArray
from sparselmm.design.column_types import float_matrix
from sparselmm.design.rows import times_z
from sparselmm.design.terms import Design
from sparselmm.design.validate import need_white
from sparselmm.inference.packing import MixedLMParams
from sparselmm.likelihood.evaluations import PLSFit
from sparselmm.model.statsmodels.groups import GroupInterface
from sparselmm.model.statsmodels.holders import Distribution, ModelData
from sparselmm.model.statsmodels.packed_likelihood import (
    add_packed,
    fit_at,
    hessian,
    point,
    score_raw,
    score_sqrt,
)


class StatsmodelsInterface(GroupInterface):
    """Attributes and methods statsmodels' ``MixedLM`` offers, for :class:`sparselmm.MixedLM`.

    Packed parameters and :class:`MixedLMParams` are in profile units: variances are divided by the
    residual variance.

    ``reml``, ``fe_pen`` and ``cov_pen`` say what ``loglike``, ``score``, ``hessian``,
    ``get_fe_params`` and ``get_scale`` go by. Set them, or call ``fit``, which leaves those of the
    last fit there as in statsmodels. Neither fits nor results ever read them.
    """

    reml: bool
    fe_pen: Any
    cov_pen: Any
    re_pen: Any
    _freepat: MixedLMParams | None

    # ----------------------------------------------------------------------- description

    @property
    def endog(self) -> FloatArray:
        """Response, (n,)."""
        self._need_kept("endog")
        return self.design.y if self.built.has_rows else np.zeros(0)

    @property
    def exog(self) -> FloatArray:
        """Fixed-effects design, (n, p)."""
        self._need_kept("exog")
        return self.design.X if self.built.has_rows else np.zeros((0, self.k_fe))

    @property
    def Z(self) -> CSR:
        """Random-effects design, sparse (n, q)."""
        self._need_kept("Z")
        return self.design.Z if self.built.has_rows else sp.csr_array((0, self.built.layout.q))

    @property
    def endog_names(self) -> str:
        """Name of the response."""
        return self.built.layout.y_name

    @property
    def k_fe(self) -> int:
        """Number of fixed effects."""
        return self.built.layout.p

    def _need_kept(self, what: str) -> None:
        """Refuse what would be empty because rows were read in partitions."""
        if self.built.streamed is not None:
            self._need_rows(what)

    # ------------------------------------------------------------------------- attributes

    @property
    def data(self) -> ModelData:
        """Names, as statsmodels' ``model.data``."""
        return ModelData.of(self.built, self._places)

    @property
    def k_re(self) -> int:
        """Order of ``cov_re``."""
        return self._packing.k_re

    @property
    def k_re2(self) -> int:
        """Variances and covariances of the random coefficients."""
        return self._packing.k_re2

    @property
    def k_vc(self) -> int:
        """Number of variance components."""
        return self._packing.k_vc

    @property
    def k_params(self) -> int:
        """``k_fe + k_re2``, as statsmodels counts."""
        return self.built.layout.p + self.k_re2

    @cached_property
    def k_constant(self) -> int:
        """1 when X has a constant column, else 0."""
        X = self.design.X
        return int(any(column.min() == column.max() != 0 for column in X.T))

    # ------------------------------------------------------------------------- likelihood

    def _params(self, params: Any, has_fe: bool) -> MixedLMParams:
        if all(hasattr(params, name) for name in ("fe_params", "cov_re", "vcomp")):
            return MixedLMParams.from_components(
                params.fe_params, params.cov_re, None, params.vcomp
            )
        return self._packing.unpack(params, self.use_sqrt, has_fe)

    def _kept(self, fe_params: Any) -> FloatArray:
        """Fixed effects that are estimated; those of dropped columns may be NaN."""
        p = (self.built.layout.p,)
        fe_params = in_order(fe_params, self.built.layout.x_names, argument="fe_params")
        beta = check_numbers(fe_params, "fe_params", p, finite=False)[self.cross.basis.kept]
        return check_numbers(beta, "fe_params")

    def loglike(self, params: Any, profile_fe: bool = True) -> float:
        """Profile log-likelihood less the penalties of the last fit.

        Parameters
        ----------
        params : MixedLMParams or array-like
            An array holds the packed covariance parameters alone.
        profile_fe : bool
            Replace the fixed effects by their GLS estimates.

        Returns
        -------
        float
            ``-inf`` where the covariance matrix is not positive semi-definite.
        """
        at, profile_fe = self._params(params, False), check_flag(profile_fe, "profile_fe")
        deviance, fe = self._engine(self.reml), None if profile_fe else self._kept(at.fe_params)
        self._packing.psi(at)
        try:
            theta = self._packing.theta(at)
            fit = fit_at(deviance, theta, fe)
        except (ValueError, NotPositiveDefiniteError):
            return -np.inf
        value = -0.5 * (fit.deviance + fit.df * np.log(self._pwrss(fit) / fit.pwrss))
        if self.cov_pen is not None and self.k_re:
            value -= float(self.cov_pen.func(at.cov_re, np.linalg.pinv(at.cov_re)))
        if self.fe_pen is not None:
            value -= float(self.fe_pen.func(self._spread(fit.beta)))
        return value

    def _pwrss(self, fit: PLSFit) -> float:
        """``|W^1/2 (y - X beta - Z b)|^2 + |u|^2`` from the rows: second differences need it."""
        design = self.built.layout
        if not isinstance(design, Design):
            return fit.pwrss
        residual = design.y - design.X[:, self.cross.basis.kept] @ fit.beta
        residual -= times_z(design.terms, fit.b, slice(0, design.n))
        if design.offset is not None:
            residual -= design.offset
        squares = residual**2 if design.weights is None else design.weights * residual**2
        return float(squares.sum() + (fit.u**2).sum())

    def _spread(self, beta: FloatArray) -> FloatArray:
        out = np.zeros(self.built.layout.p)
        out[self.cross.basis.kept] = beta
        return out

    def score(self, params: Any, profile_fe: bool = True) -> FloatArray:
        """Gradient of :meth:`loglike` in the packed parameters, in the units of ``use_sqrt``.

        Parameters
        ----------
        params : MixedLMParams or array-like
            As for :meth:`loglike`.
        profile_fe : bool
            Fixed effects at their GLS estimates and left out of the gradient.

        Returns
        -------
        ndarray
            Zero for parameters the last fit held fixed.
        """
        at, profile_fe = self._params(params, False), check_flag(profile_fe, "profile_fe")
        parts = self._scores(at, profile_fe, self.use_sqrt)
        if self._freepat is not None:
            mask = self._freepat
            free = self._packing.places.pick(self._packing.psi(mask))
            sizes = [free[: self.k_re2], free[self.k_re2 :]]
            parts = (parts[0] * mask.fe_params, parts[1] * sizes[0], parts[2] * sizes[1])
        return np.concatenate(parts[1:] if profile_fe else parts)

    def score_full(self, params: Any, calc_fe: bool) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Gradient in the fixed effects, ``cov_re`` and ``vcomp``.

        Parameters
        ----------
        params : MixedLMParams or array-like
            As for :meth:`loglike`; the fixed effects are used as given.
        calc_fe : bool
            Compute the first part; zeros otherwise.

        Returns
        -------
        score_fe, score_re, score_vc : ndarray, (k_fe,), (k_re2,), (k_vc,)
        """
        calc_fe = check_flag(calc_fe, "calc_fe")
        parts = self._scores(self._params(params, has_fe=False), False, use_sqrt=False)
        return parts if calc_fe else (np.zeros_like(parts[0]), *parts[1:])

    def score_sqrt(
        self, params: Any, calc_fe: bool = True
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Gradient in the fixed effects, the Cholesky factor of ``cov_re``, and ``sqrt(vcomp)``.

        Parameters and returns as of :meth:`score_full`.
        """
        calc_fe = check_flag(calc_fe, "calc_fe")
        parts = self._scores(self._params(params, has_fe=False), False, use_sqrt=True)
        return parts if calc_fe else (np.zeros_like(parts[0]), *parts[1:])

    def _scores(
        self, at: MixedLMParams, profile_fe: bool, use_sqrt: bool
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        packing, deviance = self._packing, self._engine(self.reml)
        theta = packing.theta(at)
        here = point(deviance, theta, None if profile_fe else self._kept(at.fe_params))
        score_fe = self._spread(here.score_fe)
        if self.fe_pen is not None:
            score_fe -= self.fe_pen.deriv(self._spread(here.fit.beta))
        if self.cov_pen is not None:
            psi = np.asarray(self.cov_pen.deriv(at.cov_re, np.linalg.pinv(at.cov_re)))
            add_packed(packing, here.psi_gradient, psi)
        packed = score_sqrt(packing, theta, here) if use_sqrt else score_raw(packing, here)
        return score_fe, packed[: self.k_re2], packed[self.k_re2 :]

    def hessian(self, params: Any) -> tuple[FloatArray, bool]:
        """Hessian of the log-likelihood in the fixed effects, ``cov_re`` and ``vcomp``.

        Parameters
        ----------
        params : MixedLMParams or array-like
            An array is packed, fixed effects first.

        Returns
        -------
        hess : ndarray, (k_fe + k_re2 + k_vc,) * 2
            NaN for columns of X that were dropped.
        singular : bool
            Whether a covariance matrix is singular.
        """
        at = self._params(params, has_fe=True)
        deviance, packing = self._engine(self.reml), self._packing
        psi = packing.psi(at)
        inner = hessian(deviance, packing, psi, self._kept(at.fe_params))
        p = self.built.layout.p
        place = np.append(deviance.cross.basis.kept, p + np.arange(len(self._places.names)))
        out = np.full((p + len(self._places.names),) * 2, np.nan)
        out[np.ix_(place, place)] = inner
        singular = any(len(b) and np.linalg.eigvalsh(b)[0] < 1e-10 for b in psi)
        return out, bool(singular)

    def get_fe_params(self, cov_re: Any, vcomp: Any, tol: float = 1e-10) -> tuple[FloatArray, bool]:
        """Fixed effects by generalized least squares.

        Parameters
        ----------
        cov_re, vcomp : array-like
            Covariances divided by the residual variance.
        tol : float
            Eigenvalue below which a covariance matrix counts as singular.

        Returns
        -------
        fe_params : ndarray, (k_fe,)
            Zero for dropped columns.
        singular : bool
        """
        tol = check_number(tol, "tol", "a number, not negative", low=0.0)
        at = MixedLMParams.from_components(np.zeros(0), cov_re=cov_re, vcomp=vcomp)
        theta = self._packing.theta(at)
        try:
            fit = self._engine(self.reml).at(theta)
        except NotPositiveDefiniteError as error:
            raise ArgumentError(f"cov_re, vcomp: too large or not finite ({error})") from error
        singular = any(len(b) and np.linalg.eigvalsh(b)[0] < tol for b in self._packing.psi(at))
        return self._spread(fit.beta), bool(singular)

    def get_scale(self, fe_params: Any, cov_re: Any, vcomp: Any) -> float:
        """Residual variance at given fixed effects and covariances.

        Parameters
        ----------
        fe_params : array-like, (k_fe,)
        cov_re, vcomp : array-like
            Covariances divided by the residual variance.
        """
        at = MixedLMParams.from_components(fe_params, cov_re=cov_re, vcomp=vcomp)
        theta = self._packing.theta(at)
        fe = self._kept(at.fe_params)
        try:
            return fit_at(self._engine(self.reml), theta, fe).scale
        except NotPositiveDefiniteError as error:
            raise ArgumentError(f"cov_re, vcomp: too large or not finite ({error})") from error

    def predict(self, params: Any, exog: Any = None) -> FloatArray:
        """``X beta``: the fixed part of the mean.

        Parameters
        ----------
        params : MixedLMParams or array-like
            An array begins with the fixed effects.
        exog : array-like, (m, k_fe), optional
            Default: the X of the model.

        Returns
        -------
        ndarray, (m,)
        """
        p = self.built.layout.p
        beta = params.fe_params if hasattr(params, "fe_params") else params
        names = self.built.layout.x_names
        beta = in_order(beta, names, [*names, *self._places.names], argument="params")
        beta = check_numbers(beta, "params", (None,), finite=False)
        if len(beta) < p:
            raise ArgumentError(f"params has {len(beta)} entries, fewer than the {p} columns of X")
        return np.asarray(self._exog(exog, "predict without exog") @ beta[:p])

    def _exog(self, exog: Any, what: str) -> FloatArray:
        """New columns of X, or those of the model."""
        if exog is None:
            self._need_rows(what)
            return self.built.design.X
        X = float_matrix(exog, "exog")
        p = self.built.layout.p
        if X.ndim not in (1, 2) or X.shape[-1] != p:
            raise ArgumentError(f"exog must have {p} columns, got shape {X.shape}")
        return X

    def get_distribution(self, params: Any, scale: float, exog: Any = None) -> Distribution:
        """The distribution of the response, for simulation.

        Parameters
        ----------
        params : array-like
            Packed, fixed effects first, variances divided by ``scale`` (as ``results.params``).
        scale : float
            Residual variance.
        exog : array-like, (n, k_fe), optional
            Default: the X of the model.

        Returns
        -------
        Distribution
            With ``rvs(n, rng)``.

        Notes
        -----
        Parameters may themselves be drawn from their estimated normal distribution; a covariance
        matrix that is not positive semi-definite is replaced by the nearest that is.
        """
        self._need_rows("get_distribution")
        need_white(self.design, "get_distribution")
        at = self._packing.unpack(params, use_sqrt=False, has_fe=True)
        scale = check_positive(scale, "scale")
        X = self._exog(exog, "get_distribution")
        lams = [factor_of(_nearest(psi)) for psi in self._packing.psi(at)]
        return Distribution(X @ at.fe_params, self.design.terms, lams, scale)

    def _get_init_kwds(self) -> dict[str, Any]:
        """Keywords that make the same model of another y and X, see `cloning`."""
        formula = self.built.spec.formula
        keywords = {} if formula is None else {"formula": formula}
        return {**keywords, "use_sqrt": self.use_sqrt, "model_spec": self.built}

    def initialize(self) -> None:
        """Do nothing; statsmodels has this method."""

    def information(self, params: Any) -> Any:
        """Refuse, as statsmodels does; see :meth:`hessian`."""
        raise UnsupportedError("information(params) is not defined; use hessian(params)")


def _nearest(psi: FloatArray) -> FloatArray:
    """The positive semi-definite matrix nearest in the Frobenius norm, (k, k)."""
    values, vectors = np.linalg.eigh(psi)
    return np.asarray((vectors * np.maximum(values, 0.0)) @ vectors.T)
