"""The public model: three spellings in, one fit out."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from sparselmm._typing import CSR, AnyArray, FloatArray
from sparselmm.covariance import Covariance
from sparselmm.crossprod import CrossProducts
from sparselmm.dense import DenseDeviance
from sparselmm.deviance import ProfiledDeviance
from sparselmm.exceptions import (
    ConvergenceWarning,
    DataError,
    RankDeficiencyWarning,
    SingularMatrixWarning,
)
from sparselmm.formula import BuiltDesign, capture_env, from_arrays, from_formula
from sparselmm.moments import moment_start
from sparselmm.optimize import Evaluation, OptSummary, minimize
from sparselmm.plan import Candidate, FitPlan, make_plan
from sparselmm.results import MixedLMResults
from sparselmm.solvers import BlockSolver
from sparselmm.terms import Design, RandomTerm
from sparselmm.threads import one_thread
from sparselmm.variances import singular_terms

SCIPY_OPTIONS = ("gtol", "maxiter", "eps", "maxcor", "ftol", "tol", "disp", "maxls")
"""Keywords statsmodels passes on to its optimizers."""

DENSE_LIMIT = 5000
"""Rows up to which the dense engine, whose memory grows as n^2, is allowed."""

PATIENCE = 3.0
"""Seconds after which a fit on a terminal or in a notebook starts to show its progress."""


class MixedLM:
    """Linear mixed model ``y = X beta + Z b + e`` with any crossed or nested random effects.

    Three ways to write the random effects end as the same sparse Z and may be mixed:
    statsmodels' arguments (``groups``, ``exog_re``, ``exog_vc``; ``re_formula``,
    ``vc_formula``), lme4's bars in the formula of :meth:`from_formula`, and user-made sparse
    blocks (``z_terms``).

    Parameters
    ----------
    endog : array-like, (n,)
        Response.
    exog : array-like, (n, p)
        Fixed-effects design; no intercept is added.
    groups : array-like, (n,), optional
        Group labels; may be left out when ``z_terms`` are given.
    exog_re : array-like, (n, k), optional
        Covariates of the random coefficients of a group. Default: a random intercept, unless
        ``exog_vc`` is given.
    exog_vc : VCSpec, optional
        Variance components: one design matrix per component and group.
    use_sqrt : bool
        Kept for statsmodels: the parametrization of packed parameters. The optimization
        itself always uses Cholesky factors.
    missing : {"none", "drop", "raise"}
        "drop" leaves rows with missing values out, otherwise they are an error.
    weights : array-like, (n,), optional
        Prior weights ``w_i >= 0``: ``Var(e_i) = sigma^2 / w_i``. Rows of weight zero are
        predicted but do not count.
    offset : array-like, (n,), optional
        Known part of the linear predictor.
    z_terms : mapping, optional
        Name to any (n, l) matrix, sparse or dense: a term with one variance.

    Raises
    ------
    DataError
        If the data cannot be fitted; the message says what to change.
    MissingDataError
        If values are missing and ``missing`` is not "drop".

    Notes
    -----
    The model is that of Laird & Ware (1982); it is fitted through the profiled deviance of
    Bates, Maechler, Bolker & Walker (2015), eqs. 34 and 41.

    Examples
    --------
    >>> import sparselmm
    >>> data = sparselmm.datasets.load("sleepstudy")
    >>> model = sparselmm.MixedLM.from_formula("Reaction ~ Days + (Days | Subject)", data)
    >>> result = model.fit()
    >>> print(f"{result.llf:.3f}")
    -871.814
    """

    def __init__(
        self,
        endog: Any,
        exog: Any,
        groups: Any = None,
        exog_re: Any = None,
        exog_vc: Any = None,
        use_sqrt: bool = True,
        missing: str = "none",
        *,
        weights: Any = None,
        offset: Any = None,
        z_terms: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        for name in kwargs:
            raise ValueError(f"argument {name} not permitted for MixedLM initialization")
        built = from_arrays(
            endog, exog, groups, exog_re=exog_re, exog_vc=exog_vc, weights=weights,
            offset=offset, z_terms=z_terms, missing=missing,
        )  # fmt: skip
        self._set_up(built, use_sqrt)

    @classmethod
    def from_formula(
        cls,
        formula: str,
        data: Any,
        re_formula: str | None = None,
        vc_formula: Mapping[str, str] | None = None,
        subset: Any = None,
        use_sparse: bool = False,
        missing: str = "none",
        *,
        groups: Any = None,
        use_sqrt: bool = True,
        weights: Any = None,
        offset: Any = None,
        z_terms: Mapping[str, Any] | None = None,
        eval_env: Any = 0,
        **kwargs: Any,
    ) -> MixedLM:
        """Build a model from a formula and a data frame.

        Parameters
        ----------
        formula : str
            ``"y ~ x"`` together with ``groups``, or with lme4's bars:
            ``"y ~ x + (1 + x | subject) + (1 | item)"``.
        data : DataFrame or mapping
            One row per observation.
        re_formula : str, optional
            Effects that vary between ``groups``. Default: an intercept, unless
            ``vc_formula`` is given.
        vc_formula : dict, optional
            Name to formula of each variance component, evaluated within each group, so
            that labels used in two groups are two levels.
        subset : array-like or str, optional
            Rows to use: a boolean mask, index labels, or a query such as ``"age > 3"``.
        use_sparse : bool
            Kept for statsmodels; the random effects are always sparse.
        missing : {"none", "drop", "raise"}
            "drop" leaves out rows with a missing value in a column in use.
        groups : str or array-like, (n,), optional
            Column name or labels of the grouping factor. Not needed with bars.
        use_sqrt : bool
            Parametrization of packed parameters, as in the constructor.
        weights, offset : str or array-like, (n,), optional
            Column name or values.
        z_terms : mapping, optional
            Name to any (n, l) matrix: a term with one variance.
        eval_env : int or patsy.EvalEnvironment
            How many frames up the variables of the formula are looked up.

        Returns
        -------
        MixedLM

        Raises
        ------
        FormulaError
            If a formula or a name in it cannot be understood.
        DataError, MissingDataError
            As in the constructor.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("Penicillin")
        >>> model = sparselmm.MixedLM.from_formula(
        ...     "diameter ~ 1 + (1 | plate) + (1 | sample)", data)
        >>> round(model.fit().sigma, 4)
        0.5499
        """
        for name in kwargs:
            raise ValueError(f"argument {name} not permitted for MixedLM initialization")
        caller = isinstance(eval_env, int) and eval_env >= 0
        env = capture_env(eval_env + 1 if caller else eval_env)
        built = from_formula(
            formula, data, groups=groups, re_formula=re_formula, vc_formula=vc_formula,
            weights=weights, offset=offset, z_terms=z_terms, subset=subset, missing=missing,
            env=env,
        )  # fmt: skip
        model = cls.__new__(cls)
        model._set_up(built, use_sqrt)
        return model

    def _set_up(self, built: BuiltDesign, use_sqrt: bool) -> None:
        self.built = built
        self.use_sqrt = use_sqrt
        self.formula = built.spec.formula
        self.covariance = Covariance.of(built.design.terms)

    # ----------------------------------------------------------------------- description

    @property
    def design(self) -> Design:
        """Response, fixed and random design of the rows in use."""
        return self.built.design

    @property
    def terms(self) -> tuple[RandomTerm, ...]:
        """Random-effects terms in the order of their columns of Z."""
        return self.design.terms

    @property
    def endog(self) -> FloatArray:
        """Response, (n,)."""
        return self.design.y

    @property
    def exog(self) -> FloatArray:
        """Fixed-effects design, (n, p)."""
        return self.design.X

    @property
    def Z(self) -> CSR:
        """Random-effects design, sparse (n, q)."""
        return self.design.Z

    @property
    def endog_names(self) -> str:
        """Name of the response."""
        return self.design.y_name

    @property
    def exog_names(self) -> list[str]:
        """Names of the columns of X."""
        return list(self.design.x_names)

    @property
    def groups(self) -> AnyArray | None:
        """Group label of every row, (n,), when the model was written with ``groups``."""
        grouping = self.design.groups
        return None if grouping is None else grouping.labels[grouping.codes]

    @property
    def nobs(self) -> int:
        """Number of rows."""
        return self.design.n

    @property
    def k_fe(self) -> int:
        """Number of fixed effects."""
        return self.design.p

    # ------------------------------------------------------------------------ likelihood

    @cached_property
    def cross(self) -> CrossProducts:
        """Cross-products of the rows; computed at first use."""
        cross = CrossProducts.from_design(self.design)
        if cross.basis.rank < cross.basis.p:
            kept = set(cross.basis.kept.tolist())
            dropped = [name for j, name in enumerate(self.exog_names) if j not in kept]
            warnings.warn(
                f"the fixed-effects design has {cross.basis.p} columns but rank "
                f"{cross.basis.rank}; dropped: {', '.join(dropped)} (coefficients are NaN)",
                RankDeficiencyWarning,
                stacklevel=3,
            )
        return cross

    def plan(self, memory_limit: int | None = None) -> FitPlan:
        """Price every factorization of this model without doing any.

        Parameters
        ----------
        memory_limit : int, optional
            Bytes the fit may use. Default: what the machine has available.

        Returns
        -------
        FitPlan
            Prints as a table; ``chosen`` is what :meth:`fit` will do.
        """
        return make_plan(self.cross, tuple(term.name for term in self.terms), memory_limit)

    def deviance(
        self, reml: bool = True, engine: str = "sparse", memory_limit: int | None = None
    ) -> ProfiledDeviance | DenseDeviance:
        """The profiled deviance as a function of theta.

        Parameters
        ----------
        reml : bool
            REML criterion instead of -2 log-likelihood.
        engine : {"sparse", "dense"}
            "dense" evaluates textbook formulas with the n x n covariance matrix: slow, and
            independent of everything the sparse engine does.
        memory_limit : int, optional
            Bytes the factorization may use.

        Returns
        -------
        ProfiledDeviance or DenseDeviance
            Both have ``value(theta)``, ``gradient(theta)`` and ``at(theta)``.
        """
        if engine == "dense":
            if self.nobs > DENSE_LIMIT:
                raise DataError(
                    f"engine='dense' needs {self.nobs}^2 numbers for {self.nobs} rows; it is meant "
                    f"for checks on at most {DENSE_LIMIT}. Use engine='sparse'."
                )
            return DenseDeviance(self.design, self.covariance, reml=reml)
        if engine != "sparse":
            raise ValueError(f"engine must be 'sparse' or 'dense', not {engine!r}")
        return self._sparse(self.plan(memory_limit).chosen, reml)

    def _sparse(self, chosen: Candidate, reml: bool) -> ProfiledDeviance:
        solver = BlockSolver(self.cross, chosen.strategy, chosen.factor)
        return ProfiledDeviance(self.cross, self.covariance, solver, reml=reml)

    # ------------------------------------------------------------------------------- fit

    def fit(
        self,
        start_theta: FloatArray | None = None,
        reml: bool = True,
        *,
        method: str | None = None,
        engine: str = "sparse",
        maxiter: int | None = None,
        progress: bool | None = None,
        memory_limit: int | None = None,
    ) -> MixedLMResults:
        """Estimate the model by REML or maximum likelihood.

        Parameters
        ----------
        start_theta : ndarray, (n_theta,), optional
            Start values; default one-pass moment estimates.
        reml : bool
            REML instead of maximum likelihood.
        method : str, optional
            Default a trust-region Newton method; or a SciPy method by name.
        engine : {"sparse", "dense"}
            "dense" fits with textbook formulas on the rows, to check the sparse engine.
        maxiter : int, optional
            Iterations after which the optimizer gives up.
        progress : bool, optional
            Show every evaluation on stderr. Default: only on a terminal or in a notebook,
            and only when the fit takes more than a few seconds.
        memory_limit : int, optional
            Bytes the factorization may use; default what the machine has available.

        Returns
        -------
        MixedLMResults

        Raises
        ------
        MemoryLimitError
            If no factorization of the model fits in ``memory_limit``.

        Warns
        -----
        ConvergenceWarning
            If the optimizer stopped before its convergence criteria were met.
        SingularMatrixWarning
            If a variance is estimated as zero or a correlation as one in size.
        """
        with one_thread():
            chosen = self.plan(memory_limit).chosen
            start = (
                moment_start(self.cross, self.covariance) if start_theta is None else start_theta
            )
        monitor = _Progress(progress)
        with chosen.threads():
            sparse = self._sparse(chosen, reml)
            objective = sparse if engine == "sparse" else self.deviance(reml, engine)
            try:
                opt = minimize(
                    objective,
                    np.asarray(start, dtype=float),
                    method=method,
                    max_iterations=maxiter,
                    callback=monitor,
                )
            except KeyboardInterrupt:
                monitor.interrupted()
                raise
            finally:
                monitor.close()
            fit = objective.at(opt.theta)
        self._warn(opt)
        return MixedLMResults(self, self.built, sparse, fit, opt)

    def _warn(self, opt: OptSummary) -> None:
        if not opt.converged:
            warnings.warn(
                f"the optimizer did not converge: {opt.message}", ConvergenceWarning, stacklevel=3
            )
        flags = singular_terms(self.cross, self.covariance, opt.theta)
        singular = [term.name for term, flag in zip(self.terms, flags, strict=True) if flag]
        if singular:
            warnings.warn(
                "The random effects covariance matrix is singular: a variance of "
                f"{', '.join(singular)} is estimated as zero or a correlation as +-1. The "
                "estimate is valid; the data do not support all of its parameters.",
                SingularMatrixWarning,
                stacklevel=3,
            )


mixedlm = MixedLM.from_formula


class _Progress:
    """One line on stderr per evaluation, when wanted or when a fit takes long."""

    def __init__(self, wanted: bool | None):
        interactive = sys.stderr.isatty() or "ipykernel" in sys.modules
        self._after = 0.0 if wanted else PATIENCE if wanted is None and interactive else np.inf
        self._start = time.perf_counter()
        self._count = 0
        self._open = False
        self._last: Evaluation | None = None

    def __call__(self, evaluation: Evaluation) -> None:
        self._count += 1
        self._last = evaluation
        if time.perf_counter() - self._start >= self._after:
            line = f"evaluation {self._count}: deviance {evaluation.deviance:.6f}"
            if np.isfinite(evaluation.gradient_norm):
                line += f", gradient {evaluation.gradient_norm:.2e}"
            sys.stderr.write(f"\r{line:<70s}")
            sys.stderr.flush()
            self._open = True

    def interrupted(self) -> None:
        """Say where the optimization stood."""
        if self._last is not None:
            self.close()
            theta = np.array2string(self._last.theta, separator=", ", precision=6)
            sys.stderr.write(
                f"interrupted after {self._count} evaluations at deviance "
                f"{self._last.deviance:.6f}; continue with fit(start_theta={theta})\n"
            )

    def close(self) -> None:
        """End the line."""
        if self._open:
            sys.stderr.write("\n")
            self._open = False
