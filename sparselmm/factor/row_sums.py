"""What means and variances over the rows need of rows that are read in partitions.

Without prior weights most of it is in the cross-products. With them, sums in which they do not
count are kept beside those: over the rows of positive weight, X in the provisional basis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design.rows import blocks
from sparselmm.design.terms import Design, RandomTerm, RowSums
from sparselmm.factor.crossprod import CrossProducts

NOTHING = 1e-12
"""Length of a column in the provisional basis, of one that has 1, that is rounding."""


@dataclass(frozen=True, eq=False)
class Plain:
    """Sums over rows of positive weight.

    Attributes
    ----------
    gram : ndarray, (p + 1, p + 1), or None
        ``[Q0 1]'[Q0 1]``; None without weights, as the next two.
    inverse : float
        Of ``1 / w``.
    moments : tuple of ndarray, (k, k)
        Of every term ``z_i z_i'``.
    sizes : tuple of ndarray, (l,), or None
        Of every term the rows of each level; None where the cross-products have them.
    """

    gram: FloatArray | None
    inverse: float
    moments: tuple[FloatArray, ...]
    sizes: tuple[IntArray | None, ...]

    @classmethod
    def of(cls, design: Design, T: FloatArray) -> Plain:
        """Of some rows; ``Q0 = X T``."""
        w = design.weights
        used = slice(None) if w is None else np.flatnonzero(w > 0)
        sizes = tuple(_sizes(term, used, w is not None) for term in design.terms)
        if w is None:
            return cls(None, 0.0, (), sizes)
        X, p = design.X[used], len(T)
        gram = np.zeros((p + 1, p + 1))
        for rows in blocks(len(X)):
            part = np.column_stack([X[rows] @ T, np.ones(len(X[rows]))])
            gram += part.T @ part
        moments = tuple(_moments(term, used) for term in design.terms)
        return cls(gram, float((1.0 / w[used]).sum()), moments, sizes)

    @classmethod
    def added(cls, parts: Sequence[Plain]) -> Plain:
        """Of the rows of several partitions, from left to right."""
        grams = [part.gram for part in parts if part.gram is not None]
        return cls(
            np.sum(grams, axis=0) if grams else None, sum(part.inverse for part in parts),
            tuple(np.sum(m, axis=0) for m in zip(*(p.moments for p in parts), strict=True)),
            tuple(
                None if found[0] is None else np.sum(found, axis=0)
                for found in zip(*(part.sizes for part in parts), strict=True)
            ),
        )  # fmt: skip


def _sizes(term: RandomTerm, used: slice | IntArray, weighted: bool) -> IntArray | None:
    if term.codes is None or (term.values is None and not weighted):
        return None
    codes = term.codes[used]
    return np.bincount(codes[codes >= 0], minlength=term.n_levels)


def _moments(term: RandomTerm, used: slice | IntArray) -> FloatArray:
    if term.block is not None:
        return np.array([[float((term.block[used].data ** 2).sum())]])
    assert term.codes is not None
    here = term.codes[used] >= 0
    if term.values is None:
        return np.array([[float(here.sum())]])
    values = term.values[used][here]
    return np.asarray(values.T @ values)


def row_sums(
    plain: Plain, unweighted: FloatArray, n: int, constant: FloatArray, R: FloatArray,
    cross: CrossProducts,
) -> RowSums:  # fmt: skip
    """What questions about the rows need.

    Parameters
    ----------
    plain : Plain
        Of all rows.
    unweighted : ndarray, (p + 1, p + 1)
        ``[Q0 1]'[Q0 1]`` where there are no weights.
    n : int
        Rows of positive weight.
    constant : ndarray, (p,)
        The value of columns of X that have one; NaN for the others.
    R : ndarray, (p, p)
        ``X = Q0 R``.
    cross : CrossProducts
    """
    gram = unweighted if plain.gram is None else plain.gram
    p = len(R)
    mean = gram[p, :p] / n
    varies = np.isnan(constant)
    cov = R.T @ ((gram[:p, :p] - n * np.outer(mean, mean)) / max(n - 1, 1)) @ R
    terms = range(len(cross.sizes))
    moments = tuple(m / n for m in plain.moments) or tuple(map(cross.model_moments, terms))
    sizes = tuple(
        _counted(cross, t) if plain.gram is None and plain.sizes[t] is None else plain.sizes[t]
        for t in terms
    )
    return RowSums(
        n, _root(gram[:p, :p], n) @ R, constant, np.where(varies, mean @ R, constant),
        np.where(np.logical_and.outer(varies, varies), cov, 0.0),
        1.0 if plain.gram is None else plain.inverse / n, moments, sizes,
    )  # fmt: skip


def _counted(cross: CrossProducts, t: int) -> IntArray | None:
    """Rows of each level of a term of ones, on the diagonal of A; None for other blocks."""
    pair = cross.pairs[t, t]
    if cross.sizes[t][0] != 1 or len(pair.rows) != cross.sizes[t][1]:
        return None
    return np.rint(pair.data[:, 0, 0]).astype(np.int64)


def _root(gram: FloatArray, n: int) -> FloatArray:
    """A matrix with some products; columns that are rounding alone are zero."""
    norms = np.sqrt(np.diag(gram))
    live = norms > NOTHING * np.sqrt(n)
    out = np.zeros_like(gram)
    if live.any():
        values, V = np.linalg.eigh(gram[np.ix_(live, live)] / np.outer(norms[live], norms[live]))
        out[np.ix_(live, live)] = (np.sqrt(np.maximum(values, 0.0))[:, None] * V.T) * norms[live]
    return out
