"""Terms of formulas, as patsy reads them, with expressions that keep their text."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from patsy import ModelDesc, PatsyError
from patsy.desc import Term

from sparselmm.base.exceptions import FormulaError
from sparselmm.design.formula.checked import Expression
from sparselmm.design.formula.tokens import balanced


def right_terms(text: str) -> list[Term]:
    """Terms of a one-sided formula, as patsy reads it."""
    return list(_terms(text))


@lru_cache(maxsize=256)
def _terms(text: str) -> tuple[Term, ...]:
    text = balanced(text)
    try:
        found = ModelDesc.from_formula(f"~ {text}").rhs_termlist
    except PatsyError as error:
        raise FormulaError(f"cannot read {text!r}: {error.message}") from error
    except RecursionError as error:
        raise FormulaError(f"cannot read {text[:40]!r}...: too deeply nested") from error
    except (AssertionError, ValueError, SyntaxError) as error:  # of patsy's reader of tokens
        raise FormulaError(f"cannot read {text!r}: it is no formula") from error
    return tuple(Term([Expression(f.code, f.origin) for f in term.factors]) for term in found)


def single_term(code: str) -> list[Term]:
    """The term list of one expression, without an intercept."""
    return [Term([Expression(code)])]


def codes_of(terms: Iterable[Term]) -> list[str]:
    """Expressions that patsy's terms are made of."""
    return [factor.code for term in terms for factor in term.factors]
