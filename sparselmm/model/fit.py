"""The search behind ``MixedLM.fit``: start values, masks, penalties, statsmodels' arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sparselmm.base.exceptions import (
    ConvergenceWarning,
    DataError,
    ValueWarning,
    catchable,
    warn_user,
)
from sparselmm.base.types import BoolArray, FloatArray
from sparselmm.inference.packing import MixedLMParams, Packing
from sparselmm.likelihood.deviance import Deviance, PLSFit, ProfiledDeviance
from sparselmm.likelihood.multistart import minimize_globally
from sparselmm.likelihood.optimize import SCIPY_METHODS, Callback, OptSummary, Recorder, certify
from sparselmm.model.statsmodels.penalized import Mask, Penalties, minimize_constrained

ALLOWED = ("gtol", "maxiter", "eps", "maxcor", "ftol", "tol", "disp", "maxls")
"""Keywords statsmodels passes on to its optimizers."""

SMALL = 0.1
"""Share of sigma below which a standard deviation is compared with zero."""

HARDLY = 0.01
"""Likelihood-ratio statistic below which the data do not tell a variance from zero at all."""

DEFAULT_METHODS = ("newton", "ncg", "minimize")
"""Names that stand for the default method: what they ask for, second derivatives, it uses."""

OPTIONS: dict[str, dict[str, str]] = {
    "BFGS": {"gtol": "gtol"},
    "CG": {"gtol": "gtol"},
    "L-BFGS-B": {"gtol": "gtol", "ftol": "ftol", "maxcor": "maxcor", "maxls": "maxls"},
    "Nelder-Mead": {"ftol": "fatol", "tol": "fatol"},
    "Powell": {"ftol": "ftol", "tol": "ftol"},
    "SLSQP": {"ftol": "ftol", "tol": "ftol"},
    "TNC": {"gtol": "gtol", "ftol": "ftol"},
    "COBYLA": {"tol": "tol"},
    "trust-constr": {"gtol": "gtol"},
}
"""SciPy's option for each keyword; derivatives are exact, so ``eps`` has no use."""


def checked_keywords(given: Mapping[str, Any], niter_sa: int) -> dict[str, Any]:
    """Keywords of ``fit`` that statsmodels allows; the others are warned about."""
    other = sorted(set(given).difference(ALLOWED))
    if other:
        warn_user(
            f"Argument{'s' if len(other) > 1 else ''} {', '.join(other)} not used by MixedLM.fit. "
            "Future versions will raise on these arguments.",
            FutureWarning,
        )
    if "tol" in given and not given["tol"] > 0:
        raise ValueError(f"tol must be positive, got {given['tol']!r}")
    if niter_sa > 0:
        warn_user("niter_sa is currently ignored", catchable(ValueWarning))
    return {name: value for name, value in given.items() if name in ALLOWED}


def method_names(method: str | Sequence[str] | None) -> list[str | None]:
    """Optimizers to try in turn; None for the default one.

    Raises
    ------
    ValueError
        When a name is unknown.
    """
    names = [method] if method is None or isinstance(method, str) else list(method)
    out: list[str | None] = []
    for name in names:
        if name is None or name.lower() in DEFAULT_METHODS:
            out.append(None)
        elif name.lower() in SCIPY_METHODS:
            out.append(name.lower())
        else:
            known = sorted({*SCIPY_METHODS, *DEFAULT_METHODS})
            raise ValueError(f"unknown optimizer {name!r}; use None (default) or one of {known}")
    return out


def start_parameters(packing: Packing, given: Any, use_sqrt: bool) -> MixedLMParams:
    """Start values as parameters.

    Parameters
    ----------
    packing : Packing
    given : MixedLMParams, array-like or None
        Packed with or without fixed effects; None for statsmodels' default, the identity.
    use_sqrt : bool
        Units of a packed array.

    Raises
    ------
    ValueError
        When the length of an array is wrong.
    """
    if given is None:
        psi = [np.eye(term.k) for term in packing.covariance.terms]
        return packing.params(np.zeros(packing.k_fe), psi)
    if all(hasattr(given, name) for name in ("cov_re", "vcomp")):
        fe = getattr(given, "fe_params", np.zeros(packing.k_fe))
        fe = fe if len(fe) == packing.k_fe else np.zeros(packing.k_fe)
        return MixedLMParams.from_components(fe, cov_re=given.cov_re, vcomp=given.vcomp)
    m = len(packing.layout.names)
    if len(given) not in (m, m + packing.k_fe):
        raise ValueError(
            f"invalid start_params: length {len(given)}, expected {m} covariance parameters or "
            f"{packing.k_fe} fixed effects and these"
        )
    return packing.unpack(given, use_sqrt, has_fe=len(given) != m)


