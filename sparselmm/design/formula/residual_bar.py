"""``residual="ar1(trial | subj, hom=False, by=arm)"`` and its like, as text."""

from __future__ import annotations

from dataclasses import dataclass

from sparselmm.base.arguments import suggestion
from sparselmm.base.exceptions import FormulaError
from sparselmm.design.formula.bars import parse_bar
from sparselmm.design.formula.tokens import (
    Tokens,
    is_wrapped,
    render,
    split_at,
    split_terms,
    tokenize,
)
from sparselmm.design.residual import KINDS

HETEROGENEOUS = {f"{kind}h": kind for kind in ("ar1", "cs", "toep", "ad")}
"""Names that SAS and mmrm have for ``hom=False``."""

NUGGETS = ("ar1", "car1", "exp", "gau")
"""Kinds with which a nugget makes sense."""

TRUTH = {"True": True, "TRUE": True, "False": False, "FALSE": False}


@dataclass(frozen=True)
class ResidualBar:
    """A residual covariance structure as written.

    Attributes
    ----------
    kind : str
    coords : tuple of str
        Expressions of the times, positions or the visit; empty for ``1``.
    name : str
        Of the grouping.
    factors : tuple of str
        Its expressions.
    hom : bool
        One standard deviation for all visits.
    nugget : bool
    by : str or None
        Expression of the strata.
    text : str
    """

    kind: str
    coords: tuple[str, ...]
    name: str
    factors: tuple[str, ...]
    hom: bool
    nugget: bool
    by: str | None
    text: str


def parse_residual(text: str) -> ResidualBar:
    """Read one structure."""
    if not isinstance(text, str):
        raise FormulaError(
            f"residual must be a string such as 'ar1(time | subject)', not {type(text).__name__}"
        )
    tokens = tokenize(text)
    if tokens[:1] == ("~",):
        tokens = tokens[1:]
    name = tokens[0] if tokens else ""
    if len(tokens) < 4 or not is_wrapped(tokens[1:]):
        raise FormulaError(
            f"residual = {text!r} is not understood; write a structure of times within groups, "
            f"'ar1(time | subject)', with one of {', '.join(KINDS)}"
        )
    kind = HETEROGENEOUS.get(name.lower(), name.lower())
    if kind not in KINDS:
        known = [*KINDS, *HETEROGENEOUS]
        raise FormulaError(
            f"residual = {text!r}: the structure {name!r} is unknown; use one of "
            f"{', '.join(KINDS)}{suggestion(name, known)}"
        )
    inside, *options = split_at(tokens[2:-1], ",")
    if not any(token in ("|", "||") for token in inside):
        raise FormulaError(
            f"residual = {text!r} has no bar; write {name}(time | subject) with the time or visit "
            "before the bar and the group after it"
        )
    bar = parse_bar(("(", *inside, ")"))
    if bar.double or len(bar.groupings) > 1:
        raise FormulaError(
            f"residual = {text!r} must have one '|' and one group; write {name}(time | a:b) for "
            "groups nested in others"
        )
    settings: dict[str, object] = {"hom": name.lower() == kind, "nugget": False, "by": None}
    for option in options:
        _read_option(option, settings, text)
    coords = tuple(render(term) for _, term in split_terms(tokenize(bar.effects)))
    coords = () if coords == ("1",) else coords
    out = ResidualBar(
        kind, coords, bar.names[0], tuple(bar.groupings[0]), bool(settings["hom"]),
        bool(settings["nugget"]), settings["by"], render(tokens),  # type: ignore[arg-type]
    )  # fmt: skip
    _check(out, text)
    return out


def _read_option(option: Tokens, settings: dict[str, object], text: str) -> None:
    key, value = (option[0] if option else ""), option[2:]
    if option[1:2] != ("=",) or key not in settings or not value:
        raise FormulaError(
            f"residual = {text!r}: {render(option)!r} is not understood; write hom=False, "
            "nugget=True or by=column"
        )
    if key == "by":
        shown = render(value)
        settings["by"] = shown[1:-1] if shown[0] in "\"'" else shown
    elif len(value) == 1 and value[0] in TRUTH:
        settings[key] = TRUTH[value[0]]
    else:
        raise FormulaError(f"residual = {text!r}: {key} is True or False, not {render(value)}")


def _check(bar: ResidualBar, text: str) -> None:
    if not bar.coords and bar.kind != "cs":
        raise FormulaError(
            f"residual = {text!r} needs the time or visit before the bar; write "
            f"{bar.kind}(time | {bar.name})"
        )
    if len(bar.coords) > (2 if bar.kind in ("exp", "gau") else 1):
        raise FormulaError(
            f"residual = {text!r} has {len(bar.coords)} terms before the bar; write one time or "
            "visit, or two coordinates with exp() or gau()"
        )
    if bar.nugget and bar.kind not in NUGGETS:
        raise FormulaError(
            f"residual = {text!r}: {bar.kind} with a nugget has a parameter too many; nugget=True "
            f"goes with {', '.join(NUGGETS)}"
        )
    if not bar.hom and (not bar.coords or bar.kind in ("exp", "gau", "car1")):
        raise FormulaError(
            f"residual = {text!r}: hom=False needs visits that groups share; with positions say "
            "how the standard deviation changes in dispersion="
        )


def split_structure(formula: str) -> tuple[str, str]:
    """A formula without its one structure, and the structure: ``y ~ x + us(visit | id)``.

    Raises
    ------
    FormulaError
        When there is none, or more than one.
    """
    if not isinstance(formula, str):
        raise FormulaError(f"the formula must be a string, not {type(formula).__name__}")
    left, mark, right = formula.partition("~")
    if not mark:
        raise FormulaError(f"no '~' in the formula {formula!r}; write 'response ~ predictors'")
    kept, found = [], []
    for sign, term in split_terms(tokenize(right)):
        known = bool(term) and term[0].lower() in (*KINDS, *HETEROGENEOUS)
        if known and len(term) > 3 and is_wrapped(term[1:]) and "|" in term:
            found.append(render(term))
        else:
            kept.append(f"{sign} {render(term)}")
    if len(found) != 1:
        raise FormulaError(
            f"{formula!r} has {len(found)} covariance structures; write one, such as "
            "us(visit | subject)"
        )
    rest = " ".join(kept).removeprefix("+ ") or "1"
    return f"{left}~ {rest}", found[0]
