"""Who factors sparse matrices: scikit-sparse, cvxopt or LAPACK, found when first needed.

scikit-sparse has CHOLMOD with everything in it, from a compiler and SuiteSparse's headers; 0.4
(SuiteSparse 5) and 0.5 (SuiteSparse 7) have different interfaces. cvxopt comes in wheels that
contain CHOLMOD with AMD as its only ordering. Without either LAPACK factors dense matrices. The
only file that names the two packages.
"""

from __future__ import annotations

import ctypes
import os
import platform
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from threading import Lock
from typing import Any, Literal, Protocol

import numpy as np
import scipy.sparse as sp
from scipy.linalg import lapack

from sparselmm.base import kernels_cholesky
from sparselmm.base.exceptions import ProviderError, SparseLMMError
from sparselmm.base.threads import libraries_changed
from sparselmm.base.types import CSC, FloatArray, IntArray

Ordering = Literal["amd", "metis", "nesdis", "natural"]
Mode = Literal["simplicial", "supernodal"]

CHOICE = "SPARSELMM_CHOLMOD"
"""Environment variable that names the provider to take: scikit-sparse, cvxopt or none."""

DENSE_MOST = 10_000
"""Order up to which LAPACK takes the place of a sparse factorization: 800 MB."""


class NotPositiveDefiniteError(SparseLMMError, ArithmeticError):
    """The matrix handed to the factorization is not positive definite."""


class Backend(Protocol):
    """Factorizations of matrices of one pattern, given by their lower triangles."""

    def permutation(self) -> IntArray:
        """Column of the matrix at each place of the elimination order, (n,)."""

    def factorize(self, matrix: CSC) -> float:
        """Factorize; returns the log determinant."""

    def solve(self, rhs: FloatArray) -> FloatArray:
        """Solve for right-hand sides, (n, m)."""

    def lower(self) -> CSC:
        """L, rows ascending, structural zeros kept."""


@dataclass(frozen=True)
class Provider:
    """Who factors sparse matrices.

    Attributes
    ----------
    name : {"scikit-sparse", "cvxopt", "none"}
    version : str
        Of the package; empty for LAPACK.
    backend : callable
        Makes a `Backend` from a pattern (values are ignored), an ordering and a mode.
    orderings : tuple of str
        Those worth trying, cheapest first; none where no factor is sparse.
    why : tuple of str
        Why a provider that comes before was not taken, one line each.
    """

    name: str
    version: str
    backend: Callable[[CSC, Ordering, Mode], Backend]
    orderings: tuple[Ordering, ...]
    why: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.name == "none":
            return "none, LAPACK takes its place"
        return f"CHOLMOD of {self.name} {self.version}"


def provider() -> Provider:
    """Find who factors sparse matrices, once per process and per choice.

    Raises
    ------
    ProviderError
        Where the one that the environment variable ``SPARSELMM_CHOLMOD`` names cannot be had.
    """
    return _provider(os.environ.get(CHOICE, "").strip().lower())


@cache
def _provider(choice: str) -> Provider:
    makers = {"scikit-sparse": _scikit_sparse, "cvxopt": _cvxopt, "none": _none}
    if choice and choice not in makers:
        raise ProviderError(
            f"the environment variable {CHOICE} is {choice!r}; it may be {', '.join(makers)}, or "
            "not set"
        )
    why: list[str] = []
    for name in [choice] if choice else makers:
        try:
            found = makers[name](tuple(why))
            libraries_changed()
            return found
        except (ImportError, OSError, AttributeError) as error:
            # absent, or built against libraries that are no longer there
            why.append(f"{name}: {type(error).__name__}: {error}")
    raise ProviderError(f"{CHOICE} is {choice!r}, which does not load.\n{why[0]}\n{instructions()}")


def _scikit_sparse(why: tuple[str, ...]) -> Provider:
    cholmod = import_module("sksparse.cholmod")
    backend = _SkSparse05 if hasattr(cholmod, "CholeskyFactor") else _SkSparse04
    return Provider("scikit-sparse", version("scikit-sparse"), backend, ("amd", "nesdis"), why)


