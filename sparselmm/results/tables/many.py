"""Fits of many responses to one design as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base import storage
from sparselmm.base.arguments import (
    check_choice,
    check_list,
    check_numbers,
    check_progress,
    wrong_type,
)
from sparselmm.base.exceptions import (
    ConvergenceWarning,
    DataError,
    IdentifiabilityWarning,
    catchable,
    warn_user,
)
from sparselmm.base.other_names import MANY, NamesOthers
from sparselmm.base.progress import progress_bar
from sparselmm.base.threads import one_thread
from sparselmm.base.types import BoolArray, FloatArray
from sparselmm.base.workers import Workers, in_parallel
from sparselmm.design.terms import Design
from sparselmm.inference.resampling import bootstrap
from sparselmm.inference.variances import VarianceLayout
from sparselmm.inference.wald import two_sided
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.identifiability import confounded_at, message
from sparselmm.likelihood.many.responses import ResponseFits, ResponseFitter
from sparselmm.results.print.notebook import frame_html
from sparselmm.results.print.polars import InPolars

TASK_NUMBERS = 4_000_000
"""Numbers of Y in one task (32 MB)."""


@dataclass(frozen=True, eq=False)
class ManyResults(InPolars, NamesOthers):
    """Fits of many responses to one design, made by :meth:`MixedLM.fit_many`.

    Every table has one row per response, in the order given.

    Attributes
    ----------
    names : list
        Names of the responses.
    fits : ResponseFits
        The numbers behind the tables.
    design : Design
    covariance : Covariance
        Of the model.
    reml : bool
    """

    names: list[Any]
    fits: ResponseFits
    design: Design
    covariance: Any
    reml: bool

    _other_names = MANY

    def __len__(self) -> int:
        return len(self.names)

    def _table(self, values: FloatArray, columns: Sequence[str]) -> pd.DataFrame:
        return pd.DataFrame(values, index=self.names, columns=list(columns))

    def _series(self, values: Any, name: str) -> pd.Series:
        return pd.Series(values, index=self.names, name=name)

    @property
    def fe_params(self) -> pd.DataFrame:
        """Fixed effects, (m, p); NaN for dropped columns."""
        return self._table(self.fits.beta, self.design.x_names)

    @property
    def bse_fe(self) -> pd.DataFrame:
        """Their standard errors, (m, p)."""
        return self._table(self.fits.se, self.design.x_names)

    @property
    def zvalues(self) -> pd.DataFrame:
        """``fe_params / bse_fe``, (m, p)."""
        return self.fe_params / self.bse_fe

    @property
    def pvalues(self) -> pd.DataFrame:
        """Two-sided p-values of ``zvalues`` under the normal distribution, (m, p)."""
        return self._table(two_sided(self.zvalues.to_numpy()), self.design.x_names)

    @property
    def variances(self) -> pd.DataFrame:
        """Variances and covariances in the units of each response, the residual one last."""
        first = self.design.p
        layout = VarianceLayout.of(self.design.terms)
        stop = first + len(layout.names) + 1
        names = bootstrap.quantity_names(self.design.x_names, layout)
        return self._table(self._quantities[:, first:stop], names[first:stop])

    @property
    def sds(self) -> pd.DataFrame:
        """Standard deviations and correlations, the residual one last."""
        layout = VarianceLayout.of(self.design.terms)
        names = bootstrap.quantity_names(self.design.x_names, layout)
        first = self.design.p + len(layout.names) + 1
        return self._table(self._quantities[:, first:], names[first:])

    @property
    def _quantities(self) -> FloatArray:
        fits = self.fits
        return bootstrap.quantities(
            fits.theta, fits.beta, fits.scale, self.covariance, self.design.terms
        )

    @property
    def theta(self) -> FloatArray:
        """Relative covariance factors, (m, n_theta)."""
        return self.fits.theta

    @property
    def scale(self) -> pd.Series:
        """Residual variances, (m,)."""
        return self._series(self.fits.scale, "scale")

    @property
    def sigma(self) -> pd.Series:
        """Residual standard deviations, (m,)."""
        return self._series(np.sqrt(self.fits.scale), "sigma")

    @property
    def llf(self) -> pd.Series:
        """Log-likelihoods, or REML log-likelihoods, (m,)."""
        return self._series(-0.5 * self.fits.deviance, "llf")

    @property
    def converged(self) -> pd.Series:
        """Whether each fit met its criteria, (m,)."""
        return self._series(self.fits.converged, "converged")

    @property
    def singular(self) -> pd.Series:
        """Whether an estimated random-effects covariance matrix is singular, (m,)."""
        return self._series(self.fits.singular, "singular")

    @property
    def failure(self) -> pd.Series:
        """Why a response has no fit, empty where it has one, (m,)."""
        return self._series(self.fits.failure, "failure")

    @property
    def table(self) -> pd.DataFrame:
        """Everything in one table, one row per response.

        Each fixed effect with its standard error, z and p (``"x"``, ``"x SE"``, ``"x z"``,
        ``"x p"``), standard deviations and correlations, log-likelihood, and flags.
        """
        parts: list[Any] = []
        z, p = self.zvalues, self.pvalues
        for name in self.design.x_names:
            parts += [
                self.fe_params[name], self.bse_fe[name].rename(f"{name} SE"),
                z[name].rename(f"{name} z"), p[name].rename(f"{name} p"),
            ]  # fmt: skip
        parts += [self.sds, self.llf, self.converged, self.singular]
        return pd.concat(parts, axis=1)

    def save(self, file: storage.File) -> None:
        """Write to a file that :meth:`load` reads."""
        storage.save(self, file)

    @classmethod
    def load(cls, file: storage.File) -> ManyResults:
        """Read what :meth:`save` wrote (a pickle: only from sources you trust)."""
        return storage.load(cls, file)

    def __repr__(self) -> str:
        bad = int((~self.fits.converged).sum())
        method = "REML" if self.reml else "ML"
        return f"<ManyResults: {len(self)} responses by {method}, {bad} without a converged fit>"

    def _repr_html_(self) -> str:
        return frame_html(self.fe_params, repr(self).strip("<>"))


class _Tasks:
    """Fits of blocks of columns of Y."""

    def __init__(self, fitter: ResponseFitter):
        self.fitter = fitter

    def __call__(self, block: FloatArray) -> ResponseFits:
        with one_thread():
            return self.fitter.fit(block)


def fit_many(
    design: Design, deviance: ProfiledDeviance, Y: Any, names: Sequence[Any] | None, missing: str,
    workers: Workers, progress: bool | None,
) -> ManyResults:  # fmt: skip
    """Fit every column of Y; arguments as of :meth:`MixedLM.fit_many`."""
    missing = check_choice(missing, "missing", ("raise", "drop"))
    progress = check_progress(progress)
    if Y is None or isinstance(Y, (str, bytes, Mapping)):
        raise wrong_type("Y", "a table of responses, one per column", Y)
    values = Y.to_numpy() if hasattr(Y, "to_numpy") else Y
    if not isinstance(values, np.ndarray):
        values = check_numbers(values, "Y", finite=False)
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or len(values) != design.n:
        raise DataError(
            f"Y must have one row per row of the model, {design.n}, and one column per response; "
            f"got shape {values.shape}"
        )
    if not values.shape[1]:
        raise DataError("Y has no columns; give one per response")
    labels = list(Y.columns) if hasattr(Y, "columns") else list(range(values.shape[1]))
    if names is not None:
        labels = check_list(names, "names", "a list of names, one per response")
        _check_distinct(labels)
    if len(labels) != values.shape[1]:
        raise DataError(f"names has {len(labels)} names for {values.shape[1]} responses")
    width = int(np.clip(TASK_NUMBERS // max(design.n, 1), 16, 4096))
    blocks = [slice(a, min(a + width, len(labels))) for a in range(0, len(labels), width)]
    fitter = ResponseFitter(design, deviance)
    work = (_checked(values, block, labels, missing) for block in blocks)
    parts = []
    with progress_bar(len(labels), 0, "fits", progress) as bar:
        for fits in in_parallel(_Tasks(fitter), work, workers):
            parts.append(fits)
            bar.update(len(fits))
    out = ManyResults(
        labels, ResponseFits.joined(parts), design, deviance.covariance, deviance.reml
    )
    _warn(out, deviance)
    return out


def _check_distinct(labels: Sequence[Any]) -> None:
    """Refuse names that are not labels, and a name of two responses."""
    for label in labels:
        if not isinstance(label, Hashable):
            raise wrong_type("names", "a list of names, one per response", labels)
    twice = [label for label, times in Counter(labels).items() if times > 1]
    if twice:
        raise DataError(f"names has {twice[0]!r} twice; give every response a name of its own")


def _checked(values: Any, block: slice, labels: list[Any], missing: str) -> FloatArray:
    """Some responses as rows, (m, n)."""
    part = np.ascontiguousarray(check_numbers(values[:, block], "Y", finite=False).T)
    bad = (np.isinf(part) if missing == "drop" else ~np.isfinite(part)).any(axis=1)
    if bad.any():
        name = labels[block.start + int(np.argmax(bad))]
        hint = "" if missing == "drop" else "; missing='drop' fits such responses on their own rows"
        raise DataError(f"response {name!r} has missing or infinite values{hint}")
    return part


def _warn(out: ManyResults, deviance: ProfiledDeviance) -> None:
    bad: BoolArray = ~out.fits.converged
    fine = np.flatnonzero(~bad & ~out.fits.singular)
    if len(fine):  # what the design cannot tell apart, it cannot for any response
        terms, theta = out.design.terms, out.fits.theta[fine[0]]
        names = [term.name for term in terms]
        found = confounded_at(deviance, theta, np.zeros(len(theta), dtype=bool), names)
        if found is not None:
            warn_user(message(found), catchable(IdentifiabilityWarning))
    if bad.any():
        counts = Counter(str(why) or "not converged" for why in out.fits.failure[bad])
        why = "; ".join(f"{reason} ({times})" for reason, times in counts.items())
        warn_user(
            f"{int(bad.sum())} of {len(out)} responses have no converged fit: {why}",
            catchable(ConvergenceWarning),
        )
