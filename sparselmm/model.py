"""The public model: three spellings in, one fit out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from sparselmm._typing import FloatArray
from sparselmm.compat import StatsmodelsInterface
from sparselmm.covariance import Covariance
from sparselmm.crossprod import CrossProducts
from sparselmm.dense import DenseDeviance
from sparselmm.deviance import ProfiledDeviance
from sparselmm.exceptions import (
    ConvergenceWarning,
    DataError,
    RankDeficiencyWarning,
    SingularMatrixWarning,
    catchable,
)
from sparselmm.fitting import (
    HARDLY,
    checked_keywords,
    constrained,
    method_names,
    nearly_zero,
    not_optimized,
    penalties_of,
    search,
    start_parameters,
    without_fixed,
)
from sparselmm.formula import BuiltDesign, capture_env, from_arrays, from_formula
from sparselmm.formula.validate import warn_user
from sparselmm.moments import moment_start
from sparselmm.optimize import OptSummary
from sparselmm.packing import MixedLMParams
from sparselmm.penalized import Mask, PenalizedDeviance
from sparselmm.plan import Candidate, FitPlan, make_plan
from sparselmm.progress import Progress
from sparselmm.regularized import RegularizedFits
from sparselmm.results import MixedLMResults
from sparselmm.solvers import BlockSolver
from sparselmm.threads import one_thread
from sparselmm.variances import singular_terms

DENSE_LIMIT = 5000
"""Rows up to which the dense engine, whose memory grows as n^2, is allowed."""


class MixedLM(RegularizedFits, StatsmodelsInterface):
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
        self.reml, self.fe_pen, self.cov_pen, self.re_pen = True, None, None, None
        self._freepat: MixedLMParams | None = None
        self._engines: dict[bool, ProfiledDeviance] = {}
        self._init_kwds: dict[str, Any] = {}

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

    def _sparse(
        self, chosen: Candidate, reml: bool, covariance: Covariance | None = None
    ) -> ProfiledDeviance:
        solver = BlockSolver(self.cross, chosen.strategy, chosen.factor)
        return ProfiledDeviance(self.cross, covariance or self.covariance, solver, reml=reml)

    # ------------------------------------------------------------------------------- fit

    def fit(
        self,
        start_params: Any = None,
        reml: bool = True,
        niter_sa: int = 0,
        do_cg: bool = True,
        fe_pen: Any = None,
        cov_pen: Any = None,
        free: MixedLMParams | None = None,
        full_output: bool = False,
        method: str | Sequence[str] | None = None,
        *,
        start_theta: FloatArray | None = None,
        engine: str = "sparse",
        maxiter: int | None = None,
        progress: bool | None = None,
        memory_limit: int | None = None,
        **fit_kwargs: Any,
    ) -> MixedLMResults:
        """Estimate the model by REML or maximum likelihood.

        Parameters
        ----------
        start_params : MixedLMParams or array-like, optional
            Start values, variances divided by the residual variance; an array is packed as
            ``use_sqrt`` says, with or without the fixed effects. Default one-pass moment
            estimates, or the identity when ``free`` is given.
        reml : bool
            REML instead of maximum likelihood.
        niter_sa : int
            Not used; statsmodels has it.
        do_cg : bool
            False: no optimization, the model at its start values.
        fe_pen : object, optional
            Penalty on the fixed effects with ``func(beta)`` and ``deriv(beta)``, subtracted
            from the log-likelihood.
        cov_pen : object, optional
            Penalty on ``cov_re / scale`` with ``func(matrix, inverse)`` and ``deriv``, packed.
        free : MixedLMParams, optional
            Mask: 1 for a parameter to estimate, 0 for one held at its start value. With the
            identity as ``cov_re`` the random coefficients are independent.
        full_output : bool
            Keep the optimizer's record as ``results.hist``.
        method : str or list of str, optional
            Default a trust-region Newton method; or SciPy methods by name, in statsmodels'
            spelling or SciPy's, tried in turn until one converges.
        start_theta : ndarray, (n_theta,), optional
            Start values of theta, instead of ``start_params``.
        engine : {"sparse", "dense"}
            "dense" fits with textbook formulas on the rows, to check the sparse engine.
        maxiter : int, optional
            Iterations after which the optimizer gives up.
        progress : bool, optional
            Show every evaluation on stderr. Default: only on a terminal or in a notebook,
            and only when the fit takes more than a few seconds.
        memory_limit : int, optional
            Bytes the factorization may use; default what the machine has available.
        **fit_kwargs
            ``gtol, ftol, tol, eps, maxcor, maxls`` are passed on to a SciPy method that knows
            them, ``disp=True`` means ``progress=True``.

        Returns
        -------
        MixedLMResults

        Raises
        ------
        MemoryLimitError
            If no factorization of the model fits in ``memory_limit``.
        ValueError
            If start values have the wrong length or a method is unknown.

        Warns
        -----
        ConvergenceWarning
            If the optimizer stopped before its convergence criteria were met.
        SingularMatrixWarning
            If a variance is estimated as zero or a correlation as one in size.
        FutureWarning
            If a keyword has no meaning here.
        """
        keywords = checked_keywords(fit_kwargs, niter_sa)
        methods = method_names(method)
        progress = True if progress is None and keywords.get("disp") else progress
        self.reml, self.fe_pen, self.cov_pen, self._freepat = reml, fe_pen, cov_pen, free
        start = start_parameters(self._packing, start_params, self.use_sqrt)
        mask = None if free is None else Mask.of(self._packing, free, start)
        with one_thread():
            chosen = self.plan(memory_limit).chosen
            theta = self._start(start, start_params, start_theta, mask, do_cg)
        monitor = Progress(progress)
        with chosen.threads():
            sparse = self._sparse(chosen, reml, None if mask is None else mask.covariance)
            if sparse.covariance is self.covariance:
                self._engines = {reml: sparse}
            pen = penalties_of(self._packing, sparse, mask, start, fe_pen, cov_pen)
            objective: Any = sparse if pen is None else PenalizedDeviance(sparse, pen)
            if engine != "sparse":
                objective = self.deviance(reml, engine)
            try:
                if not do_cg or not len(theta):
                    reason = "nothing to optimize" if do_cg else "not optimized: do_cg=False"
                    opt = not_optimized(objective, theta, reason, fine=do_cg)
                elif mask is not None and mask.constrained:
                    opt = constrained(objective, self._packing, mask, maxiter)
                else:
                    if mask is not None and not mask.newton:
                        methods = [name or "bfgs" for name in methods]
                    opt = search(objective, theta, methods, keywords, maxiter, monitor)
            except KeyboardInterrupt:
                monitor.interrupted()
                raise
            finally:
                monitor.close()
            fit = objective.at(opt.theta)
            if do_cg:
                self._warn(opt, sparse)
        if pen is not None and pen.held.any():
            fit = without_fixed(fit, pen.held)
        fixed = 0 if pen is None else int(pen.held.sum())
        if mask is not None and mask.constrained:
            fixed += int((~mask.packed).sum())
        return MixedLMResults(
            self, self.built, sparse, fit, opt, use_sqrt=self.use_sqrt, n_fixed=fixed,
            freepat=free, cov_pen=cov_pen, full_output=full_output,
        )  # fmt: skip

    def _start(
        self, start: MixedLMParams, given: Any, theta: FloatArray | None, mask: Mask | None,
        optimize: bool,
    ) -> FloatArray:  # fmt: skip
        """Start values of the free entries of theta."""
        if mask is not None:
            return mask.theta
        if theta is not None:
            return np.asarray(theta, dtype=float)
        if given is None and optimize:
            return moment_start(self.cross, self.covariance)
        return self._packing.theta(start)

    def _warn(self, opt: OptSummary, deviance: ProfiledDeviance) -> None:
        if not opt.converged:
            warn_user(
                f"the optimizer did not converge: {opt.message}", catchable(ConvergenceWarning)
            )
        flags = singular_terms(self.cross, deviance.covariance, opt.theta)
        singular = [term.name for term, flag in zip(self.terms, flags, strict=True) if flag]
        near = nearly_zero(deviance, opt, [term.name for term in self.terms])
        if near and not singular:
            warn_user(
                f"The random effects covariance matrix is nearly singular: the variance of "
                f"{', '.join(near)} can hardly be told from zero (the deviance would rise by less "
                f"than {HARDLY}).",
                catchable(SingularMatrixWarning),
            )
        if singular:
            warn_user(
                "The random effects covariance matrix is singular: a variance of "
                f"{', '.join(singular)} is estimated as zero or a correlation as +-1. The "
                "estimate is valid; the data do not support all of its parameters.",
                catchable(SingularMatrixWarning),
            )

    def _engine(self, reml: bool) -> ProfiledDeviance:
        if reml not in self._engines:
            self._engines = {**self._engines, reml: self._sparse(self.plan().chosen, reml)}
        return self._engines[reml]

    def _get_init_kwds(self) -> dict[str, Any]:
        return dict(self._init_kwds)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the factorizations, which are made again when needed."""
        return {**self.__dict__, "_engines": {}}


mixedlm = MixedLM.from_formula