def _cvxopt(why: tuple[str, ...]) -> Provider:
    for module in ("cvxopt.cholmod", "cvxopt.amd"):
        import_module(module)
    return Provider("cvxopt", version("cvxopt"), _Cvxopt, ("amd",), why)


def _none(why: tuple[str, ...]) -> Provider:
    return Provider("none", "", _Lapack, (), why)


def instructions() -> str:
    """How to get a sparse factorization, one command per system."""
    return (
        "Install CHOLMOD, which factors large sparse matrices, by one of\n"
        "  any system       pip install cvxopt\n"
        "  conda            conda install -c conda-forge scikit-sparse\n"
        "  Debian, Ubuntu   sudo apt-get install build-essential python3-dev libsuitesparse-dev && "
        "pip install scikit-sparse\n"
        "  Fedora           sudo dnf install gcc-c++ python3-devel suitesparse-devel && "
        "pip install scikit-sparse\n"
        "  Homebrew         brew install suite-sparse && pip install scikit-sparse"
    )


PACKAGES = (
    *("numpy", "scipy", "pandas", "patsy", "numba", "scikit-sparse", "cvxopt", "threadpoolctl"),
    *("joblib", "pyarrow", "matplotlib", "statsmodels"),
)


def versions() -> dict[str, str]:
    """What a report of a fault should say about the installation, by what it is about."""
    found = {"Python": platform.python_version(), "system": platform.platform()}
    found["processors"] = str(os.cpu_count())
    for package in ("sparselmm", *PACKAGES):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    try:
        chosen = provider()
    except ProviderError as error:
        return {**found, "sparse factors": str(error)}
    found["sparse factors"] = "; ".join([str(chosen), *chosen.why])
    return found


def show_versions() -> None:
    """Print the versions that a report of a fault should contain.

    Examples
    --------
    >>> import sparselmm
    >>> sparselmm.show_versions()
    Python ...
    """
    print("\n".join(f"{name:<15} {what}" for name, what in versions().items()))


# ------------------------------------------------------------------ scikit-sparse versions


class _SkSparse04:
    """scikit-sparse 0.4: ``analyze`` and ``Factor``."""

    def __init__(self, matrix: CSC, ordering: Ordering, mode: Mode):
        self._cholmod: Any = import_module("sksparse.cholmod")
        self._factor: Any = self._cholmod.analyze(
            matrix,
            mode=mode,
            ordering_method=ordering,
            use_long=matrix.indices.dtype == np.int64,
        )

    def permutation(self) -> IntArray:
        order: IntArray = self._factor.P()
        return order

    def factorize(self, matrix: CSC) -> float:
        try:
            self._factor.cholesky_inplace(matrix)
        except self._cholmod.CholmodNotPositiveDefiniteError as error:
            raise NotPositiveDefiniteError(str(error)) from error
        D = self._factor.D()
        if not (D > 0).all():  # the simplicial LDL' does not refuse negative pivots
            raise NotPositiveDefiniteError(f"smallest pivot {D.min():.3g}")
        return float(np.log(D).sum())

    def solve(self, rhs: FloatArray) -> FloatArray:
        solution: FloatArray = self._factor.solve_A(rhs)
        return solution

    def lower(self) -> CSC:
        return _sorted(self._factor.L())


