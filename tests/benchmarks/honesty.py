"""Errors of estimates by probes over what is stated for them, for many seeds.

    PYTHONPATH=tests OPENBLAS_NUM_THREADS=1 python -m benchmarks.honesty [CASE ...] [--seeds 50]

The cases are those of `support.krylov_cases`, and workers and firms. The deviance and its
gradient (`refined` with traces exact to second order) are taken at the exact optimum, theta where
the search on probes ends, less the exact ones and over their stated errors, of all that does not
lie on the boundary. With 16 probes such a ratio is like t with 15 degrees of freedom: mean 0,
standard deviation 1.07, beyond 2.13 in 5 of 100, beyond 2.95 in 1 of 100. `stated` is the median
error that was stated: of the deviance, and
of theta, the largest of all directions, in standard errors. `AI` is the largest difference of the
average information from the exact one, as a share of its largest entry: it has no error to state.
What is exact but for the tolerance of the iterations, such as traces of small terms, has a stated
error of nothing; `NOTHING` is added there.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import numpy as np
import pandas as pd
from support.krylov_cases import CASES

from sparselmm.factor.krylov.solver import Settings
from sparselmm.likelihood.engine import probing_solver
from sparselmm.likelihood.krylov.finish import minimize_by_probes
from sparselmm.model.mixedlm import MixedLM


def movers(seed: int = 7, workers: int = 3000, firms: int = 120) -> pd.DataFrame:
    """Workers in firms, of whom one in ten moves: a poorly connected graph."""
    rng = np.random.default_rng(seed)
    worker = np.repeat(np.arange(workers), 4)
    home, other = rng.integers(0, firms, workers), rng.integers(0, firms, workers)
    moves = (rng.random(workers) < 0.1)[worker] & (np.arange(len(worker)) % 4 > 1)
    firm = np.where(moves, other[worker], home[worker])
    y = rng.normal(size=workers)[worker] + 0.7 * rng.normal(size=firms)[firm]
    noise = rng.normal(size=len(worker))
    return pd.DataFrame({"y": y + noise, "worker": worker, "firm": firm})


ALL: dict[str, Any] = {
    **CASES, "movers": (movers, "y ~ 1 + (1|worker) + (1|firm)", {}),
}  # fmt: skip
SEEDS = 50
KINDS = "deviance", "gradient", "refined", "theta"
NOTHING = 1e-7, 1e-5
"""Errors of the deviance and, in standard errors, of theta, that count as none."""
T_TAILS = 2.131, 2.947
"""Quantiles of t with 15 degrees of freedom that 5 and 1 of 100 exceed."""


class Case:
    """A model, its exact optimum and what is known there."""

    def __init__(self, name: str) -> None:
        make, formula, keywords = ALL[name]
        self.model = MixedLM.from_formula(formula, make(), **keywords)
        self.exact = self.model.fit(engine="sparse", tol=1e-13)
        self.inner = ~np.asarray(self.exact.opt.at_boundary)
        whole, theta = self.exact.deviance.working(self.exact.theta)
        self.theta, self.value = theta, whole.value(theta)
        self.whole, self.gradient = whole, whole.tangent_model(theta)[0]
        self.information = whole.average_information(whole.state_at(theta))

    def errors(self, seed: int) -> dict[str, Any]:
        """Ratios, and what was stated."""
        out = self._at_optimum(seed)
        deviance = self._deviance(seed)
        opt = minimize_by_probes(deviance, self.exact.theta, target=np.inf, tolerance=1e-10)
        engine, theta = deviance.working(opt.theta)
        inside = np.asarray(engine.covariance.in_tangent)[self.inner]
        lifted = engine.lifted(theta)
        C = engine.gradient_covariance(lifted)[np.ix_(inside, inside)]
        H = engine.tangent_model(lifted)[1][np.ix_(inside, inside)]
        cov = np.linalg.solve(H, np.linalg.solve(H, C).T)
        difference = (theta - self.theta)[self.inner]
        none = NOTHING[1] ** 2 * 2.0 * np.diag(np.linalg.inv(H))
        out["theta"] = difference / np.sqrt(np.diag(cov) + none)
        out["stated theta"] = opt.mc_error
        return out

    def _at_optimum(self, seed: int) -> dict[str, Any]:
        engine = self._deviance(seed).working(self.exact.theta)[0]
        theta = engine.lifted(self.theta)
        found = engine.estimated(theta)
        off = found.value - self.whole.value(theta)
        inside = np.asarray(engine.covariance.in_tangent)[self.inner]
        exact = self.whole.tangent_model(theta)[0]
        g = (engine.tangent_model(theta)[0] - exact)[inside]
        C = engine.gradient_covariance(theta)[np.ix_(inside, inside)]
        none = NOTHING[1] ** 2 * 2.0 * np.diag(self.whole.tangent_model(theta)[1])[inside]
        own = engine.average_information(engine.state_at(theta))
        want = self.whole.average_information(self.whole.state_at(theta))
        return {
            "deviance": [off / np.hypot(found.error, NOTHING[0])],
            "gradient": g / np.sqrt(np.diag(C) + none),
            "refined": self._refined(engine, theta)[inside],
            "stated deviance": found.error, "AI": np.abs(own - want).max() / np.abs(want).max(),
        }  # fmt: skip

    def _refined(self, engine: Any, theta: Any) -> Any:
        """Ratios of the gradient whose traces are exact to second order."""
        exact, H = self.whole.tangent_model(theta)
        shift, traced = engine.second_order(theta)
        C = engine.gradient_covariance(theta, traced)
        engine.shift = shift
        engine.forget()
        off = engine.tangent_model(theta)[0] - exact
        engine.shift = None
        engine.forget()
        return off / np.sqrt(np.diag(C) + NOTHING[1] ** 2 * 2.0 * np.diag(H))

    def _deviance(self, seed: int) -> Any:
        solver = probing_solver(self.model.cross.pattern, Settings(seed=seed))
        return self.model._by(solver, True, self.model.covariance, None)


def line(name: str, what: str, found: list[dict[str, Any]], stated: str | None) -> str:
    """A line of the table."""
    z = np.concatenate([np.asarray(one[what], dtype=float).ravel() for one in found])
    beyond = [f"{np.mean(np.abs(z) > q):8.1%}" for q in T_TAILS]
    said = "" if stated is None else f"{np.median([one[stated] for one in found]):9.1e}"
    return (
        f"{name:<12}{what:<10}{len(z):5d}{z.mean():8.2f}{z.std():7.2f}{''.join(beyond)}"
        f"{np.abs(z).max():7.2f}{said:>10}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("cases", nargs="*", default=list(ALL))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"{'case':<12}{'of':<10}{'n':>5}{'mean':>8}{'sd':>7}{'5 %':>8}{'1 %':>8}{'max':>7}"
          f"{'stated':>10}")  # fmt: skip
    everything = []
    for name in given.cases:
        case = Case(name)
        found = [case.errors(seed) for seed in range(given.seeds)]
        everything += found
        for what in KINDS:
            stated = f"stated {what}" if what in ("deviance", "theta") else None
            print(line(name, what, found, stated), flush=True)
        print(f"{name:<12}{'AI':<10}{max(one['AI'] for one in found):12.1e}", flush=True)
    for what in KINDS:
        print(line("all", what, everything, None))


if __name__ == "__main__":
    main()
