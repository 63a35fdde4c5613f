"""Whether variances and residual parameters can be told apart, before anything is fitted.

``<V_i, V_j>`` of the derivatives of ``Var(y)`` in the entries of every ``Psi_t``, in sigma^2 and in
phi is a Gram matrix; scaled to a unit diagonal, an eigenvalue of zero is a combination that leaves
the covariance of the data as it is. Inner products with R_j need the blocks of the groups alone;
those between random effects are sums over ``Z'Z``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sparselmm.base.arguments import shown
from sparselmm.base.types import FloatArray
from sparselmm.design.rows import response, term_z
from sparselmm.design.terms import Design, RandomTerm
from sparselmm.factor.bases import in_bases, term_basis
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.residual.blocks import Blocks
from sparselmm.likelihood.residual.products import PairMap, _maps
from sparselmm.likelihood.residual.structure import Structure, Structured, structure_of

NONE = 1e-10
"""Smallest eigenvalue that is zero up to rounding."""

INVOLVED = 1e-4
"""Share of its vector from which a parameter takes part."""

MOST_ROWS, MOST_PAIRS = 5_000, 50_000
"""Rows looked at, in groups spread over all of them, and pairs of rows within these."""

LONGEST = 50
"""Rows of a group, the first in time, that are looked at."""

MANY_PAIRS = 10_000_000
"""Pairs up to which all rows are looked at before a term is called superfluous."""


@dataclass(frozen=True, eq=False)
class Direction:
    """One derivative of Var(y): of a term, (k, k), or of R as cells."""

    name: str
    term: int
    E: FloatArray
    cells: FloatArray


def doubled_rows(design: Design) -> str:
    """Why a nugget has no estimate: rows at one time are each other's doubles; else empty.

    Their difference is zero, and has no variance but the nugget and that of random effects.
    """
    rows = design.residual
    if rows is None or not rows.nugget or rows.stands is not None:
        return ""
    place = np.column_stack([rows.group, rows.coords])
    key = np.unique(place, axis=0, return_inverse=True)[1].ravel()
    order = np.argsort(key, kind="stable")
    at = np.flatnonzero(np.diff(key[order]) == 0)
    one, other = order[at], order[at + 1]
    w = np.ones((design.n, 0)) if design.weights is None else design.weights[:, None]
    told = np.column_stack([response(design), design.X, rows.D, w])
    alike = (told[one] == told[other]).all(axis=1)
    for s in np.unique(rows.stratum[one]):
        own = rows.stratum[one] == s
        if not alike[own].all():
            continue
        return (
            f"{rows.text}: rows at one time, as of the group "
            f"{shown(rows.labels[rows.group[one[own][0]]])}, are the same in everything, and the "
            "likelihood rises without end as the nugget vanishes. Leave doubled rows out"
        )
    return ""


def confounded_terms(design: Design) -> str:
    """What cannot be told apart and what to drop, in a sentence; empty when there is nothing."""
    sample = _sample(design)
    if sample is not design and not _confounded(sample):
        return ""
    assert design.residual is not None  # what a sample lacks, all rows may have
    sizes = np.bincount(design.residual.group).astype(float)
    return _confounded(design) if float(sizes @ sizes) <= MANY_PAIRS else ""


def _confounded(sample: Design) -> str:
    """The same of these rows."""
    sample = in_bases(sample, [term_basis(term, sample.weights) for term in sample.terms])
    rows = sample.residual
    assert rows is not None
    structure = structure_of(rows)
    phi = _somewhere(structure)
    blocks = Blocks(rows, structure, sample.weights)
    state = blocks.at(phi)
    shown = rows.text or "dispersion"
    directions = [
        Direction(f"{shown}: {name}", -1, np.zeros((0, 0)), blocks.cell_slopes(state, j))
        for j, name in enumerate(structure.names)
    ]
    if structure.known_scale is None:
        own = Direction("the residual variance", -1, np.zeros((0, 0)), blocks.covariances(state))
        directions.append(own)
    for t, term in enumerate(sample.terms):
        directions += [Direction(term.name, t, E, np.zeros(0)) for E in _term_directions(term)]
    gram = _gram(sample, blocks, directions)
    size = np.sqrt(np.maximum(np.diag(gram), 0.0))
    dead = [d.name for d, s in zip(directions, size, strict=True) if not s > 0 and d.term < 0]
    if dead:
        return (
            f"{', '.join(dead)} changes nothing: the data have no two rows of a group that it "
            "would join, or no row that it concerns. Use a structure without it"
        )
    used = size > 0
    scaled = (gram / np.outer(size + ~used, size + ~used))[np.ix_(used, used)]
    values, vectors = np.linalg.eigh(scaled)
    flat = vectors[:, values < NONE]
    if not flat.shape[1]:
        return ""
    share = np.zeros(len(directions))
    share[used] = np.sum(flat**2, axis=1)
    return _message(directions, share, shown)


def _message(directions: list[Direction], share: FloatArray, shown: str) -> str:
    taking = [d for d, s in zip(directions, share, strict=True) if s > INVOLVED]
    terms = list(dict.fromkeys(repr(d.name) for d in taking if d.term >= 0))
    if not terms:
        what = ", ".join(d.name for d in taking)
        return (
            f"the parameters of the residuals cannot be told apart: {what}. Use a structure with "
            "fewer parameters"
        )
    return (
        f"the random-effects term {', '.join(terms)} and residual={shown!r} cannot be told apart: "
        "what the term adds to the covariance of every group the structure already has. Drop the "
        "term from the formula, or take a residual structure with fewer parameters"
    )


def _sample(design: Design) -> Design:
    """The design, or groups of it, as many as `MOST_ROWS` and `MOST_PAIRS` hold."""
    rows = design.residual
    assert rows is not None
    sizes = np.bincount(rows.group)
    small = design.n <= MOST_ROWS and float(sizes @ sizes) <= MOST_PAIRS
    if small or rows.stands is not None:  # sums of groups tell nothing one by one
        return design
    seen = np.minimum(sizes, LONGEST)
    order = np.random.default_rng(0).permutation(len(sizes))
    total, pairs = np.cumsum(seen[order]), np.cumsum(seen[order].astype(float) ** 2)
    few = min(np.searchsorted(total, MOST_ROWS), np.searchsorted(pairs, MOST_PAIRS))
    chosen = order[: max(int(few), 2)]
    o, group = rows.order, rows.group[rows.order]
    place = np.arange(len(o)) - np.searchsorted(group, group)
    at = np.sort(o[np.isin(group, chosen) & (place < LONGEST)])
    kept = design.kept(at)
    assert kept.residual is not None
    group = np.unique(kept.residual.group, return_inverse=True)[1]
    return replace(kept, residual=replace(kept.residual, group=group))


def _somewhere(structure: Structure) -> FloatArray:
    """A phi at which nothing vanishes by chance."""
    phi = structure.start()
    if isinstance(structure, Structured):
        a = structure.a
        reach = np.ptp(structure.rows.D, axis=0)
        phi[:a] += 0.05 * np.sin(1.0 + np.arange(a)) / np.where(reach > 0.0, reach, 1.0)
    return np.asarray(phi)


def _term_directions(term: RandomTerm) -> list[FloatArray]:
    covariance = Covariance.of([term]).terms[0]
    theta = covariance.coordinates(np.eye(term.k) + 0.1 * np.tril(np.ones((term.k, term.k)), -1))
    slopes = covariance.slopes(theta)
    if slopes is not None:
        lam = covariance.factor(theta)
        moved = [slope @ lam.T for slope in slopes]
        return [m + m.T for m in moved]
    out = []
    for r, c in zip(covariance.rows, covariance.cols, strict=True):
        E = np.zeros((term.k, term.k))
        E[r, c] = E[c, r] = 1.0
        out.append(E)
    return out


def _gram(design: Design, blocks: Blocks, directions: list[Direction]) -> FloatArray:
    """Inner products of the directions."""
    maps = _maps(design.terms, blocks) if design.terms else {}
    counts = _cell_counts(design, blocks)
    moments = {
        (s, t): _moments(design.terms[s], design.terms[t])
        for s in range(len(design.terms))
        for t in range(s + 1)
    }
    n = len(directions)
    out = np.zeros((n, n))
    for i, a in enumerate(directions):
        for j, b in enumerate(directions[: i + 1]):
            if a.term < 0 and b.term < 0:
                value = float(np.sum(counts * a.cells * b.cells))
            elif b.term < 0:
                value = _mixed(maps[a.term, a.term], a.E, b.cells)
            else:
                s, t = max(a.term, b.term), min(a.term, b.term)
                E, F = (a.E, b.E) if a.term >= b.term else (b.E, a.E)
                value = float(np.einsum("ij,iajb,ab->", E, moments[s, t], F))
            out[i, j] = out[j, i] = value
    return out


def _cell_counts(design: Design, blocks: Blocks) -> FloatArray:
    assert design.residual is not None
    left, _, cell = blocks.pairs()
    counts = np.bincount(cell, design.residual.counts[left], blocks.n_cells)
    return np.asarray(counts, dtype=float)


def _mixed(one: PairMap, E: FloatArray, cells: FloatArray) -> float:
    """``sum over levels of tr(E Z_l'R_j Z_l)``."""
    own = one.at(cells)[one.pattern.rows == one.pattern.cols].sum(axis=0)
    return float(np.sum(own * E))


def _moments(s: RandomTerm, t: RandomTerm) -> FloatArray:
    """``sum of Z_sl'Z_tm (x) Z_sl'Z_tm`` over the blocks of ``Z_s'Z_t``, (k_s, k_t, k_s, k_t)."""
    product = (term_z(s).T @ term_z(t)).tobsr(blocksize=(s.k, t.k))
    data = np.asarray(product.data)
    out = np.einsum("nab,ncd->abcd", data, data, optimize=True)
    return np.asarray(out.transpose(0, 1, 2, 3))
