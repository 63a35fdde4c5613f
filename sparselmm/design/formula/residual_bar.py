"""``residual="ar1(trial | subj, hom=False, by=arm)"`` and its like, as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sparselmm.base.arguments import suggestion
from sparselmm.base.exceptions import FormulaError
from sparselmm.design.formula.bars import parse_bar
from sparselmm.design.formula.expressions import plain_column
from sparselmm.design.formula.tokens import (
    Tokens,
    is_wrapped,
    render,
    split_at,
    split_terms,
    tokenize,
    unquoted,
    with_columns,
)
from sparselmm.design.residual import KINDS

HETEROGENEOUS = {f"{kind}h": kind for kind in ("ar1", "cs", "toep", "ad")}
"""Names that SAS and mmrm have for ``hom=False``."""

NUGGETS = ("ar1", "car1", "exp", "gau")
"""Kinds with which a nugget makes sense."""

_VISITS, _TIMES = "(visit | subject)", "(time | subject)"
_EXCHANGEABLE, _FREE = "cs(1 | subject)", f"us{_VISITS}"
_SPREAD = "dispersion='~ x', log-linear in the residual standard deviation"
OTHER_STRUCTURES = {
    "corar1": f"ar1{_TIMES}", "ar": f"ar1{_TIMES}",
    "arh": f"ar1h{_VISITS}", "arh1": f"ar1h{_VISITS}",
    "corcar1": f"car1{_TIMES}", "ou": f"car1{_TIMES}",
    "sp": f"car1{_TIMES}, exp(x | subject) or gau(x | subject)",
    "corcompsymm": _EXCHANGEABLE, "comp_symm": _EXCHANGEABLE, "exchangeable": _EXCHANGEABLE,
    "homcs": _EXCHANGEABLE, "hetcs": f"csh{_VISITS}",
    "corsymm": _FREE, "un": _FREE, "unstructured": _FREE, "unr": _FREE,
    "corexp": "exp(x | subject)", "sp_exp": "exp(x | subject)", "corgaus": "gau(x | subject)",
    "toeplitz": f"toep{_VISITS}", "ante": f"adh{_VISITS}", "antedependence": f"adh{_VISITS}",
    "varident": "dispersion='~ factor'", "varexp": "dispersion='~ x'", "vc": _SPREAD,
    "varpower": "dispersion='~ log(x)'", "varcomb": "dispersion= with a sum",
    "varfixed": "weights=, one over the variance", "diag": _SPREAD, "homdiag": _SPREAD,
}  # fmt: skip
"""Names that nlme, glmmTMB, SAS and mmrm have, in small letters: ours."""

TRUTH = {"True": True, "TRUE": True, "False": False, "FALSE": False}


@dataclass(frozen=True)
class ResidualBar:
    """A residual covariance structure as written.

    Attributes
    ----------
    coords : tuple of str
        Expressions of the times, positions or the visit; empty for ``1``.
    name : str
        Of the grouping.
    factors : tuple of str
        Its expressions.
    hom : bool
        One standard deviation for all visits.
    by : str or None
        Expression of the strata.
    """

    kind: str
    coords: tuple[str, ...]
    name: str
    factors: tuple[str, ...]
    hom: bool
    nugget: bool
    by: str | None
    text: str

    @property
    def codes(self) -> list[str]:
        """Its expressions."""
        return [*self.factors, *self.coords, *([] if self.by is None else [self.by])]

    @property
    def read(self) -> list[str]:
        """Those but the labels that are plain columns."""
        return [c for c in self.codes if c in self.coords or plain_column(c) is None]


def parse_residual(text: str, columns: Iterable[Any] = ()) -> ResidualBar:
    """Read one structure."""
    if not isinstance(text, str):
        raise FormulaError(
            f"residual must be a string such as 'ar1(time | subject)', not {type(text).__name__}"
        )
    tokens = tokenize(with_columns(text, columns))
    if tokens[:1] == ("~",):
        tokens = tokens[1:]
    name = tokens[0] if tokens else ""
    theirs = OTHER_STRUCTURES.get(name.lower())
    if theirs is not None:
        raise FormulaError(f"residual = {text!r}: there is no {name}; here it is {theirs}")
    if len(tokens) < 4 or not is_wrapped(tokens[1:]):
        raise FormulaError(
            f"residual = {text!r} is not understood; write a structure of times within groups, "
            f"'ar1(time | subject)', with one of {', '.join(KINDS)}"
        )
    kind = HETEROGENEOUS.get(name.lower(), name.lower())
    if kind not in KINDS:
        raise unknown_structure(name, f"residual = {text!r}")
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
    again = [key for key, n in Counter(option[0] for option in options).items() if n > 1]
    if again:
        raise FormulaError(f"residual = {text!r} says {again[0]} more than once; write it once")
    free = kind in ("us", "cs")
    coords = _coordinates(bar.effects, free, f"{name}(time | {bar.names[0]})", text)
    out = ResidualBar(
        kind, coords, bar.names[0], tuple(bar.groupings[0]), bool(settings["hom"]),
        bool(settings["nugget"]), settings["by"], unquoted(render(tokens)),  # type: ignore[arg-type]
    )  # fmt: skip
    _check(out, text)
    return out


def unknown_structure(name: str, where: str) -> FormulaError:
    """The error for a name that is no structure's."""
    known = [*KINDS, *HETEROGENEOUS]
    theirs = OTHER_STRUCTURES.get(name.lower())
    hint = suggestion(name, known) if theirs is None else f"; here it is {theirs}"
    return FormulaError(
        f"{where}: the structure {name!r} is unknown; use one of {', '.join(KINDS)}{hint}"
    )


def _coordinates(effects: str, free: bool, wanted: str, text: str) -> tuple[str, ...]:
    """Expressions before the bar, none of them for ``1``; ``free`` when labels in any order do."""
    terms = split_terms(tokenize(effects))
    shown = tuple(render(term) for _, term in terms)
    if shown == ("1",):
        return ()
    if any(sign == "-" for sign, _ in terms):
        raise FormulaError(
            f"residual = {text!r} has a minus sign before the bar; write the names of columns, or "
            "an expression inside I(...)"
        )
    coded = not free and any(own[0] in ("factor", "C") for _, own in terms)
    if coded or "0" in shown:
        raise FormulaError(
            f"residual = {text!r}: what stands before the bar is a time or visit, not a design; "
            f"write {wanted} without factor(), C() and '+ 0'"
        )
    if any(len(split_at(own, "*")) > 1 for _, own in terms):
        raise FormulaError(
            f"residual = {text!r} has a product before the bar; write two coordinates as x + y, or "
            "arithmetic inside I(...)"
        )
    return shown


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
    kept, found, other = [], [], ""
    for sign, term in split_terms(tokenize(right)):
        wrapped = len(term) > 3 and is_wrapped(term[1:]) and "|" in term
        if wrapped and term[0].lower() in (*KINDS, *HETEROGENEOUS):
            if sign == "-":
                raise FormulaError(f"{formula!r} subtracts {render(term)}; add it with '+'")
            found.append(render(term))
        else:
            if wrapped and term[0].lower() in OTHER_STRUCTURES:
                other = other or term[0]
            kept.append(f"{sign} {render(term)}")
    if not found and other:
        raise unknown_structure(other, repr(formula))
    if len(found) != 1:
        raise FormulaError(
            f"{formula!r} has {len(found)} covariance structures; write one, such as "
            "us(visit | subject)"
        )
    rest = " ".join(kept).removeprefix("+ ") or "1"
    return f"{left}~ {rest}", found[0]
