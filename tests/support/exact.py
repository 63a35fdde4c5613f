"""The deviance by its definition, in decimal arithmetic of 60 digits: nothing is lost to rounding.

Every number of the design and of theta counts as exactly what its bits say. The textbook's V is
factored as it stands, so that nothing is shared with the package but the layout of Z.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from operator import mul
from typing import Any

import numpy as np

DIGITS = 60

PI = Decimal("3.141592653589793238462643383279502884197169399375105820974944592307816")

Matrix = list[list[Decimal]]


def exact_deviance(design: Any, lams: list[np.ndarray], *, reml: bool) -> float:
    """Deviance of a design at the roots ``lambda_t`` of its terms, sigma profiled out.

    Parameters
    ----------
    design : Design
        With an X of full rank; up to about 100 rows.
    lams : list of ndarray, (k, k)
    reml : bool
    """
    with localcontext() as context:
        context.prec = DIGITS
        weights = np.ones(design.n) if design.weights is None else design.weights
        rows = np.flatnonzero(weights > 0)
        V = _covariance(design, lams, rows)
        for i, row in enumerate(rows):
            V[i][i] += 1 / Decimal(float(weights[row]))
        offset = np.zeros(design.n) if design.offset is None else design.offset
        Xy = [
            [*_decimals(design.X[row]), Decimal(float(design.y[row])) - Decimal(float(offset[row]))]
            for row in rows
        ]
        logdet, half = _forward(V, Xy)
        logdet_x, pwrss = _eliminated([[_dot(a, b) for b in half] for a in half])
        df = len(rows) - (design.X.shape[1] if reml else 0)
        value = logdet + df * (1 + (2 * PI * pwrss / df).ln())
        return float(value + logdet_x if reml else value)


def _decimals(row: np.ndarray) -> list[Decimal]:
    return [Decimal(float(x)) for x in row]


def _dot(a: list[Decimal], b: list[Decimal]) -> Decimal:
    return sum(map(mul, a, b), Decimal(0))


def _covariance(design: Any, lams: list[np.ndarray], rows: np.ndarray) -> Matrix:
    """``Z Lambda Lambda'Z'`` of some rows."""
    out = [[Decimal(0)] * len(rows) for _ in rows]
    Z, start = design.Z.toarray()[rows], 0
    for term, lam in zip(design.terms, lams, strict=True):
        own = Z[:, start : start + term.q].reshape(len(rows), term.n_levels, term.k)
        start += term.q
        columns = [_decimals(column) for column in lam.T]
        for level in range(term.n_levels):
            here = np.flatnonzero(own[:, level].any(axis=1))
            half = [[_dot(_decimals(own[i, level]), column) for column in columns] for i in here]
            for i, a in zip(here, half, strict=True):
                for j, b in zip(here, half, strict=True):
                    out[i][j] += _dot(a, b)
    return out


def _forward(V: Matrix, right: Matrix) -> tuple[Decimal, Matrix]:
    """``log det V`` and the columns of ``L^-1 right`` for ``V = L L'``."""
    L: Matrix = []
    half: Matrix = []
    logdet = Decimal(0)
    for i, row in enumerate(V):
        own: list[Decimal] = []
        for j in range(i):
            own.append((row[j] - _dot(own, L[j][:j])) / L[j][j])
        pivot = row[i] - _dot(own, own)
        logdet += pivot.ln()
        own.append(pivot.sqrt())
        columns = zip(*half, strict=True) if half else [()] * len(right[i])
        half.append(
            [(x - _dot(own[:i], list(c))) / own[i] for x, c in zip(right[i], columns, strict=True)]
        )
        L.append(own)
    return logdet, [list(column) for column in zip(*half, strict=True)]


def _eliminated(S: Matrix) -> tuple[Decimal, Decimal]:
    """``log det S_xx`` and ``S_yy - S_yx S_xx^-1 S_xy``."""
    logdet = Decimal(0)
    for a in range(len(S) - 1):
        logdet += S[a][a].ln()
        for i in range(a + 1, len(S)):
            factor = S[i][a] / S[a][a]
            S[i] = [x - factor * y for x, y in zip(S[i], S[a], strict=True)]
    return logdet, S[-1][-1]
