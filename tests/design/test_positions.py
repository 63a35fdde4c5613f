"""Autoregressive terms over factors with gaps: positions, derivatives, the dense twin."""

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from sparselmm import SpecificationWarning, mixedlm
from sparselmm.base.exceptions import DataError, FormulaError
from sparselmm.likelihood.covariance import term_covariance

TIMES = [1, 2, 3, 7, 8]
GAPS = (0, 1, 2, 6, 7)
STRUCTURES = ["homogeneous autoregressive", "autoregressive"]


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    g, t = np.repeat(np.arange(30), 10), np.tile(np.repeat(TIMES, 2), 30)
    root = np.linalg.cholesky(0.8 ** abs(np.subtract.outer(TIMES, TIMES)))
    b = rng.normal(size=(30, 5)) @ root.T
    return pd.DataFrame({"g": g, "t": t, "y": b[g, np.searchsorted(TIMES, t)]
                         + 0.5 * rng.normal(size=len(g))})  # fmt: skip


FACTORS = {
    "C(t)": lambda t: t,
    "C(t) of Int64": lambda t: t.astype("Int64"),
    "C(t) of halves": lambda t: t / 2,
    "C(t) of dates": lambda t: pd.Timestamp("2020-01-01") + pd.to_timedelta(3 * t, unit="D"),
    "numbers as strings": lambda t: t.astype(str),
    "categories": lambda t: pd.Categorical(t, range(1, 9)),
    "used categories": lambda t: pd.Categorical(t),
    "named categories": lambda t: pd.Categorical([f"w{v}" for v in t], [f"w{v}" for v in range(9)]),
}


@pytest.mark.parametrize("hom", ["True", "False"])
@pytest.mark.parametrize("kind", FACTORS)
def test_positions_of_levels(kind, hom, data):
    rows = data.assign(t=FACTORS[kind](data["t"]))
    code = "C(t)" if kind.startswith("C(t)") else "t"
    model = mixedlm(f"y ~ 1 + ar1(0 + {code} | g, hom={hom})", rows)
    assert model.terms[0].positions == GAPS
    fit = model.fit()
    theta = 0.9 * fit.theta
    sparse, dense = model.deviance(), model.deviance(engine="dense")
    assert sparse.value(theta) == pytest.approx(dense.value(theta), rel=1e-10)
    steps = 1e-5 * np.eye(len(theta))
    slope = [(dense.value(theta + e) - dense.value(theta - e)) / 2e-5 for e in steps]
    np.testing.assert_allclose(sparse.gradient(theta), slope, atol=1e-5)
    psi = np.asarray(fit.cov_re)
    sd = np.sqrt(np.diag(psi))
    lag = abs(np.subtract.outer(GAPS, GAPS))
    np.testing.assert_allclose(psi / np.outer(sd, sd), np.sin(fit.theta[-1]) ** lag, atol=1e-10)
    new = fit.predict(rows[::-7], re=True)
    np.testing.assert_allclose(new, fit.fittedvalues[::-7], atol=1e-10)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("places", [None, GAPS, (7, 0, 2, 3, 12), (0, 1, 5, 7, 9)])
@pytest.mark.parametrize("phi", [0.7, -0.7, 0.0])
def test_root_and_its_derivatives(structure, places, phi):
    term = term_covariance(5, structure, places)
    theta = np.array([1.3, phi] if len(structure) > 20 else [1.0, 0.5, 2.0, 0.7, 1.1, phi])
    psi = term.factor(theta) @ term.factor(theta).T
    at, sd = np.array(places or range(5)), np.sqrt(np.diag(psi))
    lag = abs(np.subtract.outer(at, at))
    np.testing.assert_allclose(psi / np.outer(sd, sd), np.sin(phi) ** lag, atol=1e-13)
    steps = 1e-5 * np.eye(len(theta))
    ends = [(term.factor(theta + e) - term.factor(theta - e)) / 2e-5 for e in steps]
    np.testing.assert_allclose(term.slopes(theta), ends, atol=1e-8)
    slope = np.random.default_rng(1).normal(size=(5, 5))
    ends = [(term.chain(theta + e, slope) - term.chain(theta - e, slope)) / 2e-5 for e in steps]
    np.testing.assert_allclose(term.bends(theta, slope), ends, atol=1e-7)
    np.testing.assert_allclose(term.coordinates(np.linalg.cholesky(psi)), theta, atol=1e-10)


