"""Simulated responses of every family: data/reference/glmm/data/families.csv.gz."""

from pathlib import Path

import numpy as np
import pandas as pd

rng = np.random.default_rng(3)
n = 600
d = pd.DataFrame({"g": rng.integers(0, 40, n), "x": rng.normal(size=n)})
d["v"] = d.x / 10
eta = 0.6 + 0.4 * d.x + 0.6 * rng.normal(size=40)[d.g]
mu = np.exp(eta)
d["c"] = rng.poisson(mu * rng.gamma(2, 0.5, n))
d["z"] = np.where(rng.random(n) < 0.25, 0, d.c)
d["ga"] = mu * rng.gamma(4, 0.25, n)
p = 1 / (1 + np.exp(0.5 - eta))
d["b"] = np.clip(rng.beta(5 * p, 5 * (1 - p)), 1e-4, 1 - 1e-4)
d["m"] = rng.integers(2, 10, n)
d["s"] = rng.binomial(d.m, rng.beta(3 * p, 3 * (1 - p)))
d["w"] = rng.integers(1, 4, n)
here = Path(__file__).parents[2] / "data" / "reference" / "glmm" / "data" / "families.csv.gz"
d.to_csv(here, index=False, compression={"method": "gzip", "mtime": 1})
