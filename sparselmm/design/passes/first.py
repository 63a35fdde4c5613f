"""The first pass: counts, representative rows, and what transforms remember.

Of every partition those rows are taken that show something not seen before: a level of a grouping
factor, a combination of crossed ones, a label of a column. Merged over the partitions they are a
small data set with the levels of all rows, whose design has the names, columns and levels of the
whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.reduction import Tree
from sparselmm.base.types import IntArray
from sparselmm.design.column_types import CATEGORIES, NUMBERS, TEXT, kind_of
from sparselmm.design.factors import SPREAD, mark_first, tells, told_apart
from sparselmm.design.formula.columns import take_columns
from sparselmm.design.formula.expressions import names_in, plain_column
from sparselmm.design.formula.memory import Key, Memories, Summary
from sparselmm.design.formula.namespace import Namespace
from sparselmm.design.formula.plan import Plan
from sparselmm.design.formula.terms import codes_of, right_terms
from sparselmm.design.passes.reading import Reading, Taken, named
from sparselmm.design.residual import POSITIONS
from sparselmm.design.sources.arrow import joined
from sparselmm.design.sources.readers import Part
from sparselmm.design.sources.text import decoded
from sparselmm.design.validate import Rows

SAMPLE = 256
"""Rows of a partition that go into the sample, evenly spaced."""

COPIES = 16
"""Rows with different values for every combination of labels of the fixed part."""

FEW_SHOWN = 512
"""Rows where there are no labels."""

LARGEST_SAMPLE = 8_192
"""Rows of the sample at most: every other one is left out when there are more."""


@dataclass(frozen=True)
class LabelSet:
    """Expressions whose combinations of labels must all be among the representatives.

    Attributes
    ----------
    columns : tuple of str
        Columns read as labels.
    codes : tuple of str
        Other expressions that give labels.
    """

    columns: tuple[str, ...]
    codes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class First:
    """What the first pass learns of some rows.

    Attributes
    ----------
    counts : tuple of (int, int)
        Rows read and rows in use, of every partition.
    rows : DataFrame or None
        Representatives.
    sample : DataFrame or None
        Some rows from everywhere.
    memory : dict
        Of the arguments of stateful transforms.
    """

    counts: tuple[tuple[int, int], ...]
    rows: pd.DataFrame | None = None
    sample: pd.DataFrame | None = None
    memory: dict[Key, Summary] = field(default_factory=dict)

    def __sizeof__(self) -> int:
        """Bytes, by which a cluster plans what it moves and holds."""
        frames = [frame for frame in (self.rows, self.sample) if frame is not None]
        return object.__sizeof__(self) + sum(int(f.memory_usage(deep=True).sum()) for f in frames)


@dataclass(frozen=True, eq=False)
class FirstPass:
    """The pass, as a function of a partition.

    Attributes
    ----------
    reading : Reading
    sets : tuple of LabelSet
    memories : Memories
        Stateful transforms.
    step : int
        Of the passes that transforms of transforms need; representatives are taken in the first.
    labels_only : Reading or None
        How to read partitions of which nothing but labels is wanted.
    sampled : frozenset of str
        Labels of the partitions that are read in full then.
    text : frozenset of str
        Columns of text, which may come as Categoricals.
    """

    reading: Reading
    sets: tuple[LabelSet, ...]
    memories: Memories
    step: int = 0
    labels_only: Reading | None = None
    sampled: frozenset[str] = frozenset()
    text: frozenset[str] = frozenset()

    def reading_of(self, part: Part) -> Reading:
        """How the rows of a partition are taken."""
        if self.labels_only is None or part.label in self.sampled:
            return self.reading
        return self.labels_only

    def __call__(self, part: Part) -> First:
        """Learn of one partition."""
        tree = Tree(self.merge)
        for taken in self.reading_of(part).taken(part):
            with named(part.label):
                tree.add(self.of(taken))
        found = tree.result() or First(((0, 0),))
        counts = np.sum(found.counts, axis=0)
        return First(((int(counts[0]), int(counts[1])),), found.rows, found.sample, found.memory)

    def of(self, taken: Taken) -> First:
        """Learn of some rows."""
        frame = taken.frame
        counts = ((taken.read, len(frame)),)
        if not len(frame):
            return First(counts)
        memory = self.memories.learn(self.step, self._columns(frame, self.memories.codes()))
        if self.step:
            return First(counts, memory=memory)
        sample = None
        if set(self.reading.columns) <= set(frame.columns):
            at = np.unique(np.linspace(0, len(frame) - 1, SAMPLE).astype(int))
            sample = self._as_text(frame.iloc[at].reset_index(drop=True))
        return First(counts, self._representatives(frame), sample, memory)

    def read_back(self, first: First) -> First:
        """What was learned of all partitions, text as text, whose levels are sorted."""
        return first if first.rows is None else replace(first, rows=self._as_text(first.rows))

    def _as_text(self, frame: pd.DataFrame) -> pd.DataFrame:
        coded = [n for n in self.text if n in frame and kind_of(frame[n]) == CATEGORIES]
        return frame.assign(**{name: decoded(frame[name]) for name in coded})

    def merge(self, parts: Sequence[First]) -> First:
        """What was learned of several partitions."""
        counts = tuple(count for part in parts for count in part.counts)
        memory: dict[Key, Summary] = {}
        for part in parts:
            for key, seen in part.memory.items():
                memory[key] = memory[key].merged(seen) if key in memory else seen
        found = [part for part in parts if part.rows is not None]
        if not found:
            return First(counts, memory=memory)
        rows = joined([part.rows for part in found if part.rows is not None], "the partitions")
        samples = [part.sample for part in found if part.sample is not None]
        sample = joined(samples, "the partitions") if samples else None
        while sample is not None and len(sample) > LARGEST_SAMPLE:
            sample = sample.iloc[::2].reset_index(drop=True)
        return First(counts, self._representatives(rows), sample, memory)

    def _representatives(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The first row of everything that the label sets tell apart."""
        space = Namespace(frame, self.reading.env, Rows(len(frame), frame.index), {})
        codes = [code for one in self.sets for code in one.codes]
        if codes:
            columns = self._columns(frame, codes)
            space = Namespace(frame, self.reading.env, space.rows, columns)
        seen: dict[str, tuple[IntArray, int]] = {}
        chosen = np.zeros(len(frame), dtype=bool)
        chosen[0] = True
        for one in self.sets:
            for name in one.columns:
                if name not in seen:
                    seen[name] = told_apart(frame[name])
            for code in one.codes:
                if code not in seen:
                    seen[code] = told_apart(_labels(code, space))
            mark_first(*_crossed([seen[name] for name in (*one.columns, *one.codes)]), chosen)
        names = label_columns(self.sets, frame.columns)
        return frame[names].iloc[np.flatnonzero(chosen)].reset_index(drop=True)

    def _columns(self, frame: pd.DataFrame, codes: Iterable[str]) -> dict[str, Any]:
        """Columns that some expressions use, as patsy sees them."""
        codes = list(codes)
        names = {name for code in codes for name in names_in(code)} & set(frame.columns)
        return take_columns(frame, sorted(names), codes)


