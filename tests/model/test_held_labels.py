"""Labels of files that are held between the passes."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from sparselmm.exceptions import SourceChangedError

from sparselmm import mixedlm
from sparselmm.design.passes import held
from sparselmm.design.passes.held import holding
from sparselmm.design.sources.files import Fragment
from sparselmm.design.sources.recognised import source_of
from sparselmm.model import partitions

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

FORMULA = "y ~ x + (1 | site / user) + (1 | item)"
KINDS = {"text": str, "dictionaries": "category"}


def frame(n=3000, seed=0):
    rng = np.random.default_rng(seed)
    user = rng.integers(0, 60, n)
    data = pd.DataFrame({
        "y": rng.normal(size=n), "x": rng.normal(size=n),
        "site": [f"s{j % 7}" for j in user], "user": [f"u{j}" for j in user],
        "item": rng.integers(0, 9, n),
    })  # fmt: skip
    effects = rng.normal(size=60), rng.normal(size=7), rng.normal(size=9)
    data["y"] += effects[0][user] + effects[1][user % 7] + effects[2][data["item"]]
    return data


def written(data, folder, kind, files=3, rows=170):
    folder.mkdir()
    for number, part in enumerate(np.array_split(np.arange(len(data)), files)):
        piece = data.iloc[part].astype({"site": KINDS[kind], "user": KINDS[kind]})
        path = folder / f"{number}.parquet"
        pq.write_table(pa.Table.from_pandas(piece, preserve_index=False), path, row_group_size=rows)
    return folder


def columns_read(monkeypatch):
    """Columns of every reading of a partition."""
    seen, frames = [], Fragment.frames

    def spy(self, columns, rows):
        seen.append(tuple(columns))
        return frames(self, columns, rows)

    monkeypatch.setattr(Fragment, "frames", spy)
    return seen


def numbers(folder, **arguments):
    result = mixedlm(FORMULA, folder, keep_rows=False, **arguments).fit()
    return result.llf, *result.params, *np.concatenate([*map(np.ravel, result.ranef().values())])


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_read_once(kind, tmp_path, monkeypatch):
    folder = written(frame(), tmp_path / "rows", kind)
    seen = columns_read(monkeypatch)
    mixedlm(FORMULA, folder, keep_rows=False, chunk_rows=200)
    labels = [columns for columns in seen if "user" in columns and "y" not in columns]
    parts = len(source_of(folder).parts(200, None))
    assert parts == 18
    assert len(labels) == parts
    assert set(labels) == {("site", "user")}
    assert len([columns for columns in seen if {"y", "user"} <= {*columns}]) == 1  # the head


@pytest.mark.parametrize("rows", [64, 200, 5000])
@pytest.mark.parametrize("missing", ["raise", "drop"])
@pytest.mark.parametrize("kind", KINDS)
def test_labels_held_or_read_again_give_the_same_bits(kind, missing, rows, tmp_path, monkeypatch):
    data = frame()
    if missing == "drop":
        data.loc[::11, "user"] = None
        data.loc[::17, "x"] = np.nan
    folder = written(data, tmp_path / "rows", kind)
    fit = partial(numbers, folder, chunk_rows=rows, missing=missing)
    whole = fit()
    for room in (0, 5000):
        monkeypatch.setattr(held, "ROOM", room)
        assert fit() == whole
    monkeypatch.setattr(partitions, "holding", lambda parts, *_: parts)
    assert fit() == whole


def test_only_as_much_is_held_as_there_is_room(tmp_path, monkeypatch):
    folder = written(frame(), tmp_path / "rows", "text", files=3, rows=1000)
    parts = source_of(folder).parts(1000, None)
    names = ["site", "user"]
    (piece,) = holding(parts[:1], frozenset(names), frozenset(), 1000)[0].frames(names, 1000)
    columns = [piece[name].array for name in names]
    size = sum(c.codes.nbytes + c.categories.memory_usage(deep=True) for c in columns)
    monkeypatch.setattr(held, "ROOM", int(2.5 * size))  # for two parts of three
    wrapped = holding(parts, frozenset(names), frozenset(), 1000)
    seen = columns_read(monkeypatch)
    first, second = ([f for p in wrapped for f in p.frames(names, 1000)] for _ in range(2))
    assert len(seen) == 3 + 1
    for one, other in zip(first, second, strict=True):
        pd.testing.assert_frame_equal(one, other)


def test_text_that_something_else_reads_too_is_not_held(tmp_path, monkeypatch):
    folder = written(frame(), tmp_path / "rows", "text")
    seen = columns_read(monkeypatch)
    mixedlm("y ~ x + site + (1 | site:user)", folder, keep_rows=False, chunk_rows=200)
    assert ("user",) in seen
    assert ("y", "x", "site") in seen
    assert ("site", "user") not in seen
    seen.clear()
    mixedlm(FORMULA, folder, keep_rows=False, subset="site != 's3' and user > 'u2'")
    assert set(seen) == {("y", "x", "site", "user", "item")}


@pytest.mark.parametrize("again", [300, 1100])
def test_a_file_written_between_the_passes_is_refused(again, tmp_path):
    folder = written(frame(1000), tmp_path / "rows", "text", files=1, rows=1000)
    (part,) = holding(source_of(folder).parts(1000, None), frozenset({"user"}), frozenset(), 1000)
    assert sum(map(len, part.frames(["user"], 1000))) == 1000
    piece = frame(again, seed=1)
    pq.write_table(pa.Table.from_pandas(piece, preserve_index=False), folder / "0.parquet")
    with pytest.raises(SourceChangedError, match="was written while it was read"):
        list(part.frames(["y", "user"], 1000))
