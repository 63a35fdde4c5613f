"""What a deviance asks of M, however it is factored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar, runtime_checkable

from sparselmm.base.types import CSR, FloatArray
from sparselmm.factor.pattern import Pair, Pattern, Values

Own = TypeVar("Own", bound="Factorization")


@runtime_checkable
class Factorization(Protocol):
    """``M = Lambda'A Lambda + I`` at one theta after another.

    A factor in closed form, elimination and LAPACK, elimination and CHOLMOD, CHOLMOD alone and
    conjugate gradients answer to it. What each costs, :mod:`sparselmm.factor.candidates` and
    :mod:`sparselmm.factor.krylov.price` say before there is one.

    Attributes
    ----------
    pattern : Pattern
        Where A has blocks.
    exact : bool
        Whether log determinants and inverses are exact. Where not, they are estimates from random
        probes, whose standard error :mod:`sparselmm.likelihood.krylov` states; solves are exact.
    holds : object
        Whatever the caller last said the factor belongs to; None after a new factorization.
    """

    pattern: Pattern
    exact: bool
    holds: object

    def factorize(self, lams: Sequence[FloatArray], values: Values) -> float:
        """Factor M for ``lambda_t`` (k, k) of every term and the blocks of A; log determinant."""

    def project(self, lams: Sequence[FloatArray], B: FloatArray) -> tuple[FloatArray, FloatArray]:
        """``K = M^-1 Lambda'B`` (q, m) and ``B'Lambda K`` (m, m), for the factored ``lams``."""

    def solve(self, rhs: FloatArray) -> FloatArray:
        """``M^-1 rhs``, (q, m)."""

    def inverse_sum(self, t: int) -> FloatArray:
        """Sum of the diagonal blocks of ``M^-1`` over the levels of term t, (k, k)."""

    def inverse_blocks(self, t: int) -> FloatArray:
        """Diagonal blocks of ``M^-1`` of every level of term t, (l, k, k)."""

    def inverse_on_pattern(self, pair: Pair) -> FloatArray:
        """Blocks of ``M^-1`` where ``A[s, t]`` has blocks, for ``s >= t``, (nb, k_s, k_t)."""

    def quadratic_forms(self, H: CSR, batch: int) -> FloatArray:
        """``h'M^-1 h`` of sparse rows h, (m,), some of them at a time."""

    def bilinear_forms(self, H: CSR, batch: int) -> FloatArray:
        """``H M^-1 H'`` of sparse rows, (m, m)."""

    def twin(self: Own) -> Own:
        """Another one of the same pattern, with a factor of its own; reads nothing that changes."""

    def like(self: Own, pattern: Pattern) -> Own:
        """One of the same kind for another pattern of the same terms."""
