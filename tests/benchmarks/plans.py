"""The plan's seconds per evaluation against CPU seconds of searches, on one thread.

    PYTHONPATH=tests:tests/support OPENBLAS_NUM_THREADS=1 python -m benchmarks.plans

Predictions are made for one machine; on another all ratios move together, and their spread is what
counts. Every candidate that a plan prices within ``RIVAL`` times its choice is measured, and the
regret is the time of the choice over that of the fastest. Memory is compared in
tests/factor/test_plan.py.
"""

import time
from collections.abc import Callable, Iterator

import numpy as np
import scipy.sparse as sp
from registry import block, design, term

from sparselmm.base.types import FloatArray
from sparselmm.design.terms import Design, RandomTerm
from sparselmm.factor.candidates import Candidate
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.plan import make_plan
from sparselmm.factor.solver import BlockSolver
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.moments import moment_start
from sparselmm.likelihood.optimize import minimize

EVALUATIONS = 6

RIVAL = 4.0
"""Candidates predicted at up to this many times the choice are measured too."""


def designs() -> Iterator[tuple[str, Callable[[], Design]]]:
    """Designs whose time goes to different places."""
    rng = np.random.default_rng(0)

    def codes(n: int, l: int) -> np.ndarray:
        return rng.permutation(np.arange(n) % l)

    def data(n: int, p: int, *terms: RandomTerm) -> Design:
        X = np.column_stack([np.ones(n), rng.normal(size=(n, p - 1))])
        y = rng.normal(size=n)
        for one in terms:
            if one.codes is not None:
                y += rng.normal(size=one.n_levels)[one.codes]
        return design(y, X, *terms)

    def series(k: int, l: int, structure: str) -> RandomTerm:
        Z = np.eye(k)[np.tile(np.arange(k), 2 * l)]
        return term("g", np.repeat(np.arange(l), 2 * k), Z, structure=structure)

    def unequal(n: int, l: int, power: float) -> np.ndarray:
        p = 1.0 / (np.arange(l) + 5.0) ** power
        return np.unique(rng.choice(l, n, p=p / p.sum()), return_inverse=True)[1]

    g = codes(60_000, 20_000)
    x = np.column_stack([np.ones(30_000), rng.normal(size=(30_000, 2))])
    Z = sp.random(6000, 2500, 0.05, random_state=1, format="csr")
    yield "p = 3,000", lambda: data(4000, 3000, term("g", codes(4000, 200)))
    yield (
        "p = 3,000, crossed",
        lambda: data(4000, 3000, term("g", codes(4000, 300)), term("h", codes(4000, 200))),
    )
    yield "many levels", lambda: data(60_000, 2, term("g", g))
    yield "nested", lambda: data(60_000, 1, term("g", g), term("s", g // 40))
    yield (
        "crossed",
        lambda: data(40_000, 1, term("g", codes(40_000, 2000)), term("h", codes(40_000, 1800))),
    )
    yield "dense block", lambda: data(6000, 1, block("z", Z))
    yield "slopes", lambda: data(30_000, 3, term("g", codes(30_000, 5000), x))
    yield "ar1, 100 points", lambda: data(16_000, 1, series(100, 80, "homogeneous autoregressive"))
    yield "cs, 100 points", lambda: data(16_000, 1, series(100, 80, "compound symmetry"))
    yield "unstructured, 20", lambda: data(24_000, 1, series(20, 600, "unstructured"))
    yield (
        "many terms",
        lambda: data(20_000, 1, *[term(f"t{i}", codes(20_000, 60)) for i in range(8)]),
    )
    yield (
        "three crossed",
        lambda: data(
            50_000, 2, term("g", unequal(50_000, 5000, 1.0)), term("h", unequal(50_000, 800, 1.0)),
            term("d", codes(50_000, 12)),
        ),
    )  # fmt: skip
    yield (
        "users and items",
        lambda: data(
            40_000, 2, term("g", codes(40_000, 15_000)), term("h", unequal(40_000, 3000, 0.8))
        ),
    )
    yield (
        "crossed slopes",
        lambda: data(
            30_000, 3, term("g", codes(30_000, 2000), x), term("h", codes(30_000, 300), x)
        ),
    )
    yield (
        "movers",
        lambda: data(
            30_000, 2, term("g", np.arange(30_000) // 6),
            term("h", np.where(rng.random(30_000) < 0.06, codes(30_000, 800),
                               (np.arange(30_000) // 6) % 800)),
        ),
    )  # fmt: skip


def measured(one: Design) -> tuple[FloatArray, FloatArray]:
    """Predicted and measured seconds per evaluation of each candidate, the choice first."""
    cross, covariance = CrossProducts.from_design(one), Covariance.of(one.terms)
    plan = make_plan(cross, tuple(t.name for t in one.terms), 10**12, covariance)
    start = moment_start(cross, covariance)
    tried = [c for c in plan.candidates if c.seconds <= RIVAL * plan.chosen.seconds]
    return np.array([c.seconds for c in tried]), np.array(
        [of_candidate(cross, covariance, c, start) for c in tried]
    )


def of_candidate(
    cross: CrossProducts, covariance: Covariance, one: Candidate, start: FloatArray
) -> float:
    """CPU seconds per evaluation of a search with one factorization."""
    solver = BlockSolver(cross.pattern, one.strategy, one.factor)
    deviance = ProfiledDeviance(cross, covariance, solver, reml=True)
    deviance.tangent_model(1.1 * start)  # compiled, imported
    before = time.process_time()
    found = minimize(deviance, start, max_iterations=EVALUATIONS)
    return (time.process_time() - before) / len(found.history)


def main() -> None:
    """Print predicted and measured seconds, their ratio, and the regret."""
    print(f"{'design':22s} {'predicted':>10s} {'measured':>10s} {'ratio':>6s} {'regret':>7s}")
    ratios, regrets = [], []
    for name, make in designs():
        predicted, seconds = measured(make())
        ratios.append(predicted[0] / seconds[0])
        regrets.append(seconds[0] / seconds.min())
        print(
            f"{name:22s} {predicted[0]:10.4f} {seconds[0]:10.4f} {ratios[-1]:6.2f} "
            f"{regrets[-1]:7.2f}", flush=True,
        )  # fmt: skip
    middle = float(np.median(ratios))
    low, high = min(ratios) / middle, max(ratios) / middle
    print(
        f"median {middle:.2f}; the others from {low:.2f} to {high:.2f} times that; "
        f"largest regret {max(regrets):.2f}"
    )


if __name__ == "__main__":
    main()