def label_columns(sets: Iterable[LabelSet], columns: Iterable[str]) -> list[str]:
    """Those of some columns that the label sets look at."""
    used = {name for one in sets for name in one.columns}
    used |= {name for one in sets for code in one.codes for name in names_in(code)}
    return [name for name in columns if name in used]


def completed(first: First) -> pd.DataFrame:
    """Representatives with values of the sample in the columns that hold no labels, and the sample.

    All such values of a row come from the same row.
    """
    assert first.rows is not None and first.sample is not None
    rows, sample = first.rows, first.sample
    others = [name for name in sample.columns if name not in rows.columns]
    values = sample[others].iloc[np.arange(len(rows)) % len(sample)].reset_index(drop=True)
    together = pd.concat([rows, values], axis=1)[list(sample.columns)]
    return joined([together, sample], "the representatives")


def shown(first: First, learn: FirstPass, fixed: tuple[LabelSet, ...]) -> pd.DataFrame:
    """A few rows with all labels that meet in the fixed part, each with several values beside them.

    Their design spans what that of all rows spans, unless the sample shows too little.
    """
    assert first.rows is not None and first.sample is not None
    order = np.random.default_rng(0).permutation(len(first.sample))
    sample = first.sample.iloc[order].reset_index(drop=True)
    if not fixed:
        return sample.iloc[:FEW_SHOWN]
    rows = replace(learn, sets=fixed)._representatives(first.rows)
    rows = rows.loc[rows.index.repeat(COPIES)].reset_index(drop=True)
    others = [name for name in sample.columns if name not in rows.columns]
    values = sample[others].iloc[np.arange(len(rows)) % len(sample)].reset_index(drop=True)
    return pd.concat([rows, values], axis=1)[list(sample.columns)]


