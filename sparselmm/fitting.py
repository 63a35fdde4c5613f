"""The search behind ``MixedLM.fit``: start values, masks, penalties, statsmodels' arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparselmm._typing import BoolArray, FloatArray
from sparselmm.arguments import (
    check_choice,
    check_count,
    check_flag,
    check_keywords,
    check_list,
    check_mapping,
    check_memory,
    check_methods,
    check_number,
    check_numbers,
    check_positive,
    check_progress,
    suggestion,
    wrong_type,
    wrong_value,
)
from sparselmm.covariance import Covariance
from sparselmm.deviance import Deviance, PLSFit, ProfiledDeviance
from sparselmm.exceptions import (
    ArgumentError,
    ConvergenceWarning,
    DataError,
    ValueWarning,
    catchable,
)
from sparselmm.formula.validate import warn_user
from sparselmm.multistart import minimize_globally
from sparselmm.optimize import SCIPY_METHODS, Callback, OptSummary, Recorder, certify
from sparselmm.packing import NOT_NEGATIVE, MixedLMParams, Packing, factor_of
from sparselmm.patterned import Patterned
from sparselmm.penalized import CheckedPenalty, FixedEntries, Mask, Penalties, minimize_constrained
from sparselmm.term_covariance import TermCovariance

ALLOWED = ("gtol", "maxiter", "eps", "maxcor", "ftol", "tol", "disp", "maxls")
"""Keywords statsmodels passes on to its optimizers."""

IGNORED = (
    "callback", "cov_kwds", "cov_type", "optim_score", "retall", "skip_hessian", "use_t",
    "warn_convergence",
)  # fmt: skip
"""Keywords of statsmodels' other fits, which its ``MixedLM.fit`` takes with a warning and ignores;
so does ours. Every other unknown keyword is an error."""

FIT_ARGUMENTS = (
    "start_params", "reml", "niter_sa", "do_cg", "fe_pen", "cov_pen", "free", "full_output",
    "method", "start_theta", "starts", "fix", "engine", "maxiter", "progress", "memory_limit",
    *ALLOWED,
)  # fmt: skip
"""What ``MixedLM.fit`` takes."""

ENGINES = ("sparse", "dense")

MOST_STARTS = 100_000
"""Most searches on request."""

PARTS = ("fe_params", "cov_re", "vcomp")
"""Of a :class:`MixedLMParams`."""

LOOSEST = 0.01
"""Largest ``tol``: estimates within a tenth of a standard error. Looser is no fit."""

UNIT = 1e-8
"""Rounding of the ones on the diagonal of a correlation matrix."""

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
    check_keywords([name for name in other if name not in IGNORED], FIT_ARGUMENTS, "MixedLM.fit")
    if other:
        warn_user(
            f"Argument{'s' if len(other) > 1 else ''} {', '.join(other)} not used by MixedLM.fit. "
            "Future versions will raise on these arguments.",
            FutureWarning,
        )
    if check_count(niter_sa, "niter_sa", least=0):
        warn_user("niter_sa is currently ignored", catchable(ValueWarning))
    return {name: _option(name, value) for name, value in given.items() if name in ALLOWED}


def _option(name: str, value: Any) -> Any:
    """One keyword of an optimizer."""
    if name in ("maxcor", "maxls"):
        return check_count(value, name)
    if name == "disp":
        return check_flag(value, name)
    if name == "tol":
        value = check_positive(value, name)
        if value > LOOSEST:
            raise wrong_value(name, f"at most {LOOSEST}, a decrease of the deviance", value)
        return value
    return check_number(value, name, "a number between 0 and 1", low=0.0, high=1.0)


def check_fit_arguments(arguments: Mapping[str, Any]) -> None:
    """The arguments of ``MixedLM.fit`` that need no model to be judged."""
    for name in ("reml", "do_cg", "full_output"):
        check_flag(arguments[name], name)
    for name in ("fe_pen", "cov_pen"):
        check_methods(arguments[name], name, ("func", "deriv"))
    check_choice(arguments["engine"], "engine", ENGINES)
    if arguments["maxiter"] is not None:
        check_count(arguments["maxiter"], "maxiter")
    check_progress(arguments["progress"])
    check_memory(arguments["memory_limit"])
    free = arguments["free"]
    if free is not None and not all(hasattr(free, name) for name in PARTS):
        raise wrong_type("free", "a MixedLMParams of zeros and ones", free)


def method_names(method: str | Sequence[str] | None) -> list[str | None]:
    """Optimizers to try in turn; None for the default one.

    Raises
    ------
    ValueError
        When a name is unknown.
    """
    wanted = "None, the name of an optimizer or a list of names"
    one = method is None or isinstance(method, str)
    names: Any = [method] if one else check_list(method, "method", wanted)
    if not names:
        raise wrong_value("method", wanted, method)
    out: list[str | None] = []
    for name in names:
        if name is not None and not isinstance(name, str):
            raise wrong_type("method", wanted, name)
        if name is None or name.lower() in DEFAULT_METHODS:
            out.append(None)
        elif name.lower() in SCIPY_METHODS:
            out.append(name.lower())
        else:
            known = sorted({*SCIPY_METHODS, *DEFAULT_METHODS})
            raise ArgumentError(
                f"method: unknown optimizer {name!r}; use None (default) or one of {known}"
                f"{suggestion(name, known)}"
            )
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
    given = check_numbers(given, "start_params", (None,), finite=False)
    check_numbers(given[max(len(given) - len(packing.layout.names), 0) :], "start_params")
    m = len(packing.layout.names)
    if len(given) not in (m, m + packing.k_fe):
        raise ArgumentError(
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
    if np.isscalar(starts):
        return max(check_count(starts, "starts", least=0, most=MOST_STARTS), 1)
    what = "one theta a row; or a whole number of searches"
    values = check_numbers(starts, "starts", (None, len(free)), what=what)
    return np.asarray(values[:, free])


@dataclass(frozen=True, eq=False)
class Held:
    """Covariance parameters held at given values.

    Attributes
    ----------
    covariance : Covariance
        Of the free entries of theta.
    free : ndarray of bool, (n_theta,)
        Which entries of the model's theta these are.
    scale : float or None
        Residual variance, None when it is estimated.
    """

    covariance: Covariance
    free: BoolArray
    scale: float | None

    @classmethod
    def of(cls, fix: Any, covariance: Covariance, names: Sequence[str]) -> Held:
        """Read the ``fix`` argument of ``MixedLM.fit``.

        Parameters
        ----------
        fix : mapping or None
        covariance : Covariance
            The model's.
        names : sequence of str
            Names of its terms.

        Raises
        ------
        DataError
            When a key or a value cannot be understood.
        """
        fix = {} if fix is None else fix
        check_mapping(fix, "fix", "{'sigma': 1.0}")
        unknown = [key for key in fix if key not in ("sigma", "theta", *names)]
        if unknown:
            raise DataError(
                f"fix names {unknown[0]!r}; it takes 'sigma', 'theta' and the terms of the model, "
                f"{', '.join(map(repr, names))}{suggestion(str(unknown[0]), names)}"
            )
        both = [key for key in fix if key not in ("sigma", "theta")]
        if "theta" in fix and both:
            raise DataError(
                f"fix holds both 'theta' and {both[0]!r}, a part of it; give one of them"
            )
        scale = None if "sigma" not in fix else _positive(fix["sigma"]) ** 2
        terms = list(covariance.terms)
        if "theta" in fix:
            terms = _held_theta(fix["theta"], covariance)
        free = [np.ones(term.n_theta, dtype=bool) for term in covariance.terms]
        for t, (old, new) in enumerate(zip(covariance.terms, terms, strict=True)):
            if new is not old:
                places = set(zip(new.rows.tolist(), new.cols.tolist(), strict=True))
                entries = zip(old.rows.tolist(), old.cols.tolist(), strict=True)
                free[t] = np.array([entry in places for entry in entries], dtype=bool)
        for t, name in enumerate(names):
            if name not in fix or name in ("sigma", "theta"):
                continue
            lam = factor_of(_held_psi(name, fix[name], terms[t].k, scale))
            none = np.zeros(0, dtype=np.intp)
            terms[t] = FixedEntries(terms[t].k, none, none, lam)
            free[t] = np.zeros(len(free[t]), dtype=bool)
        every = np.concatenate(free) if free else np.zeros(0, dtype=bool)
        if every.all():
            return cls(covariance, every, scale)
        return cls(Covariance(tuple(terms)), every, scale)


def _positive(sigma: Any) -> float:
    return check_positive(sigma, "fix['sigma']")


def _held_theta(given: Any, covariance: Covariance) -> list[TermCovariance]:
    """Terms with the finite entries of a theta held, NaN for the free ones."""
    theta = check_numbers(given, "fix['theta']", finite=False)
    if theta.shape != (covariance.n_theta,) or np.isinf(theta).any():
        raise DataError(
            f"fix['theta'] must hold {covariance.n_theta} numbers, NaN for those to estimate; got "
            f"{given!r}"
        )
    negative = covariance.on_diagonal & (theta < 0)
    if negative.any():
        raise DataError(
            f"fix['theta'] has a negative entry {theta[negative][0]:g} at {np.argmax(negative)}, "
            "on the diagonal of a factor, where they are ratios of standard deviations"
        )
    out = []
    for term, part in zip(covariance.terms, covariance.slices, strict=True):
        held = ~np.isnan(theta[part])
        if held.any() and not held.all() and isinstance(term, Patterned):
            raise DataError(
                "fix['theta'] holds some parameters of a term with a patterned covariance and "
                "leaves others free; hold all of them or none"
            )
        known = term.triangular(term.factor(np.where(held, theta[part], 0.0)))
        rows, cols = term.rows[~held], term.cols[~held]
        out.append(FixedEntries(term.k, rows, cols, known) if held.any() else term)
    return out


def _held_psi(name: str, given: Any, k: int, scale: float | None) -> FloatArray:
    """``Psi_t / sigma^2`` of an entry of ``fix``, (k, k)."""
    how = "write {'sd': ...}, {'sd': ..., 'corr': ...}, {'cov': ...} or {'ratio': ...}"
    if not isinstance(given, Mapping) or set(given) not in (
        {"sd"}, {"sd", "corr"}, {"cov"}, {"ratio"},
    ):  # fmt: skip
        raise DataError(f"fix[{name!r}] = {given!r} is not understood; {how}")
    if "ratio" not in given and scale is None:
        raise DataError(
            f"fix[{name!r}] is in the units of the data, which needs sigma held as well: the "
            "covariance relative to sigma would move with the estimate of sigma. Add 'sigma', or "
            "hold the ratio to sigma^2, {'ratio': ...}"
        )
    what = f"fix[{name!r}]"
    if "sd" in given:
        psi = _psi_of_sd(given, k, what)
    else:
        key = "ratio" if "ratio" in given else "cov"
        psi = np.atleast_2d(check_numbers(given[key], f"{what}[{key!r}]"))
    if psi.shape != (k, k) or not np.allclose(psi, psi.T):
        raise DataError(
            f"{what} must be symmetric and of order {k}, the number of coefficients of the term; "
            f"got shape {psi.shape}"
        )
    smallest, largest = np.linalg.eigvalsh(psi)[[0, -1]]
    if smallest < -NOT_NEGATIVE * max(largest, 0.0):
        raise DataError(
            f"{what} must be positive semi-definite, a covariance matrix; its smallest eigenvalue "
            f"is {smallest:.3g}"
        )
    return psi if "ratio" in given else psi / (scale or 1.0)


def _psi_of_sd(given: Mapping[str, Any], k: int, what: str) -> FloatArray:
    """Covariance matrix of standard deviations and correlations, (k, k)."""
    sd = np.atleast_1d(check_numbers(given["sd"], f"{what}['sd']"))
    if sd.shape != (k,):
        raise DataError(
            f"{what}['sd'] must be of order {k}, one number per coefficient; got {sd.shape}"
        )
    if (sd < 0).any():
        raise DataError(f"{what}['sd'] must not be negative, got {sd.min():g}")
    corr = check_numbers(given.get("corr", np.eye(k)), f"{what}['corr']", (k, k))
    if not np.allclose(np.diag(corr), 1.0, rtol=0.0, atol=UNIT) or (np.abs(corr) > 1 + UNIT).any():
        raise DataError(
            f"{what}['corr'] must be a correlation matrix, ones on the diagonal and no entry "
            "beyond one in size; for a covariance matrix write {'cov': ...}"
        )
    return np.asarray(np.outer(sd, sd) * corr)


@dataclass(frozen=True, eq=False)
class Given:
    """What a fit was given that its results do not tell otherwise.

    Attributes
    ----------
    free : MixedLMParams or None
        Mask of the parameters estimated.
    fix : mapping or None
        Covariance parameters held.
    fe_pen, cov_pen : object or None
        Penalties.
    """

    free: MixedLMParams | None = None
    fix: Mapping[str, Any] | None = None
    fe_pen: Any = None
    cov_pen: Any = None

    @classmethod
    def of(cls, free: MixedLMParams | None, fix: Any, fe_pen: Any, cov_pen: Any) -> Given:
        """Arguments of ``MixedLM.fit``; what the caller may change later is copied."""
        return cls(
            None if free is None else free.copy(), None if fix is None else dict(fix),
            fe_pen, cov_pen,
        )  # fmt: skip

    @property
    def penalized(self) -> bool:
        """Whether there is a penalty."""
        return self.fe_pen is not None or self.cov_pen is not None


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
    fe_pen, cov_pen = CheckedPenalty.of(fe_pen, "fe_pen"), CheckedPenalty.of(cov_pen, "cov_pen")
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
