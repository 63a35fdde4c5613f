"""Fits with a residual covariance structure, and the mixed model for repeated measures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from sparselmm.base.arguments import check_starts
from sparselmm.base.exceptions import (
    ArgumentError,
    BoundaryWarning,
    ConvergenceWarning,
    DataError,
    SpecificationWarning,
    catchable,
    warn_user,
)
from sparselmm.base.threads import one_thread
from sparselmm.base.types import FloatArray
from sparselmm.inference.residual import JointFit
from sparselmm.likelihood.covariance import boundary_message, singular_words
from sparselmm.likelihood.multistart import Optima, random_starts
from sparselmm.likelihood.optimize import TOLERANCE, OptSummary, Search
from sparselmm.likelihood.residual.deviance import ResidualDeviance
from sparselmm.likelihood.residual.identifiability import confounded_terms
from sparselmm.likelihood.residual.limits import at_a_limit
from sparselmm.results.residual import ResidualResults, results_of

DRAWN = 3
"""Random starts of the default policy, after those that have a reason."""

LONG = 16
"""Evaluations after which a search leaves doubt."""

REFUSED = (
    "start_params", "fe_pen", "cov_pen", "free", "start_theta", "fix", "finish", "scratch",
)  # fmt: skip
"""Arguments of ``fit`` that go with independent residuals alone."""


def fit_residual(
    model: Any, given: Mapping[str, Any], methods: Sequence[str | None],
    keywords: Mapping[str, Any], reml: bool, maxiter: int | None, monitor: Any, full_output: bool,
) -> ResidualResults:  # fmt: skip
    """Estimate theta and phi together.

    Parameters
    ----------
    model : MixedLM
    given : mapping
        Arguments of ``fit``.
    methods, keywords, reml, maxiter, monitor, full_output
        The same, checked.
    """
    _refuse(given)
    starts = check_starts(given["starts"])
    design = model.design
    with one_thread():
        cross = model.cross  # warns of dependent columns
        deviance = ResidualDeviance(design, reml=reml)
        found = confounded_terms(design)
        if found:
            raise DataError(found)
        x = deviance.start(cross)
        try:
            opt = _search(deviance, x, methods, keywords, maxiter, monitor, given["do_cg"], starts)
        except KeyboardInterrupt:
            monitor.interrupted()
            raise
        finally:
            monitor.close()
        joint = JointFit.of(deviance, opt)
    _warn(model, joint)
    results = results_of(ResidualResults, model, model.built, joint, full_output=full_output)
    model.reml = reml
    return results


def _search(
    deviance: ResidualDeviance, x: Any, methods: Sequence[str | None],
    keywords: Mapping[str, Any], maxiter: int | None, monitor: Any, optimize: bool,
    starts: int | None,
) -> OptSummary:  # fmt: skip
    """The first method that converges, from several starts where one leaves doubt."""
    free = optimize and maxiter is None
    if not optimize:
        maxiter, methods = 0, [None]
    tolerance, opt = keywords.get("tol", TOLERANCE), None
    for method in methods:
        search = Search.of(deviance, method, maxiter, tolerance, monitor, {})
        optima = Optima(search, search.run(x))
        others: Iterator[FloatArray] = iter(())
        if starts is not None:
            others = islice(_elsewhere(deviance, optima.best.theta), starts - 1)
        elif free and method is None and _doubtful(deviance, search, optima):
            others = _elsewhere(deviance, optima.best.theta, DRAWN)
        for start in others:
            optima.search_from(start, in_full=True)
        opt = optima.summary()
        if opt.converged:
            break
        x = opt.theta
    assert opt is not None
    return opt


def _doubtful(deviance: ResidualDeviance, search: Search, optima: Optima) -> bool:
    """Whether a search may have missed a lower minimum."""
    _, phi = deviance.split(optima.best.theta)
    rows = deviance.design.residual
    nugget = rows is not None and rows.nugget
    long = len(search.recorder.history) > LONG
    return nugget or not optima.best.finished or long or bool(at_a_limit(deviance.structure, phi))


def _elsewhere(
    deviance: ResidualDeviance, end: FloatArray, drawn: int | None = None
) -> Iterator[FloatArray]:  # fmt: skip
    """Where further searches start: other correlations, then random covariances of both kinds."""
    yield from deviance.other_starts(end)
    m, rng = deviance.n_theta, np.random.default_rng(1)
    metric = deviance.structure.metric(deviance.phi_start)
    for theta in random_starts(deviance.theta_covariance, deviance.units[:m], drawn):
        yield np.append(theta, deviance.phi_start + metric @ rng.normal(size=metric.shape[1]))


def _refuse(given: Mapping[str, Any]) -> None:
    for name in REFUSED:
        if given[name] is not None:
            raise ArgumentError(
                f"{name} is not available for a model with residual= or dispersion="
            )
    if given["engine"] not in ("auto", "sparse"):
        raise ArgumentError(
            f"engine={given['engine']!r} is not available for a model with residual= or "
            "dispersion=; use engine='sparse'"
        )


def _warn(model: Any, joint: JointFit) -> None:
    opt = joint.opt
    if not opt.converged:
        warn_user(f"the optimizer did not converge: {opt.message}", catchable(ConvergenceWarning))
    limit = at_a_limit(joint.deviance.structure, joint.phi)
    if limit:
        warn_user(limit, catchable(SpecificationWarning))
    frozen = joint.frozen
    words = singular_words(frozen.cross, frozen.covariance, joint.theta, model.terms)
    if words:
        warn_user(
            "The MLE may be on the boundary of the parameter space. " + boundary_message(words),
            catchable(BoundaryWarning),
        )
