"""Designs large enough for probes, small enough for an exact answer beside them."""

import numpy as np
import pandas as pd
import scipy.sparse as sp


def _data(seed, n, a, b, c=0):
    rng = np.random.default_rng(seed)
    f, g, h = rng.integers(0, a, n), rng.integers(0, b, n), rng.integers(0, max(c, 1), n)
    x, z = rng.normal(size=n), rng.normal(size=n)
    return rng, pd.DataFrame({"f": f, "g": g, "h": h, "x": x, "z": z})


def scalar(seed=1, n=4000, a=400, b=250, sd=(0.6, 0.5)):
    """Two crossed factors."""
    rng, d = _data(seed, n, a, b)
    d["y"] = 1 + 0.3 * d.x + sd[0] * rng.normal(size=a)[d.f] + sd[1] * rng.normal(size=b)[d.g]
    d["y"] += rng.normal(size=n)
    return d


def slopes(seed=2, n=6000, a=300, b=150):
    """Correlated slopes of both factors."""
    rng, d = _data(seed, n, a, b)
    u = rng.normal(size=(a, 2)) @ np.array([[0.7, 0.2], [0.0, 0.4]])
    v = rng.normal(size=(b, 2)) @ np.array([[0.5, -0.1], [0.0, 0.3]])
    d["y"] = 1 + 0.3 * d.x + u[d.f, 0] + u[d.f, 1] * d.x + v[d.g, 0] + v[d.g, 1] * d.x
    d["y"] += rng.normal(size=n)
    return d


def three(seed=3, n=6000, a=300, b=200, c=12):
    """Two large factors and a small one."""
    rng, d = _data(seed, n, a, b, c)
    d["y"] = 0.6 * rng.normal(size=a)[d.f] + 0.5 * rng.normal(size=b)[d.g]
    d["y"] += 0.4 * rng.normal(size=c)[d.h] + 0.2 * d.x + rng.normal(size=n)
    d["w"] = rng.uniform(0.3, 2.0, n)
    return d


def far_slopes(seed=4, n=6000, a=300, b=150):
    """Slopes on a covariate whose origin is far away."""
    d = slopes(seed, n, a, b)
    d["t"] = d.x + 2000.0
    return d


def _membership():
    """Every row belongs to two levels of a term given as a matrix."""
    rng = np.random.default_rng(77)
    rows = np.repeat(np.arange(4000), 2)
    shape = (4000, 200)
    return sp.csr_array((np.ones(8000), (rows, rng.integers(0, 200, 8000))), shape=shape)


CASES = {
    "scalar": (scalar, "y ~ x + (1|f) + (1|g)", {}),
    "slopes": (slopes, "y ~ x + (x|f) + (x|g)", {}),
    "independent": (slopes, "y ~ x + (x||f) + (1|g)", {}),
    "three": (three, "y ~ x + (1|f) + (1|g) + (1|h)", {}),
    "weights": (three, "y ~ x + (1|f) + (x|g) + (1|h)", {"weights": "w"}),
    "zero": (lambda: scalar(5, sd=(0.7, 0.0)), "y ~ x + (1|f) + (1|g)", {}),
    "zero_slope": (lambda: scalar(6), "y ~ x + (z|f) + (1|g)", {}),
    "zero_slopes": (lambda: scalar(6), "y ~ x + (x + z|f) + (x|g)", {}),
    "far": (far_slopes, "y ~ t + (t|f) + (1|g)", {}),
    "membership": (scalar, "y ~ x + (1|f)", {"z_terms": {"m": _membership()}}),
    "nested": (three, "y ~ x + (1|f) + (1|g) + (1|f:h)", {}),
}
