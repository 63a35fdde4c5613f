"""Every finding on data built to have it, and none of them on data built to have none."""

import warnings

import numpy as np
import pandas as pd
import pytest

import sparselmm
from sparselmm.inference.diagnostics.checks import group_p_values
from sparselmm.inference.diagnostics.diagnosis import ORDER


def data(l=40, m=10, sd=1.0, slope=0.5, seed=11):
    """Groups g of m rows, a covariate x within and z between groups, normal everything."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(l), m)
    x, z = rng.normal(size=l * m), rng.normal(size=l)[g]
    b = rng.normal(size=(2, l)) * np.array([[sd], [slope]])
    y = 1.0 + 0.5 * x + 0.3 * z + b[0, g] + b[1, g] * x + rng.normal(size=l * m)
    return pd.DataFrame({"y": y, "x": x, "z": z, "g": [f"g{j:03d}" for j in g]})


def diagnosis(formula, frame, **options):
    """What check() finds; warnings of the fit are not the subject here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sparselmm.mixedlm(formula, frame).fit(**options).check()


SLOPE = "y ~ x + z + (x | g)"
CLEAN = data()


@pytest.mark.parametrize("formula", [SLOPE, "y ~ x + z + (x || g)"])
@pytest.mark.parametrize("reml", [True, False])
def test_clean_data_have_no_findings(formula, reml):
    found = diagnosis(formula, CLEAN, reml=reml)
    assert found.ok, found
    assert len(found) == 0
    assert "Nothing to report" in repr(found)


def odd_rows():
    frame = data()
    frame.loc[17, "y"] += 9.0
    return frame


def odd_group():
    frame = data()
    frame.loc[frame["g"] == "g007", "y"] += 7.0
    return frame


def growing_spread():
    frame = data(m=20, sd=0.5)
    return frame.assign(y=np.exp(frame["y"]) + 5.0)


BUILT = {  # code: formula, data, severity, words that must be in what was seen
    "convergence": (SLOPE, CLEAN, "problem", "did not converge", {"maxiter": 1}),
    "singular": ("y ~ x + (1 | g)", data(slope=0).assign(
        y=lambda d: d["y"] - d.groupby("g")["y"].transform("mean")), "warning", "as zero"),
    "dropped": ("y ~ x + I(2 * x) + (1 | g)", data(slope=0), "warning", "I(2 * x)"),
    "collinear": ("y ~ x + xx + (1 | g)", data(slope=0).assign(
        xx=lambda d: d["x"] + 1e-3 * np.sin(np.arange(len(d)))), "warning", "VIF"),
    "scales": ("y ~ big + (1 | g)", data(slope=0).assign(
        big=lambda d: 1e5 * d["x"]), "note", "'big'"),
    "origin": ("y ~ year + (1 | g)", data(slope=0).assign(
        year=lambda d: 2010 + d["x"].round()), "note", "year (mean 2010"),
    "few-levels": ("y ~ x + (1 | g)", data(l=4, m=60, slope=0, seed=2), "note", "only 4 level(s)"),
    "constant-slope": ("y ~ x + z + (z | g)", data(slope=0), "problem", "'z' does not vary"),
    "outlying-groups": (SLOPE, odd_group(), "warning", "g007"),
    "outlying-rows": (SLOPE, odd_rows(), "warning", "17 (+"),
    "not-normal": ("y ~ x + (1 | g)", growing_spread(), "note", "skewness +"),
    "spread": ("y ~ x + (1 | g)", growing_spread(), "note", "grows with"),
}  # fmt: skip


@pytest.mark.parametrize("code", BUILT)
def test_finding_on_data_built_to_have_it(code):
    formula, frame, severity, words, *options = BUILT[code]
    found = diagnosis(formula, frame, **(options[0] if options else {}))
    assert code in found.codes, found
    assert found[code].severity == severity
    assert words in found[code].seen
    assert found[code].advice in " ".join(repr(found).split())
    grades = [ORDER.index(finding.severity) for finding in found]
    assert grades == sorted(grades)


