"""The search behind ``MixedLM.fit``: start values, masks, penalties, statsmodels' arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparselmm.base.arguments import (
    check_choice,
    check_count,
    check_flag,
    check_keywords,
    check_list,
    check_memory,
    check_methods,
    check_number,
    check_numbers,
    check_positive,
    check_progress,
    check_starts,
    in_order,
    plain_name,
    suggestion,
    unlabelled,
    wrong_type,
    wrong_value,
)
from sparselmm.base.exceptions import (
    ArgumentError,
    ConvergenceWarning,
    ValueWarning,
    catchable,
    warn_user,
)
from sparselmm.base.types import BoolArray, FloatArray
from sparselmm.inference.packing import MixedLMParams, Packing
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.evaluations import Deviance, PLSFit
from sparselmm.likelihood.held import Held
from sparselmm.likelihood.multistart import minimize_globally
from sparselmm.likelihood.optimize import SCIPY_METHODS
from sparselmm.likelihood.record import Callback, OptSummary, Recorder, certify
from sparselmm.model.probing import ENGINES
from sparselmm.model.statsmodels.penalized import (
    CheckedPenalty,
    Penalties,
    minimize_constrained,
)

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
    "method", "start_theta", "starts", "fix", "engine", "probes", "mc_tolerance", "seed", "finish",
    "scratch", "maxiter", "progress", "memory_limit",
    *ALLOWED,
)  # fmt: skip
"""What ``MixedLM.fit`` takes."""

PARTS = ("fe_params", "cov_re", "vcomp")
"""Of a :class:`MixedLMParams`."""

LOOSEST = 0.01
"""Largest ``tol``: estimates within a tenth of a standard error. Looser is no fit."""


SMALL = 0.1
"""Share of sigma below which a standard deviation is compared with zero."""

HARDLY = 0.01
"""Likelihood-ratio statistic below which the data do not tell a variance from zero at all."""

DEFAULT_METHODS = ("newton", "ncg", "minimize")
"""Names that stand for the default method: what they ask for, second derivatives, it uses."""

LIKELIHOODS = ("ml", "reml")
"""What ``method`` means in nlme and SAS."""

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


def check_fit_arguments(arguments: Mapping[str, Any]) -> tuple[bool, str]:
    """The arguments of ``MixedLM.fit`` that need no model to be judged; ``reml`` and ``engine``.

    ``method="ML"`` and ``"REML"``, as in nlme and SAS, say which likelihood and leave the search.
    """
    for name in ("reml", "do_cg", "full_output"):
        check_flag(arguments[name], name)
    for name in ("fe_pen", "cov_pen"):
        check_methods(arguments[name], name, ("func", "deriv"))
    engine = check_choice(arguments["engine"], "engine", ENGINES)
    if arguments["maxiter"] is not None:
        check_count(arguments["maxiter"], "maxiter")
    check_progress(arguments["progress"])
    check_memory(arguments["memory_limit"])
    free = arguments["free"]
    if free is not None and not all(hasattr(free, name) for name in PARTS):
        raise wrong_type("free", "a MixedLMParams of zeros and ones", free)
    method, reml = arguments["method"], check_flag(arguments["reml"], "reml")
    if isinstance(method, str) and method.lower() in LIKELIHOODS:
        if method.lower() == "reml" and not reml:
            raise ArgumentError(f"method={method!r} and reml=False contradict each other")
        reml = method.lower() == "reml"
    return reml, str(engine)


def method_names(method: str | Sequence[str] | None) -> list[str | None]:
    """Optimizers to try in turn; None for the default one.

    Raises
    ------
    ValueError
        When a name is unknown.
    """
    if method is None:
        return [None]
    wanted = "None, the name of an optimizer or a list of names"
    one = isinstance(method, str)
    names: Any = [method] if one else check_list(method, "method", wanted)
    if not names:
        raise wrong_value("method", wanted, method)
    spelled = {plain_name(name): name for name in SCIPY_METHODS}
    out: list[str | None] = []
    for name in names:
        if name is not None and not isinstance(name, str):
            raise wrong_type("method", wanted, name)
        name = name if name is None else spelled.get(plain_name(name), name)
        if name is None or name.lower() in (*DEFAULT_METHODS, *(LIKELIHOODS if one else ())):
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
    every = [*packing.x_names, *packing.places.names]
    given = in_order(given, every, packing.places.names, argument="start_params")
    given = check_numbers(given, "start_params", (None,), finite=False)
    check_numbers(given[max(len(given) - len(packing.places.names), 0) :], "start_params")
    m = len(packing.places.names)
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
    if starts is None or np.isscalar(starts):
        return check_starts(starts)
    what = "one theta a row; or a whole number of searches"
    values = check_numbers(unlabelled(starts, "starts"), "starts", (None, len(free)), what=what)
    return np.asarray(values[:, free])


def penalties_of(
    packing: Packing,
    deviance: ProfiledDeviance,
    held: Held,
    start: MixedLMParams | None,
    fe_pen: Any,
    cov_pen: Any,
) -> Penalties | None:
    """Penalties and held fixed effects, None when there are none."""
    kept = deviance.cross.basis.kept
    fixed = np.zeros(len(kept), dtype=bool) if held.fixed is None else held.fixed[kept]
    if fe_pen is None and cov_pen is None and not fixed.any():
        return None
    assert start is not None
    inner = Packing(packing.places, deviance.covariance, packing.x_names)
    values = np.asarray(start.fe_params, dtype=float)[kept]
    fe_pen, cov_pen = CheckedPenalty.of(fe_pen, "fe_pen"), CheckedPenalty.of(cov_pen, "cov_pen")
    return Penalties(inner, fe_pen, cov_pen, fixed, values)


@dataclass(frozen=True, eq=False)
class Task:
    """What a fit was asked to do with its deviance.

    Attributes
    ----------
    optimize : bool
        False: nothing, the model at its start values.
    packing : Packing or None
        Needed where entries of ``Psi`` are held.
    held : Held
    methods : list of str or None
        Optimizers to try in turn.
    keywords : dict
        Of the optimizers.
    maxiter : int or None
    callback : callable
    seconds : float
        Predicted time of one evaluation.
    starts : int, ndarray or None
    """

    optimize: bool
    packing: Packing | None
    held: Held
    methods: list[str | None]
    keywords: Mapping[str, Any]
    maxiter: int | None
    callback: Callback
    seconds: float
    starts: int | FloatArray | None

    def run(self, objective: Any, start: FloatArray) -> OptSummary:
        """Minimize the deviance, from ``start``."""
        if not self.optimize or not len(start):
            reason = "nothing to optimize" if self.optimize else "not optimized: do_cg=False"
            return not_optimized(objective, start, reason, fine=self.optimize)
        if self.held.psi is not None:
            assert self.packing is not None
            return constrained(objective, self.packing, self.held, self.maxiter)
        return self._search(objective, start)

    def _search(self, objective: Deviance, start: FloatArray) -> OptSummary:
        """Try one optimizer after the other until one converges."""
        opt = None
        methods = self.methods
        for place, method in enumerate(methods):
            opt = minimize_globally(
                objective, start, seconds=self.seconds, starts=self.starts, method=method,
                max_iterations=self.maxiter, callback=self.callback,
                **_options(method, self.keywords),
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


def joined(first: OptSummary, second: OptSummary) -> OptSummary:
    """The record of a fit that searched again where the first search ended."""
    later = (replace(one, search=one.search + first.n_starts) for one in second.history)
    return replace(
        second, n_evaluations=first.n_evaluations + second.n_evaluations,
        n_starts=first.n_starts + second.n_starts, history=(*first.history, *later),
    )  # fmt: skip


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
        history=tuple(recorder.history), rounding=objective.rounding(theta),
    )  # fmt: skip


def constrained(objective: Any, packing: Packing, held: Held, maxiter: int | None) -> OptSummary:
    """Search with equality constraints."""
    theta, message, fine = minimize_constrained(objective, packing, held, maxiter or 500)
    return replace(not_optimized(objective, theta, message, fine), method="slsqp")


def nearly_zero(deviance: ProfiledDeviance, opt: OptSummary, names: Sequence[str]) -> list[str]:
    """Terms whose variance is not zero but could as well be: the deviance hardly rises.

    Only terms with a standard deviation below `SMALL` of sigma are tried, and of these only where
    the Hessian H leaves it open: at the minimum of ``b theta^4 - a theta^2``, which is how a
    deviance looks near zero, the rise to zero is ``theta H theta / 8``.
    """
    out = []
    covariance = deviance.covariance
    inner, at = deviance.working(opt.theta)
    hessian = opt.hessian if inner is deviance else inner.newton_matrix(at)
    for name, part in zip(names, covariance.slices, strict=True):
        theta = at[part]
        size = np.abs(theta / inner.units[part]).max(initial=0.0)
        if not 0.0 < size < SMALL or theta @ hessian[part, part] @ theta / 8.0 > 10.0 * HARDLY:
            continue
        here, at_zero = deviance.value(opt.theta), opt.theta.copy()
        at_zero[part] = 0.0
        if Recorder(deviance, None).value(at_zero) - here < HARDLY:
            out.append(name)
    return out


def without_fixed(fit: PLSFit, held: BoolArray) -> PLSFit:
    """The fit with no uncertainty about the fixed effects that were held fixed."""
    free = np.flatnonzero(~held)
    information = np.linalg.inv(fit.vcov_unscaled)[np.ix_(free, free)]
    vcov = np.zeros_like(fit.vcov_unscaled)
    vcov[np.ix_(free, free)] = np.linalg.inv(information)
    return replace(fit, vcov_unscaled=vcov, root=None)
