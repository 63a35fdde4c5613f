"""What the rows see of a residual covariance structure: R of a group, residuals, their spread."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_choice, check_flag, shown
from sparselmm.base.exceptions import ArgumentError, DataError, RemovedRowsError, UnsupportedError
from sparselmm.base.types import IntArray
from sparselmm.design.built import BuiltDesign
from sparselmm.design.factors import match
from sparselmm.design.terms import Design
from sparselmm.inference.estimates import Estimates
from sparselmm.inference.prediction import means as prediction
from sparselmm.inference.residual import JointFit
from sparselmm.inference.residual_rows import block, row_sd, whitened
from sparselmm.results.methods.augment import augmented
from sparselmm.results.methods.base import Matrix, ResultsBase, Vector, from_rows
from sparselmm.results.methods.streaming import Columns, rows_of_groups

KINDS = ("response", "pearson", "normalized")
"""Kinds of residuals."""


class ResidualByRow(ResultsBase):
    """Part of :class:`ResidualResults`."""

    joint: JointFit

    def R(self, group: Any, data: Any = None) -> Matrix:
        """Covariance matrix of the residuals of one group, in the units of the data.

        Parameters
        ----------
        group : label
            Of the groups of ``residual=``.
        data : container of rows, optional
            The rows of the fit, where they were not kept.

        Returns
        -------
        DataFrame, (m, m)
            In order of time, labelled by time or visit.

        Raises
        ------
        DataError
            When there is no such group.
        """
        spec = self.built.spec.residual
        known = self.built.layout.residual
        assert spec is not None and known is not None
        if not known.kind:
            raise DataError("the residuals have no groups; sigma_by_row has their variances")
        labels = known.labels if self.built.has_rows else spec.labels
        code = int(match(labels, [group])[0]) if isinstance(group, Hashable) else -1
        if code < 0:
            raise DataError(f"group: there is no {shown(group)} among the groups of {known.text}")
        design = rows_for(self.built, data, "R", np.array([code]))
        rows = design.residual
        assert rows is not None
        order = rows.order
        at = order[rows.group[order] == code]
        w = design.weights
        half = np.zeros(len(rows.group)) if w is None else 0.5 * np.log(w)
        values = self.pls.scale * block(self.joint, rows, at, half)
        names = (
            [rows.visit_labels[v] for v in rows.visits[at]]
            if len(rows.visit_labels)
            else [tuple(map(float, c)) if len(c) > 1 else float(c[0]) for c in rows.coords[at]]
        )
        return pd.DataFrame(values, names, names)

    @property
    @from_rows
    def sigma_by_row(self) -> Vector:
        """Standard deviation of every row's residual, (n,), in the units of the data."""
        design = self.built.design
        assert design.residual is not None
        return self._rows(self.pls.sigma * row_sd(self.joint, design.residual, design.weights))

    @from_rows
    def residuals(
        self, kind: str = "response", *, level: str = "conditional", scaled: bool = False
    ) -> Vector:
        """Residuals of a kind.

        Parameters
        ----------
        kind : {"response", "pearson", "normalized"}
            ``"response"``: in the units of y. ``"pearson"``: divided by the standard deviation of
            the row relative to sigma. ``"normalized"``: ``L^-1 e / sigma`` with
            ``R = L L'``, which are uncorrelated with variance one where the model holds (nlme's
            "normalized").
        level : {"conditional", "marginal"}
            ``y - X beta - Z b``, or ``y - X beta``, which is for "response" alone.
        scaled : bool
            Divide Pearson residuals by sigma.

        Returns
        -------
        Series or ndarray, (n,)
        """
        kind = check_choice(kind, "kind", KINDS)
        level = check_choice(level, "level", ("conditional", "marginal"))
        scaled = check_flag(scaled, "scaled")
        e = self._raw(level)
        if kind == "response":
            return self._rows(e)
        if level == "marginal":
            raise ArgumentError("level='marginal' is for kind='response' alone")
        if kind == "normalized":
            return self._rows(whitened(self.joint, e) / self.pls.sigma)
        size = np.asarray(self.sigma_by_row) / (1.0 if scaled else self.pls.sigma)
        return self._rows(e / size)

    def augment(self, data: Any = None, *, to: Any = None, influence: bool = False) -> Any:
        """The data with fitted values, residuals and their standard deviations.

        Parameters
        ----------
        data, to
            As of :meth:`MixedLMResults.augment`.
        influence : bool
            Leverage and Cook's distance are not available here.

        Returns
        -------
        DataFrame (n, ...), iterator of DataFrame, or path
            The columns of the data, then ``.fitted`` (random effects included), ``.resid``,
            ``.fixed`` (fixed effects and offset alone), ``.mu`` (the same as ``.fitted``),
            ``.offset``, ``.sigma`` (standard deviation of the row's residual) and ``.pearson``
            (residual in units of it).

        Raises
        ------
        DataError, FileError
            As of :meth:`MixedLMResults.augment`.
        """
        if check_flag(influence, "influence"):
            raise UnsupportedError(
                "augment(influence=True) is not available for a fit with residual= or dispersion="
            )
        return augmented(self, data, to, self._row_columns)

    def _row_columns(self, est: Estimates) -> Columns:
        """Columns of ``augment`` for the rows of a design."""
        design = est.design
        assert design.residual is not None
        sd = self.pls.sigma * row_sd(self.joint, design.residual, design.weights)
        fitted = prediction.fitted(est, True)
        return {
            ".fitted": fitted,
            ".resid": design.y - fitted,
            ".fixed": prediction.fitted(est, False),
            ".mu": fitted,
            ".offset": np.zeros(design.n) if design.offset is None else design.offset,
            ".sigma": sd,
            ".pearson": (design.y - fitted) / sd,
        }


def rows_for(built: BuiltDesign, data: Any, what: str, groups: IntArray) -> Design:
    """The rows of a fit; where they were not kept, those of some groups, read again from ``data``.

    Raises
    ------
    ArgumentError
        When data are given that are not needed.
    RemovedRowsError
        When they are needed and not given.
    """
    if built.has_rows:
        if data is not None:
            raise ArgumentError(
                f"{what}: data= is for a fit that did not keep its rows, and this one has them; "
                "leave it out"
            )
        return built.design
    if built.streamed is None:
        raise RemovedRowsError.of(what)
    if data is None:
        error = RemovedRowsError.of(what, kept=False)
        raise RemovedRowsError(f"{error}; or pass the rows of the fit as data=")
    return rows_of_groups(built.streamed, data, groups, what)