class _SkSparse05:
    """scikit-sparse 0.5: ``CholeskyFactor``.

    A factorization turns the supernodal factor it was given into a simplicial one, and the next
    on the same object would go column by column. So what was analysed is kept and every
    factorization happens in a copy of it.
    """

    def __init__(self, matrix: CSC, ordering: Ordering, mode: Mode):
        self._cholmod: Any = import_module("sksparse.cholmod")
        self._analysed: Any = self._cholmod.CholeskyFactor(
            matrix, lower=True, order=ordering, supernodal_mode=mode
        )
        self._numeric: Any = None
        self._L: CSC | None = None

    def permutation(self) -> IntArray:
        order: IntArray = np.asarray(self._analysed.perm)
        return order

    def factorize(self, matrix: CSC) -> float:
        self._numeric = self._L = None  # frees its memory before the next takes as much
        numeric = self._analysed.copy()
        try:
            with silence():
                numeric.factorize(matrix, ldl=False)
        except self._cholmod.CholmodNotPositiveDefiniteError as error:
            raise NotPositiveDefiniteError(str(error)) from error
        # the view, not get_factor(), which drops numerical zeros and with them the pattern
        view = numeric.factor
        self._L = _sorted(view)
        # The factor keeps the view and the view's arrays the factor: a cycle through arrays, which
        # Python cannot collect.
        view.data, view.indices, view.indptr = np.zeros(0), np.zeros(0, int), np.zeros(1, int)
        self._numeric = numeric
        return float(2.0 * np.log(self._L.data[self._L.indptr[:-1]]).sum())

    def solve(self, rhs: FloatArray) -> FloatArray:
        if self._numeric.rcond >= self._numeric.N * np.finfo(float).eps:
            solution: FloatArray = self._numeric.solve(rhs)
            return solution
        # An estimate from the diagonal of L alone: levels with many rows next to levels with none
        # are enough to make it small.
        with _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("ignore", self._cholmod.CholmodWarning)
            solution = self._numeric.solve(rhs)
        return solution

    def lower(self) -> CSC:
        assert self._L is not None
        return self._L


_FILTERS = Lock()
"""Python's warning filters belong to all threads."""


class _Silence:
    """Context in which SuiteSparse 7 does not print.

    CHOLMOD writes to the terminal what scikit-sparse 0.5 raises as well, and its print level is out
    of reach. The function that prints is one for the whole process: it comes back when the last
    thread leaves.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._print: int | None = None
        library = ctypes.CDLL(
            import_module("sksparse.cholmod").__file__
        )  # with what it is linked to
        self._get = getattr(library, "SuiteSparse_config_printf_func_get", None)
        self._set = getattr(library, "SuiteSparse_config_printf_func_set", None)
        if self._get is not None and self._set is not None:
            self._get.restype, self._set.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
            self._get.argtypes, self._set.restype = [], None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0 and self._get is not None and self._set is not None:
                self._print = self._get()
                self._set(None)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._set is not None:
                self._set(self._print)


@cache
def silence() -> _Silence:
    """The one for the whole process."""
    return _Silence()


def _sorted(L: Any) -> CSC:
    matrix = sp.csc_array(L)
    if not matrix.has_sorted_indices:
        matrix = matrix.copy()
        matrix.sort_indices()
    return matrix


# ------------------------------------------------------------------ cvxopt, LAPACK


_OPTIONS = Lock()
"""cvxopt's options belong to the process."""


