"""All formulas of a model, read; no data touched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from sparselmm.base.exceptions import FormulaError
from sparselmm.design.formula.bars import Bar, ParsedFormula, parse_formula, parse_one_sided
from sparselmm.design.formula.expressions import plain_column
from sparselmm.design.formula.remembered import INTERCEPT, Term
from sparselmm.design.formula.residual_bar import ResidualBar, parse_residual
from sparselmm.design.formula.terms import codes_of, right_terms
from sparselmm.design.terms import Structure


@dataclass(frozen=True, eq=False)
class BarTerm:
    """One bar after slashes and double bars are multiplied out."""

    name: str
    factors: tuple[str, ...]
    terms: list[Term]
    text: str
    structure: Structure


@dataclass(frozen=True, eq=False)
class Plan:
    """All formulas read, no data touched.

    Attributes
    ----------
    fixed, re : list of Term
        Right sides of the formula and of ``re_formula``.
    vc : dict
        Name to right side of every variance component.
    bars : list
        Random-effects terms of the formula.
    codes : dict
        Every expression, and where it stands.
    further : dict
        Right sides of the predictors besides the mean's.
    residual, dispersion
        Covariance structure of the residuals.
    """

    parsed: ParsedFormula
    fixed: list[Term]
    re: list[Term]
    vc: dict[str, str]
    bars: list[BarTerm]
    codes: dict[str, str]
    further: dict[str, list[Term]]
    residual: ResidualBar | None = None
    dispersion: list[Term] | None = None

    def with_residual(self, residual: Any, dispersion: Any, columns: Iterable[Any]) -> Plan:
        """With a covariance structure of the residuals, or the same."""
        if residual is None and dispersion is None:
            return self
        bar = None if residual is None else parse_residual(residual, columns)
        terms = None
        if dispersion is not None:
            terms = right_terms(parse_one_sided(dispersion, "dispersion", columns))
        codes = dict.fromkeys(() if bar is None else bar.codes, "residual")
        codes |= dict.fromkeys(codes_of(terms or []), "dispersion")
        return replace(self, residual=bar, dispersion=terms, codes={**codes, **self.codes})

    @cached_property
    def read(self) -> list[str]:
        """Every expression but the grouping factors that are plain columns."""
        factors = [code for bar in self.bars for code in bar.factors]
        effects = [code for bar in self.bars for code in codes_of(bar.terms)]
        components = [code for text in self.vc.values() for code in codes_of(right_terms(text))]
        return [
            self.parsed.response,
            *self.parsed.offsets,
            *codes_of(self.fixed),
            *codes_of(self.re),
            *effects,
            *components,
            *(code for terms in self.further.values() for code in codes_of(terms)),
            *codes_of(self.dispersion or []),
            *(self.residual.read if self.residual is not None else ()),
            *(code for code in factors if plain_column(code) is None),
        ]


def read_formulas(
    formula: str, groups: Any, re_formula: Any, vc_formula: Any, further: Mapping[str, str],
    columns: Iterable[Any],
) -> Plan:  # fmt: skip
    """Read all formulas of a model, with the data's columns; the rest as of `from_formula`."""
    parsed = parse_formula(formula, columns)
    vc = _component_formulas(vc_formula, columns)
    if groups is None and (re_formula is not None or vc_formula is not None):
        argument = "re_formula" if re_formula is not None else "vc_formula"
        raise FormulaError(
            f"{argument} needs groups; pass groups=, or write the term as a bar in the formula, "
            "'... + (x|g)'"
        )
    re: list[Term] = []
    if re_formula is not None:
        re = right_terms(parse_one_sided(re_formula, "re_formula", columns))
    elif groups is not None and not vc:
        re = [INTERCEPT]
    fixed = right_terms(parsed.fixed)
    bars = [part for bar in parsed.bars for part in _expand(bar)]
    others = {name: right_terms(parse_one_sided(further[name], name, columns)) for name in further}
    codes = dict.fromkeys([parsed.response], "the response")
    for places in (
        dict.fromkeys(codes_of(fixed), "the formula"),
        dict.fromkeys(parsed.offsets, "offset(...)"),
        dict.fromkeys(codes_of(re), "re_formula"),
        {c: f"vc_formula[{k!r}]" for k, text in vc.items() for c in codes_of(right_terms(text))},
        {c: part.text for part in bars for c in (*codes_of(part.terms), *part.factors)},
        {c: f"{name}=" for name, terms in others.items() for c in codes_of(terms)},
    ):
        codes.update(places)
    return Plan(parsed, fixed, re, vc, bars, codes, others)


def _component_formulas(vc_formula: Any, columns: Iterable[Any]) -> dict[str, str]:
    if vc_formula is None:
        return {}
    if not isinstance(vc_formula, Mapping):
        raise FormulaError(
            f"vc_formula must be a dict of name to formula, not {type(vc_formula).__name__}; "
            "write vc_formula={'a': '0 + C(a)'}"
        )
    return {
        str(name): parse_one_sided(vc_formula[name], f"vc_formula[{name!r}]", columns)
        for name in sorted(vc_formula)
    }


def _expand(bar: Bar) -> Iterator[BarTerm]:
    """A bar as lme4 takes it apart: first the double bar, then the slashes."""
    terms = [INTERCEPT] if bar.effects == "1" else right_terms(bar.effects)
    if not terms:
        raise FormulaError(f"{bar.text} has no effects; write (1|g) for an intercept")
    for part in [[term] for term in terms] if bar.double else [terms]:
        for name, factors in zip(bar.names, bar.groupings, strict=True):
            yield BarTerm(name, factors, part, bar.text, bar.structure)
