"""Huge crossed designs by one engine: CPU seconds, peak memory, Monte Carlo error.

``PYTHONPATH=tests python -m benchmarks.krylov ratings_wide krylov`` fits one case of
`benchmarks.cases` in this process; ``krylov+value`` and ``krylov+exact`` ask for that finish.
Cross-products are made before the clock starts. CPU seconds are those of all threads.
"""

from __future__ import annotations

import resource
import sys
import time
import warnings

from benchmarks.cases import CASES
from sparselmm import MixedLM


def main(name: str, engine: str) -> None:
    """Fit a case and print a line."""
    case = next(case for case in CASES if case.name == name)
    data = case.data()
    model, rows = MixedLM.from_formula(case.formula, data), len(data)
    del data
    _ = model.cross
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    engine, _, finish = engine.partition("+")
    wall, cpu = time.perf_counter(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = model.fit(engine=engine, finish=finish or None)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{name} {engine}{'+' * bool(finish)}{finish}: {rows:,} rows, {cpu:.2f} CPU s, "
        f"{wall:.2f} s, {peak:.2f} GB at most ({before:.2f} before), {fit.opt.n_evaluations} "
        f"evaluations, theta {fit.theta.round(8).tolist()}, Monte Carlo error "
        f"{fit.opt.mc_error:.2g} SE, {fit.opt.probes} probes, deviance {fit.opt.deviance:.6f} "
        f"+- {fit.opt.mc_deviance:.2g}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:3])
