"""Formulas as text: fixed part, offsets and lme4's ``(effects | grouping)`` bars told apart.

Nothing here looks at data. The bars are cut out before any other parser sees the string,
because ``(1 | g)`` is also Python for a bitwise "or" of two integer columns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from typing import Any

from sparselmm.base.arguments import shown
from sparselmm.base.exceptions import FormulaError
from sparselmm.design.formula.tokens import (
    CLOSING,
    OPENING,
    Tokens,
    is_word,
    is_wrapped,
    render,
    split_at,
    split_terms,
    tokenize,
    unquoted,
    with_columns,
    with_depth,
)
from sparselmm.design.terms import Structure

STRUCTURES: dict[str, tuple[bool, Structure, Structure]] = {
    "us": (False, "unstructured", "unstructured"),
    "diag": (False, "diagonal", "homogeneous diagonal"),
    "cs": (False, "compound symmetry", "homogeneous compound symmetry"),
    "ar1": (True, "autoregressive", "homogeneous autoregressive"),
}
"""lme4's names of covariance structures: whether variances are equal by default, and the
structures with variances of their own and with equal ones."""

_BARS = frozenset({"|", "||"})


@dataclass(frozen=True)
class Bar:
    """One ``(effects | grouping)`` of a formula, slashes not yet multiplied out.

    Attributes
    ----------
    text : str
        The bar as written, for messages.
    effects : str
        Left side: ``"1"``, ``"1 + x"``.
    groupings : tuple of tuple of str
        One entry per grouping factor in lme4's order (innermost first); each lists the
        expressions whose interaction it is, innermost first.
    names : tuple of str
        lme4's name of each grouping: ``"cask:batch"``, ``"c:(b:a)"``.
    double : bool
        Written with ``||``: effects are uncorrelated with each other.
    structure : Structure
        Covariance of the effects, from ``cs(...)`` and its like around the bar.
    """

    text: str
    effects: str
    groupings: tuple[Tokens, ...]
    names: Tokens
    double: bool
    structure: Structure = "unstructured"


@dataclass(frozen=True)
class ParsedFormula:
    """A model formula taken apart.

    Attributes
    ----------
    text : str
        The formula as written.
    response : str
        Left side of ``~``, one Python expression.
    fixed : str
        Right side without bars and offsets; ``"1"`` when nothing else is left.
    bars : tuple of Bar
        In the order written.
    offsets : tuple of str
        Expressions inside ``offset(...)``.
    """

    text: str
    response: str
    fixed: str
    bars: tuple[Bar, ...]
    offsets: Tokens


def parse_formula(text: str, columns: Iterable[Any] = ()) -> ParsedFormula:
    """Take a two-sided formula apart.

    Parameters
    ----------
    text : str
        For example ``"Reaction ~ Days + (Days | Subject)"``.
    columns : iterable
        Names of the data's columns; those with dots are read as names.

    Raises
    ------
    FormulaError
        When a side is missing or a bar stands where it cannot be understood.

    Examples
    --------
    >>> parse_formula("y ~ x + (1 | a/b)").bars[0].names
    ('b:a', 'a')
    """
    if not isinstance(text, str):
        raise FormulaError(f"the formula must be a string, not {type(text).__name__}")
    return _parsed(with_columns(text, columns))


def check_order(formula: Any, data: Any) -> None:
    """Refuse a formula in the place of the data, before either is read."""
    if isinstance(data, str) and "~" in data and not (isinstance(formula, str) and "~" in formula):
        raise FormulaError(f"data is the formula {shown(data)}: write the formula first, then data")


@lru_cache(maxsize=256)
def _parsed(text: str) -> ParsedFormula:
    tokens = tokenize(text)
    response, right = _sides(text, tokens)
    _refuse_response(response, right, text)
    fixed: list[str] = []
    bars: list[Bar] = []
    offsets: list[str] = []
    for sign, term in _flat_terms(right, text):
        if _is_bar(term):
            _refuse_minus(sign, term)
            bars.append(parse_bar(term))
        elif _is_structured(term):
            _refuse_minus(sign, term)
            bars.append(parse_structured(term))
        elif _is_call(term, "offset"):
            _refuse_minus(sign, term)
            offsets.append(render(term[2:-1]))
        else:
            _refuse_stray_bar(term, text)
            if term == (".",):
                raise FormulaError(f"'.' for all other columns in {text!r}: write the names")
            fixed.append(f"{sign} {render(term)}")
    joined = " ".join(fixed).removeprefix("+ ")
    return ParsedFormula(text, render(response), joined or "1", tuple(bars), tuple(offsets))


def parse_one_sided(text: str, argument: str, columns: Iterable[Any] = ()) -> str:
    """Right side of a ``re_formula`` or of an entry of ``vc_formula``, as patsy reads it.

    Parameters
    ----------
    text : str
        ``"1"``, ``"~ Time"``, ``"0 + C(cask)"``.
    argument : str
        Name of the argument, for messages.
    columns : iterable
        Names of the data's columns; those with dots are read as names.
    """
    if not isinstance(text, str):
        raise FormulaError(f"{argument} must be a formula string, not {type(text).__name__}")
    tokens = tokenize(with_columns(text, columns))
    if tokens[:1] == ("~",):
        tokens = tokens[1:]
    if not tokens:
        raise FormulaError(f"{argument} is empty; write '1' for an intercept or '0' for nothing")
    if "~" in tokens:
        raise FormulaError(f"{argument} = {text!r} has a left side; write only what follows '~'")
    if any(_has_bar(term) for _, term in split_terms(tokens)):
        hint = "random effects belong to the mean; this predictor has fixed effects alone"
        if argument.startswith(("re_formula", "vc_formula")):
            hint = "bars belong in the main formula, as '+ (effects | grouping)'"
        raise FormulaError(f"{argument} = {text!r} contains a bar '|': {hint}")
    return render(tokens)


def parse_bar(term: Tokens) -> Bar:
    """Read one parenthesised ``(effects | grouping)``."""
    text, inside = unquoted(render(term)), term[1:-1]
    at = [i for i, token, depth in with_depth(inside) if depth == 0 and token in _BARS]
    if len(at) > 1:
        raise FormulaError(f"{_shown(inside)} has more than one '|'; write one bar per bracket")
    effects, grouping = inside[: at[0]], inside[at[0] + 1 :]
    if _has_bar(effects) or _has_bar(grouping):
        raise FormulaError(
            f"{text} has a bar within a bar; write a term of its own for each, '+ (1|a) + (1|b)'"
        )
    if not effects:
        raise FormulaError(
            f"{text} has nothing before the bar; write (1|{render(grouping)}) for an intercept "
            f"or (x|{render(grouping)}) for an intercept and a slope"
        )
    if not grouping:
        raise FormulaError(f"{text} has no grouping factor after the bar; write {text[:-1]}g)")
    factors = [one for part in _crossed(grouping) for one in _nested(part, text)]
    names = tuple(name for name, _ in factors)
    groupings = tuple(parts for _, parts in factors)
    return Bar(_shown(inside), render(effects), groupings, names, inside[at[0]] == "||")


def parse_structured(term: Tokens) -> Bar:
    """Read ``cs(effects | grouping, hom=True)`` and its like."""
    text, name = unquoted(render(term)), term[0].lower()
    inside, *options = split_at(term[2:-1], ",")
    bar = parse_bar(("(", *inside, ")"))
    if bar.double:
        raise FormulaError(f"{text} has a double bar; write one '|', {name}() says the structure")
    equal, own, common = STRUCTURES[name]
    for option in options:
        if option[:2] != ("hom", "=") or option[2:] not in (
            ("True",), ("False",), ("TRUE",), ("FALSE",),
        ):  # fmt: skip
            raise FormulaError(
                f"{render(option)!r} in {text} is not understood; write hom=True for equal "
                "variances or hom=False for a variance of each effect"
            )
        equal = option[2].title() == "True"
    if name == "us" and equal:
        raise FormulaError(f"{text}: us() has no pattern; write cs() or diag() with hom=True")
    shown = f"{name}{bar.text}"
    return replace(bar, text=shown, structure=common if equal else own)


def _shown(inside: Tokens) -> str:
    at = next(i for i, token, depth in with_depth(inside) if depth == 0 and token in _BARS)
    left, right = (unquoted(render(part)) for part in (inside[:at], inside[at + 1 :]))
    return f"({left} {inside[at]} {right})"


def _crossed(grouping: Tokens) -> list[Tokens]:
    """Grouping ``a + b`` as ``a`` and ``b``, ``a * b`` as ``a``, ``b`` and ``a:b``.

    lme4 1.1-31 has no meaning for either.
    """
    out: list[Tokens] = []
    for part in split_at(grouping, "+"):
        factors = split_at(part, "*")
        if len(factors) > 1 and any("/" in factor for factor in factors):
            return [grouping]  # refused below
        for size in range(1, len(factors) + 1):
            for chosen in combinations(factors, size):
                out.append(
                    tuple(t for i, f in enumerate(chosen) for t in ((":",) if i else ()) + f)
                )
    return out


def _nested(tokens: Tokens, text: str) -> list[tuple[str, Tokens]]:
    """Grouping ``a/b/c`` as ``c:(b:a)``, ``b:a``, ``a``: (name, expressions) each."""
    levels = [_interaction(part, text) for part in split_at(tokens, "/")]
    name, parts = levels[0]
    out = [(name, parts)]
    for inner_name, inner in levels[1:]:
        outer_name = f"({name})" if len(parts) > 1 else name
        name, parts = f"{inner_name}:{outer_name}", (*inner, *parts)
        out.insert(0, (name, parts))
    return out


def _interaction(tokens: Tokens, text: str) -> tuple[str, Tokens]:
    """Grouping ``a:b`` as its name and its factor expressions."""
    parts: list[str] = []
    for part in split_at(tokens, ":"):
        if is_wrapped(part):
            parts.extend(_interaction(part[1:-1], text)[1])
        else:
            _check_grouping(part, text)
            parts.append(render(part))
    return ":".join(map(unquoted, parts)), tuple(parts)


def _check_grouping(part: Tokens, text: str) -> None:
    at_top = {token for _, token, depth in with_depth(part) if depth == 0}
    if not part:
        raise FormulaError(f"a grouping factor is missing in {text}; write (1|a/b) or (1|a:b)")
    if at_top & {"+", "*", "-", "**", "/", "~"}:
        raise FormulaError(
            f"the grouping of {text} is not one factor. Write crossed factors as "
            "(1|a) + (1|b), their interaction as (1|a:b), b nested in a as (1|a/b), "
            "and any other expression inside a call, C(...)"
        )


def _sides(text: str, tokens: Tokens) -> tuple[Tokens, Tokens]:
    if not tokens:
        raise FormulaError("the formula is empty; write for example 'y ~ x + (1|g)'")
    at = [i for i, token, depth in with_depth(tokens) if depth == 0 and token == "~"]
    if not at:
        raise FormulaError(f"no '~' in the formula {text!r}; write 'response ~ predictors'")
    if len(at) > 1:
        nlme = "; write random effects as '... + (1|g)'" if "random" in tokens else ""
        raise FormulaError(f"more than one '~' in the formula {text!r}{nlme}")
    if at[0] == 0:
        raise FormulaError(f"no response before '~' in the formula {text!r}; write 'y ~ ...'")
    if at[0] == len(tokens) - 1:
        raise FormulaError(f"nothing after '~' in the formula {text!r}; write 'y ~ 1 + (1|g)'")
    response = tokens[: at[0]]
    if any(token in _BARS for _, token, depth in with_depth(response) if depth == 0):
        raise FormulaError(f"a bar '|' before '~' in {text!r}; bars belong to the right side")
    return response, tokens[at[0] + 1 :]


def _flat_terms(tokens: Tokens, text: str) -> Iterator[tuple[str, Tokens]]:
    """Additive terms, brackets around sums of bars opened: ``((x|a) + (1|b))``."""
    for sign, term in split_terms(tokens):
        if not term:
            raise FormulaError(f"an operand is missing around '+' or '-' in {text!r}")
        if is_wrapped(term) and not _is_bar(term) and _has_bar(term):
            _refuse_minus(sign, term)
            yield from _flat_terms(term[1:-1], text)
        else:
            yield sign, term


def _is_bar(term: Tokens) -> bool:
    if not is_wrapped(term):
        return False
    return any(token in _BARS for _, token, depth in with_depth(term[1:-1]) if depth == 0)


def _is_structured(term: Tokens) -> bool:
    """Whether the term is a bar inside one of `STRUCTURES`."""
    if len(term) < 4 or term[0].lower() not in STRUCTURES or not is_wrapped(term[1:]):
        return False
    return any(token in _BARS for _, token, depth in with_depth(term[2:-1]) if depth == 0)


def _refuse_response(response: Tokens, right: Tokens, text: str) -> None:
    """Refuse a column on both sides; inside a call (a lag of it) it may stand."""
    if len(response) != 1 or not is_word(response[0]):
        return
    if response[0] in _outside_calls(right, STRUCTURES):
        raise FormulaError(
            f"the response {response[0]!r} of {text!r} is among the covariates or grouping factors "
            "too, which it explains exactly; leave it out there"
        )


def _outside_calls(tokens: Tokens, but: Collection[str] = ()) -> Iterator[str]:
    """Tokens that stand outside every call and index, calls of some names excepted."""
    calls: list[bool] = []
    for before, token in zip(("", *tokens), tokens, strict=False):
        if token in OPENING:
            called = token != "(" or is_word(before) or before in CLOSING
            calls.append(called and before not in but)
        elif token in CLOSING:
            calls.pop()
        elif not any(calls):
            yield token


def _has_bar(term: Tokens) -> bool:
    """Whether a bar stands outside every call and index (inside one it is Python's "or")."""
    return any(token in _BARS for token in _outside_calls(term))


def _is_call(term: Tokens, name: str) -> bool:
    return len(term) > 3 and term[0] == name and is_wrapped(term[1:])


def _refuse_minus(sign: str, term: Tokens) -> None:
    if sign == "-":
        raise FormulaError(f"{render(term)} cannot be subtracted; leave it out or add it with '+'")


def _refuse_stray_bar(term: Tokens, text: str) -> None:
    if not _has_bar(term):
        return
    if any(token in _BARS for _, token, depth in with_depth(term) if depth == 0):
        at = next(i for i, t, depth in with_depth(term) if depth == 0 and t in _BARS)
        left, right = render(term[:at]) or "1", render(term[at + 1 :]) or "g"
        raise FormulaError(
            f"a bar '|' without brackets in {text!r}; write the random effects as "
            f"'... + ({left}|{right})'"
        )
    raise FormulaError(
        f"the bar in {render(term)!r} is part of a larger term; random effects are added: "
        "write '... + (effects|grouping)'"
    )
