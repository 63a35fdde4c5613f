"""Arithmetic on whole numbers that cannot overflow in silence, and comparisons with NaN.

NumPy's integers wrap around: 200 * 200 is 64 as uint8, and a time in seconds cubed leaves int64.
Columns come in 64 bits; here ``+ - * **``, unary minus and the functions that add and multiply
are replaced by ones that give floats where the whole numbers would not be right. Anything exact,
such as labels made with ``//`` or ``%``, stays whole.

``x > 0`` is False where x is NaN. Here comparisons of a missing value, and what ``np.where`` makes
of them, are missing, as in R.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.types import BoolArray
from sparselmm.design.column_types import wide
from sparselmm.design.formula.expressions import parse_expression, too_long

_PREFIX = "_sparselmm_"
_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.USub: operator.neg,
}
_COMPARISONS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ORDERINGS = frozenset(
    ("lt", "le", "gt", "ge", "eq", "ne", "between", "less", "less_equal", "greater",
     "greater_equal", "equal", "not_equal")
)  # fmt: skip
_UFUNCS = frozenset(
    ("add", "subtract", "multiply", "power", "square", "negative", "absolute", "left_shift")
)
_SUMS = frozenset(
    ("sum", "prod", "cumsum", "cumprod", "nansum", "nanprod", "nancumsum", "nancumprod", "diff",
     "ediff1d", "vander", "polyval", "dot", "outer", "convolve")
)  # fmt: skip
_METHODS = _SUMS | frozenset(
    ("add", "radd", "sub", "subtract", "rsub", "mul", "multiply", "rmul", "pow", "rpow", "abs")
)


def _call(function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """The function of whole numbers, of floats where the result does not fit."""
    if not any(map(_is_whole, args)):
        return function(*args, **keywords)
    args = tuple(map(_wide, args))
    try:
        with np.errstate(all="ignore"):
            out = function(*args, **keywords)
    except (ValueError, OverflowError):  # a negative power, an integer beyond 64 bits
        return function(*map(_real, args), **keywords)
    if getattr(getattr(out, "dtype", None), "kind", "") not in "iu" or not np.size(out):
        return out
    try:
        real = function(*map(_real, args), **keywords)
    except TypeError:  # floats have no bits to shift
        real = _call(operator.mul, args[0], 2 ** _real(args[1]))
    limits, found = np.iinfo(out.dtype), np.asarray(real, dtype=float)
    fits = found.min() >= float(limits.min) and found.max() < float(limits.max)
    return out if fits else real


def _is_whole(value: Any) -> bool:
    return isinstance(getattr(value, "dtype", None), np.dtype) and value.dtype.kind in "iub"


def _wide(value: Any) -> Any:
    if not _is_whole(value):
        return value
    values = np.asarray(value)
    values = values.astype(np.int64) if values.dtype == bool else wide(values)
    return pd.Series(values, index=value.index) if isinstance(value, pd.Series) else values[()]


def _real(value: Any) -> Any:
    if isinstance(value, int):
        return float(value)
    return value.astype(np.float64) if _is_whole(value) else value


def _compared(function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """A comparison, missing where one of the columns is."""
    out = function(*args, **keywords)
    dtype = getattr(out, "dtype", None)
    if not isinstance(dtype, np.dtype) or dtype.kind != "b" or np.ndim(out) != 1:
        return out
    absent = np.any([_absent(value, len(out)) for value in args], axis=0)
    if not absent.any():
        return out
    values = pd.arrays.BooleanArray(np.asarray(out), absent)
    return pd.Series(values, index=out.index) if isinstance(out, pd.Series) else values


def _absent(value: Any, n: int) -> BoolArray:
    column = hasattr(value, "dtype") and np.shape(value) == (n,)
    return np.asarray(pd.isna(value)) if column else np.zeros(n, dtype=bool)


def _where(function: Callable[..., Any], condition: Any, *args: Any, **keywords: Any) -> Any:
    """``np.where``, missing where the condition is."""
    absent = _absent(condition, len(condition)) if np.ndim(condition) == 1 else np.zeros(0, bool)
    if not absent.any() or not args:
        return function(condition, *args, **keywords)
    values = np.asarray(condition, dtype=object)
    out = np.asarray(function(np.where(absent, False, values).astype(bool), *args, **keywords))
    numbers = out.dtype.kind in "fiu"
    out = out.astype(np.float64 if numbers else object)
    out[absent] = np.nan if numbers else None
    return out


def _guarded(function: Any) -> Any:
    """A function that adds or multiplies, made safe; any other as it is."""
    if function is np.where:
        return partial(_where, function)
    name = getattr(function, "__name__", "")
    owner = getattr(function, "__self__", None)
    if name in _ORDERINGS and isinstance(function, np.ufunc):
        return partial(_compared, function)
    if name in _ORDERINGS and isinstance(owner, pd.Series):
        return partial(_compared, lambda it, *args, **k: getattr(it, name)(*args, **k), owner)
    if isinstance(function, np.ufunc):
        return partial(_call, function) if name in _UFUNCS else function
    if isinstance(owner, (pd.Series, np.ndarray)) and name in _METHODS:
        return partial(_call, lambda it, *args, **k: getattr(it, name)(*args, **k), owner)
    numpy = str(getattr(function, "__module__", "")).partition(".")[0] == "numpy"
    return partial(_call, function) if numpy and name in _SUMS else function


GUARDS: Mapping[str, Any] = {
    _PREFIX + "function": _guarded,
    **{_PREFIX + kind.__name__: partial(_call, f) for kind, f in _OPERATORS.items()},
    **{_PREFIX + kind.__name__: partial(_compared, f) for kind, f in _COMPARISONS.items()},
}
"""What expressions made by :func:`guarded` call."""


@lru_cache(maxsize=1024)
def guarded(code: str) -> str:
    """An expression with its arithmetic replaced by functions of `GUARDS`."""
    if isinstance(parse_expression(code), ast.Name):
        return code
    try:
        return ast.unparse(_Guard().visit(ast.parse(code, mode="eval")))
    except RecursionError as error:
        raise too_long(code) from error


class _Guard(ast.NodeTransformer):
    """Rewrites an expression; scopes of their own, which cannot see our functions, stay."""

    def visit_Lambda(self, node: ast.AST) -> ast.AST:
        return node

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_Lambda

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        constant = isinstance(node.left, ast.Constant) and isinstance(node.right, ast.Constant)
        self.generic_visit(node)
        return node if constant else _replaced(node, node.op, [node.left, node.right])

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        constant = isinstance(node.operand, ast.Constant)
        self.generic_visit(node)
        return node if constant else _replaced(node, node.op, [node.operand])

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) > 1:
            return node
        return _replaced(node, node.ops[0], [node.left, node.comparators[0]])

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        node.func = ast.Call(ast.Name(_PREFIX + "function", ast.Load()), [node.func], [])
        return node


def _replaced(node: ast.expr, op: ast.AST, operands: list[ast.expr]) -> ast.expr:
    if type(op) not in _OPERATORS | _COMPARISONS:
        return node
    return ast.Call(ast.Name(_PREFIX + type(op).__name__, ast.Load()), operands, [])