class _Cvxopt:
    """cvxopt: ``symbolic``, ``numeric`` and ``getfactor``.

    Reading L takes it out of the factor. What is solved afterwards is solved by L as read, and the
    next factorization begins with another analysis in the same order.
    """

    def __init__(self, matrix: CSC, ordering: Ordering, mode: Mode):
        cvxopt: Any = import_module("cvxopt")
        self._cvxopt, self._cholmod = cvxopt, import_module("cvxopt.cholmod")
        if ordering not in ("amd", "natural"):
            raise ProviderError(f"CHOLMOD of cvxopt has no ordering {ordering!r}, only 'amd'")
        n = matrix.shape[0]
        cols = np.repeat(np.arange(n), np.diff(matrix.indptr))
        at = [cvxopt.matrix(index.astype(np.int64), tc="i") for index in (matrix.indices, cols)]
        self._matrix = cvxopt.spmatrix(1.0, *at, (n, n))
        # AMD's order is that of its own elimination tree: another by CHOLMOD gains nothing, and
        # could only be learned from a numeric factor.
        self._options = {
            "supernodal": 0 if mode == "simplicial" else 2,
            "postorder": False,
            "nmethods": 1,
        }
        if ordering == "natural":
            self._order = cvxopt.matrix(np.arange(n), tc="i")
        else:
            self._order = import_module("cvxopt.amd").order(self._matrix)
        self._factor: Any = None
        self._L: CSC | None = None

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of cvxopt under our options."""
        with _OPTIONS:
            before = dict(self._cholmod.options)
            self._cholmod.options.update(self._options)
            try:
                return function(*arguments)
            finally:
                self._cholmod.options.clear()
                self._cholmod.options.update(before)

    def permutation(self) -> IntArray:
        return np.array(self._order, dtype=np.int64).ravel()

    def factorize(self, matrix: CSC) -> float:
        if self._factor is None or self._L is not None:
            self._factor = self._L = None  # frees its memory before the next takes as much
            self._factor = self._call(self._cholmod.symbolic, self._matrix, self._order)
        self._matrix.V = self._cvxopt.matrix(matrix.data)
        try:
            self._call(self._cholmod.numeric, self._matrix, self._factor)
        except ArithmeticError as error:
            self._factor = None
            raise NotPositiveDefiniteError(f"CHOLMOD stopped at column {error}") from error
        if self._options["supernodal"]:
            D = np.array(self._cholmod.diag(self._factor)).ravel() ** 2
        else:  # LDL'
            with np.errstate(all="ignore"):  # pivots that are no numbers
                D = 1.0 / self._solve(np.ones((matrix.shape[0], 1)), 6).ravel()
        if not (D > 0).all():
            raise NotPositiveDefiniteError(f"smallest pivot {D.min():.3g}")
        return float(np.log(D).sum())

    def solve(self, rhs: FloatArray) -> FloatArray:
        if self._L is None:
            return self._solve(rhs, 0)
        order = self.permutation()
        x = np.ascontiguousarray(rhs[order], dtype=float)
        kernels_cholesky.solve_sparse(self._L.indptr, self._L.indices, self._L.data, x)
        solution = np.empty_like(x)
        solution[order] = x
        return solution

    def _solve(self, rhs: FloatArray, system: int) -> FloatArray:
        if rhs.size == 0:
            return np.zeros(rhs.shape)
        both = self._cvxopt.matrix(np.ascontiguousarray(rhs, dtype=float))
        self._call(self._cholmod.solve, self._factor, both, system)
        return np.ascontiguousarray(np.array(both))

    def lower(self) -> CSC:
        if self._L is None:
            parts = self._call(self._cholmod.getfactor, self._factor).CCS
            indptr, rows, data = (np.array(part).ravel() for part in parts)
            L = _sorted(sp.csc_array((data, rows, indptr), shape=self._matrix.size))
            if not self._options["supernodal"]:  # L and D of LDL' in one
                root = np.sqrt(L.data[L.indptr[:-1]])
                L.data[L.indptr[:-1]] = 1.0
                L.data *= np.repeat(root, np.diff(L.indptr))
            self._L = L
        return self._L


class _Lapack:
    """LAPACK on a dense matrix in the given order."""

    def __init__(self, matrix: CSC, ordering: Ordering, mode: Mode):
        self._n = n = matrix.shape[0]
        if n > DENSE_MOST:
            raise ProviderError(
                f"this needs a sparse factorization of {n:,} columns, and no package that "
                f"computes one is installed.\n{instructions()}"
            )
        self._at = matrix.indices + n * np.repeat(np.arange(n), np.diff(matrix.indptr))
        self._C = np.zeros((0, 0))

    def permutation(self) -> IntArray:
        return np.arange(self._n)

    def factorize(self, matrix: CSC) -> float:
        S = np.zeros((self._n, self._n), order="F")
        S.T.reshape(-1)[self._at] = matrix.data
        self._C, info = lapack.dpotrf(S, lower=1, clean=0, overwrite_a=1)
        if info:
            raise NotPositiveDefiniteError(f"LAPACK dpotrf info={info}")
        return float(2.0 * np.log(np.diag(self._C)).sum())

    def solve(self, rhs: FloatArray) -> FloatArray:
        solution, _ = lapack.dpotrs(self._C, rhs, lower=1)
        return np.ascontiguousarray(solution)

    def lower(self) -> CSC:
        counts = np.arange(self._n, 0, -1)
        indptr = np.concatenate([[0], np.cumsum(counts)])
        rows = np.arange(indptr[-1]) - np.repeat(indptr[:-1] - np.arange(self._n), counts)
        packed, _ = lapack.dtrttp(self._C, uplo="L")
        return sp.csc_array((packed, rows, indptr), shape=self._C.shape)
