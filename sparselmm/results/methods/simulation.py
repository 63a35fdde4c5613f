"""Simulated responses, the bootstrap, refits to other responses; power is in `power`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from sparselmm.base.arguments import (
    check_callable,
    check_choice,
    check_count,
    check_flag,
    check_numbers,
    check_progress,
    wrong_type,
)
from sparselmm.base.exceptions import (
    ArgumentError,
    ConvergenceWarning,
    DataError,
    catchable,
    warn_user,
)
from sparselmm.base.memory import need_memory
from sparselmm.base.seeds import Seed, seed_sequence
from sparselmm.base.storage import check_path
from sparselmm.base.threads import one_thread
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.base.workers import check_workers
from sparselmm.design.new_rows import level_labels, new_design
from sparselmm.design.rows import term_z, unseen_rows
from sparselmm.design.terms import Design
from sparselmm.design.validate import aligned
from sparselmm.inference.estimates import Estimates
from sparselmm.inference.prediction import means as prediction
from sparselmm.inference.resampling import bootstrap
from sparselmm.inference.resampling.simulate import DRAWN, Simulator, noise_sizes, with_unseen
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.many.responses import ResponseFitter
from sparselmm.likelihood.record import OptSummary
from sparselmm.results.methods.base import from_rows
from sparselmm.results.methods.power import PowerMethods
from sparselmm.results.tables.bootstrap import (
    BootstrapResults,
    OnReplicates,
    earlier,
    labelled,
    replicated,
    warn_of_failures,
    write,
)
from sparselmm.results.tables.many import ManyResults, fit_many

RANDOM = ("resample", "conditional")
"""What simulated responses do with the random effects."""


class SimulationResults(PowerMethods):
    """Part of :class:`sparselmm.MixedLMResults`."""

    # ------------------------------------------------------------------------- simulation

    def simulate(
        self, n: int = 1, newdata: Any = None, re: str = "resample", seed: Seed = None,
        *, groups: Any = None, exog_re: Any = None, exog_vc: Any = None, offset: Any = None,
        z_terms: Any = None,
    ) -> Any:  # fmt: skip
        """Responses simulated from the fitted model.

        Parameters
        ----------
        n : int
            Number of responses.
        newdata : DataFrame, mapping or ndarray, optional
            Rows to simulate; default those of the fit. Levels the fit has not seen are new draws.
        re : {"resample", "conditional"}
            "resample" draws new random effects for every response (``re.form=NA`` of lme4's
            ``simulate``); "conditional" keeps them at their conditional means (``re.form=NULL``),
            and at zero for unseen levels, so that only the residuals vary.
        seed : int, sequence of int or SeedSequence, optional
            Response i depends on the seed and on i alone.
        groups, exog_re, exog_vc, z_terms, offset : optional
            Arrays for the new rows where the model was given arrays.

        Returns
        -------
        DataFrame or ndarray, (rows, n)
            One response per column. Rows of weight zero get no residual; new rows count with
            weight one.

        Raises
        ------
        DataError
            When an argument is unknown or the new data do not suit the model.

        Notes
        -----
        ``y = X beta + offset + Z b + e`` with ``b = sigma Lambda u`` and ``e = sigma z / sqrt(w)``,
        u and z standard normal: Bates, Maechler, Bolker & Walker (2015), eqs. 2-4.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> fit.simulate(3, seed=1).shape
        (180, 3)
        """
        n = check_count(n, "n")
        re = check_choice(re, "re", RANDOM)
        arrays = {
            "groups": groups, "exog_re": exog_re, "exog_vc": exog_vc, "offset": offset,
            "z_terms": z_terms,
        }  # fmt: skip
        if newdata is None:
            self._need_rows("simulate without newdata")
            prediction.refuse_useless(arrays, "newdata")
            simulator, index = simulator_of(self._est, re), self.built.row_labels
        else:
            simulator, index = self._new_simulator(newdata, re, arrays)
        need_memory(
            DRAWN * float(n) * sum(simulator.Z.shape),
            f"drawing n={n:,} responses of {simulator.Z.shape[0]:,} rows", "draw fewer at a time",
        )  # fmt: skip
        Y = simulator.draw(seed_sequence(seed), range(n)).T
        return pd.DataFrame(Y, index=index) if self.built.pandas else Y

    def _new_simulator(
        self, newdata: Any, re: str, arrays: dict[str, Any]
    ) -> tuple[Simulator, Any]:
        """Draws responses for new rows, and the index of these."""
        est, built = self._est, self.built
        on = prediction.switches(est.terms, True)
        newdata = prediction.new_rows(built, newdata, True)
        new = new_design(built, newdata, True, on, arrays)
        prediction.warn_if_dropped(est.dropped)
        mean = prediction.fixed_part(new.X, est.beta, new.offset)
        noise = np.full(len(mean), self.pls.sigma)
        names = level_labels(built, newdata, arrays["groups"])
        if re == "conditional":
            mean = mean + prediction.new_random_part(
                est.terms, new, est.pls.b, on, "population", names
            )
            return Simulator(mean, sp.csr_array((len(mean), 0)), (), (), noise), new.row_labels
        for old, term in zip(est.terms, new.terms, strict=True):
            if term.codes is None and unseen_rows(old, term).any():
                raise DataError(
                    f"new rows have levels of {term.name!r} that the fit has not seen; as a matrix "
                    "or with a known covariance its levels cannot be drawn anew"
                )
        terms = [with_unseen(term, names) for term in new.terms]
        sizes = tuple((term.k, levels) for term, levels in terms)
        Z = sp.csr_array(sp.hstack([term_z(term, levels) for term, levels in terms], format="csr"))
        return Simulator(mean, Z, _roots(est), sizes, noise), new.row_labels

    # ------------------------------------------------------------------------------ refits

    @from_rows
    def refit(self, endog: Any) -> Any:
        """The same model fitted to another response of the same rows.

        Only ``Z'Wy`` and ``X'Wy`` are formed again; the search starts from this fit.

        Parameters
        ----------
        endog : array-like, (n,)
            Response: in the order of the rows of the fit, or a Series with their index.

        Returns
        -------
        MixedLMResults

        Raises
        ------
        DataError
            When the response has the wrong length, is not finite, or leaves nothing to estimate.

        Warns
        -----
        ConvergenceWarning
            When the optimizer stopped before its criteria were met.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> fit.refit(data.Reaction / 1000).fe_params.round(4).tolist()
        [0.2514, 0.0105]
        """
        self._check_plain("refit")
        endog = aligned(endog, self.built.row_labels, "endog", "the rows of the fit")
        y = _responses(endog, self.built.design.n, "endog")[0]
        with one_thread():
            fitter = ResponseFitter(self.built.design, self.deviance, start=self.pls.theta)
            deviance, opt = fitter.fit_one(y)
        if not opt.converged:
            warn_user(
                f"the optimizer did not converge: {opt.message}", catchable(ConvergenceWarning)
            )
        return self._of(replace(self.built.design, y=y), deviance, opt)

    def _of(
        self, design: Design, deviance: ProfiledDeviance, opt: OptSummary,
        rows: IntArray | None = None,
    ) -> Any:  # fmt: skip
        """Results of the same class for another response or for other rows, given the same.

        ``rows`` (m,) are the rows of this fit that make the design; None for all of them.
        """
        built = self.built.of(design, rows)
        results: Any = type(self)
        return results(
            self.model._copy(built, deviance.cross), built, deviance, deviance.at(opt.theta), opt,
            use_sqrt=self.use_sqrt, n_fixed=self._est.n_fixed, given=self.given,
        )  # fmt: skip

    @from_rows
    def fit_many(
        self, Y: Any, names: Sequence[Any] | None = None, *, missing: str = "raise",
        n_jobs: int = 1, progress: bool | None = None, client: Any = None,
    ) -> ManyResults:  # fmt: skip
        """The same model fitted to many responses, by the criterion of this fit.

        Parameters
        ----------
        Y, names, missing, n_jobs, progress, client
            As of :meth:`MixedLM.fit_many`.

        Returns
        -------
        ManyResults
            One row of estimates, standard errors, z, p, variances and flags per response.

        Raises
        ------
        DataError
            When Y has the wrong number of rows or holds values that cannot be used, or the fit
            has penalties or a ``free`` mask.

        Warns
        -----
        ConvergenceWarning
            When responses have no converged fit.

        Notes
        -----
        The equations are at the head of :mod:`sparselmm.likelihood.many.evaluation`.

        Examples
        --------
        >>> import numpy as np
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> many = fit.fit_many(np.column_stack([data.Reaction, data.Reaction / 1000]))
        >>> many.table[["Days", "Days SE", "converged"]].round(4)
              Days  Days SE  converged
        0  10.4673   1.5458       True
        1   0.0105   0.0015       True
        """
        self._check_plain("fit_many")
        design = self.built.design
        Y = aligned(Y, self.built.row_labels, "Y", "the rows of the fit")
        workers = check_workers(n_jobs, client)
        return fit_many(design, self.deviance, Y, names, missing, workers, progress)

    # --------------------------------------------------------------------------- bootstrap

    @from_rows
    def bootstrap(
        self, n: int = 1000, statistic: Callable[[Any], Any] | None = None,
        kind: str = "parametric", seed: Seed = None, n_jobs: int = 1,
        progress: bool | None = None, checkpoint: str | os.PathLike[str] | None = None,
        *, by: str | None = None, jackknife: bool = False, resume: BootstrapResults | None = None,
        client: Any = None,
    ) -> BootstrapResults:  # fmt: skip
        """Bootstrap replicates of the estimates or of any statistic of a fit.

        Parameters
        ----------
        n : int
            Number of replicates.
        statistic : callable, optional
            ``statistic(results)`` returns a number, a sequence, a dict or a Series for a fitted
            replicate, given as :class:`MixedLMResults`; it must not keep that object. Default:
            fixed effects, variances, standard deviations and correlations, which needs no
            results object and is ten times quicker.
        kind : {"parametric", "case"}
            Simulate responses from the fit, or draw the levels of a grouping factor with
            replacement, each with all its rows.
        seed : int, sequence of int or SeedSequence, optional
            Gives the same replicates for any ``n_jobs``; the first replicates are the same for
            any ``n``.
        n_jobs : int
            Workers (joblib); -1 for one per processor. They take seconds to start, which small
            models do not need altogether.
        progress : bool, optional
            Show a progress bar. Default: only on a terminal or in a notebook and only when it
            takes more than a few seconds.
        checkpoint : path, optional
            File that finished replicates are written to. When it exists the bootstrap goes on
            from there.
        by : str, optional
            Grouping factor of "case" and of the jackknife. Needed when there are several; nested
            factors go with the one they are nested in.
        jackknife : bool
            Compute the estimates without one group at a time, which BCa intervals need.
        resume : BootstrapResults, optional
            Replicates of this fit to add to, up to ``n``; its seed is used.
        client : distributed.Client, optional
            Share the replicates among the workers of a cluster, in place of ``n_jobs``. They are
            the same, also when workers are lost.

        Returns
        -------
        BootstrapResults

        Raises
        ------
        DataError
            When an argument is wrong, the fit has penalties or a ``free`` mask, or ``resume`` or
            ``checkpoint`` belong to another fit. Parameters held by ``fix`` are held in every
            replicate.

        Warns
        -----
        ConvergenceWarning
            When replicates failed; they count as missing.

        References
        ----------
        Davison, A. C. and Hinkley, D. V. (1997). *Bootstrap Methods and their Application*,
        sections 2.2 and 3.8.

        van der Leeden, R., Meijer, E. and Busing, F. (2008). Resampling multilevel models. In
        *Handbook of Multilevel Analysis*, 401-433.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> boot = fit.bootstrap(100, seed=1)
        >>> boot.conf_int().loc["Days"].round(0).tolist()
        [7.0, 14.0]
        """
        self._check_plain("bootstrap")
        n, progress = check_count(n, "n"), check_progress(progress)
        workers = check_workers(n_jobs, client)
        kind = check_choice(kind, "kind", ("parametric", "case"))
        jackknife = check_flag(jackknife, "jackknife")
        if statistic is not None:
            check_callable(statistic, "statistic")
        if resume is not None and not isinstance(resume, BootstrapResults):
            raise wrong_type("resume", "a BootstrapResults", resume)
        if checkpoint is not None:
            check_path(checkpoint, "checkpoint")
        names, estimate = self._observed(statistic)
        reduced = None if statistic is None else OnReplicates(self, statistic, names)
        cases, factor = None, ""
        if by is not None and not (kind == "case" or jackknife):
            raise ArgumentError(
                "by says which groups are drawn or left out; pass kind='case' or "
                "jackknife=True with it"
            )
        if kind == "case" or jackknife:
            groups, factor = self._groups(by)
            cases = bootstrap.CaseReplicates(
                groups, self.deviance, self.pls.theta, reduced, len(names)
            )
        done = BootstrapResults(
            names, estimate, np.zeros((0, len(names))), np.zeros(0, dtype=object), kind,
            seed_sequence(seed), by=factor, fingerprint=self.pls.deviance,
        )  # fmt: skip
        done = earlier(done, resume, checkpoint, seed)
        maker: Any = cases
        if kind == "parametric":
            fitter = ResponseFitter(self.built.design, self.deviance, start=self.pls.theta)
            simulator = simulator_of(self._est)
            maker = bootstrap.ParametricReplicates(simulator, fitter, reduced, len(names))
        done = replicated(done, maker, n, workers, progress, checkpoint)
        if jackknife and (done.jackknife is None or done.by != factor):
            assert cases is not None
            done = replace(done, jackknife=bootstrap.jackknife(cases)[0], by=factor)
        if checkpoint is not None:
            write(done, checkpoint)
        warn_of_failures(done)
        return done

    def _observed(
        self, statistic: Callable[[Any], Any] | None
    ) -> tuple[tuple[str, ...], FloatArray]:
        """Names and values of the statistic of this fit."""
        if statistic is not None:
            return labelled(statistic(self))
        est = self._est
        names = bootstrap.quantity_names(self.built.layout.x_names, est.places)
        values = bootstrap.quantities(
            self.pls.theta[None], est.beta[None], np.array([self.pls.scale]),
            self.deviance.covariance, est.terms,
        )  # fmt: skip
        return tuple(names), values[0]


def simulator_of(est: Estimates, re: str = "resample") -> Simulator:
    """Draws responses for the rows of a fit."""
    design = est.design
    mean = prediction.fitted(est, re == "conditional")
    noise = noise_sizes(est.pls.sigma, design.weights, design.n)
    if re == "conditional":
        return Simulator(mean, sp.csr_array((design.n, 0)), (), (), noise)
    return Simulator(mean, design.Z, _roots(est), est.deviance.cross.sizes, noise)


def _roots(est: Estimates) -> tuple[FloatArray, ...]:
    """``sigma lambda_t`` of every term."""
    factors = est.deviance.covariance.factors(est.pls.theta)
    return tuple(est.pls.sigma * lam for lam in factors)


def _responses(values: Any, n: int, name: str) -> FloatArray:
    """One response or several as rows, (m, n)."""
    Y = check_numbers(values, name, finite=False)
    Y = Y.reshape(-1, 1) if Y.ndim == 1 else Y
    if Y.ndim != 2 or Y.shape[1] != 1:
        raise ArgumentError(f"{name} must hold one response, got shape {Y.shape}")
    if len(Y) != n:
        raise DataError(f"{name} has {len(Y)} rows, the model has {n}")
    if not np.isfinite(Y).all():
        raise DataError(f"{name} has missing or infinite values")
    return np.ascontiguousarray(Y.T)
