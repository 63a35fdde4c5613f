"""The fits of a linear model: of its response, of many responses, with penalized fixed effects."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sparselmm.base.arguments import (
    check_count,
    check_flag,
    check_memory,
    check_methods,
    check_number,
    check_numbers,
    in_order,
    wrong_type,
    wrong_value,
)
from sparselmm.base.exceptions import (
    ArgumentError,
    ConvergenceWarning,
    catchable,
    warn_user,
)
from sparselmm.base.threads import one_thread
from sparselmm.base.types import FloatArray
from sparselmm.base.workers import check_workers
from sparselmm.design.validate import aligned, need_white
from sparselmm.inference.packing import MixedLMParams
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.model.linear_fit import fit_linear
from sparselmm.model.regularized import known_only, shooting
from sparselmm.model.request import Request, given_of
from sparselmm.model.residual import fit_residual
from sparselmm.model.statsmodels.interface import StatsmodelsInterface
from sparselmm.model.statsmodels.packed_likelihood import fit_at
from sparselmm.results import MixedLMResults
from sparselmm.results.given import Given
from sparselmm.results.tables.many import ManyResults, fit_many


class LinearFits(StatsmodelsInterface):
    """What estimates a :class:`sparselmm.MixedLM`."""

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
        request = Request.of(locals())
        if self.built.streamed is None:
            self._need_rows("fit")
        if self.built.layout.residual is not None:
            found: Any = fit_residual(self, request)  # registered as MixedLMResults
            self.reml = request.reml
            return found
        ended, kind = fit_linear(self, request)
        given = given_of(request.given)
        self._remember(request.reml, given, ended.deviance)
        made: Any = kind  # MixedLMResults, or registered as such
        return made(
            self, self.built, ended.deviance, ended.fit, ended.opt, use_sqrt=self.use_sqrt,
            n_fixed=ended.n_fixed, given=given, full_output=full_output,
        )  # fmt: skip

    def _remember(self, reml: bool, given: Given, engine: ProfiledDeviance) -> None:
        """What ``loglike``, ``score`` and ``hessian`` go by from now on; nothing else reads it."""
        self.reml, self._freepat = reml, given.free
        self.fe_pen, self.cov_pen = given.fe_pen, given.cov_pen
        if engine.covariance is self.covariance and engine.known_scale is None:
            self._engines = {reml: engine}

    def fit_many(
        self, Y: Any, names: Sequence[Any] | None = None, *, reml: bool = True,
        missing: str = "raise", n_jobs: int = 1, progress: bool | None = None,
        memory_limit: int | None = None, client: Any = None,
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
        client : distributed.Client, optional
            Share the responses among the workers of a cluster, in place of ``n_jobs``.

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
        need_white(self.built.layout, "fit_many")
        workers = check_workers(n_jobs, client)
        reml = check_flag(reml, "reml")
        with one_thread():
            chosen = self._plan(check_memory(memory_limit)).chosen
        engine = self._sparse(chosen, reml)
        Y = aligned(Y, self.built.row_labels, "Y", "the rows of the model")
        return fit_many(self.built.design, engine, Y, names, missing, workers, progress)

    def fit_regularized(
        self,
        start_params: Any = None,
        method: Any = "l1",
        alpha: Any = 0,
        ceps: float = 1e-4,
        ptol: float = 1e-6,
        maxit: int = 200,
        **fit_kwargs: Any,
    ) -> MixedLMResults:
        """Estimate the model with penalized fixed effects.

        Parameters
        ----------
        start_params : array-like, optional
            As of :meth:`fit`.
        method : "l1" or object
            "l1": coordinate descent on the fixed effects with the variance parameters of the
            unpenalized fit. An object with ``func`` and ``deriv``: `fit` with a copy of it,
            whose ``alpha`` is set, as ``fe_pen``.
        alpha : float or array-like, (k_fe,)
            Weight of the penalty, on the scale of twice the log-likelihood for "l1".
        ceps : float
            A coefficient smaller than this counts as zero.
        ptol : float
            Change of the coefficients at which the iteration stops.
        maxit : int
            Most sweeps.
        **fit_kwargs
            Arguments of :meth:`fit`.

        Returns
        -------
        MixedLMResults
            For "l1" ``cov_re`` and ``vcomp`` are those of the unpenalized fit, ``scale`` belongs
            to the penalized residuals, and standard errors of coefficients at zero are NaN.

        Raises
        ------
        ValueError
            When the method is unknown, or "l1" meets ``fe_pen`` or fixed effects held by ``free``.

        Warns
        -----
        ConvergenceWarning
            If the coefficients still change by more than ``ptol`` after ``maxit`` sweeps.
        """
        need_white(self.built.layout, "fit_regularized")
        alpha = in_order(alpha, self.built.layout.x_names, argument="alpha")
        weights = check_numbers(alpha, "alpha")
        if weights.shape not in ((), (self.built.layout.p,)) or (weights < 0).any():
            raise wrong_value(
                "alpha", f"one number or {self.built.layout.p}, none of them negative", alpha
            )
        if method is None:
            raise wrong_type("method", "'l1' or a penalty", method)
        if not isinstance(method, str):
            check_methods(method, "method", ("func", "deriv"))
            penalty = copy.copy(method)  # another fit may set another alpha
            penalty.alpha = alpha
            return self.fit(start_params, **{**fit_kwargs, "fe_pen": penalty})
        if method.lower() != "l1":
            raise ArgumentError(f"invalid regularization method {method!r}; use 'l1' or a penalty")
        ceps = check_number(ceps, "ceps", "a number, not negative", low=0.0)
        ptol = check_number(ptol, "ptol", "a number, not negative", low=0.0)
        maxit = check_count(maxit, "maxit")
        free = fit_kwargs.get("free")
        if fit_kwargs.get("fe_pen") is not None or (
            free is not None and (np.asarray(getattr(free, "fe_params", 1)) == 0).any()
        ):
            raise ArgumentError(
                "method='l1' estimates all fixed effects with its own penalty: give no fe_pen and "
                "no free that holds some"
            )
        plain = self.fit(start_params, **fit_kwargs)
        weights = np.broadcast_to(weights, (self.built.layout.p,))
        weights = weights[self.cross.basis.kept]
        beta, done = shooting(plain.pls, weights, ceps, ptol, maxit)
        opt = plain.opt
        if not done:
            why = f"coordinate descent did not converge in {maxit} sweeps; raise maxit"
            opt = replace(opt, converged=False, message=why)
            warn_user(why, catchable(ConvergenceWarning))
        fit = known_only(fit_at(plain.deviance, plain.theta, beta), ceps)
        return MixedLMResults(
            self, self.built, plain.deviance, fit, opt, use_sqrt=self.use_sqrt,
            psi_scale=plain.scale, given=plain.given,
        )  # fmt: skip
