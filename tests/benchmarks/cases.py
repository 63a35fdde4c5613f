"""The benchmark cases: one formula and one data set each, loaded or simulated from a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sparselmm import datasets


@dataclass(frozen=True)
class Case:
    """One model on one data set.

    ``targets`` are the least acceptable ratios of a peer's time to ours; ``peers`` the programs
    worth waiting for on this case. ``statsmodels`` holds the arguments for it where the formula has
    no bars.
    """

    name: str
    title: str
    formula: str
    data: Callable[[], pd.DataFrame]
    peers: tuple[str, ...]
    targets: dict[str, float]
    repeats: int = 5
    statsmodels: dict[str, Any] | None = None


def _sleepstudy() -> pd.DataFrame:
    return datasets.load("sleepstudy")


def _insteval() -> pd.DataFrame:
    return datasets.load("InstEval")[["y", "s", "d", "service", "dept"]]


def maximal(n: int, subjects: int, items: int, seed: int = 4) -> pd.DataFrame:
    """Subjects crossed with items, four correlated coefficients for each of both."""
    rng = np.random.default_rng(seed)
    if n == subjects * items:
        subj, item = np.divmod(np.arange(n), items)
    else:
        subj = np.arange(n) % subjects
        item = rng.integers(0, items, n)
    predictors = rng.choice([-0.5, 0.5], size=(n, 3))
    X = np.column_stack([np.ones(n), predictors])
    mix = np.tril(rng.normal(size=(4, 4)) * 0.15) + np.diag([0.7, 0.4, 0.3, 0.3])
    u = rng.normal(size=(subjects, 4)) @ mix.T
    v = rng.normal(size=(items, 4)) @ (0.8 * mix.T)
    y = X @ [1.0, 0.3, -0.2, 0.1] + (X * (u[subj] + v[item])).sum(axis=1) + rng.normal(size=n)
    return pd.DataFrame(
        {"y": y, "S": X[:, 1], "P": X[:, 2], "L": X[:, 3], "subj": subj, "item": item}
    )


def one_factor(n: int = 500_000, groups: int = 125_066, seed: int = 5) -> pd.DataFrame:
    """Many small groups, two factors and a number among the fixed effects."""
    rng = np.random.default_rng(seed)
    g = np.concatenate([np.arange(groups), rng.integers(0, groups, n - groups)])
    rng.shuffle(g)
    x = rng.normal(size=n)
    f1, f2 = rng.integers(0, 4, n), rng.integers(0, 3, n)
    u = rng.normal(size=(groups, 2)) @ np.array([[0.8, 0.0], [0.2, 0.4]]).T
    y = 1 + 0.5 * x + 0.2 * f1 - 0.1 * f2 + u[g, 0] + u[g, 1] * x + rng.normal(size=n)
    return pd.DataFrame(
        {"y": y, "x": x, "f1": np.array(list("abcd"))[f1], "f2": np.array(list("uvw"))[f2], "g": g}
    )


def nested(n: int, schools: int, classes: int, seed: int = 6) -> pd.DataFrame:
    """Pupils in classes in schools, a slope that varies between schools."""
    rng = np.random.default_rng(seed)
    school_of = np.sort(rng.integers(0, schools, classes))
    c = rng.integers(0, classes, n)
    s = school_of[c]
    x = rng.normal(size=n)
    u = rng.normal(size=(schools, 2)) * [0.5, 0.3]
    y = 2 + 0.4 * x + u[s, 0] + u[s, 1] * x + 0.4 * rng.normal(size=classes)[c] + rng.normal(size=n)
    return pd.DataFrame({"y": y, "x": x, "school": s, "cls": c})


def crossed(n: int, a: int, b: int, skew: float, seed: int = 7) -> pd.DataFrame:
    """Two crossed factors; popularity of their levels falls as rank**-skew."""
    rng = np.random.default_rng(seed)

    def draw(levels: int) -> np.ndarray:
        p = np.arange(1, levels + 1, dtype=float) ** -skew
        codes = rng.choice(levels, size=n - levels, p=p / p.sum())
        codes = np.concatenate([np.arange(levels), codes])
        rng.shuffle(codes)
        return codes

    user, item = draw(a), draw(b)
    x = rng.normal(size=n)
    y = 3 + 0.2 * x + 0.4 * rng.normal(size=a)[user] + 0.5 * rng.normal(size=b)[item]
    return pd.DataFrame({"y": y + rng.normal(size=n), "x": x, "user": user, "item": item})


def ratings(n: int, users: int, items: int, seed: int = 8) -> pd.DataFrame:
    """Ratings: users of very different activity, popular items, half of them in a user's genre.

    A user rates an item once; the rows are fewer than ``n`` by the pairs that were drawn again.
    """
    rng = np.random.default_rng(seed)
    genres = 20
    activity = np.exp(rng.normal(0.0, 1.1, users))
    user = np.repeat(np.arange(users), rng.multinomial(n, activity / activity.sum()))
    popular = 1.0 / (np.arange(items) + 30.0) ** 1.05
    genre = rng.integers(0, genres, items)
    item = rng.choice(items, size=n, p=popular / popular.sum())
    own = rng.integers(0, genres, users)[user]
    inside = rng.random(n) < 0.5
    for g in range(genres):
        rows, members = np.flatnonzero(inside & (own == g)), np.flatnonzero(genre == g)
        p = popular[members] / popular[members].sum()
        item[rows] = rng.choice(members, size=len(rows), p=p)
    pairs = np.unique(user.astype(np.int64) * items + item)
    user, item = np.divmod(pairs, items)
    x = rng.normal(size=len(pairs))
    y = 3.5 + 0.1 * x + 0.45 * rng.normal(size=users)[user] + 0.55 * rng.normal(size=items)[item]
    y += 0.85 * rng.normal(size=len(pairs))
    return pd.DataFrame({"y": y, "x": x, "user": user, "item": item})


def worker_firm(workers: int, firms: int, years: int, movers: float, seed: int = 9) -> pd.DataFrame:
    """Workers in firms, some of whom move once: a graph that hangs together by few edges."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, firms, workers)
    then = np.where(rng.random(workers) < movers, rng.integers(0, firms, workers), first)
    worker, year = np.divmod(np.arange(workers * years), years)
    firm = np.where(year < years // 2, first[worker], then[worker])
    x = rng.normal(size=len(worker))
    y = 1 + 0.1 * x + 0.8 * rng.normal(size=workers)[worker] + 0.5 * rng.normal(size=firms)[firm]
    y += 0.6 * rng.normal(size=len(worker))
    return pd.DataFrame({"y": y, "x": x, "worker": worker, "firm": firm})


CROSSED = "y ~ x + (1|user) + (1|item)"
WORKERS = "y ~ x + (1|worker) + (1|firm)"
NESTED = "y ~ x + (x|school) + (1|school:cls)"
MAXIMAL = "y ~ S + P + L + (1+S+P+L|subj) + (1+S+P+L|item)"

CASES = (
    Case("sleepstudy", "sleepstudy slopes", "Reaction ~ Days + (Days|Subject)", _sleepstudy,
         ("lme4", "glmm", "mixedlm", "statsmodels"), {"lme4": 1.0, "statsmodels": 10.0}),
    Case("insteval", "InstEval, 3 crossed factors", "y ~ service + (1|s) + (1|d) + (1|dept)",
         _insteval, ("lme4", "glmm", "mixedlm"), {"lme4": 10.0, "glmm": 3.0}),
    Case("insteval_slopes", "InstEval, crossed slopes",
         "y ~ service*dept + (1+service|s) + (1+service|d)", _insteval,
         ("lme4", "glmm"), {"lme4": 15.0}),
    Case("maximal_small", "maximal 20 thetas, 1,800 rows", MAXIMAL, lambda: maximal(1800, 60, 30),
         ("lme4", "glmm", "mixedlm"), {"lme4": 5.0, "glmm": 5.0}),
    Case("maximal_large", "maximal 20 thetas, 28,710 rows", MAXIMAL,
         lambda: maximal(28_710, 1920, 244), ("lme4",), {"lme4": 30.0}),
    Case("one_factor", "one factor, 125,066 groups", "y ~ f1 + f2 + x + (1|g)", one_factor,
         ("lme4", "glmm", "mixedlm"), {"lme4": 10.0, "glmm": 1.0}),
    Case("one_factor_slope", "one factor with slope", "y ~ f1 + f2 + x + (x|g)", one_factor,
         ("lme4", "glmm", "mixedlm"), {"lme4": 10.0, "glmm": 2.0}),
    Case("nested", "nested, 1,000,000 rows", NESTED, lambda: nested(1_000_000, 2000, 40_000),
         ("lme4", "glmm"), {"lme4": 20.0, "glmm": 1.3}),
    Case("crossed_dense", "crossed 5,000 x 5,000", CROSSED,
         lambda: crossed(100_000, 5000, 5000, 0.0), ("lme4", "glmm"), {"lme4": 4.0, "glmm": 2.0}),
    Case("skewed", "skewed users x items, 447,000 rows", CROSSED,
         lambda: crossed(447_000, 20_000, 7000, 0.9), ("lme4", "glmm"), {"lme4": 4.0, "glmm": 3.0}),
    Case("ratings_100k", "ratings, 100,000 rows", CROSSED,
         lambda: crossed(100_000, 1000, 1700, 0.6), ("lme4", "glmm"), {"lme4": 4.0, "glmm": 4.0}),
    Case("ratings_1m", "ratings, 1,000,000 rows", CROSSED,
         lambda: crossed(1_000_000, 6040, 3706, 0.6), ("lme4",), {"lme4": 5.0}),
    Case("ratings_10m", "ratings, 10,000,000 rows", CROSSED,
         lambda: crossed(10_000_000, 70_000, 10_700, 0.6), (), {}, repeats=1),
    Case("ratings_wide", "ratings, 20,000 x 8,000", CROSSED,
         lambda: ratings(1_050_000, 20_000, 8_000), ("lme4",), {}),
    Case("ratings_wide_10m", "ratings, 70,000 x 10,700", CROSSED,
         lambda: ratings(10_500_000, 70_000, 10_700), (), {}, repeats=1),
    Case("ratings_wide_32m", "ratings, 200,948 x 84,432", CROSSED,
         lambda: ratings(41_500_000, 200_948, 84_432), (), {}, repeats=1),
    Case("worker_firm", "workers and firms, 5 % movers", WORKERS,
         lambda: worker_firm(200_000, 20_000, 8, 0.05), (), {}, repeats=1),
    Case("nested_10m", "nested, 10,000,000 rows", NESTED,
         lambda: nested(10_000_000, 20_000, 400_000), (), {}, repeats=1),
)  # fmt: skip
