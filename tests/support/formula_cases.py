"""Data and slow references the formula tests share."""

import numpy as np
import pandas as pd
import patsy


def ragged_data():
    """Forty rows, groups of unequal size in no order, labels re-used between groups."""
    rng = np.random.default_rng(42)
    n = 40
    g = np.array(["q", "b", "zz", "a"])[rng.choice(4, n, p=[0.4, 0.3, 0.2, 0.1])]
    levels = ["w", "unused", "v", "u"]
    return pd.DataFrame(
        {
            "y": rng.normal(size=n),
            "x": rng.uniform(0.5, 3, size=n),
            "z": rng.normal(size=n),
            "g": g,
            "a": np.array(["one", "two", "three"])[rng.integers(0, 3, n)],
            "u": pd.Categorical(np.array(["w", "v", "u"])[rng.integers(0, 3, n)], levels),
            "b": rng.integers(0, 2, n).astype(bool),
            "k": rng.integers(0, 4, n),
            "big": rng.permutation(np.arange(n) % 20),
            "w": rng.uniform(0.5, 2, size=n),
        },
        index=rng.permutation(n) // 2,  # every label twice
    )


def bump(x):
    """A function patsy cannot know to be elementwise."""
    return x - np.min(x)


def per_group_columns(formula, data, groups):
    """Components as statsmodels evaluates them: {(group, column name): dense column}."""
    out = {}
    data = data.reset_index(drop=True)
    groups = np.asarray(groups)
    for label in sorted(set(groups)):
        rows = np.flatnonzero(groups == label)
        part = data.iloc[rows].copy()
        for name in part.columns:
            if isinstance(part[name].dtype, pd.CategoricalDtype):
                part[name] = part[name].cat.remove_unused_categories()
        matrix = patsy.dmatrix(formula, part, eval_env=0)
        for j, name in enumerate(matrix.design_info.column_names):
            column = np.zeros(len(data))
            column[rows] = np.asarray(matrix)[:, j]
            if column.any():
                out[label, name] = column
    return out


def term_columns(term, n):
    """The same of a built term; columns of zeros left out."""
    Z = dense_z(term, n)
    parts = list(zip(*(part.tolist() for part in term.levels.parts), strict=True))
    names = [term.columns[0].format(*part[1:]) for part in parts]
    out = {}
    for j, (part, name) in enumerate(zip(parts, names, strict=True)):
        assert (part[0], name) not in out
        if Z[:, j].any():
            out[part[0], name] = Z[:, j]
    return out


def dense_z(term, n):
    """Dense (n, q) part of Z of one term, row by row."""
    if term.block is not None:
        return term.block.toarray()
    Z = np.zeros((n, term.q))
    for i, code in enumerate(term.codes):
        for c in range(term.k):
            if code >= 0:
                Z[i, code * term.k + c] = 1.0 if term.values is None else term.values[i, c]
    return Z


def hand_z(labels, values):
    """Dense Z from one label per row and (n, k) covariates; levels sorted."""
    order = sorted(set(labels))
    values = np.asarray(values, dtype=float)
    Z = np.zeros((len(labels), len(order) * values.shape[1]))
    for i, label in enumerate(labels):
        start = order.index(label) * values.shape[1]
        Z[i, start : start + values.shape[1]] = values[i]
    return Z
