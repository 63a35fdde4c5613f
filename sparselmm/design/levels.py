"""Labels of the levels of a grouping factor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sparselmm.base.types import AnyArray


@dataclass(frozen=True, eq=False)
class Levels:
    """Labels of the levels of a grouping factor, kept as codes' look-up columns.

    Attributes
    ----------
    names : tuple of str
        Factor names, innermost first as lme4 prints them: ``("cask", "batch")``.
    parts : tuple of ndarray, each (l,)
        Raw labels, one column per name. Level ``j`` is ``(parts[0][j], parts[1][j], ...)``.
    """

    names: tuple[str, ...]
    parts: tuple[AnyArray, ...]

    def __len__(self) -> int:
        return len(self.parts[0])

    def labels(self) -> AnyArray:
        """Labels as shown to users, (l,): raw values, or ``"a:A"`` strings for interactions.

        No two are the same, see :func:`apart`.
        """
        if len(self.parts) == 1:
            return self.parts[0]
        return np.array(apart(self.parts, ":".join), dtype=object)


def apart(
    parts: Sequence[AnyArray], join: Callable[[Sequence[str]], str], within: AnyArray | None = None
) -> list[str]:
    """One string for each row of labels, different for different rows.

    Parameters
    ----------
    parts : sequence of ndarray, each (l,)
        Columns of labels.
    join : callable
        Makes one string of a row of strings.
    within : ndarray, (l,), optional
        Only rows of the same value here must differ.

    Returns
    -------
    list of str
        Where plain strings would make two rows alike (``"x:1", "2"`` and ``"x", "1:2"``; 0 and
        ``"0"``), labels that hold a colon, and strings beside other types, are written as in
        Python: ``"'x:1':2"``.
    """
    for write in (_plainly, _quoted):
        names = [join(row) for row in zip(*map(write, parts), strict=True)]
        keys = names if within is None else zip(within.tolist(), names, strict=True)
        if len(set(keys)) == len(names):
            return names
    return [f"{name} #{j}" for j, name in enumerate(names)]


def _plainly(labels: AnyArray) -> list[str]:
    return [str(label) for label in labels]


def _quoted(labels: AnyArray) -> list[str]:
    values = labels.tolist()
    mixed = len({isinstance(label, str) for label in values}) > 1
    out = []
    for label in values:
        text = str(label)
        unsafe = ":" in text or text[:1] in ("'", '"') or (mixed and isinstance(label, str))
        out.append(repr(label) if unsafe else text)
    return out
