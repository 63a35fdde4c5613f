"""The design that representatives stand for, and the rows of a partition as part of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.exceptions import (
    DataError,
    InputError,
    NoRandomEffectsError,
    SourceChangedError,
)
from sparselmm.base.types import AnyArray, FloatArray, IntArray
from sparselmm.design.build import assemble
from sparselmm.design.built import BuiltDesign, Cells, Numbers
from sparselmm.design.column_types import NUMBERS, as_float, check_numeric, kind_of
from sparselmm.design.factors import match
from sparselmm.design.formula.columns import take_columns
from sparselmm.design.formula.contrasts import with_contrasts
from sparselmm.design.formula.expressions import plain_column
from sparselmm.design.formula.memory import Memories
from sparselmm.design.formula.namespace import Namespace, learn
from sparselmm.design.formula.plan import Plan
from sparselmm.design.formula.terms import single_term
from sparselmm.design.passes.first import First, completed
from sparselmm.design.passes.reading import Reading, Taken, named
from sparselmm.design.row_arguments import Given, subset_mask
from sparselmm.design.rows import response
from sparselmm.design.sources.readers import Part
from sparselmm.design.spec import DesignSpec
from sparselmm.design.terms import Design, DesignLayout
from sparselmm.design.validate import (
    Rows,
    check_residual_weights,
    check_rows,
    check_some_rows,
)


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some rows as a design.

    Attributes
    ----------
    design : Design or None
        With the levels of all rows; None when no row is in use.
    group_counts : ndarray of int, (n_groups,), or None
        Rows of each group.
    read : int
        Rows read, those left out included.
    numbers : dict of str to Numbers
    cells : Cells or None
    """

    design: Design | None
    group_counts: IntArray | None
    read: int
    numbers: dict[str, Numbers]
    cells: Cells | None = None