def checked_starts(starts: Any, free: BoolArray) -> int | FloatArray | None:
    """The ``starts`` argument of ``fit``, thetas reduced to their free entries.

    Raises
    ------
    DataError
        When it is neither a count nor an array of thetas.
    """
    if starts is None:
        return None
    what = (
        f"starts must be a whole number of searches, 0 or more, or thetas to start from, an array "
        f"(m, {len(free)}) of finite numbers"
    )
    try:
        values = np.asarray(starts, dtype=float)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what}; got {starts!r}") from error
    if values.ndim == 0 and not isinstance(starts, bool) and values >= 0 and values % 1 == 0:
        return max(int(values), 1)
    if values.ndim != 2 or values.shape[1] != len(free) or not np.isfinite(values).all():
        shape = f" of shape {values.shape}" if values.ndim else ""
        raise DataError(f"{what}; got {starts!r}{shape}")
    return np.asarray(values[:, free])


def penalties_of(
    packing: Packing,
    deviance: ProfiledDeviance,
    mask: Mask | None,
    start: MixedLMParams,
    fe_pen: Any,
    cov_pen: Any,
) -> Penalties | None:
    """Penalties and held fixed effects, None when there are none."""
    kept = deviance.cross.basis.kept
    held = np.zeros(len(kept), dtype=bool) if mask is None else ~mask.fe[kept]
    if fe_pen is None and cov_pen is None and not held.any():
        return None
    inner = Packing(packing.layout, deviance.covariance, packing.k_fe)
    values = np.asarray(start.fe_params, dtype=float)[kept]
    return Penalties(inner, fe_pen, cov_pen, held, values)


def search(
    objective: Deviance,
    start: FloatArray,
    methods: Sequence[str | None],
    keywords: Mapping[str, Any],
    maxiter: int | None,
    callback: Callback | None,
    seconds: float,
    starts: int | FloatArray | None = None,
) -> OptSummary:
    """Try one optimizer after the other until one converges."""
    opt = None
    for place, method in enumerate(methods):
        opt = minimize_globally(
            objective, start, seconds=seconds, starts=starts, method=method,
            max_iterations=maxiter, callback=callback, **_options(method, keywords),
        )  # fmt: skip
        if opt.converged:
            break
        start = opt.theta
        if place + 1 < len(methods):
            warn_user(
                f"Retrying MixedLM optimization with {methods[place + 1] or 'newton'}",
                catchable(ConvergenceWarning),
            )
    assert opt is not None, "method is an empty list"
    return opt


def _options(method: str | None, keywords: Mapping[str, Any]) -> dict[str, Any]:
    if method is None:
        return {"tolerance": keywords["tol"]} if "tol" in keywords else {}
    known = OPTIONS.get(SCIPY_METHODS[method], {})
    return {known[name]: value for name, value in keywords.items() if name in known}


def not_optimized(objective: Deviance, theta: FloatArray, message: str, fine: bool) -> OptSummary:
    """The record of an optimization that was not done, or was done elsewhere."""
    recorder = Recorder(objective, None)
    value = objective.value(theta)
    recorder.record(theta, value)
    if len(theta):
        opt = certify(recorder, theta, "none", message, fine, np.inf)
        return replace(opt, converged=fine, message=message)
    none = np.zeros(0)
    return OptSummary(
        theta=theta, deviance=value, gradient=none, hessian=np.zeros((0, 0)),
        at_boundary=np.zeros(0, dtype=bool), expected_decrease=0.0, smallest_eigenvalue=np.nan,
        method="none", message=message, converged=fine, n_evaluations=1,
        history=tuple(recorder.history),
    )  # fmt: skip


def constrained(objective: Any, packing: Packing, mask: Mask, maxiter: int | None) -> OptSummary:
    """Search with equality constraints."""
    theta, message, fine = minimize_constrained(objective, packing, mask, maxiter or 500)
    return replace(not_optimized(objective, theta, message, fine), method="slsqp")


def nearly_zero(deviance: ProfiledDeviance, opt: OptSummary, names: Sequence[str]) -> list[str]:
    """Terms whose variance is not zero but could as well be: the deviance hardly rises.

    Only terms with a standard deviation below `SMALL` of sigma are tried, and of these only where
    the Hessian H leaves it open: at the minimum of ``b theta^4 - a theta^2``, which is how a
    deviance looks near zero, the rise to zero is ``theta H theta / 8``.
    """
    out = []
    covariance = deviance.covariance
    for name, part in zip(names, covariance.slices, strict=True):
        theta = opt.theta[part]
        size = np.abs(theta / deviance.units[part]).max(initial=0.0)
        if not 0.0 < size < SMALL or theta @ opt.hessian[part, part] @ theta / 8.0 > 10.0 * HARDLY:
            continue
        here, at_zero = deviance.value(opt.theta), opt.theta.copy()
        at_zero[part] = 0.0
        if deviance.value(at_zero) - here < HARDLY:
            out.append(name)
    return out


def without_fixed(fit: PLSFit, held: BoolArray) -> PLSFit:
    """The fit with no uncertainty about the fixed effects that were held fixed."""
    free = np.flatnonzero(~held)
    information = np.linalg.inv(fit.vcov_unscaled)[np.ix_(free, free)]
    vcov = np.zeros_like(fit.vcov_unscaled)
    vcov[np.ix_(free, free)] = np.linalg.inv(information)
    return replace(fit, vcov_unscaled=vcov)
