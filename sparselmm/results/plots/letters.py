"""Letters, labels and legends that fit the panel, from the width of a column to that of a page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from sparselmm.base.types import AnyArray, FloatArray, IntArray

SIZES = {"x-small": 0.694, "small": 0.833, "medium": 1.0}
"""Sizes of letters, as matplotlib has them."""

WIDTH = 0.58
"""Mean width of a letter, of its size."""

LEAST = 4.5
"""Smallest letters in points: where rows stand closer, some are labelled."""

MANY_POINTS = 1_000
"""From this many points on no place is looked for that a legend covers least."""

LONG = 40
"""Most letters of an entry of a legend."""

ABOVE = 0.3
"""Most of the figure's height that a legend takes."""

RATIOS = (" - ", " / ")
"""What stands between the two parts of a contrast's label."""


def extent(axis: Any) -> tuple[float, float]:
    """Width and height of a panel in inches, its labels included."""
    figure = axis.get_figure()
    wide, high = figure.bbox.width / figure.dpi, figure.bbox.height / figure.dpi
    spec = axis.get_subplotspec()
    if spec is None:
        position = axis.get_position()
        return wide * position.width / 0.8, high * position.height / 0.8
    rows, columns = spec.get_gridspec().get_geometry()
    return wide * len(spec.colspan) / columns, high * len(spec.rowspan) / rows


def points(axis: Any, size: str = "medium") -> float:
    """Size of letters in points: smaller in panels of less than five inches."""
    import matplotlib as mpl

    return float(
        np.clip(0.5 + 0.1 * extent(axis)[0], 0.6, 1.0) * mpl.rcParams["font.size"] * SIZES[size]
    )


def letter(axis: Any) -> None:
    """Give ticks and axis labels the size that suits the panel."""
    axis.tick_params(labelsize=points(axis, "small"))
    for label in (axis.xaxis.label, axis.yaxis.label):
        label.set_size(points(axis))


def fitting(axis: Any, share: float, size: str) -> int:
    """How many letters go into a share of the panel's width."""
    return max(8, int(share * extent(axis)[0] * 72.0 / (WIDTH * points(axis, size))))


def plain(text: str) -> str:
    """The text for matplotlib, to whom what is between two dollars would be a formula."""
    return text.replace("$", r"\$")


def series_name(label: object) -> str:
    """A label of a series; matplotlib would leave one that starts with ``_`` out of legends."""
    text = str(label)
    return f" {text}" if text.startswith("_") else text


def shortened(labels: Sequence[Any], most: int) -> list[str]:
    """Labels with their middle left out where they are long, still different from each other."""
    full = [str(label) for label in labels]
    if max(map(len, full), default=0) <= most:
        return full
    for sign in RATIOS:
        if all(label.count(sign) == 1 for label in full):
            parts = [part for label in full for part in label.split(sign)]
            short = shortened(parts, max(6, (most - len(sign)) // 2))
            return [sign.join(pair) for pair in zip(short[::2], short[1::2], strict=True)]
    short = [_without_middle(label, most) for label in full]
    if len(set(short)) < len(set(full)):
        columns = enumerate(zip(*full, strict=False))
        start = next((i for i, letters in columns if len(set(letters)) > 1), 0)
        short = [_without_middle(f"…{label[start:]}", most) for label in full]
    return short if len(set(short)) == len(set(full)) else full


def _without_middle(label: str, most: int) -> str:
    if len(label) <= most:
        return label
    head = (most - 1) // 2
    return f"{label[:head]}…{label[len(label) - (most - 1 - head) :]}"


def row_labels(axis: Any, at: AnyArray, labels: Sequence[Any], most: int | None = None) -> None:
    """Labels of rows: short enough, small enough, and of some rows only where they are many."""
    n, size = len(labels), points(axis, "small")
    if most is not None and n > most:
        shown = np.unique(np.linspace(0, n - 1, most).round().astype(int))
    else:
        shown = np.arange(n)
    room = 0.8 * 72.0 * extent(axis)[1] / max(len(shown), 1)
    shown = shown[:: int(np.ceil(LEAST / room))]
    size = min(size, max(LEAST, 0.95 * 0.8 * 72.0 * extent(axis)[1] / max(len(shown), 1)))
    most_letters = max(8, int(0.38 * extent(axis)[0] * 72.0 / (WIDTH * size)))
    short = shortened(labels, most_letters)
    names = [plain(short[i]) for i in shown]
    axis.set_yticks(np.asarray(at)[shown], names, fontsize=size)


def level_labels(axis: Any, labels: Sequence[Any]) -> None:
    """Labels of levels along the axis, aslant where they are wider than their place."""
    size, n = points(axis, "small"), len(labels)
    place = 0.8 * 72.0 * extent(axis)[0] / max(n, 1)
    names = [str(label) for label in labels]
    if WIDTH * size * max(map(len, names), default=0) <= 0.95 * place:
        axis.set_xticks(range(n), list(map(plain, names)))
    else:
        axis.set_xticks(
            range(n), list(map(plain, shortened(names, 20))), rotation=40, ha="right",
            rotation_mode="anchor", fontsize=min(size, max(LEAST, 0.7 * place)),
        )  # fmt: skip
    axis.set_xlim(-0.6, n - 0.4)


def whole_steps(axis: Any, x: Any) -> None:
    """Ticks at whole numbers where the values are whole."""
    from matplotlib.ticker import MaxNLocator

    values = np.asarray(x, dtype=float)
    if len(values) and (values == np.round(values)).all():
        axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))


