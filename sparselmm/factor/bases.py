"""Working bases of random coefficients: covariates whose origin is far away, made orthogonal.

Columns ``1`` and ``x`` with x near 2000 are nearly parallel: ``Z'WZ`` then has the square of their
condition, and its differences the fewer digits the further the origin of x is away. Random effects
with an unstructured covariance do not care for the basis of their columns,

    Z_t b = Z~_t (F b),   Z_t = Z~_t (I (x) F),   Psi~ = F Psi F',

with F upper triangular, so that such a term is fitted with columns ``Z~_t`` orthogonalized row by
row from left to right: ``x`` becomes ``(x - c) / s``, in which nothing is lost. The diagonal of F
are powers of two. Terms whose columns are well conditioned, or whose covariance has a pattern that
belongs to its basis, are left as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from sparselmm.base.smallmatrix import SecondMoments, upper_inverse
from sparselmm.base.types import FloatArray
from sparselmm.design.terms import Design, RandomTerm
from sparselmm.factor.crossprod import SMALL_ROWS, CrossProducts

WELL_CONDITIONED = 1e-3
"""Smallest eigenvalue of the second moments, scaled to a unit diagonal, from which the columns stay
as they are: three of sixteen digits are spared."""

DEPENDENT = 1e-13
"""Share of a column's length left by those before it below which it is one of their combinations:
what is left is the rounding of the column itself."""


def cross_products(design: Design) -> CrossProducts:
    """Cross-products of a design, its random coefficients in working bases where they need one."""
    if design.n < SMALL_ROWS:  # quickly made again, and the moments come with the products
        cross = CrossProducts.from_design(design)
        if all(map(_stays, design.terms, cross.moments)):
            return cross
    bases = [term_basis(term, design.weights) for term in design.terms]
    if all(F is None for F in bases):
        return CrossProducts.from_design(design)
    return replace(CrossProducts.from_design(in_bases(design, bases)), bases=tuple(bases))


def in_model_columns(cross: CrossProducts) -> CrossProducts:
    """The same in the columns of the model, ``Z_t'Z_t = F'Z~_t'Z~_t F``; digits may be lost."""
    if cross.bases is None:
        return cross
    roots = [
        np.eye(k) if F is None else F for F, (k, _) in zip(cross.bases, cross.sizes, strict=True)
    ]
    B = cross.B.copy()
    for F, part, (k, l) in zip(roots, cross.slices, cross.sizes, strict=True):
        B[part] = (F.T @ cross.B[part].reshape(l, k, -1)).reshape(l * k, -1)
    values = {(s, t): roots[s].T @ data @ roots[t] for (s, t), data in cross.values.items()}
    return replace(cross, values=values, B=B, bases=None)


def in_bases(design: Design, bases: Sequence[FloatArray | None]) -> Design:
    """The design with the columns of its terms in their working bases."""
    return replace(design, terms=terms_in_bases(design.terms, bases))


def terms_in_bases(
    terms: Sequence[RandomTerm], bases: Sequence[FloatArray | None]
) -> tuple[RandomTerm, ...]:
    """Terms with their columns in the working bases, on any rows."""
    return tuple(
        term if F is None else _in_basis(term, F)
        for term, F in zip(terms, bases, strict=bool(terms))
    )


def term_basis(term: RandomTerm, w: FloatArray | None) -> FloatArray | None:
    """F with ``values = working values F``, (k, k) upper triangular; None where none is needed."""
    if term.k < 2 or term.structure != "unstructured":
        return None
    values = _covariates(term)
    if _well_conditioned(SecondMoments(values.T @ (values if w is None else values * w[:, None]))):
        return None
    w = np.ones(len(values)) if w is None else w
    return _orthogonalized(values, w / w.sum())


def _stays(term: RandomTerm, moments: SecondMoments) -> bool:
    """Whether a term surely keeps its columns."""
    if term.k < 2 or term.structure != "unstructured":
        return True
    return term.form != "block" and _well_conditioned(moments)


def _well_conditioned(moments: SecondMoments) -> bool:
    """Whether the columns stay as they are; those of zeros and without end do."""
    sizes = moments.rms
    if not (sizes.min() > 0.0 and sizes.max() < np.inf):
        return True
    return bool(moments.axes[0][0] > WELL_CONDITIONED)


def _covariates(term: RandomTerm) -> FloatArray:
    """Covariates of the rows, (n, k); of a sparse block, of its rows where they are not zero."""
    if term.values is not None:
        return term.values
    assert term.block is not None
    sums = [term.block[:, j :: term.k].sum(axis=1) for j in range(term.k)]
    return np.column_stack([np.asarray(one).ravel() for one in sums])


def _orthogonalized(values: FloatArray, w: FloatArray) -> FloatArray | None:
    """F of the Gram-Schmidt process by rows; None where a column depends on those before it."""
    k = values.shape[1]
    F, done = np.zeros((k, k)), np.empty_like(values)
    for j in range(k):
        left = values[:, j].copy()
        for i in range(j):
            F[i, j] = (done[:, i] * w) @ left / ((done[:, i] * w) @ done[:, i])
            left -= F[i, j] * done[:, i]
        size = np.sqrt(w @ left**2)
        if size <= DEPENDENT * np.sqrt(w @ values[:, j] ** 2):
            return None
        F[j, j] = 2.0 ** np.round(np.log2(size))
        done[:, j] = left / F[j, j]
    return F


def _in_basis(term: RandomTerm, F: FloatArray) -> RandomTerm:
    if term.values is not None:
        return replace(term, values=working_values(term.values, F))
    assert term.block is not None
    inverse = sp.kron(sp.eye_array(term.block.shape[1] // term.k), upper_inverse(F), format="csr")
    return replace(term, block=sp.csr_array(term.block @ inverse))


def working_values(values: FloatArray, F: FloatArray) -> FloatArray:
    """``values F^-1``, column by column: the differences are taken first, where they are exact."""
    out = np.empty_like(values)
    for j in range(F.shape[1]):
        left = values[:, j].copy()
        for i in range(j):
            left -= F[i, j] * out[:, i]
        out[:, j] = left / F[j, j]
    return out
