"""What a formula's Python expressions look up, read from their syntax alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from functools import lru_cache

from sparselmm.base.exceptions import FormulaError

_FACTOR_CALLS = ("C", "factor")


@lru_cache(maxsize=1024)
def parse_expression(code: str) -> ast.expr:
    """Syntax tree of one Python expression."""
    try:
        return ast.parse(code, mode="eval").body
    except SyntaxError as error:
        raise FormulaError(
            f"cannot read {code!r} in the formula: {error.msg}{_hint(code)}"
        ) from error
    except (RecursionError, MemoryError) as error:  # the parser's stack
        raise too_long(code) from error
    except ValueError as error:  # a null byte
        raise FormulaError(f"cannot read {code!r} in the formula: {error}") from error


def _hint(code: str) -> str:
    """What to write for names of R that Python reads as its own words."""
    if code.strip() == ".":
        return "; write the names of the columns"
    found = re.search(r"\b(?:as|is)\.\w+", code)
    return "" if found is None else f"; {found[0]!r} is R's: make the column beforehand"


def too_long(code: str) -> FormulaError:
    """The error for an expression that Python's parser cannot take in."""
    return FormulaError(
        f"{code[:40]!r}... is too long or too deeply nested an expression; make it a column of the "
        "data"
    )


@lru_cache(maxsize=1024)
def functions_in(code: str) -> tuple[str, ...]:
    """Names that an expression only calls: ``log`` of ``log(x)``; a column may have that name."""
    tree = parse_expression(code)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    variables = {node.id for node in names if id(node) not in called} | _bound(tree)
    return tuple(dict.fromkeys(node.id for node in names if node.id not in variables))


@lru_cache(maxsize=1024)
def names_in(code: str) -> tuple[str, ...]:
    """Variables an expression looks up, ``Q("a b")`` counted as ``a b``.

    Names that are only called are left to `functions_in`.
    """
    tree = parse_expression(code)
    others = _bound(tree).union(functions_in(code))
    names: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id not in others:
            names[node.id] = None
        elif (quoted := quoted_name(node)) is not None:
            names[quoted] = None
    return tuple(names)


def _bound(tree: ast.AST) -> set[str]:
    """Names an expression binds itself, such as the arguments of a lambda."""
    nodes = list(ast.walk(tree))
    stored = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return stored | {node.arg for node in nodes if isinstance(node, ast.arg)}


def quoted_name(node: ast.AST) -> str | None:
    """The name inside ``Q("...")``."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        return None
    if node.func.id != "Q" or len(node.args) != 1 or not isinstance(node.args[0], ast.Constant):
        return None
    return str(node.args[0].value)


def dotted_names(code: str) -> dict[str, str]:
    """First name of every attribute chain: ``{"Sepal": "Sepal.Length"}``."""
    chains: dict[str, str] = {}
    for node in ast.walk(parse_expression(code)):
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            chains.setdefault(text.split(".")[0], text)
    return chains


@lru_cache(maxsize=1024)
def plain_column(code: str) -> tuple[str, str] | None:
    """Column and wrapping of an expression that is one column, or None.

    ``x`` and ``Q("x")`` give ``("x", "")``, ``C(x)`` gives ``("x", "C")``, ``factor(x)``
    gives ``("x", "factor")``, and ``C(x, Sum)`` gives ``("x", "coded")``.
    """
    node = parse_expression(code)
    if (bare := _bare(node)) is not None:
        return bare, ""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args):
        return None
    inner = _bare(node.args[0])
    if node.func.id not in _FACTOR_CALLS or inner is None:
        return None
    if len(node.args) == 1 and not node.keywords:
        return inner, node.func.id
    takes_levels = len(node.args) > 2 or any(k.arg != "contrast" for k in node.keywords)
    return None if takes_levels else (inner, "coded")


def uses_of(codes: Iterable[str]) -> dict[str, set[str]]:
    """Wrappings of each name, ``"other"`` where it is more than a plain column."""
    uses: dict[str, set[str]] = {}
    for code in codes:
        plain = plain_column(code)
        for name in names_in(code):
            wrapping = plain[1] if plain is not None and plain[0] == name else "other"
            uses.setdefault(name, set()).add(wrapping)
    return uses


def _bare(node: ast.AST) -> str | None:
    return node.id if isinstance(node, ast.Name) else quoted_name(node)
