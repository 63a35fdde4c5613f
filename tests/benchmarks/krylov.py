"""Huge crossed designs by one engine: CPU seconds, peak memory, Monte Carlo error.

``PYTHONPATH=tests python -m benchmarks.krylov ratings_wide krylov`` fits one case of
`benchmarks.cases` in this process; ``krylov+value`` and ``krylov+exact`` ask for that finish,
``default`` for no engine. CPU seconds are those of all threads; the fit's begin when the
cross-products are made.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from typing import Any

from benchmarks.cases import CASES
from sparselmm import MixedLM

FORMS = {
    **dict.fromkeys(("build", "cpu", "wall", "GB", "before"), ".2f"),
    **{"rows": ",", "n_evaluations": "d", "mc_error": ".2g", "probes": "d"},
    **{"deviance": ".6f", "mc_deviance": ".2g"},
}
"""How numbers are printed."""


def gigabytes() -> float:
    """The most memory this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measured(name: str, engine: str) -> dict[str, Any]:
    """A case, fitted; releases without `engine=` are asked for their ``default``."""
    case = next(case for case in CASES if case.name == name)
    data = case.data()
    start = time.process_time()
    model, rows = MixedLM.from_formula(case.formula, data), len(data)
    del data
    _ = model.cross
    build, before = time.process_time() - start, gigabytes()
    engine, _, finish = engine.partition("+")
    asked = {} if engine == "default" else {"engine": engine, "finish": finish or None}
    wall, cpu = time.perf_counter(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = model.fit(**asked)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    kept = ("n_evaluations", "deviance", "mc_error", "mc_deviance", "probes")
    return {"rows": rows, "build": build, "cpu": cpu, "wall": wall, "GB": gigabytes(),
            "before": before, "theta": fit.theta.round(8).tolist(),
            **{word: getattr(fit.opt, word, 0) for word in kept}}  # fmt: skip


def main(name: str, engine: str, form: str = "text") -> None:
    """Fit a case and print a line, of JSON if the third word is ``json``."""
    found = measured(name, engine)
    if form == "json":
        print(json.dumps(found))
        return
    say = {word: format(found[word], form) for word, form in FORMS.items()}
    print(
        f"{name} {engine}: {say['rows']} rows, {say['cpu']} CPU s beside {say['build']} for the "
        f"cross-products, {say['wall']} s, {say['GB']} GB at most ({say['before']} before), "
        f"{say['n_evaluations']} evaluations, theta {found['theta']}, Monte Carlo error "
        f"{say['mc_error']} SE, {say['probes']} probes, deviance {say['deviance']} +- "
        f"{say['mc_deviance']}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:4])
