"""Models nested in a fitted one, made from its cross-products without another look at the rows.

A submodel replaces ``Z_t`` by ``Z_t (I (x) C)``, drops a term, or drops columns ``X_d`` of X, whose
coefficients are then known (zero, or the values of a profile). In the working basis ``Q = X T``

    X_s = X S = Q H,  H = T^-1 S = U R  (QR),   Q_s = Q U,   T_s = R^-1
    y_s = y - X_d v - X_s shift_s = (y - X shift) + Q w,   w = (I - UU') T^-1 e_d (shift_d - v)

so that B and C of the submodel are products of the old ones with U and w.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sparselmm.base.smallmatrix import upper_inverse
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.covariance import Covariance
from sparselmm.deviance import ProfiledDeviance
from sparselmm.factor.basis import Basis
from sparselmm.factor.crossprod import CrossProducts, PairBlocks
from sparselmm.factor.plan import make_plan
from sparselmm.factor.solver import BlockSolver
from sparselmm.term_covariance import TermCovariance


def mixed_columns(cross: CrossProducts, t: int, C: FloatArray) -> CrossProducts:
    """Cross-products with the coefficients of term t mixed: ``Z_t`` becomes ``Z_t (I (x) C)``.

    Parameters
    ----------
    cross : CrossProducts
    t : int
        The term.
    C : ndarray, (k, m)
        Columns of the identity select coefficients; no column at all drops the term.
    """
    k, l = cross.sizes[t]
    m = C.shape[1]
    if m == 0:
        return _without_term(cross, t)
    pairs = {}
    for (r, c), blocks in cross.pairs.items():
        data = blocks.data
        data = np.einsum("bij,ia->baj", data, C, optimize=True) if r == t else data
        data = np.einsum("bij,ja->bia", data, C, optimize=True) if c == t else data
        pairs[r, c] = replace(blocks, data=np.ascontiguousarray(data))
    part = cross.slices[t]
    middle = np.einsum("lkc,ka->lac", cross.B[part].reshape(l, k, -1), C, optimize=True)
    B = np.concatenate([cross.B[: part.start], middle.reshape(l * m, -1), cross.B[part.stop :]])
    sizes = (*cross.sizes[:t], (m, l), *cross.sizes[t + 1 :])
    return replace(cross, sizes=sizes, pairs=pairs, B=B)


def _without_term(cross: CrossProducts, t: int) -> CrossProducts:
    part = cross.slices[t]

    def place(s: int) -> int:
        return s - (s > t)

    pairs: dict[tuple[int, int], PairBlocks] = {
        (place(r), place(c)): blocks
        for (r, c), blocks in cross.pairs.items()
        if t not in (r, c)
    }  # fmt: skip
    B = np.concatenate([cross.B[: part.start], cross.B[part.stop :]])
    return replace(cross, sizes=cross.sizes[:t] + cross.sizes[t + 1 :], pairs=pairs, B=B)


def known_columns(
    cross: CrossProducts, columns: Sequence[int] | IntArray, values: FloatArray
) -> CrossProducts:
    """Cross-products with some fixed effects known, their columns moved to the offset.

    Parameters
    ----------
    cross : CrossProducts
    columns : sequence of int, (d,)
        Positions among the independent columns of X.
    values : ndarray, (d,)
        Their coefficients in the units of X; zero drops a column.
    """
    basis = cross.basis
    known = np.asarray(columns, dtype=np.intp)
    stay = np.setdiff1d(np.arange(basis.rank), known)
    Tinv = upper_inverse(basis.T)
    v = Tinv[:, known] @ (basis.shift[known] - values)
    if len(stay):
        U, R = np.linalg.qr(Tinv[:, stay])
        T = upper_inverse(R)
        fitted = U.T @ v
        w, shift = v - U @ fitted, basis.shift[stay] + T @ fitted
    else:
        U, T, w, shift = np.zeros((basis.rank, 0)), np.zeros((0, 0)), v, np.zeros(0)
    change = np.zeros((basis.rank + 1, len(stay) + 1))
    change[:-1, :-1], change[:-1, -1], change[-1, -1] = U, w, 1.0
    return replace(
        cross,
        B=cross.B @ change,
        C=change.T @ cross.C @ change,
        basis=Basis(basis.p, basis.kept[stay], T, shift),
    )


def mixed_covariance(covariance: Covariance, t: int, m: int) -> Covariance:
    """Covariance parameters after `mixed_columns` left m coefficients in term t.

    The term's covariance must be unstructured or diagonal, or ``m`` zero.
    """
    is_diagonal = covariance.terms[t].is_diagonal
    plain = TermCovariance.diagonal if is_diagonal else TermCovariance.unstructured
    new = (plain(m),) if m else ()
    return Covariance((*covariance.terms[:t], *new, *covariance.terms[t + 1 :]))


def mixed_theta(covariance: Covariance, theta: FloatArray, t: int, C: FloatArray) -> FloatArray:
    """Theta with ``Psi_t`` carried over to ``C^+ Psi_t C^+'``, a start for the submodel."""
    part, term = covariance.slices[t], covariance.terms[t]
    middle = np.zeros(0)
    if C.shape[1]:
        new = mixed_covariance(covariance, t, C.shape[1]).terms[t]
        middle = new.retract(np.linalg.pinv(C) @ term.factor(theta[part]))
    return np.concatenate([theta[: part.start], middle, theta[part.stop :]])


def engine(
    cross: CrossProducts, covariance: Covariance, like: ProfiledDeviance
) -> ProfiledDeviance:
    """The profiled deviance of a submodel of ``like``, factored in the cheapest way."""
    names = tuple(str(t) for t in range(len(cross.sizes)))
    chosen = make_plan(cross, names).chosen
    solver = BlockSolver(cross, chosen.strategy, chosen.factor)
    return ProfiledDeviance(
        cross, covariance, solver, reml=like.reml, known_scale=like.known_scale
    )  # fmt: skip


def same_random_part(
    cross: CrossProducts, like: ProfiledDeviance, reml: bool, solver: BlockSolver | None = None
) -> ProfiledDeviance:
    """The profiled deviance of other fixed effects, or under another criterion.

    Parameters
    ----------
    cross : CrossProducts
        With the Z of ``like``.
    like : ProfiledDeviance
    reml : bool
    solver : BlockSolver, optional
        Of ``own_solver``. A solver holds one factor: it must not be shared with a deviance that
        is used in turn with this one. Default a new one.
    """
    solver = own_solver(like) if solver is None else solver
    return ProfiledDeviance(
        cross, like.covariance, solver, reml=reml, known_scale=like.known_scale
    )  # fmt: skip


def own_solver(like: ProfiledDeviance) -> BlockSolver:
    """A solver for the same Z, with a factor of its own."""
    return BlockSolver(like.cross, like.solver.strategy)


def with_criterion(deviance: ProfiledDeviance, reml: bool) -> ProfiledDeviance:
    """The same model under REML or ML."""
    return deviance if deviance.reml == reml else same_random_part(deviance.cross, deviance, reml)
