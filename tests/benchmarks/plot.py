"""The plot of a benchmark run: a row per case, a dot per program, seconds on a log scale.

``python tests/benchmarks/plot.py CSV PNG`` draws a table that was written before; it needs only
pandas and matplotlib.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

STYLES = {
    "sparselmm": ("#0072b2", "o"),
    "lme4": ("#d55e00", "s"),
    "glmm": ("#009e73", "D"),
    "mixedlm": ("#cc79a7", "^"),
    "statsmodels": ("#7f7f7f", "v"),
    "pandas": ("#000000", "x"),
}
"""Colour and marker; the colours can be told apart with any colour vision."""

SPREAD = 0.16
"""Height between programs stopped at the limit, whose dots would otherwise hide one another."""


def available() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def draw(table: pd.DataFrame, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = table[table["seconds"].notna()]
    cases = list(dict.fromkeys(shown["case"]))
    height = {case: len(cases) - 1 - i for i, case in enumerate(cases)}
    figure = Figure(figsize=(8.5, 1.5 + 0.42 * len(cases)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rails(axes, shown, height)
    for program in STYLES:
        dots(axes, shown[shown["program"] == program], height, program)
    dress(axes, shown, height)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=6,
                  frameon=False)  # fmt: skip
    figure.savefig(path, dpi=150, bbox_inches="tight")


def rails(axes: Any, shown: pd.DataFrame, height: dict[str, int]) -> None:
    """A thin line from the fastest to the slowest program of each case."""
    for case, rows in shown.groupby("case"):
        y = height[case]
        axes.plot([rows["seconds"].min(), rows["seconds"].max()], [y, y], color="#dddddd",
                  linewidth=2, zorder=1)  # fmt: skip


def dots(axes: Any, rows: pd.DataFrame, height: dict[str, int], program: str) -> None:
    """Filled dots; hollow ones, with an arrow, where a program was stopped at the time limit."""
    if rows.empty:
        return
    colour, marker = STYLES[program]
    late = rows["status"] == "timeout"
    shift = SPREAD * (list(STYLES).index(program) - 2)
    y = rows["case"].map(height) + shift * late
    face = ["white" if stopped else colour for stopped in late]
    axes.scatter(
        rows["seconds"],
        y,
        c=face if marker != "x" else colour,
        edgecolors=None if marker == "x" else colour,
        marker=marker,
        s=46,
        zorder=3,
    )
    axes.scatter([], [], color=colour, marker=marker, s=46, label=program)
    for x, level in zip(rows["seconds"][late], y[late], strict=True):
        axes.annotate("", (x * 1.6, level), (x * 1.08, level), zorder=2,
                      arrowprops={"arrowstyle": "->", "color": colour})  # fmt: skip


def dress(axes: Any, shown: pd.DataFrame, height: dict[str, int]) -> None:
    titles = dict(zip(shown["case"], shown["title"], strict=True))
    axes.set_xscale("log")
    axes.set_yticks(list(height.values()), [titles[case] for case in height])
    axes.set_ylim(-0.6, len(height) - 0.4)
    low, high = np.log10(shown["seconds"].min() / 1.6), np.log10(shown["seconds"].max() * 2.0)
    axes.set_xlim(10 ** min(low, np.floor(high - 0.3)), 10 ** max(high, np.ceil(low + 0.3)))
    axes.set_xlabel("seconds, log scale (hollow: stopped at the limit)")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.grid(axis="x", color="#eeeeee", zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


if __name__ == "__main__":
    draw(pd.read_csv(sys.argv[1]), Path(sys.argv[2]))