@dataclass(frozen=True, eq=False)
class Recipe:
    """How the rows of a partition become a design; can be sent to other processes.

    Attributes
    ----------
    reading : Reading
    spec : DesignSpec
    template : DesignLayout
    response : str
        Expression of the response.
    response_spec : DesignSpec or None
        Memory of it, when it is more than a column.
    numbers : tuple of str
        Columns of numbers that the fixed part is made of.
    factors : dict of str to ndarray
        Levels of the columns that enter it as factors.
    """

    reading: Reading
    spec: DesignSpec
    template: DesignLayout
    response: str
    response_spec: DesignSpec | None
    numbers: tuple[str, ...]
    factors: dict[str, AnyArray]

    def chunks(self, part: Part) -> Iterator[Chunk]:
        """The rows of a partition as designs, those of a few at a time."""
        for taken in self.reading.taken(part):
            with named(part.label):
                if len(taken.frame):
                    design, counts = self.of(taken)
                    numbers = {n: Numbers.of(as_float(taken.frame[n])) for n in self.numbers}
                    cells = self._cells(taken, numbers)
                    yield Chunk(design, counts, taken.read, numbers, cells)
                else:
                    yield Chunk(None, None, taken.read, {})

    def of(self, taken: Taken, checked: bool = True) -> tuple[Design, IntArray | None]:
        """Some rows as a design, ``checked`` for what a fit can use, and the rows of each group."""
        frame, memory, rows = taken.frame, self.spec.groups, taken.rows
        try:
            new = self.spec.evaluate(frame, groups=taken.groups)
        except InputError as error:
            if "has not seen" in str(error):
                raise SourceChangedError(
                    f"the rows are others than in the first pass: {error}"
                ) from error
            raise
        for term in new.terms:
            if term.codes is not None and (term.codes < 0).any():
                raise SourceChangedError(
                    f"{term.name!r} has a level that did not occur in the first pass; the rows "
                    "must be the same whenever they are read"
                )
        design = Design(
            y=self._response(frame, rows), X=new.X, x_names=self.template.x_names,
            terms=new.terms, y_name=self.template.y_name, weights=taken.weights, offset=new.offset,
        )  # fmt: skip
        if checked:
            check_rows(design, rows)
        counts = None
        if memory is not None:
            counts = np.bincount(match(memory.labels, taken.groups), minlength=len(memory.labels))
        return design, counts

    def _cells(self, taken: Taken, numbers: Mapping[str, Numbers]) -> Cells | None:
        frame = taken.frame
        codes = {name: match(levels, frame[name]) for name, levels in self.factors.items()}
        few = [name for name, one in numbers.items() if one.few]
        return Cells.of(codes, {name: as_float(frame[name]) for name in few}, taken.weights)

    def grouped(self, taken: Taken) -> Design:
        """Some rows as a design without offset, with the structure of their residuals."""
        design, _ = self.of(taken)
        memory, rows = self.spec.residual, taken.rows
        assert memory is not None
        residual = self.spec.residual_rows(taken.frame, every_visit=True)
        bar = memory.bar
        if bar is None:
            residual = replace(residual, group=np.arange(design.n))
        if (residual.group < 0).any():
            raise SourceChangedError(
                f"{residual.group_name!r} has a level that did not occur in the first pass; the "
                "rows must be the same whenever they are read"
            )
        if bar is not None and not bar.coords:  # in any order
            residual = replace(residual, coords=np.zeros((design.n, 1)))
        elif bar is not None and not memory.visits_count:
            residual = replace(residual, visits=np.zeros_like(residual.visits))
        design = replace(design, y=response(design), offset=None, residual=residual)
        check_residual_weights(design, rows)
        return design

    def with_residual(self, taken: Taken) -> Design:
        """Some rows as a design that has the structure of their residuals, where there is one."""
        design, _ = self.of(taken)
        if self.spec.residual is None:
            return design
        return replace(design, residual=self.spec.residual_rows(taken.frame, every_visit=True))

    def again(self, frame: pd.DataFrame) -> Taken:
        """Rows that were taken before."""
        how = self.reading
        given = Given.of(frame, how.groups, how.weights, how.offset, None)
        return Taken(frame, given.groups, given.weights, len(frame), Rows(len(frame), frame.index))

    def sampled(self, sample: pd.DataFrame) -> Design:
        """Rows of the sample as a design; where they are bad, the second pass says so."""
        return self.of(self.again(sample), checked=False)[0]

    def _response(self, frame: pd.DataFrame, rows: Rows) -> FloatArray:
        plain = plain_column(self.response)
        if plain is not None and plain[0] in frame.columns:
            check_numeric(frame[plain[0]], f"the response {plain[0]!r}")
            return as_float(frame[plain[0]])
        assert self.response_spec is not None
        X: FloatArray = self.response_spec.evaluate(frame, random=False).X
        return X[:, 0]


def recipe_of(
    plan: Plan,
    reading: Reading,
    first: First,
    memories: Memories,
    covariance: Mapping[str, Any] | None,
    contrasts: Mapping[str, Any] | None,
) -> tuple[BuiltDesign, Recipe, pd.DataFrame]:
    """The built design without rows, the recipe of its rows, and the sample.

    Parameters
    ----------
    plan : Plan
        Of the formulas.
    reading : Reading
    first : First
        What the first pass learned of all partitions.
    memories : Memories
        Finished.
    covariance, contrasts : mapping or None
        As in ``from_formula``.

    Raises
    ------
    DataError
        When no rows are left, or an expression depends on other rows than its own.
    """
    read, used = np.sum(first.counts, axis=0)
    step = "missing='drop'" if reading.missing == "drop" else "subset"
    check_some_rows(int(used), int(read), step)
    assert first.rows is not None and first.sample is not None
    frame = completed(first)
    given = Given.of(frame, reading.groups, reading.weights, reading.offset, None)
    columns = take_columns(frame, reading.names, plan.read)
    columns = with_contrasts(columns, plan.read, contrasts)
    space = Namespace(frame, reading.env, Rows(len(frame)), columns)
    with memories.at_hand():
        built = assemble(plan, given, covariance, space, None, False, checked=False)
        response = _response_spec(plan, space, built.spec)
    if not built.layout.terms and built.layout.residual is None:
        raise NoRandomEffectsError(
            "the model has no random effects; add a term such as '+ (1|g)' or groups="
        )
    bare = built.without_rows()
    spec = built.spec
    numbers = tuple(
        name
        for name in spec.fixed_variables()
        if name in frame and spec.factor_levels(name) is None and kind_of(frame[name]) == NUMBERS
    )
    factors = {
        name: np.asarray(levels, dtype=object)
        for name in spec.fixed_variables()
        if name in frame and (levels := spec.factor_levels(name)) is not None
    }
    recipe = Recipe(reading, spec, bare.layout, plan.parsed.response, response, numbers, factors)
    _check_by_row(recipe, first.sample, reading)
    return bare, recipe, first.sample


