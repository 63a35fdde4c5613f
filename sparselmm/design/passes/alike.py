"""Groups of rows that are alike, added up: a few sums stand for any number of groups.

R^-1 joins rows of one group alone. Of N groups with the same R and the same levels, let W (N, m c)
hold their m rows of ``[X y z]`` side by side. Whatever a fit forms of them, it sees ``W'W``: the
rows of a root of it, each of which is a group again, do as well, while N counts in log det R.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design.residual import ResidualRows
from sparselmm.design.terms import Design, RandomTerm

NOTHING = 1e-13
"""Length of what is left of columns of length one that counts as rounding; its square is lost."""


def added_up(design: Design, first: int) -> Design:
    """A design with fewer rows and the same products, of groups that are whole.

    Parameters
    ----------
    design : Design
        With its ``residual``; no offset.
    first : int
        Number of the first sum, greater than that of any group; sums come after each other.
    """
    if any(term.block is not None for term in design.terms):
        return design
    rows = design.residual
    assert rows is not None
    order = np.lexsort([*rows.coords.T[::-1], rows.group])
    bounds = np.flatnonzero(np.diff(rows.group[order], prepend=-1, append=-1))
    sizes = np.diff(bounds)
    single = np.ones(design.n, dtype=bool)
    sums: list[Design] = []
    for m in np.unique(sizes):
        index = order[bounds[:-1][sizes == m][:, None] + np.arange(m)]
        for alike in _alike(design, index):
            roots = _roots(design, alike)
            if len(roots) < len(alike):
                sums.append(_sums(design, alike, roots, first))
                first += len(roots)
                single[alike] = False
    return one_below_the_other([design.kept(single), *sums]) if sums else design


def one_below_the_other(parts: Sequence[Design]) -> Design:
    """The rows of several designs with the same terms and levels."""
    first = parts[0]
    if len(parts) == 1:
        return first
    kept = [part.residual for part in parts if part.residual is not None]
    stands = None
    if any(rows.stands is not None for rows in kept):
        stands = np.concatenate([rows.counts for rows in kept])
    residual = replace(
        kept[0], group=np.concatenate([rows.group for rows in kept]),
        coords=np.vstack([rows.coords for rows in kept]),
        visits=np.concatenate([rows.visits for rows in kept]),
        stratum=np.concatenate([rows.stratum for rows in kept]),
        D=np.vstack([rows.D for rows in kept]), stands=stands,
    )  # fmt: skip
    weights = [part.weights for part in parts if part.weights is not None]
    return replace(
        first, y=np.concatenate([part.y for part in parts]),
        X=np.vstack([part.X for part in parts]), residual=residual,
        weights=np.concatenate(weights) if weights else None,
        terms=tuple(_terms_joined(terms) for terms in zip(*(p.terms for p in parts), strict=True)),
    )  # fmt: skip


def _terms_joined(terms: Sequence[RandomTerm]) -> RandomTerm:
    first = terms[0]
    if first.block is not None:
        return replace(first, block=sp.csr_array(sp.vstack([term.block for term in terms])))
    codes = np.concatenate([term.codes for term in terms if term.codes is not None])
    plain = all(term.values is None for term in terms)
    values = None if plain else np.vstack([_values(term) for term in terms])
    return replace(first, codes=codes, values=values)


def _values(term: RandomTerm) -> FloatArray:
    """Covariates of the coefficients, those of an intercept written out, (n, k)."""
    assert term.codes is not None
    return np.ones((len(term.codes), 1)) if term.values is None else term.values


def _alike(design: Design, index: IntArray) -> list[IntArray]:
    """Groups of m rows, (G, m), by what R and the levels are, where there are more than a few."""
    rows, m = design.residual, index.shape[1]
    assert rows is not None
    coords = rows.coords[index]
    parts = [coords - coords[:, :1], rows.visits[index], rows.stratum[index], rows.D[index]]
    if design.weights is not None:
        parts.append(design.weights[index])
    parts += [term.codes[index] for term in design.terms if term.codes is not None]
    key = np.hstack([part.reshape(len(index), -1).astype(float) for part in parts]) + 0.0
    whole = np.ascontiguousarray(key).view(np.dtype((np.void, key.dtype.itemsize * key.shape[1])))
    _, kind, counts = np.unique(whole.ravel(), return_inverse=True, return_counts=True)
    order, ends = np.argsort(kind, kind="stable"), np.cumsum(counts)
    many = np.flatnonzero(counts > 2 * m)  # a response alone has m columns
    return [index[order[ends[j] - counts[j] : ends[j]]] for j in many]


def _roots(design: Design, alike: IntArray) -> FloatArray:
    """Rows of a root of W'W, (r, m, c)."""
    values = [_values(term)[alike] for term in design.terms]
    wide = np.concatenate([design.X[alike], design.y[alike][..., None], *values], axis=2)
    W = wide.reshape(len(alike), -1)
    size = np.linalg.norm(W, axis=0)
    size[size == 0.0] = 1.0
    R, place = scipy.linalg.qr(W / size, mode="r", pivoting=True, check_finite=False)
    R = R[: int(np.sum(np.abs(np.diag(R)) > NOTHING))]
    out = np.empty_like(R)
    out[:, place] = R
    return np.asarray((out * size).reshape(len(R), *wide.shape[1:]))


def _sums(design: Design, alike: IntArray, roots: FloatArray, first: int) -> Design:
    """Groups alike as their sums, numbered from ``first``."""
    r, m, p = len(roots), alike.shape[1], design.p
    flat = roots.reshape(r * m, -1)
    pattern = design.kept(np.tile(alike[0], r))
    rows = pattern.residual
    assert rows is not None and design.residual is not None
    stands = float(design.residual.counts[alike[:, 0]].sum())
    residual: ResidualRows = replace(
        rows, group=np.repeat(first + np.arange(r), m), stands=np.full(r * m, stands / r)
    )
    terms, at = [], p + 1
    for term in pattern.terms:
        terms.append(replace(term, values=np.ascontiguousarray(flat[:, at : at + term.k])))
        at += term.k
    return replace(
        pattern, X=np.ascontiguousarray(flat[:, :p]), y=flat[:, p].copy(), residual=residual,
        terms=tuple(terms),
    )  # fmt: skip
