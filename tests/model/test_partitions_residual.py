"""Residual structures of rows read in partitions: groups alike are added up."""

import numpy as np
import pandas as pd
import pytest
from sparselmm.exceptions import (
    ArgumentError,
    DataError,
    RemovedRowsError,
    SourceChangedError,
    UnknownColumnError,
    UnsupportedError,
)

import sparselmm

pytestmark = pytest.mark.filterwarnings(
    "ignore::sparselmm.exceptions.BoundaryWarning",
    "ignore::sparselmm.SpecificationWarning",
    "ignore::sparselmm.exceptions.RankDeficiencyWarning",
)

TIMES = 4


def visits(seed=0, subjects=90, schools=6):
    """Rows by subject and time, a sixth of them missing."""
    rng = np.random.default_rng(seed)
    n = subjects * TIMES
    subject, t = np.repeat(np.arange(subjects), TIMES), np.tile(np.arange(TIMES), subjects)
    arm, x = np.repeat(rng.integers(0, 2, subjects), TIMES), rng.normal(size=n)
    school = np.repeat(rng.integers(0, schools, subjects), TIMES)
    R = 0.6 ** np.abs(np.subtract.outer(range(TIMES), range(TIMES)))
    e = (rng.normal(size=(subjects, TIMES)) @ np.linalg.cholesky(R).T).ravel()
    data = pd.DataFrame({
        "y": x + 0.3 * arm * t + (1 + 0.2 * t) * e + rng.normal(size=schools)[school],
        "x": x,
        "arm": np.where(arm, "act", "ctl"),
        "visit": pd.Categorical.from_codes(t, ["base", "w2", "w4", "w9"]),
        "t": t,
        "time": t + 0.25 * (subject % 2),
        "w": np.where(subject % 3 > 0, 1.0, 2.0),
        "o": rng.normal(size=n),
        "school": school,
        "id": np.char.mod("s%03d", subject),
    })  # fmt: skip
    return data[rng.random(n) > 1 / 6].reset_index(drop=True)


FIXED = "y ~ x + arm * t"
MODELS = {
    "us": ("y ~ x + arm * visit", {"residual": "us(visit | id)"}),
    "us by arm": ("y ~ x + arm * visit", {"residual": "us(visit | id, by=arm)"}),
    "toep": ("y ~ arm * visit", {"residual": "toeph(visit | id)"}),
    "ad": ("y ~ arm * visit", {"residual": "ad(visit | id)"}),
    "cs": ("y ~ arm * visit", {"residual": "cs(1 | id)"}),
    "cs of visits": ("y ~ arm * visit", {"residual": "csh(visit | id)"}),
    "ar1": (FIXED, {"residual": "ar1(t | id)"}),
    "strata": (FIXED, {"residual": "ar1(t | id, by=arm)"}),
    "car1": (FIXED, {"residual": "car1(time | id)"}),
    "exp": (FIXED, {"residual": "exp(time | id, nugget=True)"}),
    "gau": (FIXED, {"residual": "gau(time | id)"}),
    "plane": (FIXED, {"residual": "exp(t + x | id)"}),
    "crossed groups": (FIXED, {"residual": "ar1(t | school:id)"}),
    "coarser effects": (FIXED + " + (1 + t | school)", {"residual": "ar1(t | id)"}),
    "effects of the groups": (FIXED + " + (1 | id)", {"residual": "ar1(t | id)"}),
    "finer effects": (FIXED + " + (1 | school/id)", {"residual": "ar1(t | id)"}),
    "dispersion": ("y ~ arm * t + (1 | school)", {"dispersion": "~ arm"}),
    "dispersion of numbers": (FIXED + " + (1 | school)", {"dispersion": "~ center(x) + t"}),
    "both": (FIXED + " + (1 | school)", {"residual": "ar1(t | id)", "dispersion": "~ t"}),
    "weights": (FIXED + " + offset(o)", {"residual": "ar1(t | id)", "weights": "w"}),
    "arguments": (FIXED, {"groups": "school", "residual": "ar1(t | id)", "offset": "o"}),
    "subset": (FIXED, {"residual": "ar1h(t | id)", "subset": "t > 0 and id != 's003'"}),
    "dependent columns": ("y ~ t + I(2 * t) + visit", {"residual": "us(visit | id)"}),
    "known": (
        FIXED + " + (1 | school)",
        {
            "residual": "ar1(t | id)",
            "covariance": {"school": sparselmm.KnownCovariance(np.eye(6) + 0.3, range(6))},
        },
    ),
}  # fmt: skip


