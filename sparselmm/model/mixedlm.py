"""The public model: three spellings in, one fit out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from sparselmm.base.arguments import (
    check_choice,
    check_flag,
    check_memory,
    check_numbers,
    unlabelled,
)
from sparselmm.base.exceptions import (
    ArgumentError,
    BoundaryWarning,
    ConvergenceWarning,
    DataError,
    IdentifiabilityWarning,
    RankDeficiencyWarning,
    catchable,
    warn_user,
)
from sparselmm.base.other_names import MODEL, NamesOthers
from sparselmm.base.progress import Progress
from sparselmm.base.threads import one_thread
from sparselmm.base.types import FloatArray
from sparselmm.design import BuiltDesign, capture_env, from_arrays, from_formula
from sparselmm.design.validate import (
    aligned,
    check_counted_levels,
    check_level_counts,
    need_white,
)
from sparselmm.factor.bases import cross_products, in_model_columns
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.krylov.price import Rival
from sparselmm.factor.krylov.solver import KrylovSolver, Settings
from sparselmm.factor.plan import Candidate, FitPlan, make_plan
from sparselmm.factor.solver import BlockSolver
from sparselmm.inference.packing import MixedLMParams
from sparselmm.likelihood.covariance import Covariance, boundary_message, singular_words
from sparselmm.likelihood.dense import DenseDeviance
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.engine import FEW_DIGITS, centred_at, profiled_deviance, solver_of
from sparselmm.likelihood.held import Held
from sparselmm.likelihood.identifiability import UNBOUNDED, unbounded, unidentified
from sparselmm.likelihood.krylov.finish import CLOSE
from sparselmm.likelihood.moments import moment_start
from sparselmm.likelihood.optimize import OptSummary
from sparselmm.likelihood.residual.deviance import ResidualDeviance
from sparselmm.likelihood.residual.price import residual_plan
from sparselmm.likelihood.special_directions import ENDLESS, rises_without_end
from sparselmm.model.cluster import runner_of
from sparselmm.model.fit import (
    ENGINES,
    HARDLY,
    Task,
    check_fit_arguments,
    checked_keywords,
    checked_starts,
    joined,
    method_names,
    nearly_zero,
    penalties_of,
    start_parameters,
    without_fixed,
)
from sparselmm.model.krylov import (
    Probing,
    fit_by_probes,
    need_memory,
    rival_of,
    unsuited,
)
from sparselmm.model.partitions import CHUNK_ROWS, Partitioned, build_partitioned, partitioned
from sparselmm.model.regularized import RegularizedFits
from sparselmm.model.residual import fit_residual
from sparselmm.model.statsmodels.cloning import model_of, with_arrays, with_data
from sparselmm.model.statsmodels.interface import StatsmodelsInterface
from sparselmm.model.statsmodels.penalized import Mask, PenalizedDeviance
from sparselmm.results import MixedLMResults
from sparselmm.results.given import Given
from sparselmm.results.krylov import KrylovResults
from sparselmm.results.print import short
from sparselmm.results.tables.many import ManyResults, fit_many

BOUNDARY = "The MLE may be on the boundary of the parameter space."
"""How statsmodels begins the warning of a zero variance; filters look for it."""

DENSE_LIMIT = 5000
"""Rows up to which the dense engine, whose memory grows as n^2, is allowed."""


class MixedLM(RegularizedFits, StatsmodelsInterface, NamesOthers):
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
    covariance : mapping, optional
        ``"Group"`` to the :class:`KnownCovariance` between the groups.
    residual : mapping, optional
        Covariance structure of the residuals within groups: ``"structure"`` (``"ar1"``, ``"car1"``,
        ``"exp"``, ``"gau"``, ``"cs"``, ``"us"``, ``"toep"``, ``"ad"``), ``"groups"`` and
        ``"times"``, (n,) or for exp and gau (n, 2); where wanted ``"by"``, (n,), ``"hom"`` and
        ``"nugget"``, as in :meth:`from_formula`.
    dispersion : array-like, (n,) or (n, a), optional
        Covariates of the log standard deviation of the residuals.

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
        covariance: Mapping[str, Any] | None = None,
        residual: Mapping[str, Any] | None = None,
        dispersion: Any = None,
        **kwargs: Any,
    ):
        other = model_of(kwargs)
        if other is not None:
            self._set_up(with_arrays(other, endog, exog).owned(), use_sqrt)
            return
        built = from_arrays(
            endog, exog, groups, exog_re=exog_re, exog_vc=exog_vc, weights=weights,
            offset=offset, z_terms=z_terms, covariance=covariance, missing=missing,
            residual=residual, dispersion=dispersion,
        )  # fmt: skip
        self._set_up(built.owned(), use_sqrt)

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
        covariance: Mapping[str, Any] | None = None,
        residual: str | None = None,
        dispersion: str | None = None,
        contrasts: Mapping[str, Any] | None = None,
        eval_env: Any = 0,
        chunk_rows: int = CHUNK_ROWS,
        keep_rows: bool | str = "auto",
        client: Any = None,
        progress: bool | None = None,
        **kwargs: Any,
    ) -> MixedLM:
        """Build a model from a formula and a data frame.

        Parameters
        ----------
        formula : str
            ``"y ~ x"`` together with ``groups``, or with lme4's bars:
            ``"y ~ x + (1 + x | subject) + (1 | item)"``.
        data : DataFrame, mapping, or another container of rows
            One row per observation: pandas, polars (lazy too), Arrow tables, batches, readers and
            datasets, whatever has ``__arrow_c_stream__``, DuckDB relations, Dask data frames; a
            path, pattern, folder or list of files (Parquet, Arrow, delimited text); a function that
            returns a fresh iterator of frames. Only columns in use are read.
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
        covariance : mapping, optional
            Name of a grouping factor to the :class:`KnownCovariance` between its levels.
        residual : str, optional
            Covariance structure of the residuals, of times, positions or visits within groups:
            ``"ar1(time | subject)"`` (whole numbers, gaps allowed), ``car1`` and ``exp`` (any
            times; ``exp(x + y | g)`` in the plane), ``gau``, ``cs``, ``us`` (any covariance of
            the visits), ``toep``, ``ad``. Options: ``hom=False`` for a standard deviation of
            each visit, ``nugget=True``, ``by=arm`` for parameters of each stratum.
        dispersion : str, optional
            Right side of a formula for the log standard deviation of the residuals: ``"~ sex"``
            for one of each group, ``"~ np.log(x)"`` for a power of x.
        contrasts : dict, optional
            Name of a factor to its coding wherever the formula has it: ``"treatment"`` (default),
            ``"sum"``, ``"helmert"``, ``"poly"``, ``"diff"``, ``"SAS"``, R's ``"contr.sum"``, a
            coding of patsy such as ``Treatment("b")``, or a matrix with a row for each level.
        eval_env : int or patsy.EvalEnvironment
            How many frames up the variables of the formula are looked up.
        chunk_rows : int
            Rows in memory at a time, when they are not kept.
        keep_rows : {"auto", True, False}
            Whether the model keeps its rows. False: they are read twice, partition by partition,
            and memory does not grow with their number; predictions and residuals are then streamed
            by ``result.augment(source)``, and what else is made of rows refuses by name. Default:
            rows are kept when they are in memory already, or no more than ``chunk_rows``.
        client : distributed.Client, optional
            Workers that read the partitions of rows that are not kept then. Default for a Dask
            data frame: the client in use.
        progress : bool, optional
            Show the passes over the rows on stderr. Default: only on a terminal or in a notebook,
            and only when they take more than a few seconds.

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
        other = model_of(kwargs)
        check_flag(use_sparse, "use_sparse")
        if other is not None:
            built = with_data(other, data)
        else:
            env = capture_env(eval_env, above=1)
            given = partitioned(formula, data, locals(), env, chunk_rows, keep_rows)
            if isinstance(given, Partitioned):
                return cls._of_partitions(given, locals(), env, use_sqrt)
            data = data if given is None else given
            built = from_formula(
                formula, data, groups=groups, re_formula=re_formula, vc_formula=vc_formula,
                weights=weights, offset=offset, z_terms=z_terms, covariance=covariance,
                subset=subset, missing=missing, env=env, residual=residual,
                dispersion=dispersion, contrasts=contrasts,
            )  # fmt: skip
        model = cls.__new__(cls)
        model._set_up(built.owned(), use_sqrt)
        return model

    @classmethod
    def _of_partitions(
        cls, given: Partitioned, arguments: Mapping[str, Any], env: Any, use_sqrt: bool
    ) -> MixedLM:
        """A model of rows that are not kept."""
        run = runner_of(arguments["client"], given.source, arguments["progress"])
        with one_thread():
            built, cross = build_partitioned(given, arguments, env, run)
        assert built.streamed is not None
        model = cls.__new__(cls)
        model._set_up(built, use_sqrt)
        model.__dict__.update(cross=cross, k_constant=built.streamed.k_constant)
        model._warn_of_rank(cross, stacklevel=4)
        return model

    def _set_up(self, built: BuiltDesign, use_sqrt: bool) -> None:
        self.built = built
        self.use_sqrt = check_flag(use_sqrt, "use_sqrt")
        if built.spec.formula is not None:
            self.formula = built.spec.formula
        self.covariance = Covariance.of(built.design.terms)
        self.reml, self.fe_pen, self.cov_pen, self.re_pen = True, None, None, None
        self._freepat: MixedLMParams | None = None
        self._engines: dict[bool, ProfiledDeviance] = {}

    def _copy(
        self, built: BuiltDesign, cross: CrossProducts | None = None, **facts: Any
    ) -> MixedLM:
        """A model of another design: of these rows or others, of this response or another.

        It starts with nothing computed but ``cross``, where that is known, and ``facts``: values
        of cached properties that the new design cannot tell.
        """
        new = type(self).__new__(type(self))
        new._set_up(built, self.use_sqrt)
        if cross is not None:
            facts["cross"] = cross
        new.__dict__.update(facts)
        return new

    def _remember(self, reml: bool, given: Given, engine: ProfiledDeviance) -> None:
        """What ``loglike``, ``score`` and ``hessian`` go by from now on; nothing else reads it."""
        self.reml, self._freepat = reml, given.free
        self.fe_pen, self.cov_pen = given.fe_pen, given.cov_pen
        if engine.covariance is self.covariance and engine.known_scale is None:
            self._engines = {reml: engine}

    # ------------------------------------------------------------------------ likelihood

    @cached_property
    def cross(self) -> CrossProducts:
        """Cross-products of the rows; computed at first use."""
        cross = cross_products(self.design)
        self._warn_of_rank(cross, stacklevel=4)
        return cross

    def _warn_of_rank(self, cross: CrossProducts, stacklevel: int) -> None:
        if cross.basis.rank < cross.basis.p:
            kept = set(cross.basis.kept.tolist())
            dropped = [name for j, name in enumerate(self.exog_names) if j not in kept]
            warnings.warn(
                f"the fixed-effects design has {cross.basis.p} columns but rank "
                f"{cross.basis.rank}; dropped: {', '.join(dropped)} (coefficients are NaN)",
                RankDeficiencyWarning,
                stacklevel=stacklevel,
            )

    @cached_property
    def _plain_cross(self) -> CrossProducts:
        """The same in the columns of the model, whatever their condition."""
        cross = self.cross
        if cross.bases is None:
            return cross
        streamed = self.built.streamed is not None
        return in_model_columns(cross) if streamed else CrossProducts.from_design(self.design)

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
        limit = check_memory(memory_limit)
        if self.design.residual is not None:
            return residual_plan(ResidualDeviance(self.design, reml=True), limit)
        probing = Probing("auto", Settings(), 0.01, None)
        rival = None
        if not unsuited(self.covariance, self.terms, self.cross, {}):
            rival = self._rival(self.covariance, probing, self._moments)
        return self._plan(limit, rival)

    def _plan(self, limit: int | None, rival: Rival | None = None) -> FitPlan:
        """The plan of exact factorizations, and of conjugate gradients where they may be used."""
        names = tuple(term.name for term in self.terms)
        return make_plan(self.cross, names, limit, self._packing.covariance, rival)

    def _rival(
        self, covariance: Covariance, probing: Probing, start: Callable[[], FloatArray]
    ) -> Rival:
        return rival_of(self._products(covariance), covariance, probing.settings, start)

    def _moments(self) -> FloatArray:
        return moment_start(self.cross, self.covariance)

    def deviance(
        self, reml: bool = True, engine: str = "sparse", memory_limit: int | None = None
    ) -> ProfiledDeviance | DenseDeviance | ResidualDeviance:
        """The profiled deviance as a function of theta.

        Parameters
        ----------
        reml : bool
            REML criterion instead of -2 log-likelihood.
        engine : {"sparse", "auto", "krylov", "dense"}
            "sparse" and "auto" are the exact engine. "krylov" estimates log determinants and
            traces with 16 random probes. "dense" evaluates textbook formulas with the n x n
            covariance matrix: slow, and independent of everything the sparse engine does.
        memory_limit : int, optional
            Bytes the factorization may use.

        Returns
        -------
        ProfiledDeviance or DenseDeviance
            Both have ``value(theta)``, ``gradient(theta)`` and ``at(theta)``.
        """
        reml = check_flag(reml, "reml")
        if self.design.residual is not None:
            engine = check_choice(engine, "engine", ("sparse", "auto"))
            return ResidualDeviance(self.design, reml=reml)
        if check_choice(engine, "engine", ENGINES) == "dense":
            return self._dense(reml, Held.of(None, self.covariance, ()))
        if engine == "krylov":
            Probing(engine, Settings(), 0.01, None).allowed(
                unsuited(self.covariance, self.terms, self.cross, {})
            )
            return self._by(KrylovSolver(self.cross), reml, self.covariance, None)
        return self._sparse(self._plan(check_memory(memory_limit)).chosen, reml)

    def _dense(self, reml: bool, held: Held) -> DenseDeviance:
        if self.built.streamed is not None:
            self._need_rows("fit(engine='dense')")
        if self.nobs > DENSE_LIMIT:
            raise DataError(
                f"engine='dense' needs {self.nobs}^2 numbers for {self.nobs} rows; it is meant "
                f"for checks on at most {DENSE_LIMIT}. Use engine='sparse'."
            )
        return DenseDeviance(self.design, held.covariance, reml=reml, known_scale=held.scale)

    def _sparse(
        self, chosen: Candidate, reml: bool, covariance: Covariance | None = None,
        known_scale: float | None = None,
    ) -> ProfiledDeviance:  # fmt: skip
        covariance = covariance or self.covariance
        return self._by(
            solver_of(self._products(covariance), chosen), reml, covariance, known_scale
        )

    def _products(self, covariance: Covariance) -> CrossProducts:
        """Cross-products for a covariance: known entries belong to the columns of the model."""
        return self.cross if covariance is self.covariance else self._plain_cross

    def _by(
        self, solver: BlockSolver | KrylovSolver, reml: bool, covariance: Covariance,
        known_scale: float | None,
    ) -> ProfiledDeviance:  # fmt: skip
        cross = self._products(covariance)
        return profiled_deviance(cross, covariance, solver, reml=reml, known_scale=known_scale)

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
        starts: int | FloatArray | None = None,
        fix: Mapping[str, Any] | None = None,
        engine: str = "auto",
        probes: int = 16,
        mc_tolerance: float = 0.01,
        seed: int = 0,
        finish: str | None = None,
        scratch: str | None = None,
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
        starts : int or array-like (m, n_theta), optional
            Number of searches with starts of their own (seeded, so that the same call gives the
            same fit); the lowest end counts. 0 or 1 for one search. An array holds the thetas to
            start from after the first search. Default: as many as needed. A second start is tried
            where the first end leaves doubt, which few rows or levels, a variance near zero or a
            long search do, as long as it costs little; ``opt.n_starts`` and ``opt.n_optima`` say
            how many searches were made and at how many different ends.
        fix : dict, optional
            Covariance parameters to hold. ``"sigma"``: the residual standard deviation (with
            ``weights=1/v`` and ``fix={"sigma": 1}`` the variance of every row is its v, as in a
            meta-analysis). A term's name: its covariance matrix, as ``{"ratio": Psi / sigma^2}``,
            or in the units of the data as ``{"cov": Psi}`` or ``{"sd": ..., "corr": ...}``, for
            which sigma must be held as well. ``"theta"``: values of theta, NaN for those to
            estimate.
        engine : {"auto", "sparse", "krylov", "dense"}
            "sparse": exact evaluations by sparse Cholesky factorization. "krylov": conjugate
            gradients with traces estimated by random probes, for crossed designs whose factor is
            dear or does not fit; fixed and random effects at a theta are exact, theta has a Monte
            Carlo error that ``opt.mc_error`` and the summary state. "auto": sparse; where one
            exact evaluation is much dearer than one by conjugate gradients, these search and one
            exact evaluation finishes, with a result as exact as before; where no factorization
            fits in memory, krylov. :meth:`plan` says which and why. "dense" fits with textbook
            formulas on the rows, to check the sparse engine.
        probes : int
            Random probes to start with, at least 8, for every trailing factor; their number is
            doubled until ``mc_tolerance`` holds, up to 256. For conjugate gradients only, like the
            next three.
        mc_tolerance : float
            Largest Monte Carlo error of theta, in standard errors of theta.
        seed : int
            Of the probes: the same seed gives the same fit, whatever the number of threads.
        finish : {"exact", "value"}, optional
            With "krylov", or where "auto" takes it: one exact evaluation at the end, so that the
            result is exact; or its value alone, so that the log-likelihood is. Where no
            factorization fits in memory it is made on disk, in panels; :meth:`plan` says how much
            room and time that takes. It goes on after an interrupt when the same fit is asked for
            again.
        scratch : path, optional
            Folder for such a factorization. Default: the system's for temporary files.
        maxiter : int, optional
            Iterations after which the optimizer gives up.
        progress : bool, optional
            Show every evaluation on stderr. Default: only on a terminal or in a notebook,
            and only when the fit takes more than a few seconds.
        memory_limit : int, optional
            Bytes the factorization may use; default what the machine has available.
        **fit_kwargs
            ``tol``: the default method stops when another step promises to lower the deviance
            by less (1e-9: estimates within 3e-5 standard errors of the optimum; 1e-13 for
            comparisons digit by digit). ``gtol, ftol, tol, eps, maxcor, maxls`` are passed on to
            a SciPy method that knows them, ``disp=True`` means ``progress=True``.

        Returns
        -------
        MixedLMResults

        Raises
        ------
        MemoryLimitError
            If neither a factorization of the model nor conjugate gradients fit in
            ``memory_limit``.
        ValueError
            If start values have the wrong length, a method is unknown or ``tol`` not positive.
        DiskSpaceError
            If a factorization on disk has no room, or the disk fails.
        DataError
            If ``starts`` is no count and no array of thetas, or ``fix`` cannot be
            understood, or a grouping factor has one level per row and sigma is not held.

        Warns
        -----
        ConvergenceWarning
            If the optimizer stopped before its convergence criteria were met.
        BoundaryWarning
            If a variance is estimated as zero, or nearly so, or a correlation as one in size:
            both a SingularMatrixWarning and a ConvergenceWarning, as statsmodels gives both.
        IdentifiabilityWarning
            If variances cannot be told apart: the likelihood is flat where they change together.
        FutureWarning
            If a keyword has no meaning here.
        """
        reml, engine = check_fit_arguments(locals())
        probing = Probing.of(locals())
        if self.built.streamed is None:
            self._need_rows("fit")
        keywords = checked_keywords(fit_kwargs, niter_sa)
        methods = method_names(method)
        progress = True if progress is None and keywords.get("disp") else progress
        if self.design.residual is not None:
            return fit_residual(
                self, locals(), methods, keywords, reml, maxiter,
                Progress(progress), full_output,
            )  # fmt: skip
        start = None
        if not (start_params is free is fe_pen is cov_pen is None and do_cg):
            start = start_parameters(self._packing, start_params, self.use_sqrt)
        mask = None if free is None or start is None else Mask.of(self._packing, free, start)
        held = self._held(fix, free, fe_pen, cov_pen)
        covariance = held.covariance if mask is None else mask.covariance
        others = {
            "free": free, "fe_pen": fe_pen, "cov_pen": cov_pen, "starts": starts,
            "method": next((name for name in methods if name is not None), None),
            "do_cg=False": None if do_cg else False,
        }  # fmt: skip
        if engine == "auto":  # its search has a limit and a tolerance of its own
            tol = keywords.get("tol")
            others |= {"maxiter": maxiter, "tol": tol if tol and tol < CLOSE else None}
        limit = check_memory(memory_limit)
        with one_thread():
            theta = self._start(start, start_params, start_theta, mask, do_cg, held)
            rival = plan = None
            if probing.may and probing.allowed(
                unsuited(covariance, self.terms, self.cross, others)
            ):
                rival = self._rival(covariance, probing, lambda: theta)
            if engine == "krylov" and finish is None:
                assert rival is not None
                need_memory(rival, limit)
            else:
                plan = self._plan(limit, rival)
        route = probing.route(plan)
        if route != "exact":
            assert rival is not None
            return self._fit_by_probes(
                locals(), probing, plan, held, Progress(progress), keywords.get("tol")
            )
        assert plan is not None
        chosen = plan.chosen
        entries = held.free if mask is None else np.ones(len(mask.theta), dtype=bool)
        starts = checked_starts(starts, entries)
        monitor = Progress(progress)
        task = Task(
            do_cg, self._packing, mask, methods, keywords, maxiter, monitor, chosen.seconds, starts
        )
        with chosen.threads():
            sparse = self._sparse(chosen, reml, covariance, held.scale)
            pen = None
            if start is not None:
                pen = penalties_of(self._packing, sparse, mask, start, fe_pen, cov_pen)
            objective: Any = sparse if pen is None else PenalizedDeviance(sparse, pen)
            if engine == "dense":
                objective = self.deviance(reml, engine) if fix is None else self._dense(reml, held)
            try:
                opt = task.run(objective, theta)
                if opt.rounding > FEW_DIGITS and engine != "dense" and self.design.n:
                    sparse = centred_at(sparse, self.design, opt.theta)
                    objective = sparse if pen is None else PenalizedDeviance(sparse, pen)
                    opt = joined(opt, task.run(objective, opt.theta))
            except KeyboardInterrupt:
                monitor.interrupted()
                raise
            finally:
                monitor.close()
            fit = objective.at(opt.theta)
            if do_cg:
                opt = replace(opt, unidentified=unidentified(sparse, opt, self.terms))
                endless = ""
                if held.scale is None and pen is None and self.design.n:
                    endless = UNBOUNDED if not reml and unbounded(self.design) else ""
                    if not endless and mask is None and fix is None:
                        without_end = rises_without_end(self.design, self.covariance, reml)
                        endless = ENDLESS if without_end else ""
                if endless:
                    opt = replace(opt, converged=False, message=endless)
                self._warn(opt, sparse)
        if pen is not None and pen.held.any():
            fit = without_fixed(fit, pen.held)
        fixed = 0 if pen is None else int(pen.held.sum())
        fixed += held.scale is not None
        if mask is not None and mask.constrained:
            fixed += int((~mask.packed).sum())
        given = Given.of(free, fix, fe_pen, cov_pen)
        self._remember(reml, given, sparse)
        return MixedLMResults(
            self, self.built, sparse, fit, opt, use_sqrt=self.use_sqrt, n_fixed=fixed,
            given=given, full_output=full_output,
        )  # fmt: skip

    def _fit_by_probes(
        self, given: Mapping[str, Any], probing: Probing, plan: FitPlan | None, held: Held,
        monitor: Progress, tolerance: float | None,
    ) -> MixedLMResults:  # fmt: skip
        """A fit whose search is by conjugate gradients."""
        try:
            found = fit_by_probes(self, given, probing, plan, held, monitor, tolerance)
        except KeyboardInterrupt:
            monitor.interrupted()
            raise
        finally:
            monitor.close()
        deviance, fit = found.deviance, found.fit
        opt = replace(found.opt, unidentified=unidentified(deviance, found.opt, self.terms))
        self._warn(opt, deviance)
        kept = Given.of(None, given["fix"], None, None)
        self._remember(given["reml"], kept, deviance)
        results = MixedLMResults if found.factored else KrylovResults
        return results(
            self, self.built, deviance, fit, opt, use_sqrt=self.use_sqrt,
            n_fixed=int(held.scale is not None), given=kept, full_output=given["full_output"],
        )  # fmt: skip

    def _held(self, fix: Any, *others: Any) -> Held:
        """The ``fix`` argument, which goes with none of ``others``."""
        if fix is not None and any(other is not None for other in others):
            raise ArgumentError("fix does not go together with free, fe_pen or cov_pen; use one")
        coefficients = () if fix is None else self._coefficients()
        held = Held.of(fix, self.covariance, [term.name for term in self.terms], coefficients)
        if held.scale is None:
            self._check_levels()
        return held

    def _check_levels(self) -> None:
        """Refuse terms with a level per row."""
        streamed = self.built.streamed
        if streamed is None:
            for term in self.terms:
                check_counted_levels(term, self.design.weights)
            return
        for term, levels in zip(self.terms, streamed.counted_levels, strict=True):
            if term.root is None:
                check_level_counts(term, streamed.n_counted, levels, streamed.weighted)

    def _coefficients(self) -> list[list[Sequence[str]]]:
        """Names of the coefficients of every term: their columns, and as ``cov_re`` has them."""
        out: list[list[Sequence[str]]] = []
        for term in self.terms:
            name, own = term.name, list(term.columns)
            long = [name if c in ("Intercept", "1") else f"{name}[{c}]" for c in own]
            out.append([own, long])
        return out

    def _start(
        self, start: MixedLMParams | None, given: Any, theta: FloatArray | None, mask: Mask | None,
        optimize: bool, held: Held,
    ) -> FloatArray:  # fmt: skip
        """Start values of the free entries of theta."""
        if mask is not None:
            return mask.theta
        if theta is not None:
            start_theta = check_numbers(
                unlabelled(theta, "start_theta"), "start_theta, the start values,", held.free.shape
            )
            return start_theta[held.free]
        if given is None and optimize:
            return moment_start(self.cross, self.covariance, held.scale)[held.free]
        assert start is not None
        return self._packing.theta(start)[held.free]

    def _warn(self, opt: OptSummary, deviance: ProfiledDeviance) -> None:
        if opt.unidentified:
            warn_user(opt.unidentified, catchable(IdentifiabilityWarning))
        if not opt.converged:
            warn_user(
                f"the optimizer did not converge: {opt.message}", catchable(ConvergenceWarning)
            )
        singular = singular_words(self.cross, deviance.covariance, opt.theta, self.terms)
        near = nearly_zero(deviance, opt, [term.name for term in self.terms])
        if near and not singular:
            warn_user(
                f"{BOUNDARY} The random effects covariance matrix is nearly singular: the variance "
                f"of {', '.join(near)} can hardly be told from zero (the deviance would rise by "
                f"less than {HARDLY}). To simplify, leave that term out.",
                catchable(BoundaryWarning),
            )
        if singular:
            warn_user(f"{BOUNDARY} {boundary_message(singular)}", catchable(BoundaryWarning))

    def fit_many(
        self, Y: Any, names: Sequence[Any] | None = None, *, reml: bool = True,
        missing: str = "raise", n_jobs: int = 1, progress: bool | None = None,
        memory_limit: int | None = None,
    ) -> ManyResults:  # fmt: skip
        """Fit the model to many responses; the one it was made with is not used.

        Set-up, cross-products of the design and the analysis of their pattern are done once. The
        searches of small and medium models run on stacks of responses, see
        :mod:`sparselmm.likelihood.many`; each ends at its own optimum with its own certificate.

        Parameters
        ----------
        Y : DataFrame or array-like, (n, m)
            One response per column, rows as in the data of the model. A memory-mapped array is
            read block by block.
        names : sequence, optional
            Names of the responses; default the columns of a data frame, or 0 ... m - 1.
        reml : bool
            REML instead of maximum likelihood.
        missing : {"raise", "drop"}
            "drop" fits a response with missing values alone, on the rows it has.
        n_jobs : int
            Workers (joblib); -1 for one per processor.
        progress : bool, optional
            Show a progress bar. Default: only on a terminal or in a notebook, and only when it
            takes more than a few seconds.
        memory_limit : int, optional
            Bytes the factorization may use.

        Returns
        -------
        ManyResults
            One row per response: estimates, standard errors, z, p, variances, flags.

        Raises
        ------
        DataError
            When Y has the wrong number of rows or holds values that cannot be used.

        Warns
        -----
        ConvergenceWarning
            When responses have no converged fit; their rows are NaN or flagged.

        Examples
        --------
        >>> import numpy as np
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> model = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data)
        >>> Y = np.column_stack([data.Reaction, np.log(data.Reaction)])
        >>> model.fit_many(Y, names=["ms", "log ms"]).fe_params.round(4)["Days"].tolist()
        [10.4673, 0.0338]
        """
        self._need_rows("fit_many")
        need_white(self.design, "fit_many")
        reml = check_flag(reml, "reml")
        with one_thread():
            chosen = self._plan(check_memory(memory_limit)).chosen
        engine = self._sparse(chosen, reml)
        Y = aligned(Y, self.built.row_labels, "Y", "the rows of the model")
        return fit_many(self.built.design, engine, Y, names, missing, n_jobs, progress)

    def _engine(self, reml: bool) -> ProfiledDeviance:
        need_white(self.design, "loglike, score, hessian, get_fe_params or get_scale")
        engine = self._engines.get(reml)
        if engine is None:
            engine = self._sparse(self._plan(None).chosen, reml)
            self._engines = {**self._engines, reml: engine}
        return engine

    _other_names, _after = MODEL, MixedLMResults

    def __repr__(self) -> str:
        return "\n".join(short.what(self.built, "MixedLM"))

    def _repr_html_(self) -> str:
        return short.html_lines(short.what(self.built, "MixedLM"))

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the factorizations, which are made again when needed."""
        return {**self.__dict__, "_engines": {}}


mixedlm = MixedLM.from_formula
