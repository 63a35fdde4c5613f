"""A linear mixed model as numbers: its cross-products, and the engines made of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cached_property

from sparselmm.base.arguments import check_choice, check_flag, check_memory
from sparselmm.base.exceptions import DataError, RankDeficiencyWarning
from sparselmm.base.types import FloatArray
from sparselmm.design import BuiltDesign
from sparselmm.design.terms import Design, TermLayout
from sparselmm.design.validate import need_white
from sparselmm.factor.bases import cross_products, in_model_columns
from sparselmm.factor.candidates import Candidate
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.factorization import Factorization
from sparselmm.factor.krylov.price import Rival
from sparselmm.factor.krylov.solver import Settings
from sparselmm.factor.plan import FitPlan, make_plan
from sparselmm.inference.packing import Packing
from sparselmm.inference.variances import VarianceLayout
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.dense import DenseDeviance
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.engine import probing_solver, profiled_deviance, solver_of
from sparselmm.likelihood.held import Held
from sparselmm.likelihood.moments import moment_start
from sparselmm.likelihood.residual.deviance import ResidualDeviance
from sparselmm.likelihood.residual.price import residual_plan
from sparselmm.model.probing import ENGINES, Probing, rival_of, unsuited

DENSE_LIMIT = 5000
"""Rows up to which the dense engine, whose memory grows as n^2, is allowed."""


class LinearModel:
    """What :class:`sparselmm.MixedLM` stands on: a design, and the engines made of it."""

    built: BuiltDesign
    covariance: Covariance
    use_sqrt: bool
    _engines: dict[bool, ProfiledDeviance]

    @property
    def design(self) -> Design:
        """Response, fixed and random design of the rows in use."""
        return self.built.design

    @property
    def terms(self) -> tuple[TermLayout, ...]:
        """Random-effects terms in the order of their columns of Z."""
        return self.built.layout.terms

    @property
    def exog_names(self) -> list[str]:
        """Names of the columns of X."""
        return list(self.built.layout.x_names)

    @property
    def nobs(self) -> int:
        """Number of rows."""
        return self.built.n

    @property
    def _groups(self) -> Design:
        """Rows whose residuals depend on each other, or sums that stand for groups of them."""
        streamed = self.built.streamed
        kept = None if streamed is None else streamed.grouped
        return self.design if kept is None else kept

    def _need_rows(self, what: str) -> None:
        """Refuse for the model of results without rows."""
        self.built.layout.rows(f"model.{what}")

    @cached_property
    def _places(self) -> VarianceLayout:
        return VarianceLayout.of(self.built.layout.terms)

    @property
    def _packing(self) -> Packing:
        return Packing(self._places, self.covariance, self.built.layout.x_names)

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
        if self.built.layout.residual is not None:
            return residual_plan(ResidualDeviance(self._groups, reml=True), limit)
        probing = Probing("auto", Settings(), 0.01, None)
        rival = None
        if not unsuited(self.covariance, self.terms, self.cross, {}):
            rival = self._rival(self.covariance, probing, self._moments)
        return self._plan(limit, rival)

    def _plan(self, limit: int | None, rival: Rival | None = None) -> FitPlan:
        """The plan of exact factorizations, and of conjugate gradients where they may be used."""
        names = tuple(term.name for term in self.terms)
        return make_plan(self.cross, names, limit, self.covariance, rival)

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
        if self.built.layout.residual is not None:
            engine = check_choice(engine, "engine", ("sparse", "auto"))
            return ResidualDeviance(self._groups, reml=reml)
        if check_choice(engine, "engine", ENGINES) == "dense":
            return self._dense(reml, Held.of(None, self.covariance, ()))
        if engine == "krylov":
            Probing(engine, Settings(), 0.01, None).allowed(
                unsuited(self.covariance, self.terms, self.cross, {})
            )
            return self._by(probing_solver(self.cross.pattern), reml, self.covariance, None)
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
        self, solver: Factorization, reml: bool, covariance: Covariance,
        known_scale: float | None,
    ) -> ProfiledDeviance:  # fmt: skip
        cross = self._products(covariance)
        return profiled_deviance(cross, covariance, solver, reml=reml, known_scale=known_scale)

    def _engine(self, reml: bool) -> ProfiledDeviance:
        need_white(self.built.layout, "loglike, score, hessian, get_fe_params or get_scale")
        engine = self._engines.get(reml)
        if engine is None:
            engine = self._sparse(self._plan(None).chosen, reml)
            self._engines = {**self._engines, reml: engine}
        return engine