made = sparselmm.mixedlm


def same_fit(whole, parts):
    """The deviance with its gradient at places of its own, then the fits."""
    one, other = whole.model.deviance(), parts.model.deviance()
    x = whole.joint.x + 0.01 * one.units
    y = np.append(x[: one.n_theta], x[one.n_theta :])
    if one.bases is None and other.bases is None:
        assert other.value(y) == pytest.approx(one.value(x), rel=1e-10)
        slope = one.gradient(x)
        assert np.allclose(other.gradient(y), slope, rtol=1e-8, atol=1e-8 * np.abs(slope).max())
    assert parts.nobs == whole.nobs
    assert parts.llf == pytest.approx(whole.llf, rel=1e-10)
    assert np.allclose(parts.fe_params, whole.fe_params, rtol=1e-6, atol=1e-8, equal_nan=True)
    assert np.allclose(parts.bse_fe, whole.bse_fe, rtol=1e-6, equal_nan=True)
    assert np.allclose(
        parts.residual_params(), whole.residual_params(), rtol=1e-4, atol=1e-6, equal_nan=True
    )


@pytest.mark.parametrize("name", MODELS)
def test_every_structure_in_partitions(name):
    formula, arguments = MODELS[name]
    data = visits()
    whole = made(formula, data, **arguments).fit()
    for chunk_rows in (7, 64, 1000):
        parts = made(formula, data, keep_rows=False, chunk_rows=chunk_rows, **arguments)
        same_fit(whole, parts.fit())


def test_rows_with_missing_values_and_groups_in_any_order():
    data = visits()
    rng = np.random.default_rng(1)
    for column in ("y", "x", "arm"):
        data.loc[rng.random(len(data)) < 0.05, column] = None
    data.loc[5, "id"] = None
    arguments = {"residual": "us(visit | id)", "missing": "drop"}
    whole = made("y ~ x + arm * visit", data, **arguments).fit()
    same_fit(whole, made("y ~ x + arm * visit", data, keep_rows=False, chunk_rows=31,
                         **arguments).fit())  # fmt: skip
    order = rng.permutation(data["id"].dropna().unique())  # whole, in no order, mixed within
    frames = [data[data["id"].isin(order[i : i + 7])].sort_values("t") for i in range(0, 90, 7)]

    def source():
        return iter([frames[0].iloc[:0], *frames])

    for chunk_rows in (26, 40, 1000):
        parts = made("y ~ x + arm * visit", source, keep_rows=False, chunk_rows=chunk_rows,
                     **arguments)  # fmt: skip
        same_fit(whole, parts.fit())