def test_even_steps_are_consecutive(data):
    rows = data.assign(t=10 * np.searchsorted(TIMES, data["t"]))
    assert mixedlm("y ~ 1 + ar1(0 + C(t) | g)", rows).terms[0].positions is None


def test_times_without_a_common_step(data):
    odd = dict(zip(TIMES, [0.1234567, 1.73645342, 2.9999123, 5.0, 7.1], strict=True))
    with pytest.raises(DataError, match="no common step"):
        mixedlm("y ~ 1 + ar1(0 + C(t) | g)", data.assign(t=data["t"].map(odd)))


def test_alphabetical_times(data):
    rows = data.assign(t=[f"w{v + 3}" for v in data["t"]])
    with pytest.warns(SpecificationWarning, match="alphabetical"):
        mixedlm("y ~ 1 + ar1(0 + t | g)", rows)


@pytest.mark.parametrize("effects", ["C(t):C(v)", "v:C(t)", "C(t)*v", "C(t) + v"])
def test_a_series_over_two_factors_is_refused(effects):
    """Which of their levels are neighbours would depend on how the product is written."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"t": np.tile([1, 2, 3], 40), "g": np.repeat(np.arange(20), 6)})
    data["v"], data["y"] = np.tile(["a", "a", "a", "b", "b", "b"], 20), rng.normal(size=120)
    with pytest.raises(FormulaError, match=r"one series.*Number the combinations"):
        mixedlm(f"y ~ 1 + ar1(0 + {effects} | g)", data)


@pytest.mark.parametrize("hom", [True, False])
@pytest.mark.parametrize("reml", [True, False])
def test_uneven_positions_against_an_n_by_n_matrix(hom, reml):
    """The criterion of a whole search on the textbook's matrix, coefficients in any order."""
    times = np.array([7.0, 1.0, 2.0, 4.5])
    rng = np.random.default_rng(3)
    l, repeats = 14, 2
    data = pd.DataFrame({"t": np.tile(np.repeat(times, repeats), l)})
    data["g"] = np.repeat(np.arange(l), len(times) * repeats)
    V = 0.6 ** (2.0 * np.abs(times[:, None] - times))
    b = rng.multivariate_normal(np.zeros(4), 2.0 * V, size=l)
    data["y"] = np.repeat(b.ravel(), repeats) + rng.normal(size=len(data)) + 3.0
    fit = mixedlm(f"y ~ t + ar1(0 + C(t) | g, hom={hom})", data).fit(reml=reml)
    X, y = np.column_stack([np.ones(len(data)), data.t]), data.y.to_numpy()
    same = data.g.to_numpy()[:, None] == data.g.to_numpy()
    lag = 2.0 * np.abs(data.t.to_numpy()[:, None] - data.t.to_numpy())
    place = np.searchsorted(np.sort(times), data.t)

    def criterion(x):
        sd = np.exp(x[:-2])[place if len(x) > 3 else np.zeros(len(data), int)]
        corr = np.sign(np.tanh(x[-2])) ** lag * np.abs(np.tanh(x[-2])) ** lag
        S = np.outer(sd, sd) * corr * same + np.exp(2 * x[-1]) * np.eye(len(y))
        Si = np.linalg.inv(S)
        XSX = X.T @ Si @ X
        r = y - X @ np.linalg.solve(XSX, X.T @ Si @ y)
        value = np.linalg.slogdet(S)[1] + r @ Si @ r + (len(y) - 2 * reml) * np.log(2 * np.pi)
        return value + reml * np.linalg.slogdet(XSX)[1]

    start = np.append(np.zeros(1 if hom else 4), [0.5, 0.0])
    best = optimize.minimize(criterion, start, method="BFGS", options={"gtol": 1e-7})
    assert fit.converged
    assert -2.0 * fit.llf == pytest.approx(best.fun, abs=1e-6)
    assert fit.sigma == pytest.approx(np.exp(best.x[-1]), rel=1e-3)
    corr = fit.varcorr.query("var2 == var2").sdcor.to_numpy()
    assert np.isclose(np.abs(corr), np.tanh(best.x[-2]) ** 2, rtol=1e-3).any()  # 1 and 2
