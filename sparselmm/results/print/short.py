"""Models and results in a few plain lines, as ``repr`` shows them."""

from __future__ import annotations

from typing import Any

from sparselmm.base.grid import Grid
from sparselmm.design import BuiltDesign
from sparselmm.inference.estimates import Estimates
from sparselmm.likelihood.record import OptSummary

MOST_NAMES = 6
"""Most fixed effects shown."""


def what(built: BuiltDesign, kind: str) -> list[str]:
    """The formula, or the arrays' shape, and the number of levels of every term."""
    layout = built.layout
    text = built.spec.formula or f"{layout.y_name}, {layout.p} fixed effects"
    sizes = "; ".join(f"{term.name}, {term.n_levels}" for term in layout.terms)
    levels = f"; levels: {sizes}" if sizes else ""
    return [f"{kind}: {text}", f"{built.n} observations{levels}"]


def fitted(est: Estimates, opt: OptSummary, formula: str | None) -> list[str]:
    """A fit: what was fitted, how far, the fixed effects and the standard deviations."""
    method = "REML" if est.pls.reml else "ML"
    sizes = "; ".join(dict.fromkeys(f"{term.name}, {term.n_levels}" for term in est.terms))
    state = "converged" if opt.converged else f"NOT converged: {opt.message}"
    singular = "; singular" if est.singular else ""
    names = list(est.names[: len(est.beta)])
    pairs = [f"{n} {b:.4g}" for n, b in zip(names, est.beta, strict=True)][:MOST_NAMES]
    rest = len(names) - len(pairs)
    more = f" and {rest} more" if rest else ""
    rows = [row for row in est.variance_rows if row.second is None]
    sds = [" ".join(filter(None, (row.group, row.first, f"{row.sdcor:.4g}"))) for row in rows]
    return [
        f"MixedLM by {method}: {formula or f'{len(names)} fixed effects'}",
        f"{est.nobs} observations" + (f"; levels: {sizes}" if sizes else ""),
        f"Log-likelihood {-0.5 * est.pls.deviance:.4f}; {state}{singular}",
        f"Fixed effects: {', '.join(pairs)}{more}",
        f"Std.Dev.: {', '.join(sds)}",
    ]


def fitted_general(results: Any) -> list[str]:
    """The same of a generalized model."""
    terms, opt = results.built.layout.terms, results.opt
    sizes = "; ".join(dict.fromkeys(f"{term.name}, {term.n_levels}" for term in terms))
    state = "converged" if results.converged else f"NOT converged: {opt.message}"
    singular = "; singular" if results.singular else ""
    beta = results.fe_params
    pairs = [f"{n} {b:.4g}" for n, b in beta.items()][:MOST_NAMES]
    rest = len(beta) - len(pairs)
    more = f" and {rest} more" if rest else ""
    rows = results.varcorr
    rows = rows[[v is None or v != v for v in rows.var2]]
    sds = [
        f"{g} {name} {sd:.4g}" for g, name, sd in zip(rows.grp, rows.var1, rows.sdcor, strict=True)
    ]
    return [
        f"MixedGLM, {results.family.name}, link {results.family.link}: "
        f"{results.built.spec.formula or f'{len(beta)} fixed effects'}",
        f"{results.nobs} observations; levels: {sizes}",
        f"Log-likelihood {results.llf:.4f}; {state}{singular}",
        f"Fixed effects: {', '.join(pairs)}{more}",
        f"Std.Dev.: {', '.join(sds)}",
    ]


def html_lines(lines: list[str]) -> str:
    """Lines ``name: value`` as a small table."""
    rows = [list(line.partition(": ")[::2]) for line in lines]
    return Grid([rows], "ll").html("sparselmm-model")
