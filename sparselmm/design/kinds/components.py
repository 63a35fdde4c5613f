"""Variance components of ``vc_formula``: one formula per component, evaluated group by group.

The common forms ``1``, ``0 + C(a)``, ``0 + x``, ``0 + C(a):C(b):x`` give the same columns in
every group whatever the other groups hold, so they are built for all groups at once from integer
codes. Any other formula is evaluated by patsy on each group's rows.
"""

from __future__ import annotations

import ast
import types
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from sparselmm.base.exceptions import FormulaError, SpecificationWarning, warn_user
from sparselmm.base.types import CSR, AnyArray, BoolArray, IntArray, index_dtype
from sparselmm.design.exact_labels import label_index, objects
from sparselmm.design.factors import Crossing, Factor, cross, match
from sparselmm.design.formula import remembered
from sparselmm.design.formula.expressions import (
    names_in,
    parse_expression,
    plain_column,
    quoted_name,
)
from sparselmm.design.formula.namespace import (
    PATSY_NAMES,
    R_NAMES,
    Namespace,
    build,
    categorical,
    learn,
    rebuild,
    recoded,
)
from sparselmm.design.formula.remembered import DesignInfo, Term
from sparselmm.design.formula.terms import codes_of, right_terms
from sparselmm.design.formula.tokens import unquoted
from sparselmm.design.kinds.coded import GROUPS, CodedSpec, NewRows, TermSpec, coded_term, product
from sparselmm.design.levels import Levels
from sparselmm.design.rows import GroupRows
from sparselmm.design.terms import Grouping, RandomTerm, TermLayout
from sparselmm.design.validate import check_codes, check_finite, not_finite


def component(
    name: str, formula: str, groups: Grouping, space: Namespace
) -> tuple[RandomTerm, TermSpec]:
    """One variance component and its memory.

    Parameters
    ----------
    name : str
        Key in ``vc_formula``.
    formula : str
        Right side as :func:`~sparselmm.design.formula.bars.parse_one_sided` gives it.
    groups : Grouping
        The ``groups`` argument.
    space : Namespace
        Rows in use.

    Returns
    -------
    RandomTerm
        Coded for a common form, otherwise with a sparse ``block``.
    TermSpec
    """
    terms = right_terms(formula)
    if not terms:
        raise FormulaError(f"vc_formula[{name!r}] = {formula!r} has no columns; leave it out")
    common = _common_form(terms, space)
    if common is None:
        return _per_group(name, terms, groups, space)
    return _coded(name, common, groups, space)


@dataclass(frozen=True)
class CommonForm:
    """A single product of factors and numeric expressions.

    Attributes
    ----------
    factors, numbers : tuple of str
        Expressions of either kind.
    template : str
        patsy's column name with ``{}`` for each factor's label.
    """

    factors: tuple[str, ...]
    numbers: tuple[str, ...]
    template: str


def _common_form(terms: list[Term], space: Namespace) -> CommonForm | None:
    if len(terms) != 1:
        return None
    factors, numbers, pieces = [], [], []
    for code in codes_of(terms):
        shown = code.replace("{", "{{").replace("}", "}}")
        if _is_factor(code, space):
            factors.append(code)
            pieces.append(shown + "[{}]")
        elif _is_number(code, space):
            numbers.append(code)
            pieces.append(shown)
        else:
            return None
    return CommonForm(tuple(factors), tuple(numbers), ":".join(pieces) or "Intercept")


def _is_factor(code: str, space: Namespace) -> bool:
    """Whether an expression is a column read as labels: ``a`` or ``C(a)``."""
    plain = plain_column(code)
    if plain is None or plain[0] not in space.columns:
        return False
    column, wrapping = plain
    if wrapping == "":
        return not _is_numeric(space.columns[column])
    return wrapping != "coded" and _is_ours(wrapping, space)


def _is_numeric(column: pd.Series) -> bool:
    dtype = column.dtype
    return pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype)


def _is_ours(function: str, space: Namespace) -> bool:
    """Whether a name still means patsy's (or our) function."""
    if function in space.columns:
        return False
    ours = R_NAMES.get(function, PATSY_NAMES.get(function))
    return space.env.namespace.get(function, ours) is ours


def _is_number(code: str, space: Namespace) -> bool:
    """Whether an expression is a number per row that depends on that row alone."""
    if not any(name in space.columns for name in names_in(code)):
        return False
    if not _elementwise(parse_expression(code), space):
        return False
    value = space.evaluate(code)
    return np.ndim(value) == 1 and np.asarray(value).dtype.kind in "fiu"


