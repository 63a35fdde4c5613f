"""Random models with residual structures, and their lowest deviance by a search of its own.

    python tests/support/residual_random.py 0 300   fits models 0 ... 299 and prints what went wrong

A model is a number, as in `random_models`: structures, random effects, gaps, strata, dispersion,
weights, units. The truth is the lowest end of L-BFGS-B from many starts on textbook formulas with
the n x n matrix V, in which R stands entry by entry (`residual_twin`).
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import scipy.optimize as so
from random_models import TOLERANCE, RandomModel, Textbook, Verdict
from residual_twin import Residuals

import sparselmm
from sparselmm.design.terms import Design
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.dense import DenseDeviance

STRUCTURES = (
    "", "ar1(t|g)", "car1(tt|g)", "exp(tt|g)", "exp(tt + t2|g)", "gau(tt|g)", "gau(tt + t2|g)",
    "cs(t|g)", "us(t|g)", "toep(t|g)", "ad(t|g)",
)  # fmt: skip
EFFECTS = (
    "", "(1 | g)", "(1 | it)", "(1 | g) + (1 | it)", "(x | g)", "(t || g)", "(1 | sub)",
    "(1 | sub / arm)", "(x || it)", "(x | it) + (1 | g)",
)  # fmt: skip
VISITS = ("ar1", "cs", "toep", "ad")

STEP = 1e-30
"""Complex step of the derivatives of R."""


def draw(number: int) -> tuple[RandomModel, dict[str, str]]:
    """The model of a number, and its residual= and dispersion=."""
    rng = np.random.default_rng([31, number])
    data = _rows(rng)
    structure = str(rng.choice(STRUCTURES))
    kind = structure.split("(")[0]
    options = []
    if kind in ("ar1", "car1", "exp", "gau") and rng.random() < 0.35:
        options.append("nugget=True")
    if kind in VISITS and rng.random() < 0.4:
        options.append("hom=False")
    if kind and rng.random() < 0.2:
        options.append("by=arm")
    words = {}
    if kind:
        words["residual"] = structure[:-1] + "".join(f", {option}" for option in options) + ")"
    if not kind or (rng.random() < 0.3 and kind != "us"):
        words["dispersion"] = str(rng.choice(["~ z", "~ it2"]))
    fixed = str(rng.choice(["1", "x", "x + C(t)"]))
    effects = str(rng.choice(EFFECTS))
    keywords: dict[str, Any] = {}
    if rng.random() < 0.25:
        keywords["weights"] = rng.uniform(0.3, 3.0, len(data))
    if rng.random() < 0.2:
        keywords["offset"] = float(np.std(data.y)) * rng.normal(size=len(data))
    formula = f"y ~ {fixed}" + (f" + {effects}" if effects else "")
    return RandomModel(formula, data, keywords, bool(rng.random() < 0.6)), words


def _rows(rng: np.random.Generator) -> pd.DataFrame:
    """Groups of up to seven visits, 4 to 16 or 12 to 40 of them, with gaps."""
    small = rng.random() < 0.5
    G = int(rng.integers(4, 16) if small else rng.integers(12, 40))
    T = int(rng.integers(2, 8) if small else rng.integers(3, 7))
    g, t = (part.ravel() for part in np.indices((G, T)))
    keep = rng.random(len(g)) > rng.choice([0.0, 0.1, 0.3])
    g, t = g[keep], t[keep]
    n = len(g)
    shuffled = rng.permutation(n)
    g, t = g[shuffled], t[shuffled]
    tt = t + rng.uniform(0.0, 0.7, n)
    x, z, it = rng.normal(size=n), rng.normal(size=n), rng.integers(0, rng.integers(3, 7), n)
    e = _errors(rng, g, t, tt) * np.exp(rng.choice([0.0, 0.3]) * z)
    y = 1.0 + 0.5 * x + e * rng.choice([0.3, 1.0, 3.0])
    y += rng.choice([0.0, 0.5, 2.0]) * rng.normal(size=G)[g]
    y += rng.choice([0.0, 0.7]) * rng.normal(size=7)[it]
    y += rng.choice([0.0, 0.0, 0.5]) * rng.normal(size=G)[g] * t
    scale = 10.0 ** rng.choice([-4, 4], 5) if rng.random() < 0.25 else np.ones(5)
    return pd.DataFrame({
        "y": scale[0] * y, "x": scale[1] * x, "z": z, "t": t, "it": it, "sub": g // 2,
        "tt": scale[2] * tt, "t2": scale[2] * rng.uniform(0.0, 3.0, n), "g": g,
        "it2": np.where(it % 2, "odd", "even"), "arm": np.where(g % 2, "a", "b"),
    })  # fmt: skip


def _errors(rng: np.random.Generator, g: np.ndarray, t: np.ndarray, tt: np.ndarray) -> np.ndarray:
    """Errors of one of four kinds."""
    kind = rng.choice(["ar", "white", "gau", "cs"])
    rho, far = rng.uniform(-0.5, 0.9), rng.uniform(0.3, 3.0)
    lag = np.abs(t[:, None] - t)
    C = {
        "ar": np.sign(rho) ** lag * np.abs(rho) ** lag,
        "gau": np.exp(-(((tt[:, None] - tt) / far) ** 2)),
        "cs": np.full(lag.shape, abs(rho)),
        "white": np.zeros(lag.shape),
    }[kind]
    C = np.where(g[:, None] == g, C, 0.0)
    np.fill_diagonal(C, 1.0 + 1e-8)
    return np.asarray(np.linalg.cholesky(C) @ rng.normal(size=len(g)))


# -------------------------------------------------------------------------------- truth


class JointTextbook:
    """The deviance and its gradient in (theta, phi) by V, V^-1 and P."""

    def __init__(self, design: Design, reml: bool):
        rows = design.residual
        assert rows is not None
        self.covariance = Covariance.of(design.terms)
        self.n_theta = self.covariance.n_theta
        self.known = 1.0 if rows.kind == "us" else None
        self.R = Residuals(rows, design.weights)
        self.dense = DenseDeviance(
            design, self.covariance, reml=reml, known_scale=self.known, R=np.eye(design.n)
        )
        self.white = Textbook(self.dense)

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Value and gradient; (inf, 0) where V cannot be factored."""
        theta, phi = x[: self.n_theta], x[self.n_theta :]
        if self.known is None and np.abs(phi).max(initial=0.0) > 300.0:
            return np.inf, np.zeros_like(x)
        try:
            R = self.R(phi)
        except np.linalg.LinAlgError:
            return np.inf, np.zeros_like(x)
        value, slope, Gamma = self.white.with_errors(theta, R, self.known)
        along = np.zeros(len(phi))
        for j in range(len(phi) if np.isfinite(value) else 0):
            moved = phi.astype(complex)
            moved[j] += 1j * STEP
            along[j] = np.sum(Gamma * (self.R(moved).imag / STEP))
        return value, np.append(slope, along)