def _crossed(factors: Sequence[tuple[IntArray, int]]) -> tuple[IntArray, int]:
    """Codes of the combinations of some factors, in any order, and what all are below."""
    codes, count = factors[0]
    for more, size in factors[1:]:
        if tells(more, size, codes):
            codes, count = more, size
            continue
        if tells(codes, count, more):
            continue
        absent = (codes < 0) | (more < 0)
        key = codes * np.int64(max(size, 1)) + more
        if absent.any():
            key[absent] = -1
        count *= size
        codes = key
        if count > SPREAD * len(key):
            codes, found = pd.factorize(key)
            count = len(found)
            if absent.any():
                codes[absent] = -1
    return codes, count


def _labels(code: str, space: Namespace) -> Any:
    values = space.evaluate(code)
    return getattr(values, "data", values) if not hasattr(values, "dtype") else values


def label_sets(
    plan: Plan, groups: str | None, head: Namespace, memories: Memories
) -> tuple[LabelSet, ...]:
    """What representatives must show.

    Parameters
    ----------
    plan : Plan
        Of the formulas.
    groups : str or None
        Column of the ``groups`` argument.
    head : Namespace
        Any rows.
    memories : Memories
        Expressions with stateful transforms, which give numbers.
    """
    sets = [_set_of(bar.factors, head) for bar in plan.bars]
    if groups is not None:
        sets.append(_set_of((groups,), head))
        for text in plan.vc.values():
            labels = [c for c in codes_of(right_terms(text)) if _is_labels(c, head)]
            sets.append(_set_of((groups, *labels), head))
    if plan.residual is not None:
        bar = plan.residual
        sets.append(_set_of((*bar.factors, *([] if bar.by is None else [bar.by])), head))
        if bar.coords and bar.kind not in POSITIONS:
            sets.append(_set_of(bar.coords, head))
    codes = [code for code in plan.read if code not in memories.states]
    sets += [_set_of((code,), head) for code in codes if _is_labels(code, head)]
    return _largest([*sets, *fixed_sets(plan, head, memories)])


def fixed_sets(plan: Plan, head: Namespace, memories: Memories) -> tuple[LabelSet, ...]:
    """Labels that meet in terms of the fixed part."""
    sets = []
    for term in plan.fixed:
        codes = [factor.code for factor in term.factors if factor.code not in memories.states]
        labels = tuple(code for code in codes if _is_labels(code, head))
        if labels:
            sets.append(_set_of(labels, head))
    return _largest(sets)


def _largest(sets: Sequence[LabelSet]) -> tuple[LabelSet, ...]:
    """Those that no other one contains."""
    names = {one: {*one.columns, *one.codes} for one in dict.fromkeys(sets)}
    return tuple(s for s in names if not any(names[s] < other for other in names.values()))


def _is_labels(code: str, head: Namespace) -> bool:
    plain = plain_column(code)
    if plain is not None and plain[0] in head.frame.columns:
        return bool(plain[1]) or kind_of(head.frame[plain[0]]) in (CATEGORIES, TEXT)
    return _gives_labels(head.evaluate(code))


def _set_of(crossed: tuple[str, ...], head: Namespace) -> LabelSet:
    columns, codes = [], []
    for code in crossed:
        plain = plain_column(code)
        if plain is not None and plain[0] in head.frame.columns:
            columns.append(plain[0])
        else:
            codes.append(code)
    return LabelSet(tuple(columns), tuple(codes))


def _gives_labels(value: Any) -> bool:
    if isinstance(value, pd.DataFrame):
        return False
    if getattr(value, "dtype", None) is None:
        return True
    column = value if isinstance(value, pd.Series) else pd.Series(np.asarray(value).ravel())
    return kind_of(column) not in (NUMBERS, "booleans")