def _elementwise(node: ast.expr, space: Namespace) -> bool:
    if isinstance(node, ast.BinOp):
        arithmetic = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)
        sides = (node.left, node.right)
        return isinstance(node.op, arithmetic) and all(_elementwise(s, space) for s in sides)
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, (ast.USub, ast.UAdd)) and _elementwise(node.operand, space)
    if isinstance(node, ast.Call) and (quoted := quoted_name(node)) is not None:
        return _is_numeric_name(quoted, space)
    if isinstance(node, ast.Call):
        safe = not node.keywords and _is_ufunc(node.func, space)
        return safe and all(_elementwise(argument, space) for argument in node.args)
    if isinstance(node, ast.Name):
        return _is_numeric_name(node.id, space)
    value = node.value if isinstance(node, ast.Constant) else _outside(node, space)
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_numeric_name(name: str, space: Namespace) -> bool:
    if name in space.columns:
        return _is_numeric(space.columns[name])
    value = space.env.namespace.get(name)
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_ufunc(node: ast.expr, space: Namespace) -> bool:
    if isinstance(node, ast.Name) and node.id == "I":
        return _is_ours("I", space)
    value = _outside(node, space)
    return isinstance(value, np.ufunc) and value.nout == 1 and value.signature is None


def _outside(node: ast.expr, space: Namespace) -> Any:
    """Value of a name, or of a module's attribute, that is no column; None otherwise."""
    if isinstance(node, ast.Name) and node.id not in space.columns:
        return space.env.namespace.get(node.id)
    if isinstance(node, ast.Attribute):
        module = _outside(node.value, space)
        if isinstance(module, types.ModuleType):
            return getattr(module, node.attr, None)
    return None


def _coded(
    name: str, form: CommonForm, groups: Grouping, space: Namespace
) -> tuple[RandomTerm, CodedSpec]:
    factors = []
    for code in form.factors:
        factor = space.factor(code)
        check_codes(factor.codes, code, f"vc_formula[{name!r}]: column", space.rows)
        factors.append(factor)
    crossing = cross([Factor(groups.codes, groups.labels), *factors])
    if factors and len(groups.labels) > 1:
        _warn_if_reused(name, form.factors, factors, crossing, groups)
    values = product(form.numbers, space) if form.numbers else None
    if values is not None:
        check_finite(values, [form.template], f"vc_formula[{name!r}]: column", space.rows)
    return coded_term(
        name,
        "vc",
        (form.template,),
        (groups.name, *form.factors),
        (GROUPS, *form.factors),
        crossing,
        values,
        form.numbers or None,
    )


def _warn_if_reused(
    name: str, codes: tuple[str, ...], factors: list[Factor], crossing: Crossing, groups: Grouping
) -> None:
    """Warn when labels occur in several groups: nested is fitted, crossed may be meant."""
    n_labels = len(cross(factors).table[0])
    n_levels = len(crossing.table[0])
    if n_levels == n_labels:
        return
    label, group = ":".join(map(unquoted, codes)), groups.name
    plain = [plain_column(code) for code in codes]
    bare = ":".join(found[0] if found else code for found, code in zip(plain, codes, strict=True))
    warn_user(
        f"vc_formula[{name!r}]: the {n_labels} labels of {label} occur in more than one group, and "
        f"are fitted as {n_levels} levels nested in {group} (label 'a' of one group is not label "
        "'a' of another). Nothing needs to change when that is meant. For effects shared by all "
        f"groups write crossed terms, '... + (1|{group}) + (1|{bare})', or pass a constant groups "
        "and one vc_formula entry per factor",
        SpecificationWarning,
    )


@dataclass(frozen=True, eq=False)
class PerGroupSpec(TermSpec):
    """Memory of a component that patsy evaluates group by group.

    Attributes
    ----------
    infos : dict
        Code of a group to patsy's memory of its columns.
    starts : ndarray of int, (n_groups + 1,)
        Columns ``starts[g]:starts[g + 1]`` of the block belong to group ``g``.
    """

    infos: dict[int, DesignInfo]
    starts: IntArray

    def codes_used(self) -> list[str]:
        """Expressions it evaluates on the data."""
        return list(
            dict.fromkeys(c for info in self.infos.values() for c in remembered.expressions(info))
        )

    def evaluate(self, new: NewRows) -> RandomTerm:
        """The component on new rows, columns matched by group and name."""
        assert new.space is not None and new.group_codes is not None
        pieces = []
        for group, rows in enumerate(GroupRows.of(new.group_codes, len(self.starts) - 1)):
            if not len(rows):
                continue
            info = self.infos[group]
            known = rows[_known_labels(info, new.space, rows)]
            if len(known):
                part = _recoded(info, _part(new.space, known, remembered.expressions(info)))
                matrix = rebuild(info, part)
                pieces.append((matrix, known, int(self.starts[group])))
        shape = (new.rows.n, int(self.starts[-1]))
        return self.layout.on_rows(block=stack_blocks(pieces, shape))


