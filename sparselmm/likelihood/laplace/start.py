"""Where the search starts: the model without random effects, and what its scores say of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparselmm.base.types import FloatArray
from sparselmm.likelihood.laplace.data import GeneralData
from sparselmm.likelihood.laplace.deviance import LaplaceDeviance
from sparselmm.likelihood.laplace.links import POWERS, quantile
from sparselmm.likelihood.laplace.predictors import first_predictors
from sparselmm.likelihood.laplace.rows import blocks

THETA = 0.5
"""Standard deviations of the predictor, in its unit, where scores say nothing of the variances."""

SMALLEST, LARGEST = 0.05, 2.0
"""Standard deviations of the predictor between which the others start."""

STEPS = 12
"""Newton steps without random effects."""

ENOUGH = 1e-5
"""Decrease of minus the log-likelihood per row below which they stop."""

LONGEST = 3.0
"""Largest change of a predictor, in its unit, in one of them."""


def start(deviance: LaplaceDeviance) -> FloatArray:
    """Parameters to start from."""
    gamma, phi = _fixed_only(deviance, _first_phi(deviance.data))
    return np.concatenate([_first_theta(deviance, gamma, phi), gamma, phi])


def _first_theta(deviance: LaplaceDeviance, gamma: FloatArray, phi: FloatArray) -> FloatArray:
    """Roots of the variances that the scores of the levels show where there are no effects.

    With ``s_j = Z_j'g`` and ``I_j = Z_j'W Z_j``, ``E s_j^2 = I_j + psi I_j^2`` for a single effect.
    """
    sizes = [np.full(k, THETA) for k, _ in deviance.cross.sizes]
    passes, modes = deviance.passes, deviance.modes
    fixed = deviance.fixed.effects(gamma, deviance.data.offset)
    if not np.isfinite(passes.run(fixed, np.zeros(deviance.random.q), phi)):
        return independent(deviance, sizes)
    modes.refill(passes.w)
    scores = passes.Zg
    for t, (k, l) in enumerate(deviance.cross.sizes):
        pair = deviance.cross.pairs[t, t]
        if pair.is_block_diagonal:
            own = scores[deviance.cross.slices[t]].reshape(l, k)
            info = np.diagonal(pair.data, axis1=1, axis2=2)
            psi = (own**2 - info).sum(axis=0) / np.maximum((info**2).sum(axis=0), 1e-300)
            size = np.sqrt(np.maximum(psi, 0.0)) * deviance.rms(t)
            sizes[t] = np.clip(np.nan_to_num(size), SMALLEST, LARGEST)
    return independent(deviance, sizes)


def independent(deviance: LaplaceDeviance, sizes: Sequence[FloatArray]) -> FloatArray:
    """Theta of independent effects.

    Parameters
    ----------
    deviance : LaplaceDeviance
    sizes : sequence of ndarray, (k,)
        Standard deviations of the predictor, in its unit, by every coefficient of every term.
    """
    lams = []
    for t, own in enumerate(sizes):
        rms = deviance.rms(t)
        lams.append(np.diag(own / np.where(rms > 0, rms, 1.0)))
    return deviance.covariance.pick(lams)


def _first_phi(data: GeneralData) -> FloatArray:
    """Coefficients of the further predictors before the first step."""
    phi = np.zeros(data.n_phi)
    if data.family.name == "ordinal":
        counts = np.bincount(data.y.astype(int), data.weights, minlength=data.n_phi + 1)
        share = np.clip(np.cumsum(counts)[:-1] / counts.sum(), 1e-4, 1 - 1e-4)
        phi[:] = quantile(data.family.link, share)
        return phi
    begin = {"beta": 2.0, "betabinomial": 2.0, "gamma": -1.0, "nbinom1": 0.5, "nbinom2": 0.5}
    for part in data.further:
        value = {"zi": -1.0, "hurdle": 0.0}.get(part.name, begin.get(data.family.name, 0.0))
        value = getattr(data.family, "parameters", {}).get(part.name, value)
        if part.design is None:
            phi[part.columns] = value
            continue
        one = np.full(data.n, value)
        design = part.design if isinstance(part.design, np.ndarray) else part.design.toarray()
        phi[part.columns] = np.linalg.lstsq(design, one, rcond=None)[0]
    if data.family.name == "gaussian" or data.family.name == "inverse_gaussian":
        spread = float(np.std(data.y)) or 1.0
        size = spread if data.family.name == "gaussian" else spread / float(data.y.mean()) ** 1.5
        for part in data.further[:1]:
            if part.design is None:
                phi[part.columns] = np.log(size)
    return phi


def _fixed_only(deviance: LaplaceDeviance, phi: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Fixed effects and further coefficients of the model without random effects."""
    data, fixed = deviance.data, deviance.fixed
    eta = first_predictors(data)
    if data.offset is not None:
        eta = eta - data.offset
    gamma = fixed.products(eta)
    if (data.family.link in POWERS and data.family.link != "identity") or _needs_positive(data):
        gamma = _positive(deviance, gamma, eta)
    del eta
    value = _value(deviance, gamma, phi)
    for _ in range(STEPS):
        step, gain = _newton_step(deviance, gamma, phi)
        if not np.isfinite(step).all():
            break
        factor = 1.0
        while factor > 1e-4:
            new = gamma + factor * step[: fixed.r], phi + factor * step[fixed.r :]
            after = _value(deviance, *new)
            if after < value or not np.isfinite(value):
                break
            factor *= 0.5
        else:
            break
        gamma, phi = new
        change, value = value - after, after
        if min(gain, abs(change)) < ENOUGH * max(100, data.n):
            break
    return gamma, phi


