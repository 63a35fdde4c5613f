"""The map between the parameter vector theta and the block-diagonal factor Lambda.

Term ``t`` contributes ``I_l (x) lambda_t`` to Lambda. Theta holds the parameters of every
``lambda_t``, term after term, see :mod:`sparselmm.likelihood.term_covariance` and
:mod:`sparselmm.likelihood.patterned`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np

from sparselmm.base.smallmatrix import SecondMoments, one_after_the_other
from sparselmm.base.types import BoolArray, FloatArray, IntArray, Snapshot
from sparselmm.design.terms import Structure, TermLayout
from sparselmm.likelihood.patterned import PATTERNED, Patterned
from sparselmm.likelihood.term_covariance import TermCovariance, lower_root, row_norms


def term_covariance(
    k: int, structure: Structure, positions: tuple[int, ...] | None = None
) -> TermCovariance:
    """The covariance of a structure for ``k`` coefficients, at some positions if order counts."""
    if structure == "diagonal":
        return TermCovariance.diagonal(k)
    if structure in PATTERNED and k > 1:
        own = PATTERNED[structure].of_order(k)
        return own if positions is None else replace(own, positions=positions)  # type: ignore[call-arg]
    return TermCovariance.unstructured(k)


@dataclass(frozen=True, eq=False)
class Covariance(Snapshot):
    """All terms' covariance parameters together.

    Attributes
    ----------
    terms : tuple of TermCovariance
        One per random-effects term, in the order of the terms.
    """

    terms: tuple[TermCovariance, ...]

    @classmethod
    def of(cls, terms: Sequence[TermLayout]) -> Covariance:
        """Covariance parameters of a design's terms."""
        return _covariance(tuple((term.k, term.structure, term.positions) for term in terms))

    @cached_property
    def slices(self) -> list[slice]:
        """Part of theta that belongs to each term."""
        return one_after_the_other(term.n_theta for term in self.terms)

    @cached_property
    def n_theta(self) -> int:
        """Length of theta."""
        return sum(term.n_theta for term in self.terms)

    @cached_property
    def everything(self) -> BoolArray:
        """All entries of theta, (n_theta,)."""
        out = np.ones(self.n_theta, dtype=bool)
        out.flags.writeable = False  # shared by all fits
        return out

    @cached_property
    def on_diagonal(self) -> BoolArray:
        """Which entries of theta are diagonal entries of a ``lambda_t``, (n_theta,)."""
        parts = [term.on_diagonal for term in self.terms]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=bool)

    @cached_property
    def angles(self) -> BoolArray:
        """Which entries of theta are angles of a patterned covariance, (n_theta,)."""
        parts = [
            term.angle if isinstance(term, Patterned) else np.zeros(term.n_theta, dtype=bool)
            for term in self.terms
        ]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=bool)

    @cached_property
    def moment_form(self) -> Covariance:
        """The covariance whose entries the moment estimates give."""
        forms = tuple(term.moment_form for term in self.terms)
        return self if forms == self.terms else Covariance(forms)

    def factors(self, theta: FloatArray) -> list[FloatArray]:
        """``lambda_t`` of every term, each (k, k), or stacks of them for a stack of thetas."""
        return [
            term.factor(theta[..., part])
            for term, part in zip(self.terms, self.slices, strict=True)
        ]

    def psi(self, theta: FloatArray, scale: float = 1.0) -> list[FloatArray]:
        """``Psi_t = scale * lambda_t lambda_t'`` of every term, each (k, k)."""
        return [scale * lam @ lam.T for lam in self.factors(theta)]

    def unit_roots(self, moments: Sequence[SecondMoments]) -> list[FloatArray]:
        """Roots of the coefficient covariances that count as one, each (k, k) lower triangular."""
        return [
            own.independent_root if term.is_diagonal else own.unit_root
            for term, own in zip(self.terms, moments, strict=True)
        ]

    def pick(self, lams: Sequence[FloatArray]) -> FloatArray:
        """Theta of lower-triangular ``lambda_t``, (n_theta,)."""
        parts = [term.coordinates(lam) for term, lam in zip(self.terms, lams, strict=True)]
        return _joined(parts)

    def uncorrelated(self, units: FloatArray) -> FloatArray:
        """Theta of standard deviations that count as one and no correlations, (n_theta,)."""
        return np.asarray(self.pick([np.eye(term.k) for term in self.terms]) * units)

    def chain(self, theta: FloatArray, blocks: Sequence[FloatArray]) -> FloatArray:
        """Derivative in theta from the derivatives in all entries of every ``lambda_t``."""
        parts = [
            term.chain(theta[part], block)
            for term, part, block in zip(self.terms, self.slices, blocks, strict=True)
        ]
        return _joined(parts)

    @cached_property
    def tangent_slices(self) -> list[slice]:
        """Part of a tangent vector that belongs to each term."""
        return one_after_the_other(term.n_tangent for term in self.terms)

    @cached_property
    def n_tangent(self) -> int:
        """Length of a tangent vector."""
        return sum(term.n_tangent for term in self.terms)

    @cached_property
    def in_tangent(self) -> IntArray:
        """Which entries of a tangent vector are the entries of theta, (n_theta,)."""
        parts = [
            part.start + term.in_tangent
            for part, term in zip(self.tangent_slices, self.terms, strict=True)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=int)

    def tangent_vector(self, theta: FloatArray, blocks: Sequence[FloatArray]) -> FloatArray:
        """Derivatives in the coordinates of steps from those in all entries of ``lambda_t``."""
        parts = [
            term.tangent_chain(theta[part], block)
            for term, part, block in zip(self.terms, self.slices, blocks, strict=True)
        ]
        return _joined(parts)

    def retract(self, theta: FloatArray, step: FloatArray) -> FloatArray:
        """Theta after a tangent step, (..., n_theta)."""
        parts = [
            term.move(theta[..., part], step[..., at])
            for term, part, at in zip(self.terms, self.slices, self.tangent_slices, strict=True)
        ]
        return _joined(parts)

    def carried_back(
        self, theta: FloatArray, step: FloatArray, after: FloatArray, slope: FloatArray
    ) -> FloatArray:
        """Gradient at ``after = retract(theta, step)`` in the coordinates of the step, (m,)."""
        parts = [
            term.carried_back(theta[part], step[at], after[part], slope[at])
            for term, part, at in zip(self.terms, self.slices, self.tangent_slices, strict=True)
        ]
        return _joined(parts)

    def rectify(self, theta: FloatArray) -> FloatArray:
        """The theta with non-negative diagonals that gives the same ``Psi``.

        Changing the sign of a column of ``lambda_t`` leaves ``lambda_t lambda_t'`` as it is.
        """
        parts = [
            term.rectify(theta[..., part])
            for term, part in zip(self.terms, self.slices, strict=True)
        ]
        return _joined(parts)

    def sizes(self, theta: FloatArray, units: FloatArray, smallest: float) -> FloatArray:
        """Standard deviation of the coefficient each entry of theta belongs to, (..., n_theta)."""
        parts = [
            term.sizes(theta[..., part], units[part], smallest)
            for term, part in zip(self.terms, self.slices, strict=True)
        ]
        return _joined(parts)

    def snapped(self, theta: FloatArray, units: FloatArray, below: float) -> FloatArray:
        """Theta with the columns of every ``lambda_t`` that are below a limit set to zero."""
        parts = [
            term.snapped(theta[..., part], units[part], below)
            for term, part in zip(self.terms, self.slices, strict=True)
        ]
        return _joined(parts)

    def singular(self, cross: Sizes, theta: FloatArray) -> BoolArray:
        """Terms whose covariance matrix is singular, (..., n_terms).

        A coefficient has no variance when its standard deviation times the root mean square of its
        covariate is below `SINGULAR_TOLERANCE` of sigma; two coefficients are perfectly correlated
        when less than that share of a standard deviation is a coefficient's own.
        """
        out = np.zeros((*theta.shape[:-1], len(self.terms)), dtype=bool)
        for t, lam in enumerate(self.factors(theta)):
            if cross.bases is not None and (F := cross.bases[t]) is not None:
                lam = lower_root(F @ lam)  # far from the data every correlation is one
            rms = cross.rms(t)
            if len(rms) == 1:
                out[..., t] = np.abs(lam[..., 0, 0]) * rms[0] < SINGULAR_TOLERANCE
                continue
            sd = row_norms(lam)
            root = self.terms[t].triangular(lam)
            own = np.abs(np.diagonal(root, axis1=-2, axis2=-1))
            out[..., t] = ((sd * rms < SINGULAR_TOLERANCE) | (own < SINGULAR_TOLERANCE * sd)).any(
                axis=-1
            )
        return out

    def at_zero(self, theta: FloatArray) -> BoolArray:
        """Entries in columns of a ``lambda_t`` that are entirely zero, (..., n_theta)."""
        parts = [
            term.at_zero(theta[..., part])
            for term, part in zip(self.terms, self.slices, strict=True)
        ]
        return np.concatenate(parts, axis=-1) if parts else np.zeros(0, dtype=bool)


