"""A linear model of rows that are read in partitions: two passes, then no rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_choice, check_count, check_flag
from sparselmm.base.exceptions import ArgumentError, DataError, SourceChangedError
from sparselmm.base.workers import check_client
from sparselmm.design.build import columns_in_use
from sparselmm.design.built import BuiltDesign, Streamed
from sparselmm.design.column_types import CATEGORIES, TEXT, kind_of
from sparselmm.design.formula.columns import take_columns, used_columns
from sparselmm.design.formula.expressions import names_in, plain_column
from sparselmm.design.formula.memory import Memories
from sparselmm.design.formula.namespace import Namespace, with_r_names
from sparselmm.design.formula.plan import Plan, read_formulas
from sparselmm.design.formula.remembered import EvalEnvironment
from sparselmm.design.passes.first import (
    First,
    FirstPass,
    fixed_sets,
    label_columns,
    label_sets,
    shown,
)
from sparselmm.design.passes.groups import GroupPass
from sparselmm.design.passes.held import LABEL_CHUNKS, holding
from sparselmm.design.passes.learned import Recipe, recipe_of
from sparselmm.design.passes.reading import Reading, whole
from sparselmm.design.passes.runs import Runner
from sparselmm.design.sources.arrow import joined
from sparselmm.design.sources.readers import Part, Source, readable
from sparselmm.design.sources.recognised import source_of
from sparselmm.design.terms import Design
from sparselmm.design.validate import Rows, check_missing_argument, check_some_rows, check_term
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.partitions import (
    Accumulator,
    Finished,
    Products,
    Provisional,
    added,
    finished,
)

CHUNK_ROWS = 262_144
"""Rows read at a time."""

KEEP_ROWS = ("auto", True, False)

MOST_SAMPLED = 5
"""Partitions that the sample is taken from, where only labels are read of the others."""

MOST_PASSES = 4
"""Times the products are formed at most, each in a better basis."""


@dataclass(frozen=True, eq=False)
class Partitioned:
    """A source whose rows are not kept.

    Attributes
    ----------
    source : Source
    plan : Plan
        Of the formulas.
    columns : list of str
        Columns to read.
    rows : int
        Rows at a time.
    """

    source: Source
    plan: Plan
    columns: list[str]
    rows: int


def partitioned(
    formula: str, data: Any, arguments: Mapping[str, Any], env: EvalEnvironment,
    chunk_rows: Any, keep_rows: Any,
) -> Partitioned | pd.DataFrame | None:  # fmt: skip
    """Data whose rows shall not be kept; a frame of those that fit one chunk; None for others.

    Parameters
    ----------
    formula : str
    data : Any
        As in ``from_formula``.
    arguments : mapping
        Its other arguments.
    env : EvalEnvironment
    chunk_rows, keep_rows
        As in ``from_formula``.
    """
    rows = check_count(chunk_rows, "chunk_rows", least=1)
    if not isinstance(keep_rows, (bool, np.bool_)):
        keep_rows = check_choice(keep_rows, "keep_rows", KEEP_ROWS)
    if arguments["progress"] is not None:
        check_flag(arguments["progress"], "progress")
    if arguments["client"] is not None:
        if keep_rows is True:
            raise ArgumentError(
                "client= shares the passes over rows that are not kept; leave out keep_rows=True"
            )
        check_client(arguments["client"])
        keep_rows = False
    if keep_rows is True:
        return None
    if keep_rows == "auto" and isinstance(data, pd.DataFrame):
        return None
    source = source_of(data)
    if source is None or (keep_rows == "auto" and source.in_memory):
        if keep_rows is False:
            raise ArgumentError(
                "keep_rows=False needs data that can be read in partitions, such as a data frame, "
                f"files, or a function that returns frames; got {type(data).__name__}"
            )
        return None
    plan = read_formulas(
        formula, arguments["groups"], arguments["re_formula"], arguments["vc_formula"], {},
        source.names,
    )  # fmt: skip
    plan = plan.with_residual(arguments["residual"], arguments["dispersion"], source.names)
    named = [arguments[name] for name in ("groups", "weights", "offset")]
    columns = columns_in_use(source, plan, arguments["subset"], named, with_r_names(env))
    if keep_rows == "auto":
        few = _few(source, columns, rows)
        if few is not None:
            return few
    return Partitioned(source, plan, columns, rows)


def _few(source: Source, columns: list[str], rows: int) -> pd.DataFrame | None:
    """All rows, when they are no more than one chunk."""
    frames, count = [], 0
    for part in source.parts(rows, columns):
        with readable(part.label):
            for frame in part.frames(columns, rows + 1):
                count += len(frame)
                frames.append(frame)
                if count > rows:
                    return None
    return joined(frames, source.what) if frames else source.frame(columns)


def build_partitioned(
    given: Partitioned, arguments: Mapping[str, Any], env: EvalEnvironment, runner: Runner
) -> tuple[BuiltDesign, CrossProducts]:
    """The built design without rows, and its cross-products.

    Parameters
    ----------
    given : Partitioned
    arguments : mapping
        Those of ``from_formula``.
    env : EvalEnvironment
        Variables besides the columns.
    runner : Runner
        Where the partitions are worked on.

    Raises
    ------
    DataError
        When an argument or the formula needs rows that are not kept; the message names it.
    SourceChangedError
        When the second pass reads other rows than the first.
    """
    plan = given.plan
    _refuse(arguments)
    check_missing_argument(arguments["missing"])
    names, used_env = used_columns(
        plan.codes, pd.DataFrame(columns=given.source.names), with_r_names(env)
    )
    groups, weights, offset = (
        whole(arguments[name], name) for name in ("groups", "weights", "offset")
    )
    named = (groups, weights, offset)
    names += [name for name in named if name is not None and name not in names]
    subset = whole(arguments["subset"], "subset")
    reading = Reading(
        given.columns, names, groups, weights, offset, subset, arguments["missing"],
        _env_of(used_env, with_r_names(env), subset), given.rows,
    )  # fmt: skip
    parts = given.source.parts(given.rows, given.columns)
    first, memories, some, parts = _learn(plan, reading, parts, runner)
    built, recipe, sample = recipe_of(
        plan, reading, first, memories, arguments["covariance"], arguments["contrasts"]
    )
    used = sum(count for _, count in first.counts)
    for term in built.layout.terms:
        check_term(term, used, reading.weights is not None)
    total, done = _multiply(recipe, sample, first, parts, runner)
    cross = done.cross
    assert cross is not None
    layout = replace(built.layout, sums=done.sums)
    grouped = _group(recipe, first, parts, runner)
    streamed = _streamed(total, cross, recipe, some, grouped)
    return replace(built, layout=layout, streamed=streamed), cross


def _env_of(used: EvalEnvironment, env: EvalEnvironment, subset: str | None) -> EvalEnvironment:
    """The variables in use, those of a query (``@name``) among them."""
    known = env.namespace
    wanted = [name for name in re.findall(r"@(\w+)", subset or "") if name in known]
    return used.with_outer_namespace({name: known[name] for name in wanted}) if wanted else used


def _refuse(arguments: Mapping[str, Any]) -> None:
    if arguments["z_terms"] is not None:
        raise DataError(
            "z_terms are as long as the data, and the rows are read in partitions; pass "
            "keep_rows=True"
        )


def _labels_alone(
    plan: Plan, reading: Reading, head: pd.DataFrame
) -> tuple[frozenset[str], frozenset[str]]:
    """Columns of text, and of categories, that are grouping factors and nothing else."""
    used = {name for code in plan.read for name in names_in(code)}
    found = {plain_column(code) for bar in plan.bars for code in bar.factors}
    names = {plain[0] for plain in found if plain and not plain[1]} & {*head.columns} - used
    if reading.subset is not None or plan.residual is not None:
        names = set()
    kinds = {name: kind_of(head[name]) for name in names}
    text, categories = (
        frozenset(n for n in names if kinds[n] == kind) for kind in (TEXT, CATEGORIES)
    )
    return text, categories


def _learn(
    plan: Plan, reading: Reading, parts: Sequence[Part], runner: Runner
) -> tuple[First, Memories, pd.DataFrame, Sequence[Part]]:
    """The first pass, and those that transforms of transforms need; rows for the fixed part.

    The partitions are returned with what they hold of the labels.
    """
    head = _head(reading, parts)
    text, dictionaries = _labels_alone(plan, reading, head)
    parts = holding(parts, text, dictionaries, reading.rows)
    space = Namespace(
        head, reading.env, Rows(len(head), head.index),
        take_columns(head, reading.names, plan.read),
    )  # fmt: skip
    memories = Memories.of(plan.read, reading.env)
    sets = label_sets(plan, reading.groups, space, memories)
    learn = _quick(FirstPass(reading, sets, memories, text=text), plan, parts)
    first = learn.read_back(runner.run(learn, parts, learn.merge, "first pass"))
    memories.finish(first.memory, space.columns)
    for step in range(1, memories.passes):
        more = replace(learn, step=step)
        seen = runner.run(more, parts, more.merge, f"pass {step + 1} of the transforms")
        _check_same(first.counts, seen.counts, parts)
        memories.finish(seen.memory, space.columns)
    some = (
        pd.DataFrame()
        if first.rows is None
        else shown(first, learn, fixed_sets(plan, space, memories))
    )
    return first, memories, some, parts


def _quick(learn: FirstPass, plan: Plan, parts: Sequence[Part]) -> FirstPass:
    """The first pass, only labels read of most partitions where nothing else matters there."""
    reading = learn.reading
    labels = label_columns(learn.sets, reading.columns)
    mixed = [
        code for code in plan.read if plain_column(code) is None and {*names_in(code)} & {*labels}
    ]
    everything = reading.missing == "drop" or reading.subset is not None or learn.memories.states
    if everything or mixed or len(parts) <= MOST_SAMPLED:
        return learn
    names = [name for name in reading.names if name in labels]
    few = replace(
        reading, columns=labels, names=names, weights=None, offset=None,
        rows=LABEL_CHUNKS * reading.rows,
    )  # fmt: skip
    at = np.linspace(0, len(parts) - 1, MOST_SAMPLED).astype(int)
    return replace(learn, labels_only=few, sampled=frozenset(parts[i].label for i in at))


def _head(reading: Reading, parts: Sequence[Part]) -> pd.DataFrame:
    """Some rows in use."""
    read = 0
    for part in parts:
        for taken in reading.taken(part):
            read += taken.read
            if len(taken.frame):
                return taken.frame
    step = "missing='drop'" if reading.missing == "drop" else "subset"
    check_some_rows(0, read, step)
    raise AssertionError


@dataclass(frozen=True, eq=False)
class SecondPass:
    """Products of a partition."""

    recipe: Recipe
    provisional: Provisional

    def reading_of(self, part: Part) -> Reading:
        """How the rows of a partition are taken."""
        return self.recipe.reading

    def __call__(self, part: Part) -> Products:
        """Products of its rows."""
        sums = Accumulator(self.recipe.template, self.provisional)
        for chunk in self.recipe.chunks(part):
            sums.add(chunk.design, chunk.group_counts, chunk.read, chunk.numbers, chunk.cells)
        return sums.result()


def _multiply(
    recipe: Recipe, sample: pd.DataFrame, first: First, parts: Sequence[Part], runner: Runner
) -> tuple[Products, Finished]:
    """The second pass; again in a better basis where that of the sample loses digits."""
    provisional = Provisional.of(recipe.sampled(sample))
    for number in range(2, 2 + MOST_PASSES):
        total = runner.run(SecondPass(recipe, provisional), parts, added, f"pass {number}")
        _check_same(first.counts, total.counts, parts)
        _check_total(total, recipe)
        done: Finished = finished(total, provisional, recipe.template)
        if done.cross is not None:
            return total, done
        provisional = done.again
    raise DataError(
        "the columns of the fixed effects are too nearly dependent for products of partitions; "
        "centre or rescale the covariates, or pass keep_rows=True"
    )


def _group(recipe: Recipe, first: First, parts: Sequence[Part], runner: Runner) -> Design | None:
    """Another pass where residuals depend on each other: their groups, those alike added up."""
    if recipe.spec.residual is None:
        return None
    step = GroupPass(recipe)
    found = runner.run(step, parts, step.merge, "pass of the groups")
    _check_same(first.counts, found.counts, parts)
    return step.finish(found)


def _check_same(
    first: tuple[tuple[int, int], ...], now: tuple[tuple[int, int], ...], parts: Sequence[Part]
) -> None:
    """Refuse rows that were others before."""
    for before, after, part in zip(first, now, parts, strict=True):
        if before != after:
            raise SourceChangedError(
                f"{part.label} had {before[0]} rows ({before[1]} in use) in the first pass and has "
                f"{after[0]} ({after[1]} in use) now; the data must not change while they are read"
            )


def _check_total(total: Products, recipe: Recipe) -> None:
    if not total.n:
        raise DataError("all weights are zero; at least some rows must count")
    constant = recipe.reading.offset is None and not recipe.spec.offsets
    if constant and total.low == total.high:
        raise DataError(
            f"the response {recipe.template.y_name!r} is constant ({total.low:g} in all "
            f"{sum(used for _, used in total.counts)} rows); there is no variation to explain"
        )


def _streamed(
    total: Products, cross: CrossProducts, recipe: Recipe, some: pd.DataFrame,
    grouped: Design | None,
) -> Streamed:  # fmt: skip
    counted = []
    for t in range(len(cross.sizes)):
        pair = cross.pairs[t, t]
        rows = np.abs(pair.data).sum(axis=(1, 2)) > 0
        counted.append(int((rows & (pair.rows == pair.cols)).sum()))
    return Streamed(
        n=sum(used for _, used in total.counts), group_sizes=total.groups,
        k_constant=int((np.nan_to_num(total.constant) != 0).any()), counted_levels=tuple(counted),
        n_counted=total.n, weighted=recipe.reading.weights is not None, recipe=recipe,
        shown=some, numbers=total.numbers, cells=total.cells, grouped=grouped,
    )  # fmt: skip