def test_containers(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pl = pytest.importorskip("polars")
    data = visits()
    for start in range(0, len(data), 80):
        data[start : start + 80].to_parquet(tmp_path / f"{start:03}.parquet")
    formula = "y ~ x + arm * visit + us(visit | id)"
    whole = sparselmm.mmrm(formula, data)
    for source in (
        tmp_path,
        str(tmp_path / "*.parquet"),
        pl.from_pandas(data).lazy(),
        pa.Table.from_pandas(data),
        lambda: (data[start : start + 33] for start in range(0, len(data), 33)),
    ):
        parts = sparselmm.mmrm(formula, source, chunk_rows=50, keep_rows=False)
        same_fit(whole, parts)
        assert str(parts.summary()) == str(whole.summary())
    assert sparselmm.mmrm(formula, tmp_path, chunk_rows=50).model.built.streamed is not None
    assert sparselmm.mmrm(formula, tmp_path, chunk_rows=50, keep_rows=True).resid is not None


def test_sums_do_not_grow_with_the_rows():
    sizes = []
    for subjects in (500, 2000):
        data = visits(subjects=subjects, schools=2)
        model = made("y ~ x + arm + visit + (1 | school)", data, residual="us(visit | id)",
                     keep_rows=False, chunk_rows=512)  # fmt: skip
        sizes.append(model._groups.n)
        assert f"{model._groups.n:,} sums stand for {model.nobs:,} rows" in str(model.plan())
    assert sizes[1] < 1.2 * sizes[0]
    alone = made("y ~ visit", data, residual="us(visit | id)", keep_rows=False, chunk_rows=512)
    assert alone._groups.n < 150


def test_what_follows_from_a_fit():
    data = visits()
    arguments = {"residual": "ar1(t | id)"}
    formula = FIXED + " + (1 | school)"
    whole = made(formula, data, **arguments).fit()
    parts = made(formula, data, keep_rows=False, chunk_rows=50, **arguments).fit()
    near = {"rtol": 1e-5, "atol": 1e-8, "equal_nan": True}
    for ask in (
        lambda fit: fit.anova(type=2, ddf="kenward-roger"),
        lambda fit: fit.anova(type=1, ddf="satterthwaite"),
        lambda fit: fit.emmeans("arm").frame,
        lambda fit: fit.emtrends("t", "arm").frame,
        lambda fit: fit.joint_tests(),
        lambda fit: fit.residual_params(ci="profile"),
        lambda fit: fit.ranef()["school"],
        lambda fit: fit.get_prediction(data[:5]).summary_frame(),
    ):
        a, b = (pd.DataFrame(ask(fit)).select_dtypes("number") for fit in (whole, parts))
        np.testing.assert_allclose(a, b, **near)
    assert "not-checked" in parts.check().codes
    for name in ("resid", "fittedvalues", "sigma_by_row"):
        with pytest.raises(RemovedRowsError, match=f"{name} is made of the rows"):
            getattr(parts, name)
    with pytest.raises(RemovedRowsError, match=r"re=True is made of the rows.*data="):
        parts.get_prediction(data[:5], re=True)
    with pytest.raises(RemovedRowsError, match=r"R is made of the rows.*data="):
        parts.R("s004")


STREAMED = ("us by arm", "cs", "cs of visits", "plane", "crossed groups", "effects of the groups",
            "dispersion", "both", "weights", "arguments", "subset")  # fmt: skip


@pytest.mark.parametrize("name", STREAMED)
def test_rows_of_the_fit_are_read_again(name, tmp_path):
    formula, arguments = MODELS[name]
    data = visits()
    whole = made(formula, data, **arguments).fit()
    parts = made(formula, data, keep_rows=False, chunk_rows=50, **arguments).fit()
    near = {"rtol": 1e-5, "atol": 1e-6}
    data.to_parquet(tmp_path / "rows.parquet", row_group_size=40)
    wanted = whole.augment()
    assert np.allclose(wanted[".resid"], whole.resid)
    assert np.allclose(wanted[".pearson"], whole.residuals("pearson", scaled=True))
    for given in (data, tmp_path):
        found = pd.concat(list(parts.augment(given)))
        assert list(found.columns) == [*data.columns, *wanted.columns[-7:]]
        assert np.allclose(found.iloc[:, -7:], wanted.iloc[:, -7:], **near)
    path = parts.augment(tmp_path / "rows.parquet", to=tmp_path.with_suffix(".parquet"))
    assert np.allclose(pd.read_parquet(path)[".sigma"], whole.sigma_by_row, **near)
    for group in [] if "residual" not in arguments else parts.built.spec.residual.labels[[1, 4]]:
        one, other = parts.R(group, tmp_path), whole.R(group)
        assert np.allclose(one, other, rtol=1e-4)
        assert name == "cs" or list(one.index) == list(other.index)
    new = data[(data["id"] != "s003") & (data["t"] > 0)].iloc[[0, 1, 9, 30]]
    if name not in ("cs", "crossed groups"):  # at times of their own; one group is not known
        new = new.assign(id=[*new["id"][:3], "new"])
    for interval in ("prediction", "confidence"):
        options = {"re": True, "interval": interval, "unseen": "population"}
        a = whole.get_prediction(new, **options).summary_frame()
        b = parts.get_prediction(new, data=tmp_path, **options).summary_frame()
        assert np.allclose(a, b, **near)


def test_reading_again_refuses_what_makes_no_sense(tmp_path):
    data = visits()
    arguments = {"residual": "ar1(t | id)"}
    whole = made(FIXED, data, **arguments).fit()
    parts = made(FIXED, data, keep_rows=False, chunk_rows=50, **arguments).fit()
    with pytest.raises(ArgumentError, match="data= is for a fit that did not keep its rows"):
        whole.R("s004", data)
    with pytest.raises(DataError, match="there is no 's999' among the groups"):
        parts.R("s999", data)
    with pytest.raises(DataError, match="rows of the group 's004' at the same time"):
        parts.R("s004", pd.concat([data, data]))
    with pytest.raises(DataError, match="R: the data have no row of the groups"):
        parts.R("s004", data[data["id"] != "s004"])
    with pytest.raises(UnknownColumnError, match="'t', used in the fit, in the data of R"):
        parts.R("s004", data.drop(columns="t"))
    with pytest.raises(UnsupportedError, match="influence=True"):
        parts.augment(data, influence=True)
    for name in ("bootstrap", "cov_robust", "simulate"):
        with pytest.raises(RemovedRowsError, match=f"{name}.* is made of the rows"):
            getattr(parts, name)()


def test_groups_in_several_places_are_refused():
    data = visits()
    late = pd.concat([data[data["id"] != "s004"], data[data["id"] == "s004"].iloc[:-1]])
    mixed = pd.concat([data[data["id"] == "s004"].iloc[-1:], late], ignore_index=True)
    with pytest.raises(
        DataError, match=r"the group 's004' has rows in several places.*sort the data by id.*keep_r"
    ):
        made(FIXED, mixed, residual="ar1(t | id)", keep_rows=False, chunk_rows=20)
    shuffled = data.sample(frac=1.0, random_state=0)
    with pytest.raises(DataError, match=r"several places .as \d+ others have.*sort the data"):
        made(FIXED, shuffled, residual="ar1(t | id)", keep_rows=False, chunk_rows=20)
    whole = made(FIXED, data, residual="ar1(t | id)").fit()
    kept = made(FIXED, shuffled, residual="ar1(t | id)", keep_rows=True, chunk_rows=20)
    assert kept.fit().llf == pytest.approx(whole.llf, rel=1e-10)


def test_bad_structures_are_refused_as_with_rows():
    data = visits()
    twice = pd.concat([data.iloc[:1], data]).reset_index(drop=True)
    odd = data.assign(arm=data["arm"].where(data.index != 1, "third"))
    zero = data.assign(w=data["w"].where(data.index != 200, 0.0))
    once = data.assign(visit=data["visit"].cat.add_categories(["w99"]))
    once.loc[7, "visit"] = "w99"
    for frame, arguments, message in (
        (twice, {"residual": "ar1(t | id)"}, "rows of the group 's000' at the same time"),
        (odd, {"residual": "ar1(t | id, by=arm)"}, "has rows of two values of arm"),
        (data.assign(one=1), {"residual": "ar1(t | id, by=one)"}, "has a single value"),
        (zero, {"residual": "ar1(t | id)", "weights": "w"}, r"weights are zero in 1 row"),
        (once, {"residual": "us(visit | id)"}, r"w99 is seen 1 time"),
        (data, {"residual": "ar1(time | id)"}, "ar1 needs whole numbers"),
        (data, {"residual": "ar1(t | id)", "dispersion": "~ I(0 * x)"}, "is constant"),
        (data.assign(t=np.where(data.index == 9, np.nan, data["t"])),
         {"residual": "ar1(t | id)"}, "'t'.*missing"),
    ):  # fmt: skip
        for keep_rows in (True, False):
            with pytest.raises(DataError, match=message):
                made("y ~ x", frame, keep_rows=keep_rows, chunk_rows=50, **arguments).fit()
    with pytest.raises(DataError, match=r"of residual= or dispersion= depends on other rows"):
        made("y ~ x", data, residual="ar1(t | id)", dispersion="~ I(x - x.mean())",
             keep_rows=False, chunk_rows=50)  # fmt: skip


def test_a_group_that_is_new_in_a_later_pass():
    data, calls = visits(), []

    def source():
        calls.append(0)
        yield data if len(calls) < 5 else data.assign(id=data["id"].replace("s004", "new"))

    with pytest.raises(SourceChangedError, match="level that did not occur in the first pass"):
        made(FIXED, source, residual="ar1(t | id)", keep_rows=False, chunk_rows=50)


def test_dispersion_far_from_zero():
    """The origin is that of a sample of the rows: sigma stands for zero all the same."""
    data = visits().assign(year=lambda d: 2000.0 + d["t"])
    arguments = {"dispersion": "~ year"}
    whole = made(FIXED + " + (1 | school)", data, **arguments).fit()
    parts = made(FIXED + " + (1 | school)", data, keep_rows=False, chunk_rows=50, **arguments).fit()
    assert parts.llf == pytest.approx(whole.llf, rel=1e-9)
    both = ["log_sd(year)", "sigma"]
    own, other = (fit.residual_params().loc[both] for fit in (parts, whole))
    assert np.allclose(own.iloc[0], other.iloc[0], rtol=1e-4)
    assert np.allclose(np.log(own.iloc[1]), np.log(other.iloc[1]), rtol=1e-4)
