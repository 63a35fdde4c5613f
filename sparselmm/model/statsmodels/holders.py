"""What a model hands out in statsmodels' shapes: names, component matrices, a distribution."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.exceptions import DataError
from sparselmm.base.seeds import seed_sequence
from sparselmm.base.types import AnyArray, FloatArray, IntArray
from sparselmm.design import BuiltDesign, VCSpec
from sparselmm.design.factors import factorize
from sparselmm.design.rows import GroupRows, term_z
from sparselmm.design.terms import RandomTerm
from sparselmm.inference.effects import component_labels, group_coefficients
from sparselmm.inference.variances import VarianceLayout, coefficient_names


@dataclass(frozen=True, eq=False)
class ModelData:
    """Names of a model, as statsmodels' ``model.data``.

    Attributes
    ----------
    xnames : list of str
        Columns of X.
    ynames : str
        Response.
    param_names : list of str
        Entries of ``params``.
    exog_re_names, exog_re_names_full : list of str
        Rows of ``cov_re``, and its packed entries.
    vcomp_names : list of str
        Variance components.
    built : BuiltDesign
        The numbers.
    """

    xnames: list[str]
    ynames: str
    param_names: list[str]
    exog_re_names: list[str]
    exog_re_names_full: list[str]
    vcomp_names: list[str]
    built: BuiltDesign = field(repr=False)

    @property
    def frame(self) -> Any:
        """Rows of the user's data in use, a DataFrame or None."""
        return self.built.frame

    @property
    def model_spec(self) -> Any:
        """The formula library's memory of X, or None."""
        return self.built.spec.design_info

    @property
    def row_labels(self) -> Any:
        """Index of the rows in use, or None."""
        return self.built.row_labels

    @property
    def design_info(self) -> Any:
        """``model_spec`` under the name it had in statsmodels before 0.15."""
        return self.model_spec

    @property
    def endog(self) -> FloatArray:
        """Response, (n,)."""
        return self.built.design.y if self.built.has_rows else np.zeros(0)

    @property
    def exog(self) -> FloatArray:
        """X, (n, p)."""
        layout = self.built.layout
        return self.built.design.X if self.built.has_rows else np.zeros((0, layout.p))

    @property
    def orig_endog(self) -> Any:
        """Response as the formula's one column, or a Series, where the user works with pandas."""
        if not self.built.pandas:
            return self.endog
        values = pd.Series(self.endog, self.row_labels, name=self.ynames)
        return values if self.built.spec.formula is None else values.to_frame()

    @property
    def orig_exog(self) -> Any:
        """X as a DataFrame where the user works with pandas."""
        if not self.built.pandas:
            return self.exog
        return pd.DataFrame(self.exog, self.row_labels, self.xnames)

    @classmethod
    def of(cls, built: BuiltDesign, layout: VarianceLayout) -> ModelData:
        """Names of a built design."""
        design = built.layout
        own = group_coefficients(design.terms, built.spec.formula is None)
        re_names = [
            name
            for t in layout.cov_terms
            for name in (
                own if design.terms[t].origin == "re" else coefficient_names(design.terms[t])
            )
        ]
        k_re2 = len(layout.names) - len(layout.components)
        return cls(
            xnames=list(design.x_names),
            ynames=design.y_name,
            param_names=[*design.x_names, *layout.names],
            exog_re_names=re_names,
            exog_re_names_full=list(layout.names[:k_re2]),
            vcomp_names=[design.terms[t].name for t in layout.components],
            built=built,
        )


class ComponentMatrices(VCSpec):
    """The components of a model as statsmodels' ``VCSpec``; matrices are made when asked for.

    Parameters
    ----------
    terms : sequence of RandomTerm
        Components.
    rows : list of ndarray of int
        Rows of every group.
    labels : ndarray
        Labels of the groups.
    """

    def __init__(self, terms: list[RandomTerm], rows: list[IntArray], labels: AnyArray):
        self.names = [term.name for term in terms]
        self._parts = (terms, rows, labels)

    def __getattr__(self, name: str) -> Any:
        if name not in ("colnames", "mats"):
            raise AttributeError(name)
        self.colnames, self.mats = self._made()
        return self.__dict__[name]

    def _made(self) -> tuple[list[list[list[str]]], list[list[FloatArray]]]:
        terms, rows, labels = self._parts
        place = {label: j for j, label in enumerate(labels.tolist())}
        colnames, mats = [], []
        for term in terms:
            block = term_z(term)
            owner = np.array([place[label] for label in term.levels.parts[0].tolist()])
            of_group = list(GroupRows.of(owner, len(labels)))
            own = component_labels(term)
            strip = len(term.name) + 1
            colnames.append([[own[j][strip:-1] for j in columns] for columns in of_group])
            mats.append([block[r][:, c].toarray() for r, c in zip(rows, of_group, strict=True)])
        return colnames, mats


@dataclass(frozen=True, eq=False)
class Distribution:
    """The distribution of the response at given parameters.

    Attributes
    ----------
    mean : ndarray, (n,)
        ``X beta``.
    terms : tuple of RandomTerm
    lams : list of ndarray, (k, k)
        Relative covariance factor of each term.
    scale : float
        Residual variance.
    """

    mean: FloatArray
    terms: tuple[RandomTerm, ...]
    lams: list[FloatArray]
    scale: float

    def rvs(self, n: int | None = None, rng: Any = None) -> FloatArray:
        """One draw of the response.

        Parameters
        ----------
        n : int, optional
            Not used; statsmodels' interface has it.
        rng : int, Generator, RandomState, optional
            Source of random numbers, drawn in the order statsmodels draws them.

        Returns
        -------
        ndarray, (n,)
        """
        if not callable(getattr(rng, "normal", None)):
            rng = np.random.default_rng(seed_sequence(rng, "rng"))
        if len(self.mean) != self._rows:
            raise DataError(f"exog has {len(self.mean)} rows, the model {self._rows}")
        y = np.array(self.mean, dtype=float)
        sigma = np.sqrt(self.scale)
        for term, lam in zip(self.terms, self.lams, strict=True):
            u = rng.normal(size=(term.n_levels, term.k))
            if term.origin == "vc":  # statsmodels draws group by group
                order = np.argsort(_ranks(term.levels.parts[0]), kind="stable")
                drawn, u = u, np.empty_like(u)
                u[order] = drawn
            Z = term_z(term)
            y += Z @ (sigma * u @ lam.T).ravel()
        return y + sigma * rng.normal(size=len(y))

    @property
    def _rows(self) -> int:
        for term in self.terms:
            part = term.block if term.block is not None else term.codes
            if part is not None:
                return int(part.shape[0])
        return len(self.mean)


def _ranks(labels: AnyArray) -> IntArray:
    """Rank of each label among the sorted ones."""
    return factorize(labels, sort=True).codes
