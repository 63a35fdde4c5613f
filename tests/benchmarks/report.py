"""The table of a benchmark run: one row per case and program, as CSV and as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.cases import Case
from benchmarks.runs import Run

TOLERANCE = 1e-4
"""REML criteria that differ by less are the same optimum."""

COLUMNS = ("case", "title", "rows", "program", "version", "status", "seconds", "first_seconds",
           "runs", "ratio", "target", "met", "criterion", "above_best", "evaluations",
           "before_mb", "peak_mb", "note")  # fmt: skip

PRINTED = ("case", "program", "seconds", "first_seconds", "runs", "ratio", "target", "met",
           "criterion", "above_best", "evaluations", "before_mb", "peak_mb")  # fmt: skip

FORMATS = {
    "seconds": "{:.3g}", "first_seconds": "{:.3g}", "ratio": "{:.1f}", "target": "{:g}",
    "criterion": "{:.4f}", "above_best": "{:.1e}", "evaluations": "{:.0f}", "runs": "{:.0f}",
    "before_mb": "{:.0f}", "peak_mb": "{:.0f}",
}  # fmt: skip


def rows_of(case: Case, about: dict[str, Any], runs: Sequence[Run], timeout: float) -> list[dict]:
    """The rows of one case; ``runs`` holds at most one run per program."""
    ours = next((run for run in runs if run.program == "sparselmm"), None)
    criteria = [run.record["criterion"] for run in runs if "criterion" in run.record]
    best = min(criteria, default=float("nan"))
    return [row_of(case, about, run, ours, best, timeout) for run in runs]


def row_of(case: Case, about: dict[str, Any], run: Run, ours: Run | None, best: float,
           timeout: float) -> dict[str, Any]:  # fmt: skip
    record = run.record
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {"case": case.name, "title": case.title, "rows": about["rows"]}
    row |= {"program": run.program, "status": run.status, "note": run.note}
    row |= {name: record.get(name) for name in COLUMNS if name in record}
    row["seconds"] = timeout if run.status == "timeout" else run.seconds
    row["runs"] = max(1, len(record["seconds"])) if run.seconds is not None else None
    if "criterion" in record:
        row["above_best"] = record["criterion"] - best
        if row["above_best"] > TOLERANCE:
            row["note"] = "; ".join(filter(None, ["stopped above the optimum", run.note]))
    return row | compared(case, row, ours, best)


def compared(case: Case, row: dict[str, Any], ours: Run | None, best: float) -> dict[str, Any]:
    """The ratio to our time, the least ratio aimed at and whether it was reached.

    After a timeout the ratio is a lower bound, so a target above it is left open. A time of ours
    counts only if our fit reached the best criterion.
    """
    if row["program"] == "sparselmm":
        return {}
    target = case.targets.get(row["program"])
    if ours is None or ours.seconds is None or row["seconds"] is None:
        return {"target": target}
    ratio = row["seconds"] / ours.seconds
    if target is None:
        return {"ratio": ratio}
    met = "yes" if ratio >= target else "open" if row["status"] == "timeout" else "no"
    if ours.record["criterion"] - best > TOLERANCE:
        met = "no"
    return {"ratio": ratio, "target": target, "met": met}


def as_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(COLUMNS))


def write_csv(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, index=False, float_format="%.12g")


def cell(name: str, value: Any, late: bool) -> str:
    if value is None or pd.isna(value):
        return ""
    text = FORMATS[name].format(value) if name in FORMATS else str(value)
    return f"> {text}" if late and name in ("seconds", "ratio") else text


def as_text(table: pd.DataFrame) -> str:
    """The columns that fit on a screen, then the notes."""
    lines = [list(PRINTED)]
    for row in table.to_dict("records"):
        lines.append([cell(name, row[name], row["status"] == "timeout") for name in PRINTED])
    widths = [max(len(line[i]) for line in lines) for i in range(len(PRINTED))]
    text = [
        "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths,
                  strict=True))).rstrip()
        for line in lines
    ]  # fmt: skip
    noted = table[table["note"].fillna("") != ""]
    notes = [f"{r.case}, {r.program}: {r.status}: {r.note}" for r in noted.itertuples()]
    return "\n".join([*text, "", *notes]).rstrip()


def summary(table: pd.DataFrame) -> str:
    met = table["met"].value_counts()
    counts = [int(met.get(word, 0)) for word in ("yes", "no", "open")]
    return (
        f"targets met: {counts[0]} of {sum(counts)}; missed: {counts[1]}; "
        f"open, for a peer that was stopped too early to tell: {counts[2]}"
    )


def ours_sound(table: pd.DataFrame) -> bool:
    """Whether every fit of ours succeeded and reached the best criterion of its case."""
    ours = table[table["program"] == "sparselmm"]
    return bool((ours["status"] == "ok").all() and (ours["above_best"] <= TOLERANCE).all())
