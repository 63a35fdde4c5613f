"""Known covariances between the levels of a grouping factor: pedigrees, kinship, neighbourhoods.

The effects of a term are ``b ~ N(0, sigma^2 K (x) lambda_t lambda_t')`` with K known up to the
scale that ``lambda_t`` estimates. With any root ``R R' = K`` and ``Z_t* = Z_t (R (x) I_k)``

    Z_t b = Z_t* b*,    b = (R (x) I_k) b*,    b* ~ N(0, sigma^2 I (x) lambda_t lambda_t')

so that the model is fitted with ``Z_t*`` like any other (Vazquez, Bates, Rosa, Gianola & Weigel
2010). From a covariance ``R = P'L`` with ``P K P' = L L'``, from a precision ``Q = K^-1``
``R = P'L^-T`` with ``P Q P' = L L'``, P a fill-reducing permutation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spl

from sparselmm.base.arguments import (
    check_choice,
    check_hashable,
    check_list,
    check_number,
    check_numbers,
)
from sparselmm.base.cholesky import CholeskyFactor, NotPositiveDefiniteError, Pattern
from sparselmm.base.exceptions import DataError, MemoryLimitError
from sparselmm.base.other_names import known_arguments
from sparselmm.base.types import CSR, AnyArray, BoolArray, FloatArray, IntArray

Kind = Literal["covariance", "precision"]

SYMMETRIC = 1e-8
"""Largest difference between the triangles of a symmetric matrix, as a share of its diagonal."""

SEMIDEFINITE = 1e-8
"""A negative eigenvalue smaller than this share of the largest counts as rounding."""

LARGEST_ROOT = 400_000_000
"""Most entries of a root, or of columns of Z mixed by it (4.8 GB)."""

DENSE_SHARE = 0.25
"""Share of nonzeros from which a matrix is factored as a dense one."""

NO_LABELS = (
    ".",
    "-",
    "--",
    "*",
    "?",
    "na",
    "n/a",
    "#n/a",
    "nan",
    "<na>",
    "none",
    "null",
    "unknown",
)
"""What files have in place of a label that is missing."""

COLUMNS = 256
"""Right-hand sides of a triangular solve at a time."""


@dataclass(frozen=True, eq=False)
class KnownCovariance:
    """Covariance between the levels of a grouping factor, known up to a factor.

    Parameters
    ----------
    matrix : ndarray, sparse array or DataFrame, (l, l)
        Covariance K of the levels, or its inverse. Symmetric. A covariance may be singular, a
        precision may not.
    labels : sequence, (l,), optional
        Label of each row, matched with the labels of the grouping factor. Default: the index of
        a DataFrame. Labels that do not occur in the data (a pedigree's ancestors) are kept and
        get predicted effects.
    kind : {"covariance", "precision"}
        What ``matrix`` is.

    Raises
    ------
    DataError
        If the matrix is not square, finite, symmetric and positive (semi-)definite, or the
        labels are not one per row and distinct.

    Notes
    -----
    The variance of the effect of level j is the estimated variance of the term times ``K[j, j]``:
    scale K to a diagonal around one to read the estimate as a variance of effects.

    References
    ----------
    Vazquez, A. I., Bates, D. M., Rosa, G. J. M., Gianola, D. & Weigel, K. A. (2010). An R package
    for fitting generalized linear mixed models in animal breeding. Journal of Animal Science 88,
    497-504.

    Examples
    --------
    >>> import numpy as np
    >>> known = KnownCovariance([[1.0, 0.5], [0.5, 1.0]], ["a", "b"])
    >>> root = known.root.toarray()
    >>> np.allclose(root @ root.T, known.matrix.toarray())
    True
    """

    matrix: Any
    labels: Any = None
    kind: Kind = "covariance"
    _root: CSR | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        of = f"{self.matrix.shape[0]:,} levels, {self.matrix.nnz:,} entries"
        return f"KnownCovariance: a {self.kind} of {of}"

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>"

    def __post_init__(self) -> None:
        kind = check_choice(self.kind, "kind", ("covariance", "precision"))
        object.__setattr__(self, "kind", kind)
        matrix = _real(self.matrix, "matrix")
        labels = _labels_of(self.matrix, self.labels)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise DataError(f"matrix, a {self.kind}, must be square, got shape {matrix.shape}")
        if len(labels) != matrix.shape[0]:
            raise DataError(
                f"{len(labels)} labels for a {self.kind} matrix of order {matrix.shape[0]}; give "
                "one label per row"
            )
        _check_symmetric(matrix, self.kind)
        seen: set[Any] = set()
        twice = [label for label in labels.tolist() if label in seen or seen.add(label)]  # type: ignore[func-returns-value]
        if twice:
            raise DataError(f"labels: {twice[0]!r} occurs more than once in a known covariance")
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def root(self) -> CSR:
        """Sparse R with ``R R' = K``, (l, l).

        Raises
        ------
        DataError
            If the matrix is not positive (semi-)definite.
        MemoryLimitError
            If the root of a precision would have more than 4e8 entries.
        """
        if self._root is not None:
            return self._root
        dense = self.matrix.nnz > DENSE_SHARE * len(self) ** 2
        if self.kind == "covariance":
            return _dense_root(self.matrix.toarray()) if dense else _sparse_root(self.matrix)
        return _inverse_root(self.matrix)

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)


def _labels_of(matrix: Any, labels: Any) -> AnyArray:
    """Labels as an array of objects or numbers."""
    if hasattr(matrix, "index") and hasattr(matrix, "columns"):
        if list(matrix.index) != list(matrix.columns):
            raise DataError(
                "matrix: the index and the columns of a known covariance (adjacency) differ; sort "
                "both the same way, K.loc[labels, labels]"
            )
        if labels is None:
            labels = matrix.index
    if labels is None:
        raise DataError(
            "a known covariance needs labels, one per row, to be matched with the levels of the "
            "grouping factor; pass labels= or a DataFrame"
        )
    given = check_list(labels, "labels", "a list of labels, one per row")
    check_hashable(given, "labels")
    if isinstance(labels, np.ndarray) and labels.dtype.kind in "iu":
        return labels
    return _exactly(given)


def _exactly(labels: list[Any]) -> AnyArray:
    """Labels as integers where all of them are, else as the objects they are."""
    own = [label.item() if isinstance(label, np.number) else label for label in labels]
    absent = [label for label in own if _missing(label)]
    if absent:
        raise DataError(f"{len(absent)} label(s) are missing ({absent[0]!r}); give every row one")
    if own and all(type(label) is int for label in own):
        for dtype in (np.int64, np.uint64):
            if np.iinfo(dtype).min <= min(own) and max(own) <= np.iinfo(dtype).max:
                return np.array(own, dtype=dtype)
    out = np.empty(len(own), dtype=object)
    for i, label in enumerate(own):  # not out[:] = own, which looks inside tuples
        out[i] = label
    return out


def _real(matrix: Any, name: str) -> CSR:
    """A matrix as sparse floats; complex numbers are refused."""
    if sp.issparse(matrix):
        check_numbers(matrix.data, name, finite=False)
        return sp.csr_array(matrix, dtype=float)
    dense = check_numbers(matrix, name, finite=False)
    if dense.ndim != 2:
        raise DataError(f"{name} must be a matrix, got shape {dense.shape}")
    return sp.csr_array(dense)


def _check_symmetric(matrix: CSR, kind: str) -> None:
    if not np.isfinite(matrix.data).all():
        raise DataError(f"a {kind} matrix must be finite")
    diagonal = matrix.diagonal()
    if not (diagonal >= 0).all():
        raise DataError(f"a {kind} matrix must not have negative diagonal entries")
    size = float(diagonal.max(initial=0.0))
    gap = float(abs(matrix - matrix.T).max()) if matrix.nnz else 0.0
    if gap > SYMMETRIC * size:
        raise DataError(
            f"a {kind} matrix must be symmetric; its triangles differ by up to {gap:.3g}. If only "
            "rounding is to blame, pass (K + K.T) / 2"
        )


def _dense_root(K: FloatArray) -> CSR:
    """Cholesky factor, or the symmetric root of a singular matrix."""
    try:
        return sp.csr_array(np.linalg.cholesky(K))
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(K)
    if values[0] < -SEMIDEFINITE * values[-1]:
        raise DataError(_indefinite("covariance", f"its smallest eigenvalue is {values[0]:.3g}"))
    return sp.csr_array((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)


def _factor(matrix: CSR) -> CholeskyFactor:
    low = sp.tril(matrix, format="coo")
    pattern = Pattern.of(low.row, low.col, matrix.shape[0])
    factor = CholeskyFactor(pattern, "amd", "simplicial")
    data = np.zeros(pattern.nnz)
    data[pattern.positions(low.row, low.col)] = low.data
    factor.factorize(data)
    return factor


def _sparse_root(K: CSR) -> CSR:
    """``P'L``."""
    try:
        factor = _factor(K)
    except NotPositiveDefiniteError:
        return _dense_root(K.toarray())
    back = np.argsort(factor.permutation)
    return sp.csr_array(sp.csr_array(factor.lower())[back])


def _inverse_root(Q: CSR) -> CSR:
    """``P'L^-T``."""
    try:
        factor = _factor(Q)
    except NotPositiveDefiniteError as error:
        raise DataError(
            _indefinite("precision", str(error))
            + ". An intrinsic (singular) precision gives no covariance; use a proper one"
        ) from error
    L = factor.lower()
    entries = int(_depths(L.indptr, L.indices).sum())
    if entries > LARGEST_ROOT:
        raise MemoryLimitError(
            f"the root of this precision matrix of order {len(L.indptr) - 1} would have "
            f"{entries:.3g} entries ({12e-9 * entries:.3g} GB)"
        )
    inverse = inverse_triangle(sp.csr_array(L))
    return sp.csr_array(inverse.T)[np.argsort(factor.permutation)]


def _depths(indptr: IntArray, rows: IntArray) -> IntArray:
    """Entries of each column of ``L^-1``: the length of its path to the root of the tree."""
    n = len(indptr) - 1
    depth = np.ones(n, dtype=np.int64)
    for j in range(n - 1, -1, -1):
        if indptr[j + 1] - indptr[j] > 1:  # rows ascend, the first is the diagonal
            depth[j] += depth[rows[indptr[j] + 1]]
    return depth


def inverse_triangle(L: CSR) -> CSR:
    """Inverse of a sparse lower triangle, zeros left out."""
    n = L.shape[0]
    parts = []
    for start in range(0, n, COLUMNS):
        width = min(COLUMNS, n - start)
        right = np.zeros((n - start, width))
        right[np.arange(width), np.arange(width)] = 1.0
        solved = np.asarray(spl.spsolve_triangular(L[start:, start:], right, lower=True))
        row, column = np.nonzero(solved)
        entries = (solved[row, column], (row + start, column))
        parts.append(sp.csc_array(entries, shape=(n, width)))
    return sp.csr_array(sp.hstack(parts, format="csc"))


def _indefinite(kind: str, seen: str) -> str:
    return f"a {kind} matrix must be positive definite: {seen}"


# ------------------------------------------------------------------------------- pedigrees


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


def _missing(label: Any) -> bool:
    """None, NaN, NaT and pandas' NA, of which nothing is known, not even whether it is itself."""
    try:
        return label is None or bool(label != label)
    except TypeError:
        return True


def _unknown(label: Any, animals: Mapping[Any, int]) -> bool:
    """Whether a parent is unknown: a missing label, or a sign for none that no animal has."""
    if _missing(label):
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
    if any(_missing(label) for label in labels):
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


# ------------------------------------------------------------------------------ neighbours


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
    W = _real(adjacency, "adjacency")
    if W.shape[0] != W.shape[1]:
        raise DataError(f"adjacency must be square, got shape {W.shape}")
    labels = _labels_of(adjacency, labels)
    _check_symmetric(W, "adjacency")
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