def legend(
    axes: Sequence[Any], title: str = "", beside: bool = False, order: Sequence[str] = ()
) -> None:
    """A legend that covers nothing: beside or above panels that have the figure to themselves.

    Parameters
    ----------
    axes : sequence of matplotlib Axes
        The panels described.
    beside : bool
        To the right, if there is room.
    order : sequence of str
        Labels in their order; without it all, as they come.
    """
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    names = [name for name in map(series_name, order or found) if name in found]
    if not names:
        return
    first, figure = axes[0], axes[0].get_figure()
    size = points(first, "small")
    style: dict[str, Any] = {"fontsize": size, "title_fontsize": size, "frameon": False}
    style |= {"title": plain(title) or None, "handles": [found[name] for name in names]}
    shown = {axis for axis in figure.axes if axis.get_visible()}
    if shown != set(axes) or figure.get_layout_engine() is None:
        many = sum(len(line.get_xdata()) for line in first.lines) > MANY_POINTS
        short = shortened(names, fitting(first, 0.45, "small"))
        first.legend(labels=list(map(plain, short)), loc="upper left" if many else "best", **style)
        return
    wide, high = (72.0 * side / figure.dpi for side in (figure.bbox.width, figure.bbox.height))
    line = 1.6 * size
    entry = (4.0 + WIDTH * max(map(len, shortened(names, LONG)))) * size
    if beside and entry <= 0.3 * wide and len(names) * line < 0.8 * high:
        labels = list(map(plain, shortened(names, LONG)))
        figure.legend(labels=labels, loc="outside right upper", **style)
        return
    least = -(-len(names) * line // (ABOVE * high))  # columns, so as to leave the panels their room
    columns = int(np.clip(max(wide // entry, least), 1, len(names)))
    most = max(6, int((wide / columns / size - 4.5) / WIDTH))
    figure.legend(
        labels=list(map(plain, shortened(names, min(most, LONG)))), loc="outside upper center",
        ncols=columns, columnspacing=1.0, **style,
    )  # fmt: skip


def name_points(
    axis: Any, x: AnyArray, y: FloatArray, labels: Sequence[Any], which: IntArray
) -> None:
    """Labels beside some points, where they cover no other; what finds no place is not named."""
    which = np.array([i for i in which if np.isfinite(x[i]) and np.isfinite(y[i])], dtype=int)
    size = points(axis, "x-small")
    names = shortened([labels[i] for i in which], fitting(axis, 0.4, "x-small"))
    for settle in (axis.get_xlim, axis.get_ylim):  # the limits that the transform below is for
        settle()
    unit = 72.0 / axis.get_figure().dpi
    right = axis.bbox.x1 * unit
    taken: list[tuple[float, float, float, float]] = []
    for i, name in zip(which, names, strict=True):
        px, py = axis.transData.transform((x[i], y[i])) * unit
        wide, high = WIDTH * size * len(name), 1.1 * size
        sides = (1, -1) if px + wide + 4.0 < right else (-1, 1)
        for up, side in ((up, side) for up in (0.0, 0.8 * high, -0.8 * high) for side in sides):
            left = px + 4.0 if side > 0 else px - 4.0 - wide
            box = (left, py + up - high / 2.0, left + wide, py + up + high / 2.0)
            if not any(_overlap(box, other) for other in taken):
                taken.append(box)
                axis.annotate(
                    plain(name), (x[i], y[i]), (4.0 * side, up), textcoords="offset points",
                    va="center", ha="left" if side > 0 else "right", fontsize=size,
                )  # fmt: skip
                break


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def axis_names(axis: Any, x: str | None = None, y: str | None = None) -> None:
    """Names of the axes, in lines as long as the panel."""
    wide, high = (max(8, int(60.0 * side / (WIDTH * points(axis)))) for side in extent(axis))
    if x is not None:
        axis.set_xlabel(plain(textwrap.fill(x, wide)))
    if y is not None:
        axis.set_ylabel(plain(textwrap.fill(y, high)))


def remark(figure: Any, text: str) -> None:
    """A line below the panels, broken where it is wider than the figure."""
    if text:
        size = 0.85 * points(figure.axes[0], "small")
        most = max(20, int(0.95 * figure.bbox.width / figure.dpi * 72.0 / (WIDTH * size)))
        figure.supxlabel(plain(textwrap.fill(text, most)), fontsize=size, color="0.35")