def lowest(
    textbook: JointTextbook, rng: np.random.Generator, known: np.ndarray, starts: int
) -> tuple[float, np.ndarray]:
    """The lowest end of searches from many starts, and the deviance there."""
    units = np.append(textbook.dense.units, np.ones(len(known) - textbook.n_theta))
    best, where = np.inf, known
    for start in _starts(textbook, rng, known, starts):
        with np.errstate(all="ignore"):
            found = so.minimize(
                lambda z: _scaled(textbook, z, units), start / units, jac=True,
                method="L-BFGS-B", options={"maxiter": 300, "ftol": 1e-13, "gtol": 1e-6},
            )  # fmt: skip
        end = found.x * units
        if found.fun < best and _sure(textbook, end) and _is_minimum(textbook, end):
            best, where = float(found.fun), end
    return best, where


def _scaled(textbook: JointTextbook, z: np.ndarray, units: np.ndarray) -> tuple[float, np.ndarray]:
    value, gradient = textbook(z * units)
    return (value if np.isfinite(value) else 1e10), np.nan_to_num(gradient) * units


def _sure(textbook: JointTextbook, x: np.ndarray) -> bool:
    """Whether the textbook has digits there."""
    dense = textbook.dense
    try:
        dense.R = textbook.R(x[textbook.n_theta :])
        return dense.rounding(x[: textbook.n_theta]) < 1e-5
    except np.linalg.LinAlgError:
        return False


def _is_minimum(textbook: JointTextbook, x: np.ndarray) -> bool:
    """Whether the search ended for want of slope, and not where an R of lost rank has no digits.

    With few groups of many visits the likelihood of "us" may rise without end on the way there.
    """
    return bool(np.abs(textbook(x)[1] * x).max() < 1.0)


