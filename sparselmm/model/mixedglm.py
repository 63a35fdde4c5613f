"""Generalized linear mixed models: the spellings of the linear model, with a family."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from inspect import signature
from typing import Any

import numpy as np

from sparselmm.base.arguments import (
    check_count,
    check_keywords,
    check_memory,
    check_number,
    check_numbers,
    check_starts,
)
from sparselmm.base.exceptions import (
    BoundaryWarning,
    ConvergenceWarning,
    DataError,
    RankDeficiencyWarning,
    warn_user,
)
from sparselmm.base.other_names import MODEL, NamesOthers
from sparselmm.base.threads import one_thread
from sparselmm.base.types import AnyArray, BoolArray, FloatArray, IntArray
from sparselmm.design import BuiltDesign, capture_env, from_arrays, from_formula
from sparselmm.design.formula.bars import check_order
from sparselmm.design.responses import read_response
from sparselmm.design.spec import as_frame
from sparselmm.design.validate import check_levels
from sparselmm.likelihood.covariance import boundary_message, singular_words
from sparselmm.likelihood.laplace.chosen import TRIALS, base_of, check_family_response
from sparselmm.likelihood.laplace.data import GeneralData
from sparselmm.likelihood.laplace.deviance import LaplaceDeviance
from sparselmm.likelihood.laplace.fit import deviance_of, minimize_generally
from sparselmm.likelihood.laplace.quadrature import check_nodes
from sparselmm.likelihood.laplace.search import MAX_ITERATIONS, TOLERANCE
from sparselmm.model.generalized_arguments import (
    array_response,
    asked,
    check_categories,
    chosen_family,
    coefficient_names,
    further_predictors,
    given_designs,
    kept_trials,
    one_formula,
    start_parameters,
    successes,
    thresholds,
    without_constant,
)
from sparselmm.results.general.core import MixedGLMResults
from sparselmm.results.print import short

FURTHER = ("dispersion", "zi", "hurdle")
"""Arguments that give a further predictor a formula or a design."""


class MixedGLM(NamesOthers):
    """Generalized linear mixed model ``g(E y) = X beta + Z b`` for a family of responses.

    The likelihood is the integral over the random effects by Laplace's approximation, with the
    observed information, or by adaptive Gauss-Hermite quadrature.

    Parameters
    ----------
    endog : array-like, (n,) or (n, 2)
        Response; two columns are successes and failures.
    exog : array-like, (n, p)
        Fixed-effects design; no intercept is added.
    groups : array-like, (n,), optional
        Group labels; may be left out when ``z_terms`` are given.
    exog_re, exog_vc : optional
        As in :class:`sparselmm.MixedLM`.
    missing : {"none", "drop", "raise"}
        "drop" leaves rows with missing values out, otherwise they are an error.
    family : str or object
        ``"binomial"``, ``"betabinomial"``, ``"beta"``, ``"poisson"``, ``"nbinom1"``,
        ``"nbinom2"``, ``"gamma"``, ``"inverse_gaussian"``, ``"gaussian"`` or ``"ordinal"``; a
        family of statsmodels; a :class:`CustomFamily`.
    link : str, optional
        Default: the family's own.
    trials : array-like, (n,), optional
        Numbers of trials of a binomial response of counts.
    dispersion, zi, hurdle : array-like, (n, c), optional
        Designs of the dispersion (log scale) and of excess zeros (logit scale); True for an
        intercept alone.
    nagq : int
        Nodes of the quadrature; 1 is Laplace's approximation. More need a single scalar random
        effect.
    weights : array-like, (n,), optional
        Trials of a binomial response given as proportions; prior weights, one over variances up to
        a factor, of a Gaussian one; of other families how often a row counts.
    offset : array-like, (n,), optional
        Known part of the predictor.
    z_terms, covariance : mapping, optional
        As in :class:`sparselmm.MixedLM`.

    Raises
    ------
    DataError
        If the data cannot be fitted; the message says what to change.
    MissingDataError
        If values are missing and ``missing`` is not "drop".

    Notes
    -----
    Laplace's approximation is that of Tierney & Kadane (1986), *JASA* 81, 82-86; with observed
    information it is glmmTMB's, and lme4's for canonical links.

    Examples
    --------
    >>> import sparselmm
    >>> data = sparselmm.datasets.load("cbpp")
    >>> model = sparselmm.mixedglm(
    ...     "cbind(incidence, size - incidence) ~ period + (1 | herd)", data, family="binomial")
    >>> print(f"{model.fit().llf:.4f}")
    -92.0263
    """

    def __init__(
        self,
        endog: Any,
        exog: Any,
        groups: Any = None,
        exog_re: Any = None,
        exog_vc: Any = None,
        missing: str = "none",
        *,
        family: Any = "binomial",
        link: Any = None,
        trials: Any = None,
        dispersion: Any = None,
        zi: Any = None,
        hurdle: Any = None,
        nagq: int = 1,
        weights: Any = None,
        offset: Any = None,
        z_terms: Mapping[str, Any] | None = None,
        covariance: Mapping[str, Any] | None = None,
    ):
        chosen = chosen_family(family, link, dispersion, zi, hurdle)
        y, m, categories, name = array_response(endog, base_of(chosen).name, trials)
        designs = given_designs(len(y), dispersion=dispersion, zi=zi, hurdle=hurdle)
        built = from_arrays(
            y, exog, groups, exog_re=exog_re, exog_vc=exog_vc, weights=weights, offset=offset,
            z_terms=z_terms, covariance=covariance, missing=missing, further=designs,
            generalized=True,
        )  # fmt: skip
        if name is not None:
            built = replace(built, layout=replace(built.layout, y_name=name))
        self._set_up(built.owned(), chosen, kept_trials(m, built), categories, nagq)

    @classmethod
    def from_formula(
        cls,
        formula: str,
        data: Any,
        re_formula: str | None = None,
        vc_formula: Mapping[str, str] | None = None,
        subset: Any = None,
        missing: str = "none",
        *,
        family: Any = "binomial",
        link: Any = None,
        trials: Any = None,
        dispersion: str | None = None,
        zi: str | None = None,
        hurdle: str | None = None,
        nagq: int = 1,
        groups: Any = None,
        weights: Any = None,
        offset: Any = None,
        z_terms: Mapping[str, Any] | None = None,
        covariance: Mapping[str, Any] | None = None,
        contrasts: Mapping[str, Any] | None = None,
        eval_env: Any = 0,
        **others: Any,
    ) -> MixedGLM:
        """Build a model from a formula and a data frame.

        Parameters
        ----------
        formula : str
            With lme4's bars, ``"y ~ x + (1 | g)"``, or together with ``groups``. A binomial
            response is 0 and 1, two labels (failure first), ``cbind(success, failure)``, or a
            proportion with ``weights`` the trials.
        data : DataFrame, mapping, or another container of rows
            One row per observation; containers as of :meth:`MixedLM.from_formula`. The rows of the
            columns in use are always kept.
        re_formula, vc_formula, subset, missing
            As in :meth:`MixedLM.from_formula`.
        family, link, nagq
            As in the constructor.
        trials : str or array-like, optional
            Numbers of trials of a binomial response of counts.
        dispersion, zi, hurdle : str, optional
            Formulas such as ``"~ x"`` of the dispersion (log scale) and of excess zeros (logit).
        groups, weights, offset, z_terms, covariance, contrasts, eval_env
            As in :meth:`MixedLM.from_formula`; see the constructor for what weights mean.

        Returns
        -------
        MixedGLM

        Raises
        ------
        FormulaError
            If a formula or a name in it cannot be understood.
        DataError, MissingDataError
            As in the constructor.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("VerbAgg")
        >>> model = sparselmm.mixedglm(
        ...     "r2 ~ Anger + Gender + (1 | id) + (1 | item)", data, family="binomial")
        >>> print(f"{model.fit().fe_params['Anger']:.3f}")
        0.057
        """
        if others:
            check_keywords(others, tuple(signature(cls.from_formula).parameters)[:-1], "mixedglm")
        check_order(formula, data)
        env = capture_env(eval_env, above=1)
        chosen = chosen_family(family, link, dispersion, zi, hurdle)
        data = as_frame(data, [
            formula, groups, re_formula, vc_formula, weights, offset, subset, trials, dispersion,
            zi, hurdle,
        ])  # fmt: skip
        response = read_response(formula, data, base_of(chosen).name, trials, env)
        formulas = {"dispersion": dispersion, "zi": zi, "hurdle": hurdle}
        built = from_formula(
            response.formula, response.frame, groups=groups, re_formula=re_formula,
            vc_formula=vc_formula, weights=weights, offset=offset, z_terms=z_terms,
            covariance=covariance, subset=subset, missing=missing, env=env, generalized=True,
            contrasts=contrasts,
            further={k: one_formula(k, text) for k, text in formulas.items() if asked(text)},
        )  # fmt: skip
        built = replace(
            built, layout=replace(built.layout, y_name=response.name),
            spec=replace(built.spec, formula=formula),
        )  # fmt: skip
        model = cls.__new__(cls)
        trials = kept_trials(response.trials, built)
        model._set_up(built.owned(), chosen, trials, response.categories, nagq)
        return model

    def _set_up(
        self, built: BuiltDesign, family: Any, trials: FloatArray | None,
        categories: AnyArray | None, nagq: int,
    ) -> None:  # fmt: skip
        check_nodes(nagq)
        self.built, self.family, self.nagq = built, family, nagq
        self.categories = categories
        design = built.design
        kind = base_of(family).name
        y, weights, m = design.y, design.weights, trials
        if kind in TRIALS and m is None and weights is not None:
            m, weights = weights, None
            y = successes(y, m)
        elif kind == "gaussian":
            m, weights = weights, None
        self.trials = np.ones(1) if m is None else np.asarray(m, dtype=float)
        self.weights = weights
        self._y = np.asarray(y, dtype=float)
        live, every = self._live, np.broadcast_to(self.trials, self._y.shape)
        check_family_response(family, self._y, every, design.y_name, live)
        if categories is not None and kind == "ordinal":
            check_categories(self._y[live], categories, design.y_name)
        self._check_identified(kind)
        self.x_columns: IntArray = without_constant(design.X, design.x_names, kind)
        self.further = further_predictors(family, built, self._y, categories)

    def _check_identified(self, kind: str) -> None:
        """A Gaussian response needs levels that repeat."""
        if kind == "gaussian" and self.built.design.weights is None:
            for term in self.built.layout.terms:
                if term.origin in ("re", "bar"):
                    check_levels(term, self.built.design.n)

    # ------------------------------------------------------------------------------ data

    @property
    def endog(self) -> FloatArray:
        """Response as it is modelled, (n,): successes, counts, categories from 0, numbers."""
        return self._y

    @property
    def exog_names(self) -> tuple[str, ...]:
        """Names of the columns of X."""
        names = self.built.layout.x_names
        return tuple(names[j] for j in self.x_columns)

    @property
    def _live(self) -> BoolArray:
        """Which rows count, (n,): those whose weight is not zero."""
        weights = self.built.design.weights
        return np.ones(len(self._y), dtype=bool) if weights is None else weights > 0

    @property
    def nobs(self) -> int:
        """Rows that count."""
        return int(self._live.sum())

    @cached_property
    def data(self) -> GeneralData:
        """The rows as the engine reads them."""
        design = self.built.design
        X = design.X
        kept = self.x_columns
        if len(kept) < X.shape[1]:
            together = len(kept) > 0 and kept[-1] - kept[0] == len(kept) - 1
            X = X[:, kept[0] : kept[-1] + 1] if together else X[:, kept]  # a view where it can be
        y = self._y
        if self.weights is not None and not self.weights.all():  # such rows may be impossible
            y = np.where(self.weights > 0, y, y[np.argmax(self.weights > 0)])
        return GeneralData(
            y, self.trials, X, design.terms, self.family, self.further, self.weights,
            design.offset,
        )  # fmt: skip

    def deviance(self, nagq: int | None = None, memory_limit: int | None = None) -> LaplaceDeviance:
        """Minus twice the log-likelihood as a function of all parameters.

        Parameters
        ----------
        nagq : int, optional
            Nodes of the quadrature; default the model's.
        memory_limit : int, optional
            Bytes the factorization may use.

        Returns
        -------
        LaplaceDeviance
            With ``value(x)`` and ``gradient(x)``; x holds theta, the fixed effects in a basis of
            the engine's, and the coefficients of the further predictors.
        """
        engine: LaplaceDeviance = deviance_of(
            self.data, self.nagq if nagq is None else nagq, check_memory(memory_limit)
        )
        basis = engine.fixed.basis
        if basis.rank < basis.p:
            kept = set(basis.kept.tolist())
            dropped = [name for j, name in enumerate(self.exog_names) if j not in kept]
            warn_user(
                f"the fixed-effects design has {basis.p} columns but rank {basis.rank}; dropped: "
                f"{', '.join(dropped)} (coefficients are NaN)",
                RankDeficiencyWarning,
            )
        return engine

    def _coefficient_names(self) -> tuple[list[str], list[str]]:
        """Names of `MixedGLMResults.params` and the predictor each belongs to."""
        return coefficient_names(self.exog_names, self.further)

    # ------------------------------------------------------------------------------- fit

    def fit(
        self, *, nagq: int | None = None, start: FloatArray | None = None,
        starts: int | None = None, maxiter: int | None = None, tol: float = TOLERANCE,
        memory_limit: int | None = None,
    ) -> MixedGLMResults:  # fmt: skip
        """Estimate the model by maximum likelihood.

        Parameters
        ----------
        nagq : int, optional
            Nodes of the quadrature; default the model's.
        start : array-like, Series or mapping, optional
            Parameters of the engine to start from, ``results.opt.x`` of another fit; or, by their
            names, the coefficients of ``results.params``, in any order.
        starts : int, optional
            Number of searches; default as many as needed.
        maxiter : int, optional
        tol : float
            Stop when another step promises less decrease of the deviance.
        memory_limit : int, optional
            Bytes the factorization may use.

        Returns
        -------
        MixedGLMResults

        Raises
        ------
        DataError
            When there is no finite likelihood where the search starts.

        Warns
        -----
        ConvergenceWarning
            When the search did not converge, and when the fixed effects separate the responses.
        BoundaryWarning
            When a variance is estimated as zero.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("cbpp")
        >>> model = sparselmm.mixedglm(
        ...     "cbind(incidence, size - incidence) ~ period + (1 | herd)", data, nagq=9)
        >>> model.fit().varcorr.sdcor.round(4).tolist()
        [0.6475]
        """
        starts = check_starts(starts)
        if maxiter is not None:
            check_count(maxiter, "maxiter")
        check_number(tol, "tol", "a number from 0 to 0.01", low=0.0, high=0.01)
        with one_thread(), np.errstate(over="ignore", invalid="ignore"):
            engine = self.deviance(nagq, memory_limit)
            x = start_parameters(start, engine, self._coefficient_names()[0])
            opt = minimize_generally(
                engine, self.exog_names, x=x, starts=starts, tolerance=tol,
                max_iterations=MAX_ITERATIONS if maxiter is None else maxiter,
            )  # fmt: skip
        if not np.isfinite(opt.deviance):
            raise DataError(
                f"the log-likelihood of family {self.family.name!r} with link "
                f"{self.family.link!r} is not finite where the search starts or ended; check the "
                "response and the offset, scale the covariates, or use another link"
            )
        results = MixedGLMResults(self, engine, opt)
        self._warn(results)
        return results

    def _warn(self, results: MixedGLMResults) -> None:
        opt = results.opt
        if not opt.converged:
            warn_user(f"MixedGLM: {opt.message}", ConvergenceWarning)
        elif results.singular:
            words = singular_words(
                results.deviance, results.deviance.covariance, results.numbers.parts[0],
                self.built.layout.terms,
            )  # fmt: skip
            warn_user(
                "The MLE may be on the boundary of the parameter space. " + boundary_message(words),
                BoundaryWarning,
            )

    def refitted(self, y: FloatArray, start: FloatArray | None = None) -> MixedGLMResults:
        """A fit of the same model to another response, as `endog` holds it, (n,).

        Parameters
        ----------
        y : ndarray, (n,)
        start : ndarray, optional
            Parameters to start from.

        Returns
        -------
        MixedGLMResults
        """
        live, every = self._live, np.broadcast_to(self.trials, self._y.shape)
        y = np.where(live, check_numbers(y, "y", self._y.shape, finite=False), self._y)
        check_family_response(base_of(self.family), check_numbers(y, "y"), every, "y", live)
        if self.categories is not None and base_of(self.family).name == "ordinal":
            check_categories(y[live], self.categories, "y")
        other = self._copy(y)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return other.fit(start=start, starts=1)

    def _copy(self, y: FloatArray) -> MixedGLM:
        """The same model of another response."""
        new = type(self).__new__(type(self))
        new.__dict__.update({k: v for k, v in self.__dict__.items() if k != "data"})
        new._y = np.asarray(y, dtype=float)
        if base_of(self.family).name == "ordinal":
            new.further = thresholds(new._y, self.categories)
        return new

    _other_names, _after = MODEL, MixedGLMResults

    def __repr__(self) -> str:
        return "\n".join(short.what(self.built, self._kind))

    def _repr_html_(self) -> str:
        return short.html_lines(short.what(self.built, self._kind))

    @property
    def _kind(self) -> str:
        return f"MixedGLM, {self.family.name}, link {self.family.link}"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "data"}


mixedglm = MixedGLM.from_formula
