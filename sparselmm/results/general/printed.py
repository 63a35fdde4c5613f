"""The printed summary of a generalized model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sparselmm.inference.variances import variance_rows
from sparselmm.likelihood.laplace.chosen import base_of
from sparselmm.likelihood.laplace.mixtures import Hurdle, ZeroInflated
from sparselmm.likelihood.laplace.quadrature import QuadratureDeviance
from sparselmm.results.print.summary import Summary, coefficient_table, info_table, variance_table

TITLE = "Generalized Linear Mixed Model Results"


def summarize(results: Any, alpha: float) -> Summary:
    """Facts, coefficients and variances."""
    family = results.family
    name = base_of(family).name
    if isinstance(family, ZeroInflated):
        name += ", zero-inflated"
    if isinstance(family, Hurdle):
        name += ", hurdle"
    engine = results.deviance
    nodes = len(engine.z) if isinstance(engine, QuadratureDeviance) else 1
    left = [
        ("Model:", "MixedGLM"), ("No. Observations:", f"{results.nobs}"),
        ("No. Parameters:", f"{results.n_parameters}"),
        ("Method:", "Laplace" if nodes == 1 else f"AGQ, {nodes} nodes"),
        ("AIC:", f"{results.aic:.4f}"),
    ]  # fmt: skip
    right = [
        ("Dependent Variable:", results.built.layout.y_name), ("Family:", name),
        ("Link:", family.link), ("Log-Likelihood:", f"{results.llf:.4f}"),
        ("Converged:", "Yes" if results.converged else "No"),
    ]  # fmt: skip
    rows = variance_rows(results.built.layout.terms, results.numbers.psi, 1.0)[:-1]
    return Summary(
        [info_table(left, right), _coefficients(results, alpha), variance_table(rows)], TITLE,
        _notes(results),
    )  # fmt: skip


def _coefficients(results: Any, alpha: float) -> pd.DataFrame:
    ends = results.conf_int(alpha).to_numpy()
    values = np.column_stack(
        [results.params, results.bse, results.tvalues, results.pvalues, ends]
    )  # fmt: skip
    return coefficient_table(values, list(results.params.index), alpha)


def _notes(results: Any) -> tuple[str, ...]:
    notes = []
    if results.separation:
        notes.append(
            f"Separation: {', '.join(results.separation)} predict some responses without error; "
            "the estimates are where the search stopped, not a maximum."
        )
    elif not results.converged:
        notes.append(f"Not converged: {results.opt.message}.")
    if results.singular:
        notes.append(f"Singular covariance: {', '.join(results.singular_terms)}.")
    sizes = [
        f"{term.name}, {term.n_levels}"
        for term in results.built.layout.terms
    ]  # fmt: skip
    notes.append(f"Number of levels: {'; '.join(sizes)}.")
    return tuple(notes)
