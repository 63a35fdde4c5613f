"""Random models with few rows, and their lowest deviance by a search that shares nothing with ours.

    python tests/support/random_models.py 0 2000   fits models 0 ... 1999 and prints what went
    wrong

A model is a number: the same number gives the same model. Kinds of random effects, sizes, weights,
offsets and scales are drawn far beyond what is sensible, because that is where a deviance has
several minima. The truth is the lowest end of L-BFGS-B from many starts on textbook formulas with
the n x n matrix V.
"""

from __future__ import annotations

import sys
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.linalg as sla
import scipy.optimize as so

import sparselmm
from sparselmm.likelihood.dense import DenseDeviance

KINDS = (
    "(1|a)", "(1|a)+(1|b)", "(1|a)+(1|b)+(1|c)", "(1|a/b)", "(x|a)", "(x||a)", "(x+x2|a)",
    "(x+x2||a)", "(x|a)+(1|b)", "(x||a)+(1|b)", "(0+x|a)+(1|b)", "(x|a)+(x|b)", "(x2|a)+(0+x|b)",
    "(0+f|a)", "cs(0+f|a)", "cs(0+f|a,hom=True)", "ar1(0+f|a)", "ar1(0+f|a,hom=True)",
    "diag(0+f|a)", "cs(0+f|a)+(1|b)", "ar1(0+f|a,hom=True)+(1|b)", "known (1|a)",
    "known (1|a)+(1|b)",
)  # fmt: skip

TOLERANCE = 1e-4
"""A deviance that is higher by more than this is wrong."""

ENDLESS = 1e5
"""Standard deviation of a random effect, in those of the residuals, that no data can have: the
likelihood rises without end."""


@dataclass(frozen=True)
class RandomModel:
    """What `mixedlm` and `fit` are given."""

    formula: str
    data: pd.DataFrame
    keywords: dict[str, Any]
    reml: bool


