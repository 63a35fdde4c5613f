"""Fits of many responses to one design.

Where the model allows it the searches run on stacks (:mod:`sparselmm.likelihood.many`). A response
whose end is not certified there, or that stops beside a false zero, is fitted alone by
:func:`sparselmm.likelihood.optimize.minimize`. So is every response of a model that does not suit
stacks; there the analysis of the pattern of M is shared.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from sparselmm.base.cholesky import NotPositiveDefiniteError
from sparselmm.base.exceptions import DataError
from sparselmm.base.types import BoolArray, FloatArray, IntArray
from sparselmm.design.subsets import take_rows
from sparselmm.design.terms import Design
from sparselmm.design.validate import check_size
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.engine import FEW_DIGITS, but, fit_design, minimized, solver_like
from sparselmm.likelihood.many.evaluation import Points
from sparselmm.likelihood.many.reduced import Projector, Responses
from sparselmm.likelihood.many.search import search
from sparselmm.likelihood.many.setup import BatchedModel
from sparselmm.likelihood.moments import moment_start, moment_starts
from sparselmm.likelihood.optimize import LIFT, TOLERANCE
from sparselmm.likelihood.record import OptSummary


@dataclass(frozen=True, eq=False)
class ResponseFits:
    """Fits of many responses, one per row.

    Attributes
    ----------
    theta : ndarray, (m, n_theta)
    beta, se : ndarray, (m, p)
        Fixed effects and standard errors; NaN for dropped columns.
    scale : ndarray, (m,)
        Residual variance.
    deviance : ndarray, (m,)
        -2 log-likelihood, or the REML criterion.
    converged, singular : ndarray of bool, (m,)
    alone : ndarray of bool, (m,)
        Responses that were fitted alone.
    failure : ndarray of str, (m,)
        Why there is no fit; empty where there is one. All numbers are NaN then.
    """

    theta: FloatArray
    beta: FloatArray
    se: FloatArray
    scale: FloatArray
    deviance: FloatArray
    converged: BoolArray
    singular: BoolArray
    alone: BoolArray
    failure: np.ndarray

    def __len__(self) -> int:
        return len(self.deviance)

    def put(self, rows: IntArray, other: ResponseFits) -> None:
        """Overwrite some of the fits."""
        for f in fields(self):
            getattr(self, f.name)[rows] = getattr(other, f.name)

    @classmethod
    def joined(cls, parts: list[ResponseFits]) -> ResponseFits:
        """Fits one after the other."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