def _response_spec(plan: Plan, space: Namespace, spec: DesignSpec) -> DesignSpec | None:
    """The response as a design of one column, when it is more than a column of the data."""
    code = plan.parsed.response
    if plain_column(code) is not None:
        return None
    (info,) = learn([single_term(code)], space)
    return replace(
        spec, design_info=info, terms=(), groups=None, offsets=(), offset_column=None, further={},
        x_names=tuple(info.column_names),
    )  # fmt: skip


def _check_by_row(recipe: Recipe, sample: pd.DataFrame, reading: Reading) -> None:
    """Refuse expressions whose value in a row depends on other rows, such as ``x - x.mean()``."""
    if len(sample) < 2:
        return
    if reading.subset is not None and not subset_mask(sample, reading.subset, reading.env).all():
        raise _other_rows(f"subset={reading.subset!r}", "the arguments")
    half = len(sample) // 2
    whole = recipe.sampled(sample)
    halves = [part.reset_index(drop=True) for part in (sample.iloc[:half], sample.iloc[half:])]
    parts = [recipe.sampled(part) for part in halves]
    checks = [("the response", whole.y[:, None], [p.y[:, None] for p in parts], [whole.y_name])]
    checks.append(("the formula", whole.X, [p.X for p in parts], list(whole.x_names)))
    if whole.offset is not None:
        offsets = [np.zeros(0) if p.offset is None else p.offset for p in parts]
        checks.append(("offset", whole.offset[:, None], [o[:, None] for o in offsets], ["offset"]))
    if recipe.spec.residual is not None:
        memory = recipe.spec.residual
        names = [*memory.template.d_names, *(() if memory.bar is None else memory.bar.coords)]
        own, *others = (_residual_columns(recipe, part) for part in (sample, *halves))
        checks.append(("residual= or dispersion=", own, others, names))
    for t, term in enumerate(whole.terms):
        if term.values is not None:
            pieces = [p for part in parts if (p := part.terms[t].values) is not None]
            checks.append((term.name, term.values, pieces, list(term.columns)))
    for place, values, pieces, names in checks:
        together = np.vstack(pieces)
        for j, name in enumerate(names):
            if not np.allclose(values[:, j], together[:, j], rtol=1e-9, atol=0.0, equal_nan=True):
                raise _other_rows(repr(name), place)


def _residual_columns(recipe: Recipe, frame: pd.DataFrame) -> FloatArray:
    rows, memory = recipe.spec.residual_rows(frame), recipe.spec.residual
    assert memory is not None
    own = memory.bar is not None and len(memory.bar.coords) > 0
    return np.hstack([rows.D, rows.coords]) if own else rows.D


def _other_rows(what: str, place: str) -> DataError:
    return DataError(
        f"{what} of {place} depends on other rows than its own (a mean, a rank, a difference from "
        "the row before), and the rows are read in partitions; use center() or standardize(), make "
        "the column beforehand, or pass keep_rows=True"
    )
