"""What findings are made of, and where a finding begins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparselmm.base.types import AnyArray, BoolArray, FloatArray
from sparselmm.design.terms import Design, DesignLayout
from sparselmm.inference.estimates import Estimates
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.record import OptSummary

SHOWN = 5
"""Names in a finding."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the checks look at.

    Attributes
    ----------
    deleted : ndarray, (n,)
        Deleted residuals; (0,) of rows that were not kept, as the next three.
    studentized : ndarray, (n,)
        Studentized conditional residuals.
    fitted : ndarray, (n,)
    labels : sequence
        Row labels.
    """

    est: Estimates
    opt: OptSummary
    deleted: FloatArray
    studentized: FloatArray
    fitted: FloatArray
    labels: AnyArray

    @classmethod
    def without_rows(cls, est: Estimates, opt: OptSummary) -> Evidence:
        """Of a fit whose rows were not kept."""
        none = np.zeros(0)
        return cls(est, opt, none, none, none, none)

    @property
    def layout(self) -> DesignLayout:
        """Of the rows, or they themselves."""
        return self.est.layout

    @property
    def design(self) -> Design:
        """The rows."""
        return self.est.design

    @property
    def dev(self) -> ProfiledDeviance:
        """The engine."""
        return self.est.deviance

    @property
    def positive(self) -> BoolArray:
        """Rows that count, (n,)."""
        w = self.design.weights
        return np.ones(self.design.n, dtype=bool) if w is None else np.asarray(w > 0)


def listed_names(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
