"""Cross-validation of a fitted model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_count, check_flag
from sparselmm.base.exceptions import ArgumentError
from sparselmm.base.types import IntArray
from sparselmm.design.rows import GroupRows
from sparselmm.inference.prediction import cross_validation
from sparselmm.results.methods.base import from_rows
from sparselmm.results.methods.residuals import RowResults
from sparselmm.results.tables.cross_validation import CrossValidation


class ValidationResults(RowResults):
    """Predictions of rows, or groups, by the fit without them, where errors are independent."""

    @from_rows
    def cross_validate(
        self, by: Any = None, *, folds: int | None = None, refit: bool = False, seed: int = 0
    ) -> CrossValidation:
        """Predict rows, or whole groups, by the fit without them.

        Parameters
        ----------
        by : str or array-like, (n,), optional
            Leave out the levels of a grouping factor (or of any column of the data, or one label
            per row); such a group is then a new one, and what else is known of it, the levels of
            crossed factors, counts. Default: leave out single rows, predicted with the random
            effects that the other rows of their groups give.
        folds : int, optional
            Leave out that many random parts, of the rows or of the groups, instead of one at a
            time.
        refit : bool
            Estimate the variances without each fold. By default they are held, the fixed and
            random effects are not, and nothing is fitted again: the errors follow exactly from
            the residuals of the whole fit.
        seed : int
            Of the random parts.

        Returns
        -------
        CrossValidation

        Raises
        ------
        DataError
            When there is no such factor.
        MemoryLimitError
            When a fold has more than 20,000 rows.

        Notes
        -----
        Without the rows of a set, at given variances, their prediction errors are
        ``(I - S D)^-1 e``, e the residuals, S the unscaled error covariance of the fitted values,
        D the prior weights; of single rows, ``e_i / (1 - h_i)``.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> round(fit.cross_validate().rmse, 1), round(fit.cross_validate("Subject").rmse, 1)
        (28.5, 49.6)
        """
        refit, seed = check_flag(refit, "refit"), check_count(seed, "seed", 0)
        design = self.built.design
        if by is None:
            codes: IntArray = np.arange(design.n)
            what = "rows"
        else:
            labels, codes = self._deleted_groups(by, "by")
            what = by if isinstance(by, str) else "groups"
            if len(labels) < 2:
                raise ArgumentError(f"by: {what} has one level; without it no row is left")
        n_parts = int(codes.max()) + 1
        if folds is not None:
            folds = check_count(folds, "folds", 2, n_parts)
            part = np.random.default_rng(seed).permutation(n_parts) % folds
            codes = np.where(codes >= 0, part[codes], -1)
            what = f"{folds} parts of the {what}"
        if by is None and folds is None and not refit:
            found = cross_validation.rows_left_out(self._est, self._leverage.total)
        else:
            groups = GroupRows.of(codes, int(codes.max()) + 1)
            parts = [rows for rows in groups if len(rows)]
            found = cross_validation.left_out(self._est, parts, refit)
        columns = {
            "observed": design.y, "predicted": design.y - found.error, "se": found.se,
            "fold": codes.astype(np.int64),
        }  # fmt: skip
        frame = pd.DataFrame(columns, self.built.row_labels)
        return CrossValidation(frame, f"left out: {what}", refit)