class ResponseFitter:
    """A model set up once for any number of responses.

    Parameters
    ----------
    design : Design
        Its response is not used.
    deviance : ProfiledDeviance
        Of the model; its response is not used.
    start : ndarray, (n_theta,), optional
        Where every search starts. Default: moment estimates of each response.
    tolerance : float
        A search ends when another step promises to lower the deviance by less.
    stacked : bool
        False: every response alone.
    """

    def __init__(
        self, design: Design, deviance: ProfiledDeviance, start: FloatArray | None = None,
        tolerance: float = TOLERANCE, stacked: bool = True,
    ):  # fmt: skip
        self.deviance = but(deviance, solver_like(deviance))  # the caller's stays as it is
        self.design, self.tolerance = design, tolerance
        inner, _ = self.deviance.working(np.zeros(deviance.covariance.n_theta))
        self.projector = Projector(deviance.rows(design), deviance.cross)
        self.batch = BatchedModel.of(inner) if stacked else None
        self.start = start

    def fit(self, Y: FloatArray) -> ResponseFits:
        """Fits of responses (m, n), one per row.

        A response with missing values (NaN) is fitted alone, on the rows it has.
        """
        holes = np.isnan(Y).any(axis=1)
        if not holes.any():
            return self._fit_complete(Y)
        out = _empty(len(Y), self.deviance, self.design.p)
        whole = np.flatnonzero(~holes)
        if len(whole):
            out.put(whole, self._fit_complete(Y[whole]))
        for i in np.flatnonzero(holes).tolist():
            self._fit_rows(out, i, Y[i])
        return out

    def _fit_rows(self, out: ResponseFits, i: int, y: FloatArray) -> None:
        """Fit a response on the rows where it is not missing, in place."""
        out.alone[i] = True
        design = take_rows(replace(self.design, y=y), np.flatnonzero(~np.isnan(y)))
        start = self.start
        try:
            if start is None:
                start = np.where(self.deviance.covariance.on_diagonal, 0.5 * self.deviance.units, 0)
            deviance, opt = fit_design(design, self.deviance, start)
        except (DataError, NotPositiveDefiniteError, np.linalg.LinAlgError) as error:
            self._fail(out, i, str(error))
            return
        self._fill_alone(out, i, deviance, opt)

    def _fit_complete(self, Y: FloatArray) -> ResponseFits:
        responses = self.projector(Y)
        if self.batch is None:
            rows = np.arange(len(responses))
            return self._alone(
                _empty(len(responses), self.deviance, self.design.p), Y, responses, rows
            )
        out = _empty(len(responses), self.deviance, self.design.p)
        able = np.flatnonzero(~responses.exact & np.isfinite(responses.s))
        if len(able):
            inside = responses.take(able)
            points, good = search(self.batch, inside, self._starts(inside), self.tolerance)
            self._fill(out, able, inside.shift, points)
            out.converged[able] = good & (self._rounding(inside, points) < FEW_DIGITS)
        return self._alone(out, Y, responses, np.flatnonzero(~out.converged))

    def _rounding(self, responses: Responses, points: Points) -> FloatArray:
        """Estimate of the rounding error of pwrss in the deviance, (m,)."""
        size = responses.s + np.sum(points.gamma**2, axis=1)
        return np.asarray(np.finfo(float).eps * self.deviance.df * size / points.pwrss)

    def _starts(self, responses: Responses) -> FloatArray:
        cross, covariance = self.deviance.cross, self.deviance.covariance
        if self.start is not None:
            start = np.broadcast_to(self.start, (len(responses), covariance.n_theta))
        else:
            start = moment_starts(cross, covariance, responses.v, responses.s)
        units = self.deviance.units
        start = np.where(covariance.on_diagonal & (start == 0.0), LIFT * units, start)
        if cross.bases is None:
            return start
        return np.array([self.deviance.working(one)[1] for one in start])

    def _cross(self, one: Responses) -> CrossProducts:
        """Cross-products with one response in the last columns of B and C."""
        cross = self.deviance.cross
        B, C = cross.B.copy(), cross.C.copy()
        B[:, -1], C[-1, :-1], C[:-1, -1], C[-1, -1] = one.v[0], one.c[0], one.c[0], one.s[0]
        out = replace(cross, B=B, C=C, basis=replace(cross.basis, shift=one.shift[0]))
        out.__dict__["A"] = cross.A  # the cached sparse A serves every response
        return out

    def fit_one(self, y: FloatArray) -> tuple[ProfiledDeviance, OptSummary]:
        """The deviance of one response (n,) and the end of its search.

        Raises
        ------
        DataError
            When the fixed effects explain the response exactly.
        """
        check_size(y, ["y"], "the response")
        one = self.projector(y[None])
        if one.exact[0]:
            raise DataError(
                "the fixed effects explain the response exactly: the residual variance is zero "
                "and no variance component can be estimated"
            )
        return self._minimized(one, y)

    def deviance_of(self, one: Responses) -> ProfiledDeviance:
        """The profiled deviance of one response; the factorization's analysis is shared."""
        return but(self.deviance, self.deviance.solver, cross=self._cross(one))

    def _fill(self, out: ResponseFits, rows: IntArray, shift: FloatArray, points: Points) -> None:
        basis, df = self.deviance.cross.basis, self.deviance.df
        assert self.batch is not None
        out.theta[rows] = points.theta
        if self.deviance.cross.bases is not None:
            out.theta[rows] = [self.deviance.original(one) for one in points.theta]
        out.deviance[rows] = points.value
        out.scale[rows] = points.pwrss / df
        out.beta[np.ix_(rows, basis.kept)] = shift + points.gamma @ basis.T.T
        var = np.einsum("ij,mjk,ik->mi", basis.T, points.covariance, basis.T, optimize=True)
        out.se[np.ix_(rows, basis.kept)] = np.sqrt(var * out.scale[rows, None])
        out.singular[rows] = self.batch.covariance.singular(self.batch.cross, points.theta).any(
            axis=1
        )

    def _alone(
        self, out: ResponseFits, Y: FloatArray, responses: Responses, rows: IntArray
    ) -> ResponseFits:  # fmt: skip
        """Fit some responses one by one, in place."""
        for i in rows.tolist():
            one = responses.take(slice(i, i + 1))
            out.alone[i] = True
            if not np.isfinite(one.s[0]) or one.exact[0]:
                what = "exact fit of the fixed effects" if one.exact[0] else "not finite"
                self._fail(out, i, what)
                continue
            try:
                deviance, opt = self._minimized(one, Y[i])
            except (NotPositiveDefiniteError, np.linalg.LinAlgError) as error:
                self._fail(out, i, str(error))
                continue
            self._fill_alone(out, i, deviance, opt)
        return out

    @staticmethod
    def _fill_alone(out: ResponseFits, i: int, deviance: ProfiledDeviance, opt: OptSummary) -> None:
        fit, kept = deviance.at(opt.theta), deviance.cross.basis.kept
        out.theta[i], out.deviance[i], out.scale[i] = fit.theta, fit.deviance, fit.scale
        out.beta[i, kept] = fit.beta
        out.se[i, kept] = np.sqrt(np.diag(fit.vcov_unscaled) * fit.scale)
        out.singular[i] = deviance.covariance.singular(deviance.cross, fit.theta).any()
        out.converged[i] = opt.converged

    def _minimized(self, one: Responses, y: FloatArray) -> tuple[ProfiledDeviance, OptSummary]:
        deviance, design = self.deviance_of(one), replace(self.design, y=y)
        if self.start is not None:
            found = minimized(deviance, design, self.start, self.tolerance)
            if found[1].converged:
                return found
        start = moment_start(deviance.cross, deviance.covariance, deviance.known_scale)
        return minimized(deviance, design, start, self.tolerance)

    @staticmethod
    def _fail(out: ResponseFits, i: int, why: str) -> None:
        for values in (out.theta, out.beta, out.se, out.scale, out.deviance):
            values[i] = np.nan
        out.converged[i] = out.singular[i] = False
        out.failure[i] = why


def _empty(m: int, deviance: ProfiledDeviance, p: int) -> ResponseFits:
    n_theta = deviance.covariance.n_theta
    return ResponseFits(
        theta=np.full((m, n_theta), np.nan), beta=np.full((m, p), np.nan),
        se=np.full((m, p), np.nan), scale=np.full(m, np.nan), deviance=np.full(m, np.nan),
        converged=np.zeros(m, dtype=bool), singular=np.zeros(m, dtype=bool),
        alone=np.zeros(m, dtype=bool), failure=np.full(m, "", dtype=object),
    )  # fmt: skip
