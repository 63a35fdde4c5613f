"""Cluster-robust covariances and tests of the fixed effects."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_level, check_list, check_numbers, in_order
from sparselmm.base.exceptions import ArgumentError, DataError
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design.factors import factorize
from sparselmm.design.row_arguments import take
from sparselmm.design.validate import aligned
from sparselmm.inference.hypotheses.robust import ClusterRobust
from sparselmm.inference.wald import Wald
from sparselmm.results.methods.base import Matrix, ResultsBase, from_rows
from sparselmm.results.print.notebook import as_table


class RobustResults(ResultsBase):
    """Part of :class:`sparselmm.MixedLMResults`."""

    @from_rows
    def cov_robust(self, kind: str = "CR2", groups: Any = None) -> Matrix:
        """Covariance of the fixed effects that allows any dependence within clusters.

        Parameters
        ----------
        kind : {"CR2", "CR1", "CR0"}
            The sandwich with residuals corrected so that it is unbiased when the model is right
            (CR2), multiplied by J / (J - 1) for J clusters (CR1), or as they are (CR0).
        groups : str or array-like, (n,), optional
            Clusters: a column of the data, a grouping factor of the model, or one label per row.
            Every level of every random effect must lie in one cluster. Default: the ``groups``
            argument of the model, or the grouping factor with the fewest levels.

        Returns
        -------
        DataFrame or ndarray, (k_fe, k_fe)
            NaN for dropped columns.

        Raises
        ------
        DataError
            When random effects are not nested in the clusters, there is only one cluster, or
            ``groups`` has the wrong length.

        References
        ----------
        Bell, R. M. and McCaffrey, D. F. (2002). Bias reduction in standard errors for linear
        regression with multi-stage samples. *Survey Methodology* 28, 169-181.

        Pustejovsky, J. E. and Tipton, E. (2018). Small-sample methods for cluster-robust variance
        estimation and hypothesis testing in fixed effects models. *JBES* 36, 672-683, eqs. 4-8.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("dietox")
        >>> fit = sparselmm.mixedlm("Weight ~ Time + (Time | Pig)", data).fit()
        >>> float(fit.cov_robust().loc["Time", "Time"].round(5))
        0.00637
        """
        found = self._robust(kind, groups, None)
        return self._matrix(self._full_matrix(found.vcov), self.built.layout.x_names)

    @from_rows
    @as_table
    def robust_tests(
        self, r_matrix: Any = None, kind: str = "CR2", groups: Any = None, alpha: float = 0.05
    ) -> pd.DataFrame:
        """Test fixed effects by t tests with a cluster-robust covariance.

        Parameters
        ----------
        r_matrix : array-like, (m, k_fe), optional
            Combinations of the fixed effects. Default: each by itself.
        kind, groups
            As for :meth:`cov_robust`.
        alpha : float
            One minus the confidence level.

        Returns
        -------
        DataFrame
            ``coef``, ``std_err``, ``t``, ``df`` (Satterthwaite's, from the model's covariance),
            ``pvalue``, ``lower``, ``upper``.

        References
        ----------
        Bell, R. M. and McCaffrey, D. F. (2002). Bias reduction in standard errors for linear
        regression with multi-stage samples. *Survey Methodology* 28, 169-181.

        Pustejovsky, J. E. and Tipton, E. (2018). Small-sample methods for cluster-robust variance
        estimation and hypothesis testing in fixed effects models. *JBES* 36, 672-683, section 3.1.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> fit.robust_tests().loc["Days", ["t", "df"]].round(3).tolist()
        [6.771, 17.0]
        """
        names, p = list(self.built.layout.x_names), self.built.layout.p
        kept = self.deviance.cross.basis.kept
        check_level(alpha)
        r_matrix = in_order(r_matrix, names, argument="r_matrix")
        R = np.eye(p) if r_matrix is None else np.atleast_2d(check_numbers(r_matrix, "r_matrix"))
        if R.ndim != 2 or R.shape[1] != p:
            raise ArgumentError(
                f"r_matrix must have {p} columns, one per fixed effect, got shape {R.shape}"
            )
        index = names if r_matrix is None else [f"c{i}" for i in range(len(R))]
        dropped = np.setdiff1d(np.arange(p), kept)
        known = ~(R[:, dropped] != 0).any(axis=1)
        inner = R[:, kept]
        found = self._robust(kind, groups, inner)
        estimate = inner @ self.pls.beta
        se = np.sqrt(np.einsum("ij,jk,ik->i", inner, found.vcov, inner))
        wald = Wald(estimate, se, found.df)
        lower, upper = wald.interval(alpha).T
        columns = {
            "coef": estimate, "std_err": se, "t": wald.statistic, "df": found.df,
            "pvalue": wald.pvalue, "lower": lower, "upper": upper,
        }  # fmt: skip
        frame = pd.DataFrame(columns, index=index)
        frame.loc[~known] = np.nan
        return frame

    @abstractmethod
    def _robust(self, kind: str, groups: Any, contrasts: FloatArray | None) -> ClusterRobust:
        """Covariance of the fixed effects and tests of contrasts."""

    def _clusters(self, groups: Any) -> IntArray:
        """Cluster of every row."""
        design, frame = self.built.design, self.built.frame
        if groups is None:
            if design.groups is not None:
                return design.groups.codes
            coded = [term for term in design.terms if term.codes is not None]
            if not coded:
                raise DataError(
                    "pass groups=: the model has no grouping factor whose levels are independent"
                )
            term = min(coded, key=lambda one: one.n_levels)
            assert term.codes is not None
            if (term.codes < 0).any():
                raise DataError(f"pass groups=: some rows have no level of {term.name!r}")
            return term.codes
        if isinstance(groups, str):
            for term in design.terms:
                if term.name == groups and term.codes is not None and (term.codes >= 0).all():
                    return term.codes
            if frame is None or groups not in frame.columns:
                raise DataError(
                    f"groups names no column or grouping factor {groups!r}; pass one label per row"
                )
            groups = frame[groups]
        check_list(groups, "groups", "a name or one label per row")
        kept = self.built.kept
        if kept is not None and len(groups) == len(kept) != design.n:
            groups = take(groups, kept)
        if len(groups) != design.n:
            raise DataError(f"groups has {len(groups)} labels for {design.n} rows")
        groups = aligned(groups, self.built.row_labels, "groups", "the rows of the fit")
        codes = factorize(groups).codes
        if (codes < 0).any():
            raise DataError("groups has missing labels; give every row a cluster")
        return codes

    def _full_matrix(self, inner: FloatArray) -> FloatArray:
        p, kept = self.built.layout.p, self.deviance.cross.basis.kept
        out = np.full((p, p), np.nan)
        out[np.ix_(kept, kept)] = inner
        return out
