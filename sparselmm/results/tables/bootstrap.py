"""Bootstrap replicates of a fit as tables."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from sparselmm.base import storage
from sparselmm.base.arguments import check_choice, check_level, check_numbers
from sparselmm.base.exceptions import (
    ArgumentError,
    ArgumentTypeError,
    ConvergenceWarning,
    DataError,
    catchable,
    warn_user,
)
from sparselmm.base.progress import progress_bar
from sparselmm.base.seeds import Seed
from sparselmm.base.types import AnyArray, FloatArray, IntArray
from sparselmm.base.workers import Workers
from sparselmm.inference.resampling import bootstrap
from sparselmm.likelihood.record import Recorder, certify
from sparselmm.results.plots import tables as plots
from sparselmm.results.print.notebook import frame_html, frame_text
from sparselmm.results.print.polars import InPolars

SAME_FIT = 1e-8
"""Relative difference of deviances of one fit on two machines."""

SAME_STATISTIC = 1e-3
"""Relative difference of one statistic of one fit on two machines: theta moves by 3e-5 of its
standard error."""


@dataclass(frozen=True, eq=False)
class BootstrapResults(InPolars):
    """Replicates of the estimates of a fit, made by :meth:`MixedLMResults.bootstrap`.

    Attributes
    ----------
    names : tuple of str
        What was computed. By default the fixed effects; variances and covariances as
        ``"Subject Var"`` and ``"Subject x Subject[Days] Cov"``, then ``"Residual Var"``; the same
        as standard deviations and correlations, ``"Subject SD"``, ``"... Cor"``,
        ``"Residual SD"``. All in the units of the data (``results.params`` holds variances as
        ratios to ``scale``).
    estimate : ndarray, (c,)
        The values of the fit.
    values : ndarray, (R, c)
        Replicates, one per row; NaN where one failed.
    failure : ndarray of str, (R,)
        Why a replicate failed; empty where it did not.
    kind : {"parametric", "case"}
    seed : SeedSequence
        Replicate i draws from its i-th child whatever the number of replicates or workers.
    jackknife : ndarray, (g, c), or None
        Estimates without one group at a time, for BCa intervals.
    by : str
        Grouping factor of cases and jackknife.
    fingerprint : float
        Deviance of the fit, by which replicates of another fit are told.
    """

    names: tuple[str, ...]
    estimate: FloatArray
    values: FloatArray
    failure: AnyArray
    kind: str
    seed: np.random.SeedSequence
    jackknife: FloatArray | None = field(repr=False, default=None)
    by: str = ""
    fingerprint: float = np.nan

    def __post_init__(self) -> None:
        c = len(self.names)
        shapes = {
            "estimate": (np.shape(self.estimate), (c,)),
            "values": (np.shape(self.values), (len(self.failure), c)),
        }
        if self.jackknife is not None:
            shapes["jackknife"] = np.shape(self.jackknife), (len(self.jackknife), c)
        for name, (got, expected) in shapes.items():
            if got != expected:
                raise DataError(
                    f"these bootstrap replicates do not fit together: {name} has shape {got}; "
                    f"{c} names and {len(self.failure)} entries of failure need {expected}"
                )

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    def __len__(self) -> int:
        return len(self.values)

    @property
    def replicates(self) -> pd.DataFrame:
        """Replicates, one per row, (R, c); NaN where one failed."""
        return pd.DataFrame(self.values, columns=list(self.names))

    @property
    def n_failed(self) -> int:
        """Replicates without a converged fit; intervals leave them out."""
        return int((self.failure != "").sum())

    @property
    def failures(self) -> dict[str, int]:
        """Reasons of failures and how often each occurred."""
        return dict(Counter(str(why) for why in self.failure if why))

    @property
    def se(self) -> pd.Series:
        """Standard deviation of the replicates, (c,)."""
        return self.replicates.std(ddof=1)

    @property
    def bias(self) -> pd.Series:
        """Mean of the replicates minus the estimate, (c,)."""
        return self.replicates.mean() - self.estimate

    def conf_int(self, alpha: float = 0.05, kind: str = "percentile") -> pd.DataFrame:
        """Bootstrap confidence intervals.

        Parameters
        ----------
        alpha : float
            One minus the confidence level.
        kind : {"percentile", "basic", "normal", "bca"}
            Percentile and BCa intervals respect the range of a parameter; BCa also corrects for
            bias and skewness and needs more replicates (2,000 and more) and several groups.

        Returns
        -------
        DataFrame, (c, 2)
            Columns 0 and 1: lower and upper end.

        Raises
        ------
        DataError
            When the kind is unknown, alpha is not between 0 and 1, or BCa is asked for and the
            jackknife was not computed.

        References
        ----------
        Davison, A. C. and Hinkley, D. V. (1997). *Bootstrap Methods and their Application*, eqs.
        5.6 (basic), 5.18 (percentile), 5.8 (fractional ranks), and section 5.3.2 (BCa).

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("Penicillin")
        >>> fit = sparselmm.mixedlm("diameter ~ 1 + (1 | plate) + (1 | sample)", data).fit()
        >>> boot = fit.bootstrap(200, seed=1)
        >>> boot.conf_int().loc["Intercept"].round(1).tolist()
        [21.1, 24.5]
        """
        kind = check_choice(kind, "kind", bootstrap.KINDS)
        check_level(alpha)
        if kind == "bca" and self.jackknife is None:
            raise DataError("BCa intervals need a jackknife: call bootstrap(..., jackknife=True)")
        ends = bootstrap.intervals(self.estimate, self.values, alpha, kind, self.jackknife)
        return pd.DataFrame(ends, index=list(self.names), columns=["lower", "upper"])

    def summary(self, alpha: float = 0.05, kind: str = "percentile") -> pd.DataFrame:
        """Estimate, bias, standard error and interval of everything, (c, 5)."""
        out = pd.DataFrame({"estimate": self.estimate}, index=list(self.names))
        out["bias"], out["se"] = self.bias, self.se
        out[["lower", "upper"]] = self.conf_int(alpha, kind)
        return out

    def plot(
        self, kind: str = "density", alpha: float = 0.05, interval: str = "percentile", *,
        figure: Any = None, ax: Any = None,
    ) -> Any:  # fmt: skip
        """Distributions of the replicates.

        Parameters
        ----------
        kind : {"density", "ridge"}
            A panel per parameter with the estimate and its interval, or all standardized in one.
        alpha : float
            One minus the confidence level.
        interval : str
            Kind of the intervals, as of :meth:`conf_int`.
        figure : matplotlib Figure, optional
            Where to draw the densities.
        ax : matplotlib Axes, optional
            Where to draw the ridges.

        Returns
        -------
        matplotlib.figure.Figure
        """
        kind = check_choice(kind, "kind", ("density", "ridge"))
        interval = check_choice(interval, "interval", bootstrap.KINDS)
        estimate = pd.Series(self.estimate, list(self.names), dtype=float)
        if (ax if kind == "density" else figure) is not None:
            raise ArgumentError("densities take figure=, a panel per parameter; ridges take ax=")
        if kind == "ridge":
            return plots.ridge_plot(self.replicates, estimate, ax)
        ends = self.conf_int(alpha, interval)
        return plots.density_plot(self.replicates, estimate, ends, figure)

    def save(self, file: str | PathLike[str] | IO[bytes]) -> None:
        """Write to a file; :meth:`load` reads it, ``bootstrap(resume=...)`` goes on from it."""
        storage.save(self, file)

    @classmethod
    def load(cls, file: str | PathLike[str] | IO[bytes]) -> BootstrapResults:
        """Read replicates that :meth:`save` wrote (a pickle: only from sources you trust).

        Raises
        ------
        DataError
            When the file holds something else.
        """
        return storage.load(cls, file)

    def _repr_html_(self) -> str:
        return frame_html(self.summary(), f"{len(self)} {self.kind} replicates")

    def __repr__(self) -> str:
        failed = f", {self.n_failed} failed" if self.n_failed else ""
        what = f"{len(self)} {self.kind} replicates of {len(self.names)} numbers"
        return f"BootstrapResults: {what}{failed}\n{frame_text(self.summary())}"


def labelled(value: Any, argument: str = "statistic") -> tuple[tuple[str, ...], FloatArray]:
    """Names and numbers of what a user's statistic returns.

    Raises
    ------
    DataError
        When it is not numbers.
    """
    if isinstance(value, pd.Series):
        names: Any = [str(name) for name in value.index]
        value = value.to_numpy()
    elif isinstance(value, dict):
        names, value = [str(name) for name in value], list(value.values())
    else:
        names = None
    try:
        numbers = np.atleast_1d(check_numbers(value, argument, finite=False))
    except ArgumentError as error:
        raise ArgumentTypeError(
            f"the {argument} must return a number, a sequence of numbers, a dict or a Series, not "
            f"{type(value).__name__} ({error})"
        ) from error
    if numbers.ndim != 1 or not len(numbers):
        raise ArgumentError(
            f"the statistic must return numbers in a row, got shape {numbers.shape}"
        )
    if names is not None and len(set(names)) < len(names):
        raise ArgumentError(f"the {argument} gives two numbers of one name: {', '.join(names)}")
    if names is None:
        names = (
            ["statistic"] if len(numbers) == 1 else [f"statistic {i}" for i in range(len(numbers))]
        )
    return tuple(names), numbers


class OnReplicates:
    """A user's statistic as a function of a replicate's arrays."""

    def __init__(
        self, fit: Any, statistic: Callable[[Any], Any], names: tuple[str, ...],
        rows: IntArray | None = None,
    ):  # fmt: skip
        self.fit, self.statistic, self.names, self.rows = fit, statistic, names, rows

    def __call__(self, replicate: bootstrap.Replicate) -> FloatArray:
        """Numbers of one replicate, (c,)."""
        deviance = replicate.deviance
        opt = certify(Recorder(deviance, None), replicate.theta, "newton", "replicate", True, 1e-9)
        rows = self.rows if replicate.rows is None else replicate.rows
        value = self.statistic(self.fit._of(replicate.design, deviance, opt, rows))
        names, numbers = labelled(value)
        if names != self.names:
            raise DataError(
                f"the statistic gave {list(names)} for a replicate and {list(self.names)} for "
                "the fit"
            )
        return numbers


# ------------------------------------------------------------------------------- bookkeeping


def earlier(
    fresh: BootstrapResults, resume: BootstrapResults | None, checkpoint: Any, seed: Seed
) -> BootstrapResults:
    """Replicates to go on from."""
    old = resume
    if checkpoint is not None and Path(checkpoint).exists():
        old = BootstrapResults.load(checkpoint)
    if old is None:
        return fresh
    same = (
        old.names == fresh.names
        and old.kind == fresh.kind
        and np.isclose(old.fingerprint, fresh.fingerprint, rtol=SAME_FIT, atol=0.0)
        and np.allclose(old.estimate, fresh.estimate, rtol=SAME_STATISTIC, equal_nan=True)
        and (old.kind == "parametric" or old.by == fresh.by)
    )
    if not same:
        where = f" in {checkpoint}" if checkpoint is not None and old is not resume else ""
        raise DataError(
            f"the earlier replicates{where} belong to another fit, statistic or kind; give another "
            "checkpoint, or none, to start anew"
        )
    own, given = (_shown(s) for s in (old.seed, fresh.seed))
    if seed is not None and own != given:
        raise DataError(
            f"the earlier replicates have seed {own}, not {given}; leave seed out to go on from "
            "them"
        )
    return old


def _shown(seed: np.random.SeedSequence) -> str:
    return f"{seed.entropy}" + (f" with spawn key {seed.spawn_key}" if seed.spawn_key else "")


def replicated(
    done: BootstrapResults,
    maker: Any,
    n: int,
    workers: Workers,
    progress: bool | None,
    checkpoint: Any,
) -> BootstrapResults:
    """Earlier replicates completed to n, written to the checkpoint task by task."""
    first = len(done)
    with progress_bar(n, min(first, n), "bootstrap", progress) as bar:
        parts = [(done.values, done.failure)]
        for values, failure in bootstrap.run(maker, done.seed, first, n, maker.task, workers):
            parts.append((values.reshape(len(failure), len(done.names)), failure))
            bar.update(len(failure))
            if checkpoint is not None:
                write(_with(done, parts), checkpoint)
    return _with(done, parts)


def _with(done: BootstrapResults, parts: list[Any]) -> BootstrapResults:
    values, failure = zip(*parts, strict=True)
    return replace(done, values=np.concatenate(values), failure=np.concatenate(failure))


def write(done: BootstrapResults, file: Any) -> None:
    """Write a checkpoint so that an interruption leaves the old one or the new one."""
    partial = Path(f"{os.fspath(file)}.part")
    storage.save(done, partial, "checkpoint")
    partial.replace(file)


def warn_of_failures(done: BootstrapResults) -> None:
    """Say why replicates failed, where some did."""
    if done.n_failed:
        why = "; ".join(f"{reason} ({times})" for reason, times in done.failures.items())
        warn_user(
            f"{done.n_failed} of {len(done)} replicates failed and count as missing: {why}",
            catchable(ConvergenceWarning),
        )
