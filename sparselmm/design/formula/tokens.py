"""The pieces a formula is cut into before anything reads them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from keyword import iskeyword, kwlist
from typing import Any

from sparselmm.base.exceptions import FormulaError

_TOKEN = re.compile(
    r"""\s*(
        [rbuRBU]?"(?:\\.|[^"\\])*" | [rbuRBU]?'(?:\\.|[^'\\])*'   # strings
      | `[^`]*`                                                  # R's quoted names
      | [^\W\d]\w*                                               # names
      | (?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?                     # numbers
      | \*\* | \|\| | // | == | != | <= | >= | %[\w/%*|]*%       # operators of two characters
      | \S
    )""",
    re.VERBOSE | re.DOTALL,
)

OPENING = {"(": ")", "[": "]", "{": "}"}

CLOSING = frozenset(OPENING.values())

_OPERATORS = frozenset(
    ("+", "-", "*", "/", "**", "//", "%", "@", ":", "~", "|", "||", "=", "==", "!=", "<", ">")
)

R_OPERATORS = {
    "%in%": "write a:b, or a/b for nested effects", "%/%": "write I(a // b)",
    "%%": "write I(a % b)",
}  # fmt: skip
"""What to write for operators of R."""

RESERVED = frozenset(kwlist) - {
    "False", "None", "True", "and", "else", "for", "if", "in", "is", "not", "or",
}  # fmt: skip
"""Words of Python that no formula has but as columns: ``class``, ``yield``, ``lambda``."""

_QUOTED = r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)"""

_DOTTED = re.compile(r"(?=.*\.)\.?[^\W\d][\w.]*")

_NAMED = re.compile(r'\bQ\(r"([^"]*)"\)')

Tokens = tuple[str, ...]

LONG_SUM = 100
"""Terms up to which a sum is read as it stands."""


def balanced(text: str) -> str:
    """A right side with the sums of many terms in nested brackets: parsers recurse over a sum."""
    terms = split_terms(tokenize(text))
    if len(terms) <= LONG_SUM:
        return text
    pieces: list[str] = []
    run: list[str] = []
    for sign, term in terms:
        shown = render(term)
        if sign == "+" and not shown.isdecimal():
            run.append(shown)
            continue
        pieces += [*_sum(run), f" {sign} {shown}"]
        run = []
    return "".join([*pieces, *_sum(run)]).removeprefix(" + ")


def tokenize(text: str) -> Tokens:
    """Tokens of a formula; R's ``^`` comes out as ``**``.

    Names in backticks and those that Python has as words of its own come out as ``Q(r"name")``.
    """
    tokens: list[str] = []
    for match in _TOKEN.finditer(text):
        token = match.group(1)
        if token.startswith("`"):
            tokens += _quoted(token, text)
        else:
            tokens.append("**" if token == "^" else token)
    _check_nesting(tuple(tokens), text)
    return _without_words(_without_packages(tokens, text))


def _without_words(tokens: Tokens) -> Tokens:
    """``Q(r"class")`` for ``class``, but in ``as.numeric``."""
    out: list[str] = []
    for before, token, after in zip(("", *tokens), tokens, (*tokens[1:], ""), strict=False):
        name = token in RESERVED and "." not in (before, after)
        out += _named(token) if name else (token,)
    return tuple(out)


def _named(name: str) -> Tokens:
    """A column by its name; the ``r`` tells it from what users of patsy write."""
    return ("Q", "(", f'r"{name}"', ")")


def unquoted(code: str) -> str:
    """``class`` for ``Q(r"class")``: what was written, to be shown."""
    return _NAMED.sub(r"\1", code) if 'Q(r"' in code else code


def _is_odd(name: str) -> bool:
    return bool(_DOTTED.fullmatch(name)) or (name.isidentifier() and _becomes_another(name))


def _becomes_another(name: str) -> bool:
    """Whether Python reads a name as another one: a micro sign as the Greek letter."""
    return not name.isascii() and unicodedata.normalize("NFKC", name) != name


def with_columns(text: str, columns: Iterable[Any]) -> str:
    """A formula with the columns whose names Python would not read as they are in backticks.

    These have dots, as in R, or letters that Python takes for others. What is called,
    ``np.log(x)``, is a function whatever the columns are.
    """
    if "." not in text and text.isascii():
        return text
    odd = [name for name in columns if isinstance(name, str) and _is_odd(name)]
    if not odd:
        return text
    names = "|".join(map(re.escape, sorted(odd, key=len, reverse=True)))
    found = re.compile(rf"{_QUOTED}|(?<![\w.])({names})(?![\w.]|\s*\()")
    return found.sub(lambda match: match[1] or f"`{match[2]}`", text)