def draw(number: int) -> RandomModel:
    """The model of a number."""
    rng = np.random.default_rng([11, number])
    kind = str(rng.choice(KINDS))
    n = int(rng.choice([10, 14, 20, 30, 45, 70, 110]))
    levels = {name: int(rng.integers(2, max(3, min(n // 2, 13)))) for name in "abc"}
    groups = {name: rng.integers(0, size, n) for name, size in levels.items()}
    f = rng.integers(0, int(rng.choice([2, 3, 4])), n)
    x, x2 = rng.normal(size=n), rng.normal(size=n)
    if rng.random() < 0.25:  # constant within groups
        x = rng.normal(size=levels["a"])[groups["a"]]
    if rng.random() < 0.2:
        x2 = x + 0.1 * x2 + 2.0
    y = rng.normal(size=n)
    for name, codes in groups.items():
        size = float(rng.choice([0.0, 0.3, 1.0, 3.0, 30.0]))
        y += size * rng.normal(size=levels[name])[codes]
    y += float(rng.choice([0.0, 0.5, 5.0])) * (rng.normal(size=levels["a"])[groups["a"]] + 0.3) * x
    y += float(rng.choice([0.0, 2.0])) * rng.normal(size=(levels["a"], 4))[groups["a"], f]
    if rng.random() < 0.15:
        y += rng.standard_t(2, size=n)
    scale = 10.0 ** rng.uniform(-8, 8, 3) if rng.random() < 0.4 else np.ones(3)
    data = pd.DataFrame({"y": scale[0] * y, "x": scale[1] * x, "x2": scale[2] * x2})
    data["f"] = pd.Categorical.from_codes(f, list("pqrs")).remove_unused_categories()
    for name, codes in groups.items():
        data[name] = [f"{name}{code}" for code in codes]
    fixed = str(rng.choice(["1", "x", "x + x2", "x + f", "x + x2 + f"]))
    keywords = _keywords(rng, kind, data, levels)
    return RandomModel(
        f"y ~ {fixed} + {kind.removeprefix('known ')}", data, keywords, bool(rng.random() < 0.6)
    )


def _keywords(
    rng: np.random.Generator, kind: str, data: pd.DataFrame, levels: dict[str, int]
) -> dict[str, Any]:
    """Weights, offset, known covariances."""
    n, out = len(data), {}
    drawn = rng.random()
    if drawn < 0.15:
        out["weights"] = rng.gamma(2.0, size=n)
    elif drawn < 0.3:
        out["weights"] = 10.0 ** rng.uniform(-3, 3, n)
    if rng.random() < 0.15:
        out["offset"] = float(np.std(data.y)) * rng.normal(size=n)
    if kind.startswith("known"):
        names = [f"a{code}" for code in range(levels["a"])]
        root = rng.normal(size=(len(names), len(names) + 2))
        K = root @ root.T / len(names)
        out["covariance"] = {"a": sparselmm.KnownCovariance(K, names, kind="covariance")}
    return out


# -------------------------------------------------------------------------------- truth


class Textbook:
    """The deviance and its gradient in theta by V, V^-1 and P on the rows of a dense twin."""

    def __init__(self, dense: DenseDeviance):
        self.dense = dense
        ends = np.cumsum([term.q for term in dense.terms])
        self.blocks = [
            dense.Z[:, end - term.q : end].reshape(len(dense.Z), term.n_levels, term.k)
            for end, term in zip(ends, dense.terms, strict=True)
        ]

    def __call__(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Value and gradient; (inf, 0) where V cannot be factored."""
        return self.with_errors(theta, np.diag(1.0 / self.dense.w))[:2]

    def with_errors(
        self, theta: np.ndarray, R: np.ndarray, known_scale: float | None = None
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """The same with errors of covariance R, and the derivative in V, (n, n)."""
        d, lams = self.dense, self.dense.covariance.factors(theta)
        V = R.copy()
        for Zt, lam in zip(self.blocks, lams, strict=True):
            half = (Zt @ lam).reshape(len(V), -1)
            V += half @ half.T
        try:
            root = sla.cho_factor(V, lower=True)
            Vinv = sla.cho_solve(root, np.eye(len(V)))
            VX = Vinv @ d.X
            XVX = sla.cho_factor(d.X.T @ VX, lower=True)
        except (sla.LinAlgError, ValueError):
            return np.inf, np.zeros_like(theta), np.zeros_like(V)
        P = Vinv - VX @ sla.cho_solve(XVX, VX.T)
        Py = P @ d.y
        pwrss = float(d.y @ Py)
        if not pwrss > 0:
            return np.inf, np.zeros_like(theta), np.zeros_like(V)
        scale = pwrss / d.df if known_scale is None else known_scale
        value = 2.0 * np.log(np.diag(root[0])).sum() + pwrss / scale
        value += d.df * np.log(2.0 * np.pi * scale)
        if d.reml:
            value += 2.0 * np.log(np.diag(XVX[0])).sum()
        Gamma = (P if d.reml else Vinv) - np.outer(Py, Py) / scale
        slopes = []
        for Zt, lam in zip(self.blocks, lams, strict=True):
            GZ = (Gamma @ Zt.reshape(len(V), -1)).reshape(Zt.shape)
            psi = np.einsum("njk,njm->km", Zt, GZ)
            slopes.append((psi + psi.T) @ lam)
        return float(value), d.covariance.chain(theta, slopes), Gamma


def lowest(dense: DenseDeviance, rng: np.random.Generator, known: np.ndarray) -> np.ndarray:
    """Theta of the lowest end of searches from many starts."""
    objective, covariance, units = Textbook(dense), dense.covariance, dense.units
    best, where = np.inf, known
    for start in _starts(dense, rng, known):
        with np.errstate(all="ignore"):
            found = so.minimize(
                lambda z: _scaled(objective, z, units), start / units, jac=True, method="L-BFGS-B",
                options={"maxiter": 200, "ftol": 1e-13, "gtol": 1e-6},
            )  # fmt: skip
        if found.fun < best:
            best, where = float(found.fun), covariance.rectify(found.x * units)
    return where


def _scaled(objective: Textbook, z: np.ndarray, units: np.ndarray) -> tuple[float, np.ndarray]:
    value, gradient = objective(z * units)
    return (value if np.isfinite(value) else 1e10), gradient * units


def _starts(dense: DenseDeviance, rng: np.random.Generator, known: np.ndarray) -> Any:
    """Where they start: at the end in question, at round numbers, anywhere."""
    covariance, roots, units = dense.covariance, dense.unit_roots, dense.units
    yield known + 1e-3 * units * rng.normal(size=len(units))
    for size in (0.2, 1.0, 5.0, 50.0):
        theta = covariance.pick([size * root for root in roots])
        yield theta + 1e-2 * size * units * rng.normal(size=len(units))
    for _ in range(9):
        size = 10.0 ** rng.uniform(-1.5, 2.0, len(units))
        diagonal = covariance.on_diagonal
        theta = np.where(diagonal, size, size * rng.normal(size=len(units))) * units
        yield np.where(covariance.angles, rng.uniform(-1.5, 1.5, len(units)), theta)


# ------------------------------------------------------------------------------ verdicts


@dataclass(frozen=True)
class Verdict:
    """How a fit compares with the truth.

    ``what`` is "right", "not converged", "worse" (converged at a higher deviance), "unbounded"
    (converged although the likelihood rises without end), "digits" (converged with a deviance that
    the textbook does not confirm) or "refused" (an error of the package).
    """

    number: int
    what: str
    gap: float = 0.0
    best: float = 0.0
    detail: str = ""
    facts: dict[str, Any] | None = None

    @property
    def wrong(self) -> bool:
        """Whether something was reported as converged that is not the optimum."""
        return self.what in ("worse", "unbounded", "digits")


def judge(number: int) -> Verdict:
    """Fit a model and compare."""
    drawn = draw(number)
    try:
        model = sparselmm.mixedlm(drawn.formula, drawn.data, **drawn.keywords)
        seconds = time.perf_counter()
        opt = model.fit(reml=drawn.reml).opt
        seconds = time.perf_counter() - seconds
    except sparselmm.exceptions.DataError as error:
        return Verdict(number, "refused", detail=str(error))
    dense, sparse = model.deviance(drawn.reml, "dense"), model.deviance(drawn.reml)
    theta = lowest(dense, np.random.default_rng([12, number]), opt.theta)
    facts = {"seconds": seconds, "opt": opt, "n": model.nobs, "df": dense.df}
    best, here = _value(dense, theta), _value(dense, opt.theta)
    gap, size = opt.deviance - best, float(np.abs(theta / dense.units).max(initial=0.0))
    detail = (
        f"{drawn.formula} n={model.nobs} {'reml' if drawn.reml else 'ml'} {sorted(drawn.keywords)} "
        f"theta={np.round(opt.theta / dense.units, 4)} best={np.round(theta / dense.units, 4)} "
        f"{opt.message[:60]}"
    )
    seen = (number, gap, best, detail)
    real = abs(_value(sparse, theta) - best) < 0.1 * gap  # both engines see the lower deviance
    if not opt.converged:
        return _verdict(seen, "not converged", facts)
    if np.isfinite(here) and _wrong_digits(dense, opt, here):
        return _verdict(seen, "digits", facts)
    if gap > TOLERANCE and real:
        return _verdict(seen, "unbounded" if size > ENDLESS else "worse", facts)
    return _verdict(seen, "right", facts)


def _wrong_digits(dense: DenseDeviance, opt: Any, here: float) -> bool:
    """Whether the textbook, where it has digits, gives another deviance."""
    return abs(here - opt.deviance) > TOLERANCE and dense.rounding(opt.theta) < 1e-6


def _verdict(seen: tuple[int, float, float, str], what: str, facts: dict[str, Any]) -> Verdict:
    number, gap, best, detail = seen
    return Verdict(number, what, gap, best, detail, facts)


def _value(deviance: Any, theta: np.ndarray) -> float:
    try:
        return float(deviance.value(theta))
    except (ArithmeticError, np.linalg.LinAlgError):
        return np.inf


def main(first: int, last: int) -> None:
    """Print every verdict that is not "right", and counts."""
    warnings.simplefilter("ignore")
    counts: dict[str, int] = {}
    seconds = []
    for number in range(first, last):
        verdict = judge(number)
        counts[verdict.what] = counts.get(verdict.what, 0) + 1
        if verdict.facts is not None:
            seconds.append(verdict.facts["seconds"])
        if verdict.what not in ("right", "refused"):
            print(f"{number} {verdict.what} {verdict.gap:.3g} {verdict.detail}", flush=True)
    median, most = 1e3 * np.median(seconds), 1e3 * max(seconds)
    print(f"{first}-{last}: {counts}; fit {median:.0f} ms, at most {most:.0f} ms", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
