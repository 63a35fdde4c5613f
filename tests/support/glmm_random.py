"""Random generalized models made to be hard: few rows, units from 1e-3 to 1e3, zero variances.

``python tests/support/glmm_random.py 0 200`` fits those seeds and prints what did not converge, and
what a search from other starts found to be lower.
"""

import sys
import warnings

import numpy as np
import pandas as pd

import sparselmm

FAMILIES = ("binomial", "poisson", "nbinom1", "nbinom2", "gamma", "beta", "betabinomial",
            "ordinal", "inverse_gaussian", "gaussian")  # fmt: skip
TERMS = ("(1|g)", "(1|g) + (1|h)", "(x|g)", "(x||g)", "(x|g) + (1|h)")
LINKS = {"binomial": ("logit", "probit", "cloglog", "cauchit"), "gamma": ("log", "inverse"),
         "ordinal": ("logit", "probit", "cloglog")}  # fmt: skip


def random_model(seed):
    """Formula, data and arguments."""
    rng = np.random.default_rng(seed)
    family = str(rng.choice(FAMILIES))
    n = int(rng.integers(20, 200))
    groups = int(rng.integers(3, max(4, n // 4)))
    x = rng.normal(size=n) * 10.0 ** rng.integers(-3, 4)
    data = pd.DataFrame({"g": rng.integers(0, groups, n), "h": rng.integers(0, 8, n), "x": x})
    own = (data.x - data.x.mean()) / data.x.std()
    sd = rng.choice([0.0, 0.3, 1.0, 2.0], 3, p=[0.3, 0.3, 0.3, 0.1])
    eta = rng.normal() * 0.7 + 0.5 * own + sd[0] * rng.normal(size=groups)[data.g]
    eta = eta + 0.5 * sd[1] * rng.normal(size=8)[data.h]
    eta = eta + 0.5 * sd[2] * rng.normal(size=groups)[data.g] * own
    arguments = {"family": family}
    if family in LINKS:
        arguments["link"] = str(rng.choice(LINKS[family]))
    left = respond(data, family, eta, rng)
    if family == "poisson" and rng.random() < 0.4 and (data.y == 0).any():
        arguments["zi"] = "~ 1"
    return f"{left} ~ x + {rng.choice(TERMS)}", data, arguments


def respond(data, family, eta, rng):
    """Add a response; returns the left side of the formula."""
    n = len(data)
    m, p, mu = rng.integers(1, 12, n), 1 / (1 + np.exp(-eta)), np.exp(np.clip(eta, -5, 5))
    if family in ("binomial", "betabinomial"):
        data["m"] = m
        p = rng.beta(4 * p + 0.1, 4 * (1 - p) + 0.1) if family == "betabinomial" else p
        data["s"] = rng.binomial(m, p)
        return "cbind(s, m - s)"
    draws = {
        "poisson": lambda: rng.poisson(mu),
        "nbinom1": lambda: rng.poisson(mu * rng.gamma(2, 0.5, n)),
        "nbinom2": lambda: rng.poisson(mu * rng.gamma(2, 0.5, n)),
        "gamma": lambda: mu * rng.gamma(3, 1 / 3, n),
        "inverse_gaussian": lambda: rng.wald(mu, 4 * mu),
        "beta": lambda: np.clip(rng.beta(5 * p + 0.01, 5 * (1 - p) + 0.01), 1e-6, 1 - 1e-6),
        "ordinal": lambda: np.digitize(eta + rng.logistic(size=n), [-1, 0.5]),
        "gaussian": lambda: eta + rng.normal(size=n),
    }  # fmt: skip
    data["y"] = draws[family]()
    return "y"


def judged(seed, starts=5):
    """``(outcome, gap)``: how the fit of a seed ended, and by how much another search is lower."""
    formula, data, arguments = random_model(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sparselmm.ModelWarning)
        try:
            model = sparselmm.mixedglm(formula, data, **arguments)
            fit = model.fit()
        except sparselmm.DataError:
            return "refused", 0.0
        if fit.separation:
            return "separated", 0.0
        other = model.fit(starts=starts)
    gap = fit.opt.deviance - other.opt.deviance
    return ("converged" if fit.converged else "not converged"), gap


if __name__ == "__main__":
    for number in range(int(sys.argv[1]), int(sys.argv[2])):
        outcome, lower = judged(number)
        if outcome == "not converged" or lower > 1e-5:
            print(number, *random_model(number)[::2], outcome, f"{lower:.3g}")
