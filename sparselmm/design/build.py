"""Mixed models from formulas: statsmodels' arguments, lme4's bars, or both.

:func:`from_formula` and :func:`from_arrays` turn every spelling of a model into one
:class:`~sparselmm.design.terms.Design` and one :class:`DesignSpec` that evaluates it on new data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pandas as pd

from sparselmm.base.exceptions import DataError, FormulaError
from sparselmm.base.types import BoolArray, FloatArray
from sparselmm.design.built import BuiltDesign
from sparselmm.design.column_types import as_float, check_numeric, kinds_of
from sparselmm.design.formula import remembered
from sparselmm.design.formula.columns import (
    outside_in_order,
    take_columns,
    used_columns,
    used_columns_of,
)
from sparselmm.design.formula.contrasts import with_contrasts
from sparselmm.design.formula.expressions import names_in, plain_column
from sparselmm.design.formula.namespace import (
    Namespace,
    build,
    capture_env,
    categories_in,
    learn,
    with_r_names,
)
from sparselmm.design.formula.plan import BarTerm, Plan, read_formulas
from sparselmm.design.formula.positions import positions
from sparselmm.design.formula.remembered import INTERCEPT, DesignInfo, EvalEnvironment, Term
from sparselmm.design.formula.terms import codes_of, single_term
from sparselmm.design.formula.tokens import unquoted
from sparselmm.design.kinds.coded import GROUPS, coded_term, grouping
from sparselmm.design.kinds.components import component
from sparselmm.design.kinds.known import with_known
from sparselmm.design.kinds.matrices import Built
from sparselmm.design.kinds.residual import ResidualSpec, residual_rows
from sparselmm.design.residual import ResidualRows
from sparselmm.design.row_arguments import Given, group_crossing, make_grouping, rows_in_use
from sparselmm.design.sources.readers import Source, readable
from sparselmm.design.sources.recognised import mentioned, source_of
from sparselmm.design.spec import DesignSpec, GroupsSpec, as_frame, total
from sparselmm.design.terms import Design, Grouping, RandomTerm, Structure
from sparselmm.design.validate import (
    check_design,
    check_finite,
    check_missing_argument,
    check_names,
    check_some_rows,
    unknown_column,
)


def from_formula(
    formula: str, data: Any, *, groups: Any = None, re_formula: str | None = None,
    vc_formula: Mapping[str, str] | None = None, weights: Any = None, offset: Any = None,
    z_terms: Mapping[str, Any] | None = None, covariance: Mapping[str, Any] | None = None,
    subset: Any = None, missing: str = "none", env: EvalEnvironment | None = None,
    further: Mapping[str, str] | None = None, generalized: bool = False,
    residual: str | None = None, dispersion: str | None = None,
    contrasts: Mapping[str, Any] | None = None,
) -> BuiltDesign:  # fmt: skip
    """Build a design from a formula and a data frame; arguments as of `MixedLM.from_formula`.

    ``env`` holds variables besides the columns, see :func:`capture_env`; default the caller's.
    Bars follow lme4: ``(x||g)`` is ``(1|g) + (0+x|g)``, ``(1|a/b)`` is ``(1|b:a) + (1|a)``, and
    terms whose numbers of levels increase anywhere are put in decreasing order.

    Examples
    --------
    >>> import pandas as pd
    >>> data = pd.DataFrame({"y": [1.0, 2, 4, 5], "g": ["a", "a", "b", "b"]})
    >>> built = from_formula("y ~ 1 + (1 | g)", data)
    >>> built.design.Z.toarray().tolist()
    [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    """
    missing = check_missing_argument(missing)
    env = with_r_names(capture_env(1) if env is None else env)
    source = None if isinstance(data, pd.DataFrame) else source_of(data)
    frame = as_frame(data) if source is None else pd.DataFrame(columns=source.names)
    plan = read_formulas(formula, groups, re_formula, vc_formula, further or {}, frame.columns)
    plan = plan.with_residual(residual, dispersion, frame.columns)
    if source is not None:
        frame = _columns_read(source, plan, subset, [groups, weights, offset], env)
    check_some_rows(len(frame), len(frame), "")
    given = Given.of(frame, groups, weights, offset, z_terms)
    names, used_env = used_columns(plan.codes, frame, env)
    names += [name for name in given.columns if name not in names]
    rows, kept = rows_in_use(frame, names, given, subset, missing, env)
    if kept is not None:
        given = given.kept(kept)
    inner = frame if kept is None else frame[kept]
    found = {name: inner[name] for name in names}
    _check_response_column(plan.parsed.response, found)
    columns = with_contrasts(take_columns(found, names, plan.read), plan.read, contrasts)
    space = Namespace(inner, outside_in_order(used_env, inner.index), rows, columns, found)
    return assemble(plan, given, covariance, space, kept, generalized)


def _columns_read(
    source: Source, plan: Plan, subset: Any, named: Sequence[Any], env: EvalEnvironment
) -> pd.DataFrame:
    """Of a source that is read by columns those in use, once all are known to be there."""
    columns = columns_in_use(source, plan, subset, named, env)
    with readable(source.what):
        return source.frame(columns)


def columns_in_use(
    source: Source, plan: Plan, subset: Any, named: Sequence[Any], env: EvalEnvironment
) -> list[str]:
    """Columns of a source that a model reads, once all are known to be there.

    Parameters
    ----------
    plan : Plan
        Of the formulas.
    subset : Any
        As in ``from_formula``.
    named : sequence
        The arguments that may be columns: ``groups``, ``weights``, ``offset``.
    """
    head = pd.DataFrame(columns=source.names)
    used_columns(plan.codes, head, env)
    for name in named:
        if isinstance(name, str) and name not in source.names:
            raise unknown_column(name, head.columns, "groups=, weights= or offset=")
    names = mentioned(source.names, [*plan.codes, subset, *named, *plan.vc.values()])
    return names or source.names[:1]


def assemble(
    plan: Plan, given: Given, covariance: Mapping[str, Any] | None, space: Namespace,
    kept: BoolArray | None, generalized: bool, checked: bool = True,
) -> BuiltDesign:  # fmt: skip
    """The design of the rows in use, ``checked`` for what a fit needs of them."""
    matrices = _Matrices.of(plan, space)
    y, y_name = _response(plan.parsed.response, matrices, space)
    groups = None
    if given.groups is not None:
        groups = make_grouping(given.groups_name, given.groups, space.rows)
    offsets = [space.vector(code) for code in plan.parsed.offsets]
    offset = total(offsets if given.offset is None else [*offsets, given.offset])
    built = _group_terms(plan, groups, matrices, space) if groups is not None else []
    first = [term for term, _ in built if term.origin == "re"]
    bars = [_bar_term(bar, matrices, space) for bar in plan.bars]
    named = [(term, bar.factors) for (term, _), bar in zip(bars, plan.bars, strict=True)]
    _refuse_twins(named + [(term, (given.groups_column or GROUPS,)) for term in first])
    built += _named_apart(_lme4_order(bars), [term.name for term in first])
    built += [matrix.term(space.rows) for matrix in given.matrices]
    built = with_known(built, covariance)
    fixed = matrices.info(plan.fixed)
    X, x_names = matrices.values(plan.fixed), tuple(fixed.column_names)
    check_names(x_names, "columns of the fixed-effects design")
    terms = tuple(term for term, _ in built)
    residual, memory = _residual(plan, matrices, space, checked)
    design = Design(
        y=y, X=X, x_names=x_names, terms=terms, y_name=y_name, weights=given.weights,
        offset=offset, groups=groups, residual=residual,
    )  # fmt: skip
    if checked:
        check_design(design, space.rows, generalized)
    others = {name: matrices.values(terms) for name, terms in plan.further.items()}
    for name, values in others.items():
        columns = matrices.info(plan.further[name]).column_names
        check_finite(values, columns, f"{name}= column", space.rows)
    known = None
    if groups is not None:
        known = GroupsSpec(groups.name, given.groups_column, groups.labels)
    spec = DesignSpec(
        formula=plan.parsed.text, x_names=x_names, terms=tuple(memory for _, memory in built),
        groups=known, design_info=fixed, offsets=plan.parsed.offsets,
        offset_column=given.offset_column,
        offset_array=given.offset is not None and given.offset_column is None,
        categories=matrices.categories(space),
        kinds=kinds_of(space.as_given, used_columns_of(plan.read, space)), env=space.env,
        further={name: matrices.info(terms) for name, terms in plan.further.items()},
        residual=memory, states=space.states,
    )  # fmt: skip
    return BuiltDesign(design, spec, space.rows.labels(), kept, True, space.frame, others)


def _residual(
    plan: Plan, matrices: _Matrices, space: Namespace, checked: bool
) -> tuple[ResidualRows | None, ResidualSpec | None]:
    """Covariance structure of the residuals, and its memory."""
    if plan.residual is None and plan.dispersion is None:
        return None, None
    dispersion = None
    if plan.dispersion is not None:
        if not codes_of(plan.dispersion):
            raise DataError(
                "dispersion has no covariate; leave it out for equal variances, or write '~ x'"
            )
        dispersion = matrices.values(plan.dispersion), matrices.info(plan.dispersion)
    return residual_rows(plan.residual, dispersion, space, checked)


@dataclass(frozen=True, eq=False)
class _Matrices:
    """Designs built by patsy, one for each different right-hand side."""

    infos: dict[tuple[Term, ...], DesignInfo]
    built: dict[tuple[Term, ...], FloatArray]

    @classmethod
    def of(cls, plan: Plan, space: Namespace) -> _Matrices:
        wanted = [plan.fixed, plan.re, *(bar.terms for bar in plan.bars), *plan.further.values()]
        wanted.append(plan.dispersion or [])
        if plain_column(plan.parsed.response) is None:
            wanted.append(single_term(plan.parsed.response))
        keys = [tuple(terms) for terms in wanted[1:] if terms and terms != [INTERCEPT]]
        keys += [tuple(terms) for terms in plan.further.values()]
        keys = list(dict.fromkeys([tuple(plan.fixed), *keys]))
        infos = learn([list(key) for key in keys], space)
        return cls(
            dict(zip(keys, infos, strict=True)),
            dict(zip(keys, build(infos, space), strict=True)),
        )

    def info(self, terms: list[Term]) -> DesignInfo:
        return self.infos[tuple(terms)]

    def values(self, terms: list[Term]) -> FloatArray:
        return self.built[tuple(terms)]

    def categories(self, space: Namespace) -> dict[str, pd.Index]:
        """Labels of the factors among the columns these designs use."""
        codes = [code for info in self.infos.values() for code in remembered.expressions(info)]
        names = {name for code in codes for name in names_in(code)} & set(space.columns)
        return categories_in({name: space.columns[name] for name in names})


def _check_response_column(code: str, columns: Mapping[str, Any]) -> None:
    """Refuse a column that is no response before it is refused as a covariate."""
    name, wrapping = plain_column(code) or ("", "")
    column = columns.get(name) if wrapping == "" else None
    if isinstance(column, pd.Series):
        check_numeric(column, f"the response {name!r}")


def _response(code: str, matrices: _Matrices, space: Namespace) -> tuple[FloatArray, str]:
    plain = plain_column(code)
    if plain is not None and plain[1] == "":
        values = space.columns.get(plain[0])
        values = space.evaluate(code) if values is None else values
        check_numeric(values, f"the response {plain[0]!r}")
        return as_float(values), unquoted(code)
    if plain is not None:
        raise DataError(f"the response {code!r} is categorical; it must be numeric")
    terms = single_term(code)
    info, values = matrices.info(terms), matrices.values(terms)
    numbers = remembered.all_numerical(info)
    if not numbers or values.shape[1] != 1:
        raise DataError(
            f"the response {code!r} must give one numeric column; it is "
            + (
                f"{values.shape[1]} columns"
                if numbers
                else "categorical. Of a condition, 1 * (y > 0) makes zeros and ones"
            )
        )
    return values[:, 0], info.column_names[0]


def _group_terms(
    plan: Plan, groups: Grouping, matrices: _Matrices, space: Namespace
) -> list[Built]:
    """The ``re_formula`` term, then the components in the order of their sorted names."""
    built: list[Built] = []
    if plan.re:
        values, info, columns = _effects(plan.re, matrices, space, "re_formula column")
        named = tuple(name.replace("Intercept", groups.name) for name in columns)
        crossing = group_crossing(groups)
        built.append(
            coded_term(groups.name, "re", named, (groups.name,), (GROUPS,), crossing, values, info)
        )
    built += [component(name, text, groups, space) for name, text in plan.vc.items()]
    return built


def _effects(
    terms: list[Term], matrices: _Matrices, space: Namespace, kind: str
) -> tuple[FloatArray | None, DesignInfo | None, tuple[str, ...]]:
    """Covariates of a term, patsy's memory of them, and their names."""
    if terms == [INTERCEPT]:
        return None, None, ("Intercept",)
    values, info = matrices.values(terms), matrices.info(terms)
    check_finite(values, info.column_names, kind, space.rows)
    return values, info, tuple(info.column_names)


def _bar_term(bar: BarTerm, matrices: _Matrices, space: Namespace) -> Built:
    values, info, columns = _effects(bar.terms, matrices, space, f"{bar.text}: column")
    crossing = grouping(bar.factors, space)
    structure: Structure = bar.structure if len(columns) > 1 else "unstructured"
    place = None
    if "autoregressive" in structure and info is not None:
        place = positions(info, space, bar.text)
    names = tuple(map(unquoted, bar.factors))
    return coded_term(
        bar.name, "bar", columns, names, bar.factors, crossing, values, info, structure, place
    )


def _lme4_order(bars: list[Built]) -> list[Built]:
    """lme4's order: as written, or by decreasing number of levels (ties reversed)."""
    counts = [term.n_levels for term, _ in bars]
    if all(a >= b for a, b in pairwise(counts)):
        return bars
    order = sorted(range(len(bars)), key=lambda i: counts[i])
    return [bars[i] for i in reversed(order)]


def _named_apart(bars: list[Built], taken: list[str]) -> list[Built]:
    """Bars of one grouping told apart as lme4 does: ``g``, ``g.1``, ``g.2``."""
    seen = dict.fromkeys(taken, 1)
    out = []
    for term, memory in bars:
        count = seen.get(term.name, 0)
        seen[term.name] = count + 1
        if count:
            layout = replace(memory.layout, name=f"{term.name}.{count}")
            term = replace(term, name=layout.name)
            memory = replace(memory, layout=layout)
        out.append((term, memory))
    return out


def _refuse_twins(terms: list[tuple[RandomTerm, tuple[str, ...]]]) -> None:
    """Refuse two terms with the same effects of the same grouping factor."""
    seen = set()
    for term, factors in terms:
        columns = term.columns
        if term.origin == "re":
            columns = tuple(name.replace(term.name, "Intercept") for name in columns)
        if (frozenset(factors), columns) in seen:
            raise FormulaError(
                f"the random-effects term ({' + '.join(columns)}|{term.name}) occurs twice; its "
                "two variances cannot be told apart. Leave one out"
            )
        seen.add((frozenset(factors), columns))