def _needs_positive(data: GeneralData) -> bool:
    positive = ("poisson", "nbinom1", "nbinom2", "gamma", "inverse_gaussian")
    return data.family.name in positive and data.family.link == "identity"


def _positive(deviance: LaplaceDeviance, gamma: FloatArray, eta: FloatArray) -> FloatArray:
    """Fixed effects whose predictors are positive, shrunken to their mean if need be."""
    fixed = deviance.fixed
    if not fixed.r or (fixed.effects(gamma, deviance.data.offset) > 0.0).all():
        return gamma
    offset = deviance.data.offset
    level, least = float(np.median(eta)), 0.0 if offset is None else -float(offset.min())
    flat = fixed.products(np.full(len(eta), max(level, least + 0.1 * (1.0 + abs(least)))))
    for share in (0.75, 0.5, 0.25, 0.0):
        mixed = share * gamma + (1.0 - share) * flat
        if (fixed.effects(mixed, deviance.data.offset) > 0.0).all():
            return mixed
    return flat


def _value(deviance: LaplaceDeviance, gamma: FloatArray, phi: FloatArray) -> float:
    """Minus the log-likelihood without random effects; the rows then hold its derivatives."""
    fixed = deviance.fixed.effects(gamma, deviance.data.offset)
    total = -deviance.passes.run(fixed, None, phi)
    return total if np.isfinite(total) else np.inf


def _newton_step(
    deviance: LaplaceDeviance, gamma: FloatArray, phi: FloatArray
) -> tuple[FloatArray, float]:  # fmt: skip
    """Step of all coefficients from where the rows stand, and half its squared decrement."""
    data, fixed = deviance.data, deviance.fixed
    r, J = fixed.r, data.n_phi
    slope, H = np.zeros(r + J), np.zeros((r + J, r + J))
    passes = deviance.passes
    for rows in blocks(data.n):
        Q = fixed.columns(rows)
        slope[:r] += Q.T @ passes.g[rows]
        fixed.add_gram(passes.w[rows], Q, H[:r, :r])
        if not J:
            continue
        jet = data.jet(passes.eta[rows], phi, rows, True)
        for i, part in enumerate(data.further):
            at = slice(r + part.columns.start, r + part.columns.stop)
            f, e, _ = (np.broadcast_to(x, Q.shape[:1]) for x in jet.a[i])
            slope[at] += part.products(f, rows)
            cross = Q.T @ part.scaled(e, rows)
            H[:r, at] -= cross
            H[at, :r] -= cross.T
            for j, other in enumerate(data.further[: i + 1]):
                own = (jet.aa or {}).get((j, i))
                if own is None:
                    continue
                own = np.broadcast_to(own, Q.shape[:1])
                where = slice(r + other.columns.start, r + other.columns.stop)
                block = part.scaled(own, rows).T @ other.scaled(np.ones(len(own)), rows)
                H[at, where] -= block
                if i != j:
                    H[where, at] -= block.T
    values, vectors = np.linalg.eigh(H)
    floor = 1e-8 * max(float(np.abs(values).max(initial=0.0)), 1e-8)
    step = vectors @ ((vectors.T @ slope) / np.maximum(np.abs(values), floor))
    size = fixed.reach(step[:r])
    if size > LONGEST * deviance.predictor_unit:
        size = float(np.abs(fixed.effects(step[:r], None)).max(initial=0.0))
    size = max(size / deviance.predictor_unit, float(np.abs(step[r:]).max(initial=0.0)))
    return step * min(1.0, LONGEST / max(size, 1e-12)), 0.5 * float(slope @ step)
