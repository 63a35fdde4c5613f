"""Covariances between levels that are made: of pedigrees, and of neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import scipy.sparse as sp

from sparselmm.base.arguments import check_hashable, check_list, check_number
from sparselmm.base.exceptions import DataError, MemoryLimitError
from sparselmm.base.other_names import known_arguments
from sparselmm.base.types import CSR, BoolArray, FloatArray, IntArray
from sparselmm.design.known_covariance import (
    LARGEST_ROOT,
    NO_LABELS,
    KnownCovariance,
    check_symmetric,
    is_missing,
    labels_of,
    real_numbers,
)


@known_arguments
def pedigree(sire: Sequence[Any], dam: Sequence[Any], labels: Sequence[Any]) -> KnownCovariance:
    """Additive relationships of a pedigree, for ``covariance={"animal": ...}``.

    Parameters
    ----------
    sire, dam : sequence, (l,)
        Labels of each animal's parents; None, NaN, ``""``, ``0`` and ``"0"`` where unknown, as
        is the custom in pedigree files. An animal that is itself called 0 is meant by 0 all the
        same. Other parents without a row of their own are added as founders; what looks like
        another sign for a missing label (``"NA"``, ``"."``, -1) is refused.
    labels : sequence, (l,)
        Labels of the animals, in any order.

    Returns
    -------
    KnownCovariance
        With the sparse precision ``A^-1``, A the numerator relationship matrix.

    Raises
    ------
    DataError
        If lengths differ, a label occurs twice, or an animal is its own ancestor.

    Notes
    -----
    ``A = T D T'`` with T lower triangular when parents stand before their offspring:
    row i of T is half the sum of its parents' rows, plus one on the diagonal, and

        D_ii = 1 - (1 + F_s) / 4 [sire known] - (1 + F_d) / 4 [dam known],   F_i = A_ii - 1

    (Henderson 1976; with inbred parents Quaas 1976; Mrode 2014, eq. 2.1 and section 2.3).
    ``A^-1 = T^-T D^-1 T^-1`` (eq. 2.3 there) has at most nine entries per animal in the mean.

    References
    ----------
    Henderson, C. R. (1976). A simple method for computing the inverse of a numerator relationship
    matrix used in prediction of breeding values. Biometrics 32, 69-83.

    Mrode, R. A. (2014). Linear Models for the Prediction of Animal Breeding Values, 3rd ed.

    Quaas, R. L. (1976). Computing the diagonal elements and inverse of a large numerator
    relationship matrix. Biometrics 32, 949-953.

    Examples
    --------
    Two full sibs and the offspring of their mating, which is inbred:

    >>> import numpy as np
    >>> known = pedigree([None, None, "a", "a", "c"], [None, None, "b", "b", "d"], list("abcde"))
    >>> A = np.linalg.inv(known.matrix.toarray())
    >>> A[4].round(3).tolist()
    [0.5, 0.5, 0.75, 0.75, 1.25]
    """
    sire, dam, labels = (
        check_list(given, name, "a list of labels, one per animal")
        for given, name in ((sire, "sire"), (dam, "dam"), (labels, "labels"))
    )
    for given, name in ((sire, "sire"), (dam, "dam"), (labels, "labels")):
        check_hashable(given, name)
    if not len(sire) == len(dam) == len(labels):
        raise DataError(
            f"sire, dam and labels have lengths {len(sire)}, {len(dam)}, {len(labels)}; give one "
            "of each per animal"
        )
    if not labels:
        raise DataError("labels is empty; a pedigree has at least one animal")
    names, parents = _with_founders(sire, dam, labels)
    order = _parents_first(parents, names)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    sorted_parents = np.where(parents[order] >= 0, place[parents[order]], -1)
    root, within = _relationship_root(sorted_parents)
    n = len(order)
    known = sorted_parents >= 0
    child = np.repeat(np.arange(n), 2)[known.ravel()]
    half = sp.csr_array((np.full(len(child), -0.5), (child, sorted_parents[known])), shape=(n, n))
    W = sp.csr_array(sp.diags_array(1.0 / np.sqrt(within))) @ (sp.eye_array(n, format="csr") + half)
    precision = sp.csr_array(W.T @ W)
    return KnownCovariance(
        precision[place][:, place],
        names,
        "precision",
        sp.csr_array(root[place]),
    )


def _unknown(label: Any, animals: Mapping[Any, int]) -> bool:
    """Whether a parent is unknown: a missing label, or a sign for none that no animal has."""
    if is_missing(label):
        return True
    if label in animals:
        return False
    text = label.strip() if isinstance(label, str) else label
    if text in ("", "0", 0):
        return True
    sign = (
        text.lower() in NO_LABELS if isinstance(text, str) else isinstance(text, Real) and text < 0
    )
    if sign:
        raise DataError(
            f"sire, dam: {label!r} looks like a sign for an unknown parent; write None for it. If "
            "it is an animal, give it a row of its own"
        )
    return False


def _written(label: Any) -> str:
    """How a label reads: 1, 1.0 and "1" alike."""
    whole = isinstance(label, Real) and float(label).is_integer()
    return str(int(label) if whole else label).strip()


def _with_founders(
    sire: list[Any], dam: list[Any], labels: list[Any]
) -> tuple[list[Any], IntArray]:
    """All labels, parents without a row last, and the positions of parents, (l, 2)."""
    if any(is_missing(label) for label in labels):
        raise DataError("labels has a missing value; give every animal a label")
    place = {label: i for i, label in enumerate(labels)}
    if len(place) < len(labels):
        raise DataError(
            "labels: a label occurs more than once in the pedigree; give one row per animal"
        )
    names, animals = list(labels), dict(place)
    written = {_written(label): label for label in labels}
    for label in (*sire, *dam):
        if not _unknown(label, animals) and label not in place:
            if _written(label) in written:
                raise DataError(
                    f"sire, dam: {label!r} has no row, {written[_written(label)]!r} has one; give "
                    "parents and animals labels of one type, for example with .astype(str)"
                )
            place[label] = len(names)
            names.append(label)
    parents = np.full((len(names), 2), -1, dtype=np.int64)
    for column, side in enumerate((sire, dam)):
        for i, label in enumerate(side):
            if not _unknown(label, animals):
                parents[i, column] = place[label]
    return names, parents


def _parents_first(parents: IntArray, names: list[Any]) -> IntArray:
    """Order in which every parent stands before its offspring, by generation."""
    generation = np.zeros(len(parents), dtype=np.int64)
    known = parents >= 0
    for _ in range(len(parents) + 1):
        new = np.where(known, generation[parents] + 1, 0).max(axis=1)
        if np.array_equal(new, generation):
            return np.argsort(generation, kind="stable")
        generation = new
        if generation.max() >= len(parents):
            break
    worst = names[int(np.argmax(generation))]
    raise DataError(f"the pedigree has a loop: {worst!r} is among its own ancestors")


def _relationship_root(parents: IntArray) -> tuple[CSR, FloatArray]:
    """``T D^1/2`` row by row, and the Mendelian sampling variances D, (l,)."""
    rows: list[IntArray] = []
    values: list[FloatArray] = []
    n, total = len(parents), 0
    within, diagonal = np.ones(n), np.ones(n)
    for i, pair in enumerate(parents.tolist()):
        known = [p for p in pair if p >= 0]
        within[i] = 1.0 - sum(0.25 * diagonal[p] for p in known)
        if len(known) == 2 and known[0] != known[1]:
            at, where = np.unique(
                np.concatenate([rows[known[0]], rows[known[1]]]), return_inverse=True
            )
            merged = np.concatenate([values[known[0]], values[known[1]]])
            value = 0.5 * np.bincount(where, merged, len(at))
        elif known:
            at, value = rows[known[0]], 0.5 * len(known) * values[known[0]]
        else:
            at, value = np.zeros(0, np.int64), np.zeros(0)
        diagonal[i] = float(value @ value) + within[i]
        rows.append(np.append(at, i))
        values.append(np.append(value, np.sqrt(within[i])))
        total += len(at) + 1
        if total > LARGEST_ROOT:
            raise MemoryLimitError(
                f"the pedigree of {n} animals has more than {LARGEST_ROOT:.3g} pairs of an animal "
                "and an ancestor; leave out ancestors without phenotyped descendants"
            )
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    root = sp.csr_array((np.concatenate(values), np.concatenate(rows), indptr), shape=(n, n))
    return root, within


@known_arguments
def car(adjacency: Any, rho: float, labels: Any = None) -> KnownCovariance:
    """Proper conditional autoregression of neighbours, for ``covariance={"area": ...}``.

    Parameters
    ----------
    adjacency : ndarray, sparse array or DataFrame, (l, l)
        Symmetric non-negative weights of neighbours; the diagonal is zero.
    rho : float
        Strength of the dependence, ``-1 < rho < 1``.
    labels : sequence, (l,), optional
        Labels of the areas; default the index of a DataFrame.

    Returns
    -------
    KnownCovariance
        With the precision ``diag(W 1) - rho W``.

    Raises
    ------
    DataError
        If ``rho`` is not inside (-1, 1), weights are negative, or an area has no neighbour.

    References
    ----------
    Banerjee, S., Carlin, B. P. & Gelfand, A. E. (2015). Hierarchical Modeling and Analysis for
    Spatial Data, 2nd ed., section 4.3.

    Examples
    --------
    >>> car([[0, 1, 0], [1, 0, 1], [0, 1, 0]], 0.9, list("abc")).matrix.toarray().tolist()
    [[1.0, -0.9, 0.0], [-0.9, 2.0, -0.9], [0.0, -0.9, 1.0]]
    """
    rho = check_number(rho, "rho", "a number between -1 and 1", low=-1.0, high=1.0)
    if abs(rho) == 1.0:
        raise DataError(f"rho must be between -1 and 1, both excluded, got {rho}")
    W = real_numbers(adjacency, "adjacency")
    if W.shape[0] != W.shape[1]:
        raise DataError(f"adjacency must be square, got shape {W.shape}")
    labels = labels_of(adjacency, labels)
    check_symmetric(W, "adjacency")
    if W.diagonal().any() or (W.data < 0).any():
        raise DataError("adjacency must have a zero diagonal and no negative weights")
    neighbours = np.asarray(W.sum(axis=1))
    alone: BoolArray = neighbours == 0
    if alone.any():
        raise DataError(
            f"{int(alone.sum())} area(s) have no neighbour, first {labels[alone][0]!r}; leave them "
            "out or give them one"
        )
    return KnownCovariance(sp.csr_array(sp.diags_array(neighbours) - rho * W), labels, "precision")
