"""Packed covariance parameters, in statsmodels' order and units, and theta.

A packed vector is ``[fixed effects,] lower triangle of cov_re row by row, vcomp``. Variances are
in *profile units*: divided by the residual variance, ``Psi / sigma^2 = lambda lambda'``. With
``use_sqrt`` the triangle holds the Cholesky factor of ``cov_re`` and standard deviations stand in
place of the variances. Where a model has several terms with coefficients (bars), ``cov_re`` is
block diagonal and only the triangles of its blocks are packed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sparselmm.base.arguments import check_count, check_flag, check_numbers, in_order
from sparselmm.base.exceptions import ArgumentError
from sparselmm.base.smallmatrix import block_diagonal, factor_of
from sparselmm.base.types import FloatArray
from sparselmm.inference.variances import VarianceLayout
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.patterned import Patterned

STRUCTURED = 1e-8
"""Largest deviation from a patterned covariance that counts as rounding, as a share of it."""


MOST_PARAMETERS = 10**8
"""Most fixed effects or variance components."""

MOST_COEFFICIENTS = 10**4
"""Largest order of ``cov_re``."""


class MixedLMParams:
    """Fixed effects and covariance parameters of a mixed model, residual variance profiled out.

    Also a mask of zeros and ones for ``MixedLM.fit(free=...)``.

    Parameters
    ----------
    k_fe : int
        Number of fixed effects.
    k_re : int
        Order of ``cov_re``.
    k_vc : int
        Number of variance components.

    Attributes
    ----------
    fe_params : ndarray, (k_fe,)
    cov_re : ndarray, (k_re, k_re)
        Covariance of the random coefficients divided by the residual variance.
    vcomp : ndarray, (k_vc,)
        Variance components divided by the residual variance.
    k_fe, k_re, k_re2, k_vc, k_tot : int
        Numbers of parameters; ``k_re2 = k_re (k_re + 1) / 2``, ``k_tot`` is all together.

    Examples
    --------
    >>> import numpy as np
    >>> params = MixedLMParams.from_components(np.ones(1), cov_re=4 * np.eye(2))
    >>> params.get_packed(use_sqrt=True, has_fe=True).tolist()
    [1.0, 2.0, 0.0, 2.0]
    """

    def __repr__(self) -> str:
        parts = {"fe_params": self.fe_params, "cov_re": self.cov_re, "vcomp": self.vcomp}
        texts = {name: np.array2string(v, precision=5, threshold=12) for name, v in parts.items()}
        return "\n".join(["MixedLMParams", *(f"{name} {text}" for name, text in texts.items())])

    def _repr_html_(self) -> str:
        return f"<pre>{self!r}</pre>"

    def __init__(self, k_fe: int, k_re: int, k_vc: int):
        self.k_fe = k_fe = check_count(k_fe, "k_fe", least=0, most=MOST_PARAMETERS)
        self.k_re = k_re = check_count(k_re, "k_re", least=0, most=MOST_COEFFICIENTS)
        k_vc = check_count(k_vc, "k_vc", least=0, most=MOST_PARAMETERS)
        self.k_re2 = k_re * (k_re + 1) // 2
        self.k_vc = k_vc
        self.k_tot = self.k_fe + self.k_re2 + self.k_vc
        self._ix = np.tril_indices(k_re)
        self.fe_params: FloatArray = np.zeros(k_fe)
        self.cov_re: FloatArray = np.zeros((k_re, k_re))
        self.vcomp: FloatArray = np.zeros(k_vc)

    @staticmethod
    def from_packed(
        params: Any, k_fe: int, k_re: int, use_sqrt: bool, has_fe: bool
    ) -> MixedLMParams:
        """Parameters from a packed vector.

        Parameters
        ----------
        params : array-like
            Packed vector; the number of components follows from its length.
        k_fe, k_re : int
            Numbers of fixed effects and of random coefficients.
        use_sqrt : bool
            Whether it holds the Cholesky factor and standard deviations.
        has_fe : bool
            Whether it begins with the fixed effects; they are zero otherwise.

        Returns
        -------
        MixedLMParams
        """
        packed = check_numbers(params, "params", (None,), finite=False)
        use_sqrt, has_fe = check_flag(use_sqrt, "use_sqrt"), check_flag(has_fe, "has_fe")
        k_fe = check_count(k_fe, "k_fe", least=0, most=MOST_PARAMETERS)
        k_re = check_count(k_re, "k_re", least=0, most=MOST_COEFFICIENTS)
        first = k_fe if has_fe else 0
        k_re2 = k_re * (k_re + 1) // 2
        if len(packed) < first + k_re2:
            raise ArgumentError(
                f"params has {len(packed)} entries, fewer than the {first} fixed effects (k_fe) "
                f"and the {k_re2} entries of a covariance matrix of order k_re = {k_re}"
            )
        out = MixedLMParams(k_fe, k_re, len(packed) - first - k_re2)
        if has_fe:
            out.fe_params = packed[:k_fe]
        lower = np.zeros((k_re, k_re))
        lower[out._ix] = packed[first : first + k_re2]
        out.cov_re = lower @ lower.T if use_sqrt else lower + np.tril(lower, -1).T
        vcomp = packed[first + k_re2 :]
        out.vcomp = vcomp**2 if use_sqrt else vcomp
        return out

    @staticmethod
    def from_components(
        fe_params: Any = None, cov_re: Any = None, cov_re_sqrt: Any = None, vcomp: Any = None
    ) -> MixedLMParams:
        """Parameters from their parts; a part left out is empty.

        Parameters
        ----------
        fe_params : array-like, (k_fe,), optional
        cov_re : array-like, (k_re, k_re), optional
        cov_re_sqrt : array-like, (k_re, k_re), optional
            Lower Cholesky factor, in place of ``cov_re``.
        vcomp : array-like, (k_vc,), optional

        Returns
        -------
        MixedLMParams
        """
        fe, vc = (
            np.empty(0) if part is None else check_numbers(part, name, (None,), finite=False)
            for part, name in ((fe_params, "fe_params"), (vcomp, "vcomp"))
        )
        cov = np.empty((0, 0)) if cov_re is None else _square(cov_re, "cov_re")
        if cov_re_sqrt is not None:
            if cov_re is not None:
                raise ArgumentError("give either cov_re or its factor, cov_re_sqrt, not both")
            root = _square(cov_re_sqrt, "cov_re_sqrt")
            cov = root @ root.T
        out = MixedLMParams(len(fe), len(cov), len(vc))
        out.fe_params, out.cov_re, out.vcomp = fe, cov, vc
        return out

    def copy(self) -> MixedLMParams:
        """Independent copy."""
        out = MixedLMParams(self.k_fe, self.k_re, self.k_vc)
        out.fe_params = np.array(self.fe_params)
        out.cov_re = np.array(self.cov_re)
        out.vcomp = np.array(self.vcomp)
        return out

    def get_packed(self, use_sqrt: bool, has_fe: bool = False) -> FloatArray:
        """Packed vector.

        Parameters
        ----------
        use_sqrt : bool
            Cholesky factor and standard deviations instead of covariances and variances. The
            square roots of the variances alone when ``cov_re`` is not positive definite.
        has_fe : bool
            Whether to begin with the fixed effects.

        Returns
        -------
        ndarray
        """
        cov_re, vcomp = np.asarray(self.cov_re, float), np.asarray(self.vcomp, float)
        has_fe = check_flag(has_fe, "has_fe")
        if check_flag(use_sqrt, "use_sqrt"):
            try:
                cov_re = np.linalg.cholesky(cov_re)
            except np.linalg.LinAlgError:
                cov_re = np.diag(np.sqrt(np.diag(cov_re)))
            vcomp = np.sqrt(vcomp)
        parts = [cov_re[self._ix], vcomp]
        return np.concatenate([np.asarray(self.fe_params, float), *parts] if has_fe else parts)


def _square(value: Any, name: str) -> FloatArray:
    matrix = check_numbers(value, name, finite=False)
    if matrix.ndim == 0 or matrix.shape == (0,):
        matrix = matrix.reshape((1, 1) if matrix.ndim == 0 else (0, 0))
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ArgumentError(f"{name} must be a square matrix, got shape {matrix.shape}")
    return matrix


@dataclass(frozen=True, eq=False)
class Packing:
    """The map between a model's packed parameters and its theta.

    Attributes
    ----------
    layout : VarianceLayout
        Where each packed variance parameter stands.
    covariance : Covariance
        The map from theta to Lambda.
    x_names : tuple of str
        Columns of X.
    """

    places: VarianceLayout
    covariance: Covariance
    x_names: tuple[str, ...]

    @property
    def k_fe(self) -> int:
        """Number of fixed effects."""
        return len(self.x_names)

    @property
    def k_re(self) -> int:
        """Order of ``cov_re``."""
        return sum(self.covariance.terms[t].k for t in self.places.cov_terms)

    @property
    def k_vc(self) -> int:
        """Number of components."""
        return len(self.places.components)

    @property
    def k_re2(self) -> int:
        """Packed entries of ``cov_re``."""
        return len(self.places.names) - self.k_vc

    @property
    def blocks(self) -> list[slice]:
        """Part of ``cov_re`` of each term in ``layout.cov_terms``."""
        sizes = [self.covariance.terms[t].k for t in self.places.cov_terms]
        ends = np.cumsum(sizes, dtype=int).tolist()
        return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]

    def psi(self, params: MixedLMParams) -> list[FloatArray]:
        """``Psi_t / sigma^2`` of every term.

        Raises
        ------
        ValueError
            When the parameters are of another model.
        """
        if params.k_re != self.k_re or params.k_vc != self.k_vc:
            raise ArgumentError(
                f"params (cov_re, vcomp) has k_re={params.k_re} and k_vc={params.k_vc}, the model "
                f"has k_re={self.k_re} and k_vc={self.k_vc}"
            )
        check_numbers(params.cov_re, "cov_re of params")
        check_numbers(params.vcomp, "vcomp of params")
        out: list[FloatArray] = [np.zeros((0, 0))] * len(self.covariance.terms)
        for t, part in zip(self.places.cov_terms, self.blocks, strict=True):
            out[t] = np.asarray(params.cov_re, dtype=float)[part, part]
        for t, variance in zip(self.places.components, params.vcomp, strict=True):
            out[t] = np.array([[float(variance)]])
        return out

    def theta(self, params: MixedLMParams) -> FloatArray:
        """Theta of parameters.

        Raises
        ------
        ValueError
            When a covariance matrix is not positive semi-definite, or not of the structure of its
            term.
        """
        psi = self.psi(params)
        theta = self.covariance.pick([factor_of(block) for block in psi])
        for term, wanted, got in zip(
            self.covariance.terms, psi, self.covariance.psi(theta), strict=True
        ):
            size = float(np.abs(wanted).max(initial=0.0))
            if isinstance(term, Patterned) and np.abs(got - wanted).max() > STRUCTURED * size:
                raise ArgumentError(
                    "a covariance matrix is not of the structure of its term; the nearest one is "
                    f"{got.tolist()}"
                )
        return theta

    def params(self, fe_params: FloatArray, psi: list[FloatArray]) -> MixedLMParams:
        """Parameters from ``Psi_t / sigma^2`` of every term."""
        blocks = [psi[t] for t in self.places.cov_terms]
        cov_re = block_diagonal(blocks)
        vcomp = np.array([psi[t][0, 0] for t in self.places.components], dtype=float)
        return MixedLMParams.from_components(fe_params, cov_re=cov_re, vcomp=vcomp)

    def unpack(self, packed: Any, use_sqrt: bool, has_fe: bool) -> MixedLMParams:
        """Parameters from a packed vector of this model.

        Raises
        ------
        ValueError
            When its length is wrong.
        """
        names = [*self.x_names, *self.places.names] if has_fe else self.places.names
        vector = check_numbers(in_order(packed, names, argument="params"), "params", finite=False)
        first = self.k_fe if has_fe else 0
        if vector.shape != (first + len(self.places.names),):
            raise ArgumentError(
                f"params, packed parameters, must have length {first + len(self.places.names)}, "
                f"got shape {vector.shape}"
            )
        psi = [np.zeros((term.k, term.k)) for term in self.covariance.terms]
        places = zip(self.places.terms, self.places.rows, self.places.cols, strict=True)
        for value, (t, i, j) in zip(vector[first:], places, strict=True):
            psi[t][i, j] = value
        if use_sqrt:
            psi = [lam @ lam.T for lam in psi]
        else:
            psi = [low + np.tril(low, -1).T for low in psi]
        return self.params(vector[: self.k_fe] if has_fe else np.zeros(self.k_fe), psi)
