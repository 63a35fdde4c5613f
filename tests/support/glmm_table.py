"""Every reference fit of a generalized model beside the best engine.

``python tests/support/glmm_table.py`` prints, per fit, our log-likelihood, its difference to the
highest of any engine with the same approximation, the largest difference of a fixed effect in
standard errors and of a standard error (both where the record says them), and outer evaluations.
"""

import warnings

import numpy as np
from glmm_cases import (
    EXACT,
    FITS,
    OBSERVED,
    best_log_likelihood,
    exact,
    exact_fit_of,
    fit_of,
    reference,
)

import sparselmm


def plain(name):
    """A column's name without what R and patsy add to it."""
    name = name.replace("(Intercept)", "Intercept").replace("**", "^").replace("[T.", "")
    return "".join(c for c in name if c not in "[]() C").replace("factor", "")


def columns(fit, names):
    """Our columns in the order of R's names; patsy puts factors in front of numbers."""
    ours = [
        ":".join(sorted(plain(part) for part in str(n).split(":"))) for n in fit.fe_params.index
    ]
    return [ours.index(":".join(sorted(plain(part) for part in n.split(":")))) for n in names]


def row(fit, llf, beta, se):
    """Differences of a fit to another engine's."""
    order = columns(fit, list(beta))
    theirs, errors = np.array(list(beta.values())), np.array(list(se))
    own, own_se = fit.fe_params.to_numpy()[order], fit.bse_fe.to_numpy()[order]
    evaluations = sum(entry.search == 0 for entry in fit.opt.history)
    return (
        fit.llf, fit.llf - llf, np.abs((own - theirs) / own_se).max(),
        np.abs(own_se / errors - 1.0).max(), evaluations,
    )  # fmt: skip


def se_of(record):
    """Standard errors of the fixed effects; clmm gives those of thresholds and roots too."""
    se = record["se"]
    if isinstance(se, dict) and set(record["beta"]) <= set(se):
        return [se[name] for name in record["beta"]]
    return list(se.values()) if isinstance(se, dict) else list(se)


def rows():
    """Id, engine and numbers of every record."""
    for name in FITS:
        record = reference(f"{name}_tmb" if name in OBSERVED else name)
        yield (
            name,
            record["package"],
            row(fit_of(name), best_log_likelihood(name), record["beta"], se_of(record)),
        )
    for name in EXACT:
        record = exact(name)
        truth = record["exact"].get("observed_curvature", record["exact"])
        beta = dict(zip(record["fixef_names"], truth["fixef"], strict=True))
        se = np.array(truth.get("se_hessian", record["se_hessian"]))[-len(beta) :]
        yield name, "exact", row(exact_fit_of(name), truth["logLik"], beta, se)


if __name__ == "__main__":
    warnings.simplefilter("ignore", sparselmm.ModelWarning)
    print(f"{'fit':24} {'engine':9} {'log-lik.':>13} {'diff.':>9} {'beta/SE':>8} {'SE':>8} eval.")
    for name, engine, (llf, gap, beta, se, evaluations) in rows():
        print(f"{name:24} {engine:9} {llf:13.5f} {gap:9.1e} {beta:8.1e} {se:8.1e} {evaluations:4}")