def test_perfect_correlation_is_singular():
    rng = np.random.default_rng(5)
    g = np.repeat(np.arange(30), 8)
    x = rng.normal(size=240)
    y = rng.normal(size=30)[g] * (1.0 + x) + 0.7 * rng.normal(size=240)
    found = diagnosis("y ~ x + (x | g)", pd.DataFrame({"y": y, "x": x, "g": g}))
    assert "singular" in found.codes
    assert "correlation of 'Intercept' and 'x' is +1.000" in found["singular"].seen


def test_single_rows():
    frame = data(slope=0)
    frame["h"] = frame["g"]
    frame.loc[frame.index % 10 < 3, "h"] = [f"single{i}" for i in range(120)]
    found = diagnosis("y ~ x + z + (1 | h)", frame)
    assert found["singletons"].severity == "warning"
    assert "120 of 160 levels of 'h' have a single row" in found["singletons"].seen
    frame.loc[frame.index % 10 < 2, "h"] = frame["g"]
    frame.loc[frame.index >= 100, "h"] = frame["g"]
    found = diagnosis("y ~ x + z + (1 | h)", frame)
    assert found["singletons"].severity == "note"


def test_what_cannot_be_identified():
    """As many effects as rows; the same partition twice; a factor that is also in X."""
    frame = data(l=60, m=2, seed=4)
    found = diagnosis("y ~ 1 + (x | g)", frame)
    assert "60 levels x 2 coefficients for 120 rows" in found["not-identifiable"].seen
    frame = data(slope=0).assign(h=lambda d: "h" + d["g"])
    found = diagnosis("y ~ x + z + (1 | g) + (1 | h)", frame)
    assert "group the rows in the same way" in found["not-identifiable"].seen
    assert found["not-identifiable"].severity == "problem"
    found = diagnosis("y ~ x + g + (1 | g)", data(l=12, slope=0))
    assert "'g' are also fixed effects" in found["not-identifiable"].seen


def test_flat_likelihood():
    frame = data(l=6, m=50, slope=0, seed=8)
    h = frame["g"].to_numpy().copy()
    h[0] = "g005"  # all but the same partition
    found = diagnosis("y ~ x + (1 | g) + (1 | h)", frame.assign(h=h))
    assert found["flat"].severity == "warning"
    assert "nearly flat" in found["flat"].seen


def test_group_p_values_are_uniform_where_the_model_holds():
    """Bonferroni-corrected p-values below 1 come back to chi-square quantiles."""
    frame = data(l=400, m=8, seed=21)
    fit = sparselmm.mixedlm(SLOPE, frame).fit()
    p = group_p_values(fit._est, 0)
    assert (p <= 1.0).all()
    assert 0 < (p < 1.0).sum() <= 8  # one in 400 is expected below 1


def test_diagnosis_by_code():
    found = diagnosis(SLOPE, odd_rows())
    with pytest.raises(KeyError, match="no finding 'singular'"):
        found["singular"]


def test_many_fixed_effects_make_no_rows_outliers_under_ml():
    found = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        data = pd.DataFrame({f"x{j}": rng.normal(size=60) for j in range(24)})
        data["g"] = np.repeat([f"g{i:02}" for i in range(12)], 5)
        data["y"] = rng.normal(size=60) + rng.normal(size=12).repeat(5)
        formula = "y ~ " + " + ".join(f"x{j}" for j in range(24)) + " + (1 | g)"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found += (
                "outlying-rows" in sparselmm.mixedlm(formula, data).fit(reml=False).check().codes
            )
    assert found <= 6  # of 25 tests at the level 0.05


@pytest.mark.parametrize(
    "random", ["diag(0 + arm | g)", "(0 + one | g) + (0 + two | g)", "(1 | g) + (0 + one | g)"]
)
def test_variances_of_kinds_of_groups_are_no_constant_slopes(random):
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"g": np.repeat([f"g{i:02}" for i in range(24)], 10)})
    data["arm"] = np.where(data.g < "g12", "A", "B")
    data["one"], data["two"] = (data.arm == "A") * 1.0, (data.arm == "B") * 1.0
    data["age"] = rng.normal(size=24).repeat(10)
    data["y"] = rng.normal(size=240) + rng.normal(size=24).repeat(10) * (1.0 + data.one)
    assert sparselmm.mixedlm(f"y ~ arm + {random}", data).fit().check().ok
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        slopes = sparselmm.mixedlm("y ~ age + (1 | g) + (0 + age | g)", data).fit()
    assert "constant-slope" in slopes.check().codes