def _starts(
    textbook: JointTextbook, rng: np.random.Generator, known: np.ndarray, starts: int
) -> Iterator[np.ndarray]:
    """At the end in question, then anywhere."""
    n = textbook.n_theta
    units, diagonal = textbook.dense.units, textbook.covariance.on_diagonal
    theta, phi = known[:n], known[n:]
    near = phi + 1e-3 * rng.normal(size=len(phi))
    yield np.append(theta + 1e-3 * units * rng.normal(size=n), near)
    for _ in range(starts):
        size = 10.0 ** rng.uniform(-1.5, 1.5, n)
        wide = np.where(diagonal, size, size * rng.normal(size=n)) * units
        yield np.append(wide, _anywhere(textbook, rng, phi))


def _anywhere(textbook: JointTextbook, rng: np.random.Generator, phi: np.ndarray) -> np.ndarray:
    """A random phi: correlations of any size and sign, ranges around typical distances."""
    rows = textbook.R.rows
    if rows.kind == "us":
        T = rows.n_visits
        own = [
            np.linalg.cholesky(np.cov(rng.normal(size=(T, T + 2))).reshape(T, T))
            for _ in range(textbook.R.strata)
        ]
        size = float(np.std(textbook.dense.y))
        return size * np.concatenate([L[np.triu_indices(T)[::-1]] for L in own])
    a = rows.D.shape[1]
    out = rng.normal(size=(textbook.R.strata, max(len(phi) - a, 0) // textbook.R.strata))
    if rows.kind in ("car1", "exp", "gau"):
        out[:, 0] = np.log(rows.typical_distance) + 1.5 * out[:, 0]
    else:
        out *= 0.8
    if rows.nugget:
        out[:, -1] = rng.uniform(0.0, 1.5, len(out))
    return np.concatenate([phi[:a] + 0.5 * rng.normal(size=a), out.ravel()])


# ------------------------------------------------------------------------------ verdicts


def judge(number: int, starts: int = 12) -> Verdict:
    """Fit a model and compare."""
    return judged(number, *draw(number), starts)


def judged(number: int, drawn: RandomModel, words: dict[str, str], starts: int) -> Verdict:
    """The same of a model that was drawn."""
    try:
        model = sparselmm.mixedlm(drawn.formula, drawn.data, **words, **drawn.keywords)
        seconds = time.perf_counter()
        fit = model.fit(reml=drawn.reml)
        seconds = time.perf_counter() - seconds
    except sparselmm.exceptions.DataError as error:
        return Verdict(number, "refused", detail=str(error))
    opt, joint, textbook = fit.opt, fit.joint, JointTextbook(model.design, drawn.reml)
    known = np.append(joint.theta, joint.phi)
    here = textbook(known)[0]
    best, where = lowest(textbook, np.random.default_rng([32, number]), known, starts)
    gap = opt.deviance - best
    facts = {"seconds": seconds, "opt": opt, "n": model.nobs, "where": where, "fit": fit}
    detail = (
        f"{drawn.formula} {words} n={model.nobs} {'reml' if drawn.reml else 'ml'} "
        f"{sorted(drawn.keywords)} x={np.round(known, 4)} best={np.round(where, 4)} "
        f"starts={opt.n_starts} evaluations={opt.n_evaluations} {opt.message[:70]}"
    )
    if not opt.converged:
        what = "endless" if "rises without end" in opt.message else "not converged"
    elif _sure(textbook, known) and abs(here - opt.deviance) > TOLERANCE:
        what = "digits"
    else:
        what = "worse" if gap > TOLERANCE else "right"
    return Verdict(number, what, gap, best, detail, facts)


def main(first: int, last: int) -> None:
    """Print every verdict that is not "right", and counts."""
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    seconds, evaluations = [], []
    for number in range(first, last):
        verdict = judge(number)
        counts[verdict.what] += 1
        if verdict.facts is not None:
            seconds.append(verdict.facts["seconds"])
            evaluations.append(verdict.facts["opt"].n_evaluations)
        if verdict.what not in ("right", "refused", "endless"):
            print(f"{number} {verdict.what} {verdict.gap:.3g} {verdict.detail}", flush=True)
    print(
        f"{first}-{last}: {dict(counts)}; evaluations {np.median(evaluations):.0f}, at most "
        f"{max(evaluations)}; fit {1e3 * np.median(seconds):.0f} ms, at most {max(seconds):.1f} s",
        flush=True,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
