"""What statsmodels' ``MixedLM`` says of its groups, and gives group by group."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cached_property
from typing import Any

import numpy as np

from sparselmm.base.arguments import wrong_type
from sparselmm.base.exceptions import ArgumentError
from sparselmm.base.types import AnyArray, FloatArray, IntArray
from sparselmm.design import VCSpec
from sparselmm.design.column_types import as_array
from sparselmm.design.rows import GroupRows
from sparselmm.design.validate import aligned
from sparselmm.model.linear import LinearModel
from sparselmm.model.statsmodels.holders import ComponentMatrices


class GroupInterface(LinearModel):
    """Attributes of the argument ``groups``, for :class:`sparselmm.MixedLM`."""

    @property
    def groups(self) -> AnyArray | None:
        """Group label of every row, (n,), when the model was written with ``groups``."""
        grouping = self.design.groups
        return None if grouping is None else grouping.labels[grouping.codes]

    @property
    def n_totobs(self) -> int:
        """Number of rows."""
        return self.nobs

    @property
    def group_labels(self) -> list[Hashable]:
        """Sorted labels of the ``groups`` argument; empty without it."""
        grouping = self.built.layout.groups
        return [] if grouping is None else grouping.labels.tolist()

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self.group_labels)

    @cached_property
    def row_indices(self) -> dict[Any, IntArray]:
        """Rows of every group, ascending."""
        grouping = self.built.design.groups
        if grouping is None:
            return {}
        rows = GroupRows.of(grouping.codes, len(grouping.labels))
        return dict(zip(self.group_labels, rows, strict=True))

    @cached_property
    def exog_re(self) -> FloatArray | None:
        """Covariates of the ``groups`` term, (n, k_re); None without such a term."""
        for term in self.design.terms:
            if term.origin == "re":
                return np.ones((self.n_totobs, 1)) if term.values is None else term.values
        return None

    @cached_property
    def exog_vc(self) -> VCSpec:
        """Variance components; their matrices are made when first asked for."""
        terms = [term for term in self.design.terms if term.origin == "vc"]
        grouping = self.design.groups
        labels = np.empty(0) if grouping is None else grouping.labels
        rows = list(self.row_indices.values()) if terms else []
        return ComponentMatrices(terms, rows, labels)

    def group_list(self, array: Any) -> list[AnyArray] | None:
        """Rows of an array, group by group.

        Parameters
        ----------
        array : array-like, (n,) or (n, k), or None

        Returns
        -------
        list of ndarray, or None
        """
        if array is None:
            return None
        if not hasattr(array, "__len__") or isinstance(array, (str, bytes, dict)):
            raise wrong_type("array", "an array with one row per row of the model", array)
        array = aligned(array, self.built.row_labels, "array", "the rows of the model")
        values = as_array(array, "array")
        if len(values) != self.built.design.n:
            raise ArgumentError(
                f"array has {len(values)} rows but the model has {self.built.design.n}"
            )
        return [values[rows] for rows in self.row_indices.values()]

    @property
    def endog_li(self) -> list[AnyArray] | None:
        """Response by group."""
        return self.group_list(self.built.design.y)

    @property
    def exog_li(self) -> list[AnyArray] | None:
        """Fixed-effects design by group."""
        return self.group_list(self.built.design.X)

    @property
    def exog_re_li(self) -> list[AnyArray] | None:
        """Covariates of the random coefficients by group."""
        return self.group_list(self.exog_re)

    @property
    def exog_re2_li(self) -> list[FloatArray] | None:
        """``Z_i'Z_i`` of every group."""
        parts = self.exog_re_li
        return None if parts is None else [Z.T @ Z for Z in parts]
