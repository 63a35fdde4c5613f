"""Values from several places meet by the labels of their rows, not by a position."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from sparselmm.exceptions import DataError

import sparselmm
from sparselmm.design import from_arrays, from_formula


def data(n_groups=8, each=5, seed=0):
    rng = np.random.default_rng(seed)
    n = n_groups * each
    frame = pd.DataFrame(
        {
            "y": rng.normal(size=n),
            "x": rng.normal(size=n),
            "g": np.repeat([f"g{j}" for j in range(n_groups)], each),
            "t": np.tile(np.arange(each), n_groups),
        }
    )
    return frame, frame.sample(frac=1.0, random_state=1)


# ------------------------------------------------------------- variables outside the data


@pytest.mark.parametrize(
    "formula",
    ["y ~ z", "y ~ I(x + z)", "y ~ np.log(z)", "y ~ f", "y ~ C(f)", "y ~ poly(z, 2)", "z ~ x"],
)
def test_a_series_outside_the_data_goes_by_its_labels(formula):
    frame, shuffled = data()
    z, f = np.exp(frame.x), pd.Series(np.where(frame.x > 0, "u", "v"))
    whole = from_formula(f"{formula} + (1 | g)", frame)
    other = from_formula(f"{formula} + (1 | g)", shuffled)
    place = shuffled.index.to_numpy()
    np.testing.assert_allclose(other.design.X, whole.design.X[place], rtol=1e-12)
    np.testing.assert_allclose(other.design.y, whole.design.y[place], rtol=1e-12)
    assert len(z) == len(f)


@pytest.mark.parametrize("bar", ["(0 + z | g)", "(1 | f)", "(f | g)", "(z || g)"])
def test_a_series_outside_the_data_in_a_bar_goes_by_its_labels(bar):
    frame, shuffled = data()
    z, f = np.exp(frame.x), pd.Series(np.where(frame.x > 0, "u", "v"))
    whole = from_formula(f"y ~ x + {bar}", frame).design
    dense = from_formula(f"y ~ x + {bar}", shuffled).design.Z.toarray()
    np.testing.assert_allclose(dense, whole.Z.toarray()[shuffled.index.to_numpy()], rtol=1e-12)
    assert len(z) == len(f)


@pytest.mark.parametrize("place", ["y ~ {}", "y ~ offset({})", "y ~ x + (1 | {})", "{} ~ x"])
def test_a_series_with_labels_of_other_rows_is_refused(place):
    def fresh(x):
        """A Series that has lost the labels of the rows."""
        return pd.Series(np.round(np.asarray(x)))

    frame, shuffled = data()
    assert from_formula(place.format("fresh(x)") + " + (1 | g)", frame).design.n == len(frame)
    with pytest.raises(DataError, match="another index than the data"):
        from_formula(place.format("fresh(x)") + " + (1 | g)", shuffled)


def test_transforms_of_arrays_go_by_position():
    frame, shuffled = data()
    place = shuffled.index.to_numpy()
    for term in ("relevel(np.where(x > 0, 'u', 'v'), ref='v')", "interaction(np.sign(x), t)"):
        whole, other = (
            from_formula(f"y ~ {term} + (1 | g)", part).design.X for part in (frame, shuffled)
        )
        np.testing.assert_allclose(other, whole[place])


def test_a_mapping_has_the_rows_of_its_first_series():
    frame, shuffled = data()
    mixed = {"y": shuffled.y, "x": frame.x, "g": shuffled.g.to_numpy()}
    built = from_formula("y ~ x + (1 | g)", mixed)
    whole = from_formula("y ~ x + (1 | g)", shuffled)
    assert built.row_labels.equals(shuffled.index)
    np.testing.assert_array_equal(built.design.y, whole.design.y)
    np.testing.assert_array_equal(built.design.X, whole.design.X)
    np.testing.assert_array_equal(built.design.terms[0].codes, whole.design.terms[0].codes)


# ------------------------------------------------------------ matrices with named columns


def test_columns_of_a_new_matrix_are_matched_by_name():
    frame, _ = data()
    Z = pd.get_dummies(frame.g).astype(float)
    result = sparselmm.mixedlm("y ~ x", frame, z_terms={"m": Z}).fit()
    new = frame.iloc[::7]
    wanted = result.predict(new, re=True, z_terms={"m": Z.loc[new.index]})
    turned = result.predict(new, re=True, z_terms={"m": Z.loc[new.index, Z.columns[::-1]]})
    by_position = result.predict(new, re=True, z_terms={"m": Z.loc[new.index].to_numpy()})
    np.testing.assert_array_equal(turned, wanted)
    np.testing.assert_array_equal(by_position, wanted)
    with pytest.raises(DataError, match="other columns than at the fit"):
        result.predict(new, re=True, z_terms={"m": Z.loc[new.index].add_suffix("!")})


def test_names_of_groups_and_columns_of_components_are_complete():
    frame, _ = data()
    groups, X = frame.g.to_numpy(), np.ones((len(frame), 1))
    ones = np.ones((5, 1))
    with (
        pytest.warns(FutureWarning, match="deprecated"),
        pytest.raises(DataError, match="a matrix of group 0, and no row is of that group"),
    ):
        from_arrays(frame.y, X, groups, exog_vc={"a": dict.fromkeys(range(8), ones)})
    few = sparselmm.VCSpec(["a"], [[["p"]] * 8], [[np.ones((5, 2))] * 8])
    with pytest.raises(DataError, match=r"2 columns and 1 name\(s\)"):
        from_arrays(frame.y, X, groups, exog_vc=few)


def test_labels_of_a_known_covariance_are_its_own():
    labels = np.arange(3)
    known = sparselmm.KnownCovariance(np.eye(3), labels)
    labels[:] = labels[::-1].copy()
    assert known.labels.tolist() == [0, 1, 2]


# --------------------------------------------------- transforms outside the designs of patsy


def test_transforms_in_offsets_and_groupings_remember_the_rows_of_the_fit():
    frame, _ = data()
    frame["y"] += 9.0 * (frame.x > 0.2)
    formula = "y ~ x + offset(center(x)) + (1 | I(scale(x) > 0.2))"
    built = from_formula(formula, frame)
    new = frame[frame.x > 0].iloc[:6]
    for spec in (built.spec, pickle.loads(pickle.dumps(built.spec))):
        again = spec.evaluate(new)
        np.testing.assert_allclose(again.offset, built.design.offset[new.index])
        np.testing.assert_array_equal(again.terms[0].codes, built.design.terms[0].codes[new.index])
    result = sparselmm.mixedlm(formula, frame).fit()
    np.testing.assert_allclose(
        result.predict(new, re=True), np.asarray(result.fittedvalues)[new.index], rtol=1e-12
    )


def test_a_grouping_by_relevel_has_new_rows_without_the_reference():
    frame, _ = data()
    built = from_formula("y ~ x + (1 | relevel(g, ref='g3'))", frame)
    new = frame[frame.g == "g5"]
    codes = built.spec.evaluate(new).terms[0].codes
    np.testing.assert_array_equal(codes, built.design.terms[0].codes[new.index])


def test_transforms_in_times_of_residuals_remember_the_rows_of_the_fit():
    frame, _ = data()
    built = from_formula("y ~ x", frame, residual="car1(scale(t) | g)")
    new = frame.iloc[5:9]
    coords = built.spec.residual_rows(new).coords
    np.testing.assert_allclose(coords, built.design.residual.coords[5:9])


def test_transforms_outside_the_designs_of_patsy_without_keeping_the_rows():
    frame, _ = data(12, 6)
    frame["y"] += np.repeat(np.arange(12) % 4, 6) + 3.0 * (frame.x > frame.x.mean())
    formula = "y ~ x + offset(center(x)) + (1 | g) + (1 | I(center(x) > 0))"
    whole = sparselmm.mixedlm(formula, frame).fit()
    parts = sparselmm.mixedlm(formula, frame, keep_rows=False, chunk_rows=24).fit()
    assert parts.llf == pytest.approx(whole.llf, rel=1e-10)


def test_new_data_read_by_columns_have_those_of_the_dispersion():
    pl = pytest.importorskip("polars")
    frame, _ = data(30)
    result = sparselmm.mixedlm("y ~ 1", frame, residual="cs(1 | g)", dispersion="~ I(x + t)").fit()
    wanted = result.get_prediction(frame.iloc[:3]).summary_frame()
    found = result.get_prediction(pl.from_pandas(frame.iloc[:3])).summary_frame()
    np.testing.assert_array_equal(found, wanted)


def test_groups_of_residuals_may_be_made_of_text():
    frame, _ = data()
    frame["h"] = "h"
    made = from_formula("y ~ x", frame, residual="ar1(t | I(h + g))")
    plain = from_formula("y ~ x", frame, residual="ar1(t | g)")
    np.testing.assert_array_equal(made.design.residual.group, plain.design.residual.group)
    new = made.spec.residual_rows(frame.iloc[7:12])
    np.testing.assert_array_equal(new.group, plain.design.residual.group[7:12])


# --------------------------------------------------------------------- names and codings


def test_names_of_a_design_do_not_depend_on_designs_before():
    frame, _ = data()
    moments = pd.DatetimeIndex(["2020-01-01", "2020-06-01"] * 20).tz_localize("UTC")
    for zone in ("UTC", "Asia/Tokyo", "UTC"):
        there = moments.tz_convert(zone)
        built = from_formula("y ~ f + (1 | g)", frame.assign(f=pd.Categorical(there)))
        assert repr(there[1]) in built.layout.x_names[1]


@pytest.mark.parametrize("text", ["matrix", "[[1, 0], [0, 1], [-1, -1]]"])
def test_a_matrix_as_the_coding_of_a_factor(text):
    matrix = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    frame, _ = data()
    frame["f"] = np.array(["u", "v", "w"])[np.arange(len(frame)) % 3]
    built = from_formula(f"y ~ C(f, {text}) + (1 | g)", frame)
    np.testing.assert_array_equal(built.design.X[:, 1:], matrix[np.arange(len(frame)) % 3])


def test_interactions_whose_labels_would_be_the_same_are_refused():
    frame, _ = data()
    frame["a"], frame["b"] = np.tile(["x.y", "x"], 20), np.tile(["z", "y.z"], 20)
    with pytest.raises(DataError, match=r"would be called 'x\.y\.z'"):
        from_formula("y ~ interaction(a, b) + (1 | g)", frame)


def test_a_column_called_like_a_function_is_missed_in_new_data():
    frame, _ = data()
    frame = frame.rename(columns={"x": "max", "g": "id"})
    spec = from_formula("y ~ max + (1 | id)", frame).spec
    for name in ("max", "id"):
        with pytest.raises(sparselmm.exceptions.FormulaError, match=f"'{name}', used in"):
            spec.evaluate(frame.drop(columns=name))
