"""Residuals and leverage of rows whose errors are independent."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from sparselmm.base.arguments import check_choice, check_flag
from sparselmm.base.exceptions import ArgumentError
from sparselmm.base.types import FloatArray
from sparselmm.inference.diagnostics import residuals as numbers
from sparselmm.inference.diagnostics.leverage import Leverage, leverage
from sparselmm.results.methods.base import ResultsBase, Vector, from_rows


class RowResults(ResultsBase):
    """Residuals of rows whose errors are independent, and their leverage."""

    @from_rows
    def residuals(
        self, kind: str = "response", *, level: str = "conditional", scaled: bool = False
    ) -> Vector:
        """Residuals of a kind.

        Parameters
        ----------
        kind : {"response", "pearson", "studentized", "deleted"}
            ``"response"``: in the units of y. ``"pearson"``: divided by their standard deviation
            relative to sigma; for the conditional level that is multiplication by the square root
            of the prior weight, as in lme4. ``"studentized"``: divided by their own standard
            error, which allows for leverage (lme4's ``rstudent``). ``"deleted"``: the same with
            the sigma of the fit without the row (externally studentized), theta held; they follow
            a t distribution, where studentized ones cannot exceed the root of ``n - r``.
        level : {"conditional", "marginal"}
            ``"conditional"``: ``y - X beta - Z b``, what is left beside the random effects, for
            outlying rows and the shape of the errors. ``"marginal"``: ``y - X beta``, for the
            fixed part.
        scaled : bool
            Divide Pearson residuals by sigma.

        Returns
        -------
        Series or ndarray, (n,)
            NaN where a row is fitted exactly by its own leverage or has no weight.

        Raises
        ------
        ValueError
            When the kind or level is unknown, or there is no such combination.

        References
        ----------
        Nobre, J. S. and Singer, J. da M. (2007). Residual analysis for linear mixed models.
        *Biometrical Journal* 49(6), 863-875.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> float(fit.residuals("studentized").abs().max().round(2))
        5.53
        """
        kind = check_choice(kind, "kind", numbers.KINDS)
        level = check_choice(level, "level", numbers.LEVELS)
        scaled = check_flag(scaled, "scaled")
        if kind == "deleted" and level == "marginal":
            raise ArgumentError("deleted residuals exist at the conditional level only")
        needed = kind in ("studentized", "deleted") and level == "conditional"
        lev = self._leverage if needed else None
        values = numbers.residuals(self._est, self._raw(level), kind, level, scaled, lev)  # type: ignore[arg-type]
        return self._rows(values)

    @cached_property
    def _leverage(self) -> Leverage:
        return leverage(self.deviance, self.built.design, self.pls.theta)

    def _standardized(self) -> FloatArray:
        """Residuals that should be alike and uncorrelated, (n,)."""
        return np.asarray(self.residuals("pearson"))

    def _row_variance(self) -> FloatArray:
        """Residual variance of the rows, (n,)."""
        weights = self.built.design.weights
        one = np.ones(self.built.design.n)
        with np.errstate(divide="ignore"):
            return np.asarray(self.pls.scale / (one if weights is None else weights))
