"""The public model: three spellings in, one fit out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparselmm.base.arguments import check_flag
from sparselmm.base.other_names import MODEL, NamesOthers
from sparselmm.base.threads import one_thread
from sparselmm.design import BuiltDesign, capture_env, from_arrays, from_formula
from sparselmm.design.formula.bars import check_order
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.inference.packing import MixedLMParams
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.model.cluster import runner_of
from sparselmm.model.linear_fits import LinearFits
from sparselmm.model.partitions import CHUNK_ROWS, Partitioned, build_partitioned, partitioned
from sparselmm.model.statsmodels.cloning import model_of, with_arrays, with_data
from sparselmm.results import MixedLMResults
from sparselmm.results.print import short


class MixedLM(LinearFits, NamesOthers):
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
            and memory does not grow with their number, but for at most 256 MB of codes of text;
            predictions and residuals are then streamed by ``result.augment(source)``, and what else
            is made of rows refuses by name. Default: rows are kept when they are in memory already,
            or no more than ``chunk_rows``.
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
            check_order(formula, data)
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
        self.covariance = Covariance.of(built.layout.terms)
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

    _other_names, _after = MODEL, MixedLMResults

    def __repr__(self) -> str:
        return "\n".join(short.what(self.built, "MixedLM"))

    def _repr_html_(self) -> str:
        return short.html_lines(short.what(self.built, "MixedLM"))

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the factorizations, which are made again when needed."""
        return {**self.__dict__, "_engines": {}}


mixedlm = MixedLM.from_formula
