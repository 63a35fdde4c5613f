"""Hypotheses of the analysis of variance: sums of squares of type I, II and III.

Contrasts ``L beta`` of every term, as lmerTest makes them (Kuznetsova, Brockhoff & Christensen
2017, after the definitions of SAS):

* Type I, sequential: the rows of the unit upper triangular factor of ``X'X`` (Goodnight 1980).
* Type II: the same with X rearranged for every term, so that the terms that contain it come last
  and all others before it; a term that none contains is tested by its coefficients.
* Type III: with the design D that has a column per cell, the estimable functions ``X^+ D`` of a
  term are made orthogonal to those of the terms that contain it. X is first recoded by treatment
  contrasts, so that the hypothesis does not depend on the coding of the fit.

A term contains another when it has all its variables and the further ones are factors. Only the
triangular factor of ``[X D]`` is used, which is made in blocks of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design.marginality import TermStructure
from sparselmm.design.rows import blocks
from sparselmm.factor.basis import working_basis

AnovaType = Literal[1, 2, 3]

TYPES: dict[int | str, AnovaType] = {1: 1, 2: 2, 3: 3, "I": 1, "II": 2, "III": 3}
"""Types of analysis of variance as users write them."""

ZERO = 1e-8
"""Entries of a contrast below this share of its largest are rounding."""


@dataclass(frozen=True, eq=False)
class _Columns:
    """Independent columns of a design in the order they enter, as triangular coordinates.

    Attributes
    ----------
    R : ndarray, (r, r)
        Their triangular factor.
    terms : ndarray of int, (r,)
        Term of each; -1 for the intercept.
    places : ndarray of int, (r,)
        Where they stand in the design.
    to_kept : ndarray, (r, r)
        ``their coefficients = to_kept @ (coefficients of the kept columns of X)``.
    """

    R: FloatArray
    terms: IntArray
    places: IntArray
    to_kept: FloatArray

    @classmethod
    def of(
        cls, part: FloatArray, terms: IntArray, order: IntArray, kept: FloatArray
    ) -> _Columns:  # fmt: skip
        chosen = order[working_basis(part[:, order], np.zeros(len(part)), None).kept]
        Q, R = np.linalg.qr(part[:, chosen])
        return cls(R, terms[chosen], chosen, np.linalg.solve(R, Q.T @ kept))

    def triangle(self, order: IntArray | None = None) -> FloatArray:
        """Unit upper triangular factor of ``X'X`` with the columns in another order, (r, r)."""
        order = np.arange(len(self.R)) if order is None else order
        U = np.linalg.qr(self.R[:, order], mode="r")
        out = np.empty_like(U)
        out[:, order] = U / np.diag(U)[:, None]
        return out


def term_contrasts(terms: TermStructure, kept: IntArray, kind: AnovaType) -> dict[str, FloatArray]:
    """Hypothesis matrices of every term.

    Parameters
    ----------
    kept : ndarray of int, (r,)
        Columns of X the fit has coefficients for.
    kind : {1, 2, 3}

    Returns
    -------
    dict of str to ndarray, (df, p)
        Terms without a degree of freedom of their own are left out.
    """
    p = terms.X.shape[1]
    R = triangular([terms.X, terms.cells])
    of_column = np.full(p, -1)
    for t, columns in enumerate(terms.columns):
        of_column[columns] = t
    order = np.argsort(of_column, kind="stable")
    own = _Columns.of(R[:, :p], of_column, order, R[:, kept])
    if kind == 1 or len(terms.names) <= 1:
        found = _sequential(own, len(terms.names))
    elif kind == 2:
        found = _type_two(own, terms.containing)
    else:
        order = np.lexsort((terms.at_reference, terms.cell_terms))
        treatment = _Columns.of(R[:, p:], terms.cell_terms, order, R[:, kept])
        return _labelled(_type_three(treatment, R[:, p:], terms), treatment, terms.names, kept, p)
    return _labelled(found, own, terms.names, kept, p)


def triangular(parts: Sequence[FloatArray]) -> FloatArray:
    """Triangular factor of matrices side by side, made in blocks of rows."""
    n, width = len(parts[0]), sum(part.shape[1] for part in parts)
    R = np.zeros((0, width))
    for rows in blocks(n):
        R = np.asarray(np.linalg.qr(np.vstack([R, np.hstack([p[rows] for p in parts])]), mode="r"))
    return R


def _labelled(
    found: list[FloatArray], columns: _Columns, names: Sequence[str], kept: IntArray, p: int
) -> dict[str, FloatArray]:
    out = {}
    for name, rows in zip(names, found, strict=True):
        L = np.zeros((len(rows), p))
        L[:, kept] = _cleaned(rows @ columns.to_kept)
        if len(L):
            out[name] = L
    return out


def _cleaned(L: FloatArray) -> FloatArray:
    """Without what is rounding: entries, and whole rows."""
    L = np.where(np.abs(L) > ZERO * np.abs(L).max(axis=1, initial=0.0, keepdims=True), L, 0.0)
    return np.asarray(L)


def _sequential(own: _Columns, n_terms: int) -> list[FloatArray]:
    U = own.triangle()
    return [U[own.terms == t] for t in range(n_terms)]


def _type_two(own: _Columns, containing: Sequence[tuple[int, ...]]) -> list[FloatArray]:
    out = []
    for t, above in enumerate(containing):
        mine = own.terms == t
        if not above:
            out.append(np.eye(len(mine))[mine])
            continue
        last = np.isin(own.terms, above)
        order = np.argsort(mine + 2 * last, kind="stable")
        out.append(own.triangle(order)[mine[order]])
    return out


def _type_three(treatment: _Columns, cells: FloatArray, terms: TermStructure) -> list[FloatArray]:
    Q, _ = np.linalg.qr(cells[:, treatment.places])
    F = np.linalg.solve(treatment.R, Q.T @ cells).T  # (P, r): estimable functions as columns
    for t in sorted(range(len(terms.names)), key=lambda t: -terms.degrees[t]):
        above = np.isin(treatment.terms, terms.containing[t])
        if above.any():
            mine = treatment.terms == t
            F[:, mine] -= F[:, above] @ np.linalg.lstsq(F[:, above], F[:, mine], rcond=None)[0]
    rows = F[treatment.places]
    out = []
    for t in range(len(terms.names)):
        L = rows[:, treatment.terms == t].T
        out.append(L[np.abs(L).sum(axis=1) > ZERO])
    return out