def _without_packages(tokens: Sequence[str], text: str) -> Tokens:
    """R's ``splines::ns`` as ``ns`` and ``as.factor(f)`` as ``factor(f)``."""
    out: list[str] = []
    for token in tokens:
        if token.startswith("%") and token.endswith("%") and len(token) > 1:
            hint = R_OPERATORS.get(token, "write it in Python")
            raise FormulaError(f"R's operator {token} in {text!r} is not known here; {hint}")
        if token == "$" and out:
            raise FormulaError(f"'$' in {text!r}: write the name of the column alone")
        packaged = token == "(" and out[-3:-1] == [":", ":"] and len(out) > 3
        if packaged and is_word(out[-4]) and is_word(out[-1]):
            out[-4:-1] = []
        out.append(token)
        if out[-4:] == ["as", ".", "factor", "("]:
            out[-4:-2] = []
    return tuple(out)


def _quoted(token: str, text: str) -> Tokens:
    """R's name in backticks: the name, or patsy's ``Q(...)`` where it is none in Python."""
    name = token[1:-1]
    if len(token) < 3 or not token.endswith("`"):
        raise FormulaError(f"a backtick without another, or around nothing, in {text!r}")
    if name.isidentifier() and not iskeyword(name) and not _becomes_another(name):
        return (name,)
    if '"' in name or "\\" in name:
        return ("Q", "(", repr(name), ")")
    return _named(name)


def render(tokens: Sequence[str]) -> str:
    """Tokens put together again, with no spaces but those that are needed."""
    pieces: list[str] = []
    for before, token in zip(("", *tokens), tokens, strict=False):
        if before == "," or (is_word(before) and is_word(token)):
            pieces.append(" ")
        pieces.append(token)
    return "".join(pieces)


def split_at(tokens: Tokens, operator: str) -> list[Tokens]:
    """The parts between an operator that stands outside all brackets."""
    parts: list[list[str]] = [[]]
    for _, token, depth in with_depth(tokens):
        if depth == 0 and token == operator:
            parts.append([])
        else:
            parts[-1].append(token)
    return [tuple(part) for part in parts]


def with_depth(tokens: Sequence[str]) -> Iterator[tuple[int, str, int]]:
    """Position, token and depth; a bracket has the depth of what stands around it."""
    depth = 0
    for i, token in enumerate(tokens):
        if token in CLOSING:
            depth -= 1
        yield i, token, depth
        if token in OPENING:
            depth += 1


def is_word(token: str) -> bool:
    """Whether a token is a name, a number or a string."""
    return bool(token) and (token[-1].isalnum() or token[-1] == "_" or token[0] in "\"'")


def is_wrapped(term: Tokens) -> bool:
    """Whether one pair of parentheses encloses the whole term."""
    if len(term) < 2 or term[0] != "(" or term[-1] != ")":
        return False
    first = next(i for i, token, depth in with_depth(term) if depth == 0 and token == ")")
    return first == len(term) - 1


def _sum(terms: Sequence[str]) -> list[str]:
    """Some terms added, halves first."""
    while len(terms) > 1:
        pairs = [terms[i : i + 2] for i in range(0, len(terms), 2)]
        terms = [f"({' + '.join(pair)})" for pair in pairs]
    return [f" + {term}" for term in terms]


def split_terms(tokens: Tokens) -> list[tuple[str, Tokens]]:
    """Signed additive terms at the top level; a sign after an operator is unary."""
    terms: list[tuple[str, Tokens]] = []
    current: list[str] = []
    sign, seen_sign = "+", True
    for _, token, depth in with_depth(tokens):
        if depth == 0 and token in "+-" and not (current and current[-1] in _OPERATORS):
            if current:
                terms.append((sign, tuple(current)))
                sign, current = token, []
            elif token == "-":
                sign = "+" if sign == "-" else "-"
            seen_sign = True
        else:
            current.append(token)
            seen_sign = False
    if current or seen_sign:
        terms.append((sign, tuple(current)))
    return terms


def _check_nesting(tokens: Tokens, text: str) -> None:
    expected: list[str] = []
    for token in tokens:
        if token in OPENING:
            expected.append(OPENING[token])
        elif token in CLOSING and (not expected or expected.pop() != token):
            raise FormulaError(f"brackets do not match in {text!r}: unexpected {token!r}")
    if expected:
        raise FormulaError(f"brackets do not match in {text!r}: {expected[-1]!r} is missing")
