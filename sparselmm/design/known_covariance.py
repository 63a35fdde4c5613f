"""Known covariances between the levels of a grouping factor: pedigrees, kinship, neighbourhoods.

The effects of a term are ``b ~ N(0, sigma^2 K (x) lambda_t lambda_t')`` with K known up to the
scale that ``lambda_t`` estimates. With any root ``R R' = K`` and ``Z_t* = Z_t (R (x) I_k)``

    Z_t b = Z_t* b*,    b = (R (x) I_k) b*,    b* ~ N(0, sigma^2 I (x) lambda_t lambda_t')

so that the model is fitted with ``Z_t*`` like any other (Vazquez, Bates, Rosa, Gianola & Weigel
2010). From a covariance ``R = P'L`` with ``P K P' = L L'``, from a precision ``Q = K^-1``
``R = P'L^-T`` with ``P Q P' = L L'``, P a fill-reducing permutation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spl

from sparselmm.base.arguments import check_choice, check_hashable, check_list, check_numbers
from sparselmm.base.cholesky import CholeskyFactor, NotPositiveDefiniteError, Pattern
from sparselmm.base.exceptions import DataError, MemoryLimitError
from sparselmm.base.types import CSR, AnyArray, FloatArray, IntArray

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
        matrix = real_numbers(self.matrix, "matrix")
        labels = labels_of(self.matrix, self.labels)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise DataError(f"matrix, a {self.kind}, must be square, got shape {matrix.shape}")
        if len(labels) != matrix.shape[0]:
            raise DataError(
                f"{len(labels)} labels for a {self.kind} matrix of order {matrix.shape[0]}; give "
                "one label per row"
            )
        check_symmetric(matrix, self.kind)
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


def labels_of(matrix: Any, labels: Any) -> AnyArray:
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
        return labels.copy()
    return _exactly(given)


def _exactly(labels: list[Any]) -> AnyArray:
    """Labels as integers where all of them are, else as the objects they are."""
    own = [label.item() if isinstance(label, np.number) else label for label in labels]
    absent = [label for label in own if is_missing(label)]
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


def real_numbers(matrix: Any, name: str) -> CSR:
    """A matrix as sparse floats; complex numbers are refused."""
    if sp.issparse(matrix):
        check_numbers(matrix.data, name, finite=False)
        return sp.csr_array(matrix, dtype=float)
    dense = check_numbers(matrix, name, finite=False)
    if dense.ndim != 2:
        raise DataError(f"{name} must be a matrix, got shape {dense.shape}")
    return sp.csr_array(dense)


def check_symmetric(matrix: CSR, kind: str) -> None:
    """Refuse a matrix that is not finite and symmetric."""
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
        corner = L[start:, start:]
        corner.indices, corner.indptr = (  # SciPy before 1.16 takes no others
            part.astype(np.intc) for part in (corner.indices, corner.indptr)
        )
        solved = np.asarray(spl.spsolve_triangular(corner, right, lower=True))
        row, column = np.nonzero(solved)
        entries = (solved[row, column], (row + start, column))
        parts.append(sp.csc_array(entries, shape=(n, width)))
    return sp.csr_array(sp.hstack(parts, format="csc"))


def _indefinite(kind: str, seen: str) -> str:
    return f"a {kind} matrix must be positive definite: {seen}"


# ------------------------------------------------------------------------------- pedigrees


# ------------------------------------------------------------------------------ neighbours


def is_missing(label: Any) -> bool:
    """None, NaN, NaT and pandas' NA, of which nothing is known, not even whether it is itself."""
    try:
        return label is None or bool(label != label)
    except TypeError:
        return True
