"""Small models: CPU milliseconds of making a model from a data frame and fitting it.

    PYTHONPATH=tests OPENBLAS_NUM_THREADS=1 python -m benchmarks.small [--repeats 200]

All in one process, caches warm; the least and the median of all repeats.
"""

from __future__ import annotations

import argparse
import statistics
import time

from benchmarks.scripts import CASES, rows
from sparselmm import mixedlm

WARM = 30
"""Fits of each case that do not count."""


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(prog="benchmarks.small")
    parser.add_argument("--repeats", type=int, default=200)
    repeats = parser.parse_args().repeats
    print(f"{'case':<12}{'least':>8}{'median':>8}{'model':>8}{'fit':>8}   evaluations")
    for case, formula in CASES.items():
        data = rows(case)
        if len(data) > 1000:
            continue
        parts, evaluations = [], 0
        for _ in range(WARM + repeats):
            start = time.process_time_ns()
            model = mixedlm(formula, data)
            made = time.process_time_ns()
            evaluations = model.fit().opt.n_evaluations
            parts.append(((made - start) / 1e6, (time.process_time_ns() - made) / 1e6))
        whole = [sum(one) for one in parts[WARM:]]
        least = [min(part) for part in zip(*parts[WARM:], strict=True)]
        print(
            f"{case:<12}{min(whole):8.2f}{statistics.median(whole):8.2f}"
            f"{least[0]:8.2f}{least[1]:8.2f}   {evaluations}"
        )


if __name__ == "__main__":
    main()
