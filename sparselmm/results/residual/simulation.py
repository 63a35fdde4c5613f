"""Simulated responses, refits and replicates under a residual covariance structure."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import (
    check_choice,
    check_count,
    check_flag,
    check_jobs,
    check_numbers,
    check_progress,
)
from sparselmm.base.exceptions import (
    ConvergenceWarning,
    DataError,
    UnsupportedError,
    catchable,
    warn_user,
)
from sparselmm.base.memory import need_memory
from sparselmm.base.progress import progress_bar
from sparselmm.base.seeds import Seed, seed_sequence
from sparselmm.base.types import FloatArray
from sparselmm.design import BuiltDesign
from sparselmm.design.validate import aligned
from sparselmm.factor.crossprod import check_residual
from sparselmm.inference.resampling.simulate import DRAWN
from sparselmm.inference.residual import JointFit, ResidualEstimates, log_sigma
from sparselmm.inference.residual_rows import coloured
from sparselmm.results.methods.base import ResultsBase, from_rows
from sparselmm.results.methods.simulation import simulator_of
from sparselmm.results.tables.bootstrap import BootstrapResults, warn_of_failures


class ResidualSimulation(ResultsBase):
    """Part of :class:`ResidualResults`."""

    joint: JointFit

    def simulate(
        self, n: int = 1, newdata: Any = None, re: str = "resample", seed: Seed = None,
        **arrays: Any,
    ) -> Any:  # fmt: skip
        """Responses simulated for the rows of the fit, their residuals correlated as R says.

        Parameters
        ----------
        n : int
            Number of responses.
        newdata, **arrays : optional
            Not available.
        re : {"resample", "conditional"}
            Random effects drawn anew, or held at their conditional means.
        seed : int, sequence of int or SeedSequence, optional
            Response i depends on the seed and on i alone.

        Returns
        -------
        DataFrame or ndarray, (rows, n)
        """
        _refuse_others("simulate", {"newdata": newdata, **arrays})
        self._need_rows("simulate")
        n = check_count(n, "n")
        re = check_choice(re, "re", ("resample", "conditional"))
        need_memory(
            DRAWN * float(n) * sum(self.built.design.Z.shape),
            f"drawing n={n:,} responses of {self.built.design.n:,} rows", "draw fewer at a time",
        )  # fmt: skip
        Y = self._drawn(re, seed_sequence(seed), range(n))
        return pd.DataFrame(Y, index=self.built.row_labels) if self.built.pandas else Y

    def _drawn(self, re: str, seed: np.random.SeedSequence, which: range) -> FloatArray:
        """Responses, (rows, m)."""
        simulator = simulator_of(self._est, re)
        mean, rows = simulator.mean, len(simulator.mean)
        normal = [simulator.normal(seed, i) for i in which]
        z = np.array([one[-rows:] for one in normal]).T
        u = np.array([one[:-rows] for one in normal])
        noise = self.pls.sigma * coloured(self.joint, np.ascontiguousarray(z))
        return mean[:, None] + simulator._random(u).T + noise

    @from_rows
    def refit(self, endog: Any) -> Any:
        """The same model fitted to another response of the same rows.

        Parameters
        ----------
        endog : array-like, (n,)
            Response: in the order of the rows of the fit, or a Series with their index.

        Returns
        -------
        MixedLMResults
        """
        endog = aligned(endog, self.built.row_labels, "endog", "the rows of the fit")
        y = check_numbers(endog, "endog", (self.built.design.n,))
        self._check_response(y)
        built, joint = self._again(y, self.pls.reml)
        if not joint.opt.converged:
            warn_user(
                f"the optimizer did not converge: {joint.opt.message}",
                catchable(ConvergenceWarning),
            )
        return self._like(built, joint)

    def _check_response(self, y: FloatArray) -> None:
        """Refuse a response that the fixed effects explain exactly."""
        design, basis = self.built.design, self.joint.frozen.cross.basis
        root = np.ones(design.n) if design.weights is None else np.sqrt(design.weights)
        X = root[:, None] * design.X[:, basis.kept]
        z = root * (y if design.offset is None else y - design.offset)
        left = z - X @ np.linalg.lstsq(X, z, rcond=None)[0]
        check_residual(design.n, basis.rank, "endog", float(z @ z), float(left @ left))

    @abstractmethod
    def _like(self, built: BuiltDesign, joint: JointFit) -> Any:
        """Results of the same class of another fit of the same model."""

    def _again(self, y: FloatArray, reml: bool) -> tuple[Any, JointFit]:
        """The fit to another response or by another criterion, from these estimates."""
        design = replace(self.built.design, y=y)
        return self.built.of(design), self.joint.again(design, reml)

    def _ml_deviance(self) -> float:
        """Minimum of -2 log-likelihood of the same model."""
        return self._again(self.built.design.y, False)[1].opt.deviance

    @from_rows
    def bootstrap(
        self, n: int = 1000, statistic: Any = None, kind: str = "parametric", seed: Seed = None,
        n_jobs: int = 1, progress: bool | None = None, checkpoint: Any = None, *,
        by: str | None = None, jackknife: bool = False, resume: Any = None, client: Any = None,
    ) -> BootstrapResults:  # fmt: skip
        """Parametric bootstrap of fixed effects, variances and residual parameters.

        Parameters
        ----------
        n : int
            Number of replicates, each a response simulated from the fit and fitted again.
        kind : {"parametric"}
        seed : int, sequence of int or SeedSequence, optional
        progress : bool, optional
            Show a progress bar.
        statistic, n_jobs, checkpoint, by, jackknife, resume, client
            Not available.

        Returns
        -------
        BootstrapResults
        """
        n, progress = check_count(n, "n"), check_progress(progress)
        kind = check_choice(kind, "kind", ("parametric",))
        n_jobs, jackknife = check_jobs(n_jobs), check_flag(jackknife, "jackknife")
        others = {
            "statistic": statistic, "checkpoint": checkpoint, "by": by, "resume": resume,
            "jackknife": jackknife or None, "n_jobs": None if n_jobs == 1 else n_jobs,
            "client": client,
        }  # fmt: skip
        _refuse_others("bootstrap", others)
        stream = seed_sequence(seed)
        names, estimate = self._bootstrapped(self.joint)
        values, failure = np.full((n, len(names)), np.nan), np.full(n, "", dtype=object)
        bar = progress_bar(n, 0, "bootstrap", progress)
        for i in range(n):
            bar.update()
            y = self._drawn("resample", stream, range(i, i + 1))[:, 0]
            try:
                joint = self._again(y, self.pls.reml)[1]
            except (ArithmeticError, DataError, np.linalg.LinAlgError) as error:
                failure[i] = type(error).__name__
                continue
            if joint.opt.converged:
                values[i] = self._bootstrapped(joint)[1]
            else:
                failure[i] = "not converged"
        bar.close()
        done = BootstrapResults(
            names, estimate, values, failure, "parametric", stream, fingerprint=self.pls.deviance
        )
        warn_of_failures(done)
        return done

    def _bootstrapped(self, joint: JointFit) -> tuple[tuple[str, ...], FloatArray]:
        """Names and values of what is bootstrapped."""
        pls = joint.frozen.at(joint.theta)
        est = ResidualEstimates.jointly(
            self.built.layout, joint, pls, self.built.spec.formula is None
        )
        structure = joint.deviance.structure
        names = (*est.layout.x_names, *est.places.names, *structure.names)
        values = np.concatenate([est.beta, est.variances, structure.natural(joint.phi, pls.scale)])
        if pls.known_scale is None:
            log = log_sigma(joint, pls.scale, -joint.origin)[0]
            return (*names, "sigma"), np.append(values, np.exp(log))
        return names, values


def _refuse_others(what: str, given: dict[str, Any]) -> None:
    """Refuse arguments that hold for independent residuals alone."""
    for name, value in given.items():
        if value is not None:
            raise UnsupportedError(
                f"{what}({name}=) is not available for a fit with residual= or dispersion="
            )