def _joined(parts: Sequence[FloatArray]) -> FloatArray:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts, axis=-1) if parts else np.zeros(0)


@lru_cache
def _covariance(kinds: tuple[tuple[int, Structure, tuple[int, ...] | None], ...]) -> Covariance:
    """The same for the same kinds of terms: nothing in it belongs to a model."""
    return Covariance(tuple(term_covariance(*kind) for kind in kinds))


class Sizes(Protocol):
    """What knows the covariates of the terms: cross-products, for example."""

    @property
    def bases(self) -> Sequence[FloatArray | None] | None:
        """What makes the model's covariates of the engine's, term by term; None for the same."""

    def rms(self, t: int) -> FloatArray:
        """Root mean square of each covariate of term t, (k,)."""


SINGULAR_TOLERANCE = 1e-4
"""Share of sigma, or of a coefficient's own standard deviation, below which it counts as zero
(the tolerance of lme4's ``isSingular``, made independent of the units of the covariates)."""


def singular_words(
    cross: Sizes, covariance: Covariance, theta: FloatArray, terms: Sequence[TermLayout]
) -> list[tuple[str, str]]:
    """Which variances are zero and which correlations one in size, and one thing to try for each.

    Theta and the terms are in the order of ``covariance.terms``.
    """
    out = []
    flags = covariance.singular(cross, theta)
    if not flags.any():
        return []
    for t, lam in enumerate(covariance.factors(theta)):
        term = terms[t]
        if not flags[t] or not covariance.terms[t].n_theta:
            continue
        if cross.bases is not None and (F := cross.bases[t]) is not None:
            lam = F @ lam
        sd = np.linalg.norm(lam, axis=1)
        none = sd * cross.rms(t) < SINGULAR_TOLERANCE
        for name in [term.columns[j] for j in np.flatnonzero(none)]:
            effects = " + ".join(term.columns)
            one = f"({'1' if effects == 'Intercept' else effects} | {term.name})"
            less = f"leave {one} out" if len(sd) == 1 else f"leave {name} out of {one}"
            out.append((f"the variance of {name} by {term.name} is estimated as zero", less))
        inside = np.flatnonzero(~none)
        if len(inside) > 1 and (none.sum() == 0 or len(inside) > none.sum()):
            corr = lam[inside] @ lam[inside].T / np.outer(sd[inside], sd[inside])
            i, j = np.unravel_index(np.argmax(np.abs(np.tril(corr, -1))), corr.shape)
            a, b = term.columns[inside[j]], term.columns[inside[i]]
            if np.linalg.eigvalsh(corr)[0] < SINGULAR_TOLERANCE**2 or not none.any():
                out.append((f"the correlation of {a} and {b} by {term.name} is {corr[i, j]:+.3f}",
                            f"write ({b} || {term.name}) for uncorrelated effects"))  # fmt: skip
    return out


def boundary_message(words: Sequence[tuple[str, str]]) -> str:
    """The end of a warning: what is singular, and one thing to try."""
    seen = "; ".join(what for what, _ in words)
    return (
        f"The random effects covariance matrix is singular: {seen}. The estimate is valid; the "
        f"data do not support all of its parameters. To simplify, {words[0][1]}."
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


def theta_units(covariance: Covariance, moments: Sequence[SecondMoments]) -> FloatArray:
    """One over the root mean square of the covariate each entry of theta belongs to."""
    pairs = zip(covariance.terms, moments, strict=True)
    return _joined([term.units(own.rms) for term, own in pairs])