def _per_group(
    name: str, terms: list[Term], groups: Grouping, space: Namespace
) -> tuple[RandomTerm, PerGroupSpec]:
    codes = codes_of(terms)
    infos, pieces, labels, columns = {}, [], [], []
    starts = np.zeros(len(groups.labels) + 1, dtype=np.int64)
    for group, rows in enumerate(GroupRows.of(groups.codes, len(groups.labels))):
        if not len(rows):
            continue
        part = _part(space, rows, codes)
        (info,) = learn([terms], part)
        (matrix,) = build([info], part)
        infos[group] = info
        pieces.append((matrix, rows, int(starts[group])))
        starts[group + 1] = starts[group] + matrix.shape[1]
        columns.extend(info.column_names)
        labels.extend([group] * matrix.shape[1])
    levels = Levels((groups.name, name), (groups.labels[labels], np.array(columns, dtype=object)))
    layout = TermLayout(name=name, origin="vc", columns=("{}",), levels=levels)
    block = stack_blocks(pieces, (space.n, int(starts[-1])))
    _check_block(name, block, levels.parts[1], space)
    return layout.on_rows(block=block), PerGroupSpec(layout, infos, starts)


def _check_block(name: str, block: CSR, columns: AnyArray, space: Namespace) -> None:
    """Refuse infinite entries, naming the column of the first row that has one."""
    if np.isfinite(block.data).all():
        return
    entries = block.tocoo()
    bad = np.flatnonzero(~np.isfinite(entries.data))
    bad = bad[np.argsort(entries.row[bad], kind="stable")]
    first = columns[entries.col[bad[0]]]
    same = bad[columns[entries.col[bad]] == first]
    what = f"vc_formula[{name!r}]: column {first!r}"
    raise not_finite(entries.data[same], entries.row[same], what, space.rows)


def _part(space: Namespace, rows: IntArray, codes: list[str]) -> Namespace:
    """One group's rows, its Categoricals with the labels that occur there."""
    columns = {}
    for column in dict.fromkeys(name for code in codes for name in names_in(code)):
        if column not in space.columns:
            continue
        values = space.columns[column].iloc[rows]
        if isinstance(values.dtype, pd.CategoricalDtype):
            values = categorical(values)
        columns[column] = values
    return Namespace(space.frame.iloc[rows, :0], space.env, space.rows.part(rows), columns)


def _recoded(info: DesignInfo, part: Namespace) -> Namespace:
    """New rows with each factor's labels in the order the group had in the fit."""
    columns = dict(part.columns)
    for name, levels in remembered.factor_columns(info):
        columns[name] = recoded(columns[name], label_index(objects(levels)))
    return replace(part, columns=columns)


def _known_labels(info: DesignInfo, space: Namespace, rows: IntArray) -> BoolArray:
    """Rows whose labels the group had in the fit."""
    known = np.ones(len(rows), dtype=bool)
    for name, levels in remembered.factor_columns(info):
        labels = pd.Series(space.columns[name]).iloc[rows]
        known &= match(objects(levels), labels) >= 0
    return known


def stack_blocks(pieces: Sequence[tuple[Any, IntArray, int]], shape: tuple[int, int]) -> CSR:
    """Sparse (n, l) matrix of pieces ``(matrix, its rows, its first column)``."""
    row, column, data = [np.empty(0, int)], [np.empty(0, int)], [np.empty(0)]
    for matrix, rows, start in pieces:
        if sp.issparse(matrix):
            entries = matrix.tocoo()
            i, j, values = entries.row, entries.col, entries.data
        else:
            i, j = np.nonzero(matrix)
            values = matrix[i, j]
        row.append(rows[i])
        column.append(j + start)
        data.append(values)
    itype = index_dtype(max(*shape, sum(map(len, data))))
    where = tuple(np.concatenate(part).astype(itype, copy=False) for part in (row, column))
    return sp.csr_array((np.concatenate(data).astype(float, copy=False), where), shape=shape)
