"""Run the benchmarks: ``make bench`` or ``PYTHONPATH=tests python -m benchmarks``.

Every program fits every case in a process of its own, by REML, from the data frame to the results,
on the same cores and in one run, so that the ratios between programs mean something where the
seconds do not. The first call is reported apart, because it may compile or fill caches; the
seconds of the table are the median of the calls after it: 5, or 3 if the first took over 20 s. A
first call of over 60 s is not repeated and counts itself. Peers that are not installed are skipped.

Written to ``--out``: benchmarks.csv, benchmarks.json (machine and settings) and benchmarks.png.
The exit code is 1 if a fit of ours failed or stopped above the best criterion of its case.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import plot, report, runs
from benchmarks.cases import Case
from benchmarks.prepare import all_cases, find
from benchmarks.scaling import SIZES, scaling

QUICK_ROWS = 1_000_000
QUICK_TIMEOUT = 60.0
SLOW_PEERS = ("mixedlm", "statsmodels")
SLOW_FROM = 10_000
"""Rows from which ``--quick`` leaves out the slow peers."""


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__.split("\n\n")[1])
    add = parser.add_argument
    add("--cases", type=names, metavar="A,B", help="only these cases")
    add("--programs", type=names, metavar="X,Y", help="only these programs")
    add(
        "--quick",
        action="store_true",
        help="no case over 1,000,000 rows, no slow peers on large data, at most 60 s for a fit",
    )
    add("--timeout", type=float, default=600.0, help="seconds a fit may take (default 600)")
    add("--cores", type=int, default=2, help="cores for all programs (default 2)")
    add("--out", type=Path, default=runs.ROOT / "docs" / "_static", help="default docs/_static")
    add(
        "--peers-python",
        default=os.environ.get("PEERS_PYTHON", sys.executable),
        metavar="PATH",
        help="interpreter with the Python peers, pandas and pyarrow (default $PEERS_PYTHON, then "
        "this one)",
    )
    add("--scaling", action="store_true", help="only fit the nested case for growing n")
    add("--sizes", type=names, metavar="N,N", help="row counts for --scaling")
    add("--list", action="store_true", help="only list the cases")
    return parser.parse_args(argv)  # fmt: skip


def pin(cores: int) -> int:
    """Keep this process and all it starts on the first ``cores`` cores, where that is possible."""
    if not hasattr(os, "sched_setaffinity"):
        return min(cores, os.cpu_count() or 1)
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    os.sched_setaffinity(0, allowed)
    return len(allowed)


def installed(wanted: list[str], settings: runs.Settings) -> list[str]:
    present = []
    for program in wanted:
        reason = runs.absent(program, settings)
        if reason:
            print(f"skipping {program}: {reason}")
        else:
            present.append(program)
    return present


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    found = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.processor() or platform.machine()


def conditions(settings: runs.Settings, options: argparse.Namespace) -> dict[str, Any]:
    """What a claim of speed must name besides model and version."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    chosen = [f"--{key} {','.join(value)}" for key in ("cases", "programs")
              if (value := getattr(options, key))]  # fmt: skip
    chosen += ["--quick"] if options.quick else []
    return {
        "processor": processor(), "cores": settings.cores, "memory_gb": round(memory, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(), "timeout": settings.timeout,
        "command": " ".join(["PYTHONPATH=tests python -m benchmarks", *chosen]),
    }  # fmt: skip


def one_case(case: Case, programs: list[str], settings: runs.Settings,
             quick: bool) -> list[dict[str, Any]]:  # fmt: skip
    print(f"\n{case.title}: {case.formula}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        about = runs.prepare(case.name, folder, settings)
        if quick and about["rows"] > QUICK_ROWS:
            print("  left out: too large for --quick")
            return []
        done = []
        for program in programs:
            if program not in ("sparselmm", *case.peers):
                continue
            if quick and program in SLOW_PEERS and about["rows"] > SLOW_FROM:
                continue
            done.append(runs.run(program, about, folder, case.repeats, settings))
            print("  " + progress(done[-1], settings), flush=True)
    return report.rows_of(case, about, done, settings.timeout)


def progress(run: runs.Run, settings: runs.Settings) -> str:
    if run.seconds is None:
        text = f"> {settings.timeout:g} s" if run.status == "timeout" else f"{run.status}"
        return f"{run.program:12} {text} {run.note}"
    first, criterion = run.record["first_seconds"], run.record.get("criterion", float("nan"))
    return (f"{run.program:12} {run.seconds:.3g} s (first call {first:.3g} s), "
            f"criterion {criterion:.4f} {run.note}")  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    if options.list:
        print("\n".join(f"{case.name:20} {case.title}: {case.formula}" for case in all_cases()))
        return 0
    timeout = min(options.timeout, QUICK_TIMEOUT) if options.quick else options.timeout
    settings = runs.Settings(options.peers_python, timeout, pin(options.cores))
    options.out.mkdir(parents=True, exist_ok=True)
    if options.scaling:
        scaling(settings, options.out, tuple(int(n) for n in options.sizes or SIZES))
        return 0
    return compare(options, settings)


def compare(options: argparse.Namespace, settings: runs.Settings) -> int:
    cases = [find(name) for name in options.cases] if options.cases else all_cases()
    wanted = options.programs or list(runs.PROGRAMS)
    unknown = set(wanted) - set(runs.PROGRAMS)
    if unknown:
        raise SystemExit(f"unknown programs {sorted(unknown)}; there are {list(runs.PROGRAMS)}")
    programs = installed([p for p in runs.PROGRAMS if p in wanted], settings)
    about = conditions(settings, options)
    (options.out / "benchmarks.json").write_text(json.dumps(about, indent=1) + "\n")
    rows: list[dict[str, Any]] = []
    for case in cases:
        rows += one_case(case, programs, settings, options.quick)
        report.write_csv(report.as_table(rows), options.out / "benchmarks.csv")
    return finish(report.as_table(rows), options.out)


def finish(table: Any, out: Path) -> int:
    print("\n" + report.as_text(table) + "\n\n" + report.summary(table))
    if not plot.available():
        print("no plot: matplotlib is missing; it comes with the extra sparselmm[plots]")
    elif not table.empty:
        plot.draw(table, out / "benchmarks.png")
    return 0 if report.ours_sound(table) else 1


if __name__ == "__main__":
    raise SystemExit(main())
