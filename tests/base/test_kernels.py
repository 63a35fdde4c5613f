"""Every compiled loop against plain NumPy, compiled and as plain Python."""

import os
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg as sla
import scipy.sparse as sp
from registry import MODELS

import sparselmm
from sparselmm.base import kernels, kernels_cholesky, kernels_krylov

KERNELS = {
    name: value
    for module in (kernels, kernels_cholesky)
    for name, value in vars(module).items()
    if hasattr(value, "__wrapped__")
}

close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)


@pytest.fixture(params=["compiled", "plain"])
def kernel(request):
    """Look a kernel up by name, as it is called or as it is written."""
    if request.param == "compiled":
        return lambda name: KERNELS[name]
    return lambda name: KERNELS[name].__wrapped__


@pytest.fixture(params=[1, 2, 3])
def k(request):
    return request.param


def coded(rng, n, l):
    """Levels of n rows, every fifth row without, the last level without rows."""
    codes = rng.integers(0, l - 1, n).astype(np.int32)
    codes[::5] = -1
    return codes


def indicator(codes, values, l):
    """Dense (n, l k) part of Z."""
    n, k = values.shape
    Z = np.zeros((n, l, k))
    rows = np.flatnonzero(codes >= 0)
    Z[rows, codes[rows]] = values[rows]
    return Z.reshape(n, l * k)


# ------------------------------------------------------------------------ cross-products


def test_add_rows(kernel):
    rng = np.random.default_rng(1)
    codes, rows, out = coded(rng, 30, 6), rng.normal(size=(30, 3)), rng.normal(size=(6, 3))
    expected = out + indicator(codes, np.ones((30, 1)), 6).T @ rows
    kernel("add_rows")(codes, rows, out)
    close(out, expected)


def test_add_scaled_rows(kernel, k):
    rng = np.random.default_rng(2)
    codes, values = coded(rng, 30, 6), rng.normal(size=(30, k))
    rows, out = rng.normal(size=(30, 3)), rng.normal(size=(6 * k, 3))
    expected = out + indicator(codes, values, 6).T @ rows
    kernel("add_scaled_rows")(codes, values, rows, out)
    close(out, expected)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("left", "right"), [(None, None), (None, 2), (3, None), (3, 2), (1, 1)])
def test_add_level_blocks(kernel, left, right, weighted):
    rng = np.random.default_rng(3)
    codes, w = coded(rng, 30, 6), rng.uniform(size=30)
    given = [np.zeros((0, 1)) if k is None else rng.normal(size=(30, k)) for k in (left, right)]
    full = [v if len(v) else np.ones((30, 1)) for v in given]
    found = rng.normal(size=(6, left or 1, right or 1))
    expected = found.copy()
    for i in np.flatnonzero(codes >= 0):
        expected[codes[i]] += (w[i] if weighted else 1.0) * np.outer(full[0][i], full[1][i])
    kernel("add_level_blocks")(codes, *given, w if weighted else np.zeros(0), found)
    close(found, expected)


def test_meets_one(kernel):
    rng = np.random.default_rng(31)
    home, inner = rng.integers(0, 4, 7), rng.integers(0, 6, 50)
    met = np.full(7, -1)
    met[6] = 3
    assert kernel("meets_one")(inner, home[inner], met)
    np.testing.assert_array_equal(met, np.where(np.isin(np.arange(7), inner), home, [-1] * 6 + [3]))
    other = home[inner]
    other[40] += 1
    assert not kernel("meets_one")(inner, other, met)
    assert not kernel("meets_one")(np.array([-1]), np.array([2]), met)
    assert not kernel("meets_one")(np.array([2]), np.array([-1]), met)


def test_mark_first(kernel):
    codes = np.array([4, -1, 2, 4, 2, 0, 1, 0])
    seen, first = np.arange(5) == 1, np.arange(8) == 1
    kernel("mark_first")(codes, seen, first)
    np.testing.assert_array_equal(np.flatnonzero(first), [0, 1, 2, 5])
    np.testing.assert_array_equal(seen, [True, True, True, False, True])


def test_sort_pairs(kernel):
    rng = np.random.default_rng(4)
    s, t = coded(rng, 50, 7), coded(rng, 50, 4)
    t[rng.integers(0, 50, 5)] = -1
    order = kernel("sort_pairs")(s, t, 7, 4)
    rows = np.flatnonzero((s >= 0) & (t >= 0))
    np.testing.assert_array_equal(order, rows[np.lexsort((s[rows], t[rows]))])  # both are stable


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ones", [(True, False), (False, True), (False, False), (True, True)])
def test_pair_blocks(kernel, ones, weighted):
    rng = np.random.default_rng(5)
    n, sizes, ks = 50, (7, 4), [1 if one else k for one, k in zip(ones, (2, 3), strict=True)]
    codes = [coded(rng, n, l) for l in sizes]
    values = [rng.normal(size=(n, k)) for k in ks]
    full = [np.ones((n, 1)) if one else v for one, v in zip(ones, values, strict=True)]
    given = [np.zeros((0, 1)) if one else v for one, v in zip(ones, values, strict=True)]
    w = rng.uniform(size=n)
    order = kernels.sort_pairs(*codes, *sizes)
    indptr, rows, data = kernel("pair_blocks")(
        order, *codes, *given, w if weighted else np.zeros(0), sizes[1]
    )
    Zs, Zt = (indicator(c, v, l) for c, v, l in zip(codes, full, sizes, strict=True))
    A = ((Zs.T * w) @ Zt if weighted else Zs.T @ Zt).reshape(sizes[0], ks[0], sizes[1], ks[1])
    cols = np.repeat(np.arange(sizes[1]), np.diff(indptr))
    blocks = np.zeros_like(A)
    blocks[rows, :, cols, :] = data
    close(blocks, A)
    both = (codes[0] >= 0) & (codes[1] >= 0)
    pairs = sorted(set(zip(codes[1][both].tolist(), codes[0][both].tolist(), strict=True)))
    assert list(zip(cols.tolist(), rows.tolist(), strict=True)) == pairs


# -------------------------------------------------------------- leading-factor elimination


class Coupled:
    """Leading levels and the trailing columns they meet, as lists and as a dense Y."""

    def __init__(self, k, l=7, r=9, seed=6):
        rng = np.random.default_rng(seed)
        meets = rng.uniform(size=(l, r)) < 0.4
        meets[2] = meets[:, 4] = False  # a level that meets nothing, a column nobody meets
        meets[3] = True
        level, self.cols = np.nonzero(meets)
        self.indptr = np.concatenate([[0], np.cumsum(meets.sum(axis=1))])
        column, self.level = np.nonzero(meets.T)
        self.colptr = np.concatenate([[0], np.cumsum(meets.sum(axis=0))])
        place = np.full((l, r), -1)
        place[level, self.cols] = np.arange(len(level))
        self.entry = place[self.level, column]
        self.Y = rng.normal(size=(k, len(level)))
        self.dense = np.zeros((l, k, r))
        self.dense[level, :, self.cols] = self.Y.T
        self.at, self.k, self.l, self.r, self.rng = (level, self.cols), k, l, r, rng
        fill = np.tril((meets.T.astype(int) @ meets > 0) | np.eye(r, dtype=bool))
        self.s_rows = np.nonzero(fill.T)[1]
        self.s_cols = np.nonzero(fill.T)[0]
        self.s_indptr = np.concatenate([[0], np.cumsum(fill.sum(axis=0))])

    @property
    def by_column(self):
        return self.colptr, self.level, self.entry, self.indptr, self.cols

    def on_pattern(self, dense):
        """(k, ne) entries of a dense (l, k, r) array."""
        level, cols = self.at
        return dense[level, :, cols].T


def blocks_of(rng, l, k):
    root = rng.normal(size=(l, k, k + 1))
    return root @ root.transpose(0, 2, 1) + np.eye(k)


def test_inverse_factors(kernel, k):
    D = blocks_of(np.random.default_rng(7), 5, k)
    R, logdet = kernel("inverse_factors")(D)
    close(R, np.linalg.inv(np.linalg.cholesky(D)))
    assert logdet == pytest.approx(np.linalg.slogdet(D)[1].sum(), rel=1e-13)
    D[3] -= 100.0 * np.eye(k)
    R, logdet = kernel("inverse_factors")(D)
    assert np.isnan(logdet)
    assert np.isfinite(R[[0, 1, 2, 4]]).all()


@pytest.mark.parametrize("transpose", [False, True])
def test_apply_blocks(kernel, k, transpose):
    rng = np.random.default_rng(8)
    blocks, x, out = rng.normal(size=(5, k, k)), rng.normal(size=(5, k, 3)), np.full((5, k, 3), 9.0)
    kernel("apply_blocks")(blocks, x, out, transpose)
    close(out, (blocks.transpose(0, 2, 1) if transpose else blocks) @ x)


def test_project_levels(kernel, k):
    rng, l = np.random.default_rng(8), 2 * kernels.LEVELS + 5
    R, lam, B = rng.normal(size=(l, k, k)), rng.normal(size=(k, k)), rng.normal(size=(l, k, 3))
    K, S, R = np.empty(B.shape), np.empty((3, 3, 3)), np.tril(R)
    in_two(kernel("project_levels"), 3, R, lam, B, K, S)
    f = R @ lam.T @ B
    close(K, R.transpose(0, 2, 1) @ f)
    close(S.sum(axis=0), np.einsum("lam,lan->mn", f, f), rtol=1e-11)


def test_scale_couplings(kernel, k):
    c = Coupled(k)
    R = np.tril(c.rng.normal(size=(c.l, k, k)))
    V = c.Y.copy()
    kernel("scale_couplings")(R, c.indptr, V)
    close(V, c.on_pattern(R @ c.dense))


def in_two(loop, n, *arguments):
    """Run a loop over n places in two parts, the later one first."""
    for begin, end in (n // 3, n), (0, n // 3):
        loop(*arguments, begin, end)


def test_subtract_leading(kernel, k):
    c = Coupled(k)
    x, out = c.rng.normal(size=(c.l, k, 4)), c.rng.normal(size=(c.r, 4))
    expected = out - np.einsum("lkr,lkm->rm", c.dense, x)
    in_two(kernel("subtract_leading"), c.r, *c.by_column[:3], c.Y, x, out)
    close(out, expected)


def test_subtract_trailing(kernel, k):
    c = Coupled(k)
    x, out = c.rng.normal(size=(c.r, 4)), c.rng.normal(size=(c.l, k, 4))
    expected = out - c.dense @ x
    in_two(kernel("subtract_trailing"), c.l, c.indptr, c.cols, c.Y, x, out)
    close(out, expected)


def test_schur_dense(kernel, k):
    c = Coupled(k)
    S = c.rng.normal(size=(c.r, c.r))
    update = np.einsum("lka,lkb->ab", c.dense, c.dense)
    expected = S - np.triu(update)  # the lower triangle is left alone
    in_two(kernel("schur_dense"), c.r, *c.by_column, c.Y, S)
    close(S, expected)


def test_schur_sparse(kernel, k):
    c = Coupled(k)
    data = c.rng.normal(size=len(c.s_rows))
    update = np.einsum("lka,lkb->ab", c.dense, c.dense)
    expected = data - update[c.s_rows, c.s_cols]
    in_two(kernel("schur_sparse"), c.r, *c.by_column, c.Y, c.s_indptr, c.s_rows, data)
    close(data, expected)


def symmetric(c):
    G = c.rng.normal(size=(c.r, c.r))
    return G + G.T


def test_couple_inverse_dense(kernel, k):
    c = Coupled(k)
    G = symmetric(c)
    read = np.triu(G) + np.tril(np.full((c.r, c.r), np.nan), -1)  # only the upper triangle
    P = np.zeros(c.Y.shape)
    in_two(kernel("couple_inverse_dense"), c.l, *c.by_column, c.Y, read, P)
    close(P, c.on_pattern(c.dense @ G))


def test_couple_inverse_sparse(kernel, k):
    c = Coupled(k)
    G = symmetric(c)
    P, entries = np.zeros(c.Y.shape), (c.s_indptr, c.s_rows, G[c.s_rows, c.s_cols])
    in_two(kernel("couple_inverse_sparse"), c.l, *c.by_column, c.Y, *entries, P)
    close(P, c.on_pattern(c.dense @ G))


def test_leading_products(kernel, k):
    c = Coupled(k)
    P = c.rng.normal(size=c.Y.shape)
    dense = np.zeros_like(c.dense)
    dense[c.at[0], :, c.at[1]] = P.T
    close(kernel("leading_products")(c.indptr, c.Y, P), c.dense @ dense.transpose(0, 2, 1))


# ------------------------------------------------------------------------ selected inverse


def filled(n, density, seed):
    """Pattern and values of a Cholesky factor, by symbolic elimination of a random matrix."""
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.uniform(size=(n, n)) < density, 1)
    pattern = upper.T | np.eye(n, dtype=bool)
    for j in range(n):
        below = np.flatnonzero(pattern[j + 1 :, j]) + j + 1
        pattern[np.ix_(below, below)] |= np.tril(np.ones((len(below),) * 2, dtype=bool))
    L = np.where(pattern, rng.normal(size=(n, n)) * 0.3, 0.0)
    np.fill_diagonal(L, rng.uniform(1, 2, n))
    return upper, pattern, L


def compressed(pattern):
    """Column pointers and rows of a dense boolean matrix."""
    cols, rows = np.nonzero(pattern.T)
    return np.concatenate([[0], np.cumsum(np.bincount(cols, minlength=len(pattern)))]), rows, cols


@pytest.mark.parametrize("widest", [1, 3, 100])
@pytest.mark.parametrize("density", [0.0, 0.08, 0.3, 1.0])
def test_supernodes_and_selected_inverse(kernel, density, widest):
    n = 25
    _, pattern, L = filled(n, density, 9)
    indptr, rows, cols = compressed(pattern)
    starts = kernel("supernodes")(indptr, rows, widest)
    assert (starts[0], starts[-1]) == (0, n)
    for first, stop in pairwise(starts):
        assert 0 < stop - first <= widest
        for j in range(first + 1, stop):
            np.testing.assert_array_equal(pattern[j:, j], pattern[j:, j - 1])
            assert pattern[j, j - 1]
        # and no wider: the next column's pattern is another one
        if stop < n and stop - first < widest:
            assert not (
                pattern[stop, stop - 1] and (pattern[stop:, stop] == pattern[stop:, stop - 1]).all()
            )
    inverse = sla.cho_solve((L, True), np.eye(n))
    for done in (0, 1):  # the last supernode, a dense one, may be known already
        known = starts[: len(starts) - done]
        found = np.where(cols >= known[-1], inverse[rows, cols], np.nan)
        kernel("selected_inverse")(indptr, rows, L[rows, cols], known, found)
        np.testing.assert_allclose(found, inverse[rows, cols], atol=1e-11 * np.abs(inverse).max())


@pytest.mark.parametrize("density", [0.0, 0.05, 0.2, 1.0])
def test_column_counts(kernel, density):
    upper, pattern, _ = filled(30, density, 10)
    indptr, rows, _ = compressed(upper)
    np.testing.assert_array_equal(kernel("column_counts")(indptr, rows), pattern.sum(axis=0))


@pytest.mark.parametrize("density", [0.0, 0.05, 0.2, 1.0])
def test_solve_sparse(kernel, density):
    rng = np.random.default_rng(12)
    L = np.tril(rng.normal(size=(30, 30)) * (rng.uniform(size=(30, 30)) < density), -1) / 5.0
    L += np.diag(rng.uniform(1.0, 2.0, 30))
    columns = sp.csc_array(L)
    columns.sort_indices()
    x = rng.normal(size=(30, 3))
    found = x.copy()
    kernel("solve_sparse")(columns.indptr, columns.indices, columns.data, found)
    np.testing.assert_allclose(L @ (L.T @ found), x, rtol=1e-12, atol=1e-12)


def test_every_kernel_is_tested():
    text = Path(__file__).read_text(encoding="utf-8")
    assert len(KERNELS) > 10
    assert not {name for name in KERNELS if f'kernel("{name}")' not in text}


# ------------------------------------------------------------------------- when it compiles


def python(code, **environment):
    """Run code in a new process where warnings are errors."""
    root = str(Path(sparselmm.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FIT = """
import sys
import sparselmm
assert "numba" not in sys.modules, "import"
data = sparselmm.datasets.load("sleepstudy")
fit = sparselmm.MixedLM.from_formula("Reaction ~ Days + (Days | Subject)", data).fit()
fit.summary()
assert "numba" not in sys.modules, "fit"
print(fit.llf.hex())
"""


def test_a_small_fit_compiles_nothing():
    data = sparselmm.datasets.load("sleepstudy")
    fit = sparselmm.MixedLM.from_formula("Reaction ~ Days + (Days | Subject)", data).fit()
    assert float.fromhex(python(FIT)) == pytest.approx(fit.llf, rel=1e-13)


UNCOMPILED = """
import sys
sys.path.insert(0, {tests!r})
import numpy as np
from registry import MODELS
from sparselmm.factor import crossprod
from sparselmm.factor.solver import Strategy
crossprod.SMALL_ROWS = 0
model = MODELS["crossed_three"]
for strategy in Strategy(1, "dense"), Strategy(1, "sparse", "amd", "simplicial"):
    deviance = model.sparse(True, strategy)
    theta = model.theta("interior")
    print(deviance.value(theta).hex(), np.abs(deviance.gradient(theta)).max().hex())
import numba
assert numba.config.DISABLE_JIT
"""


def test_without_the_compiler():
    model = MODELS["crossed_three"]
    dense, theta = model.dense(True), model.theta("interior")
    code = UNCOMPILED.format(tests=str(Path(__file__).parents[1] / "support"))
    lines = python(code, NUMBA_DISABLE_JIT="1").splitlines()
    assert len(lines) == 2
    for line in lines:
        value, slope = map(float.fromhex, line.split())
        assert value == pytest.approx(dense.value(theta), rel=1e-11)
        assert slope == pytest.approx(np.abs(dense.gradient(theta)).max(), rel=1e-9)


@pytest.mark.parametrize("name", ["gram_eight", "gram_four"])
@pytest.mark.parametrize("form", ["compiled", "plain"])
def test_products_in_vector_registers(name, form, k):
    """Blocks of eight and four columns, compiled to LLVM's vectors and as NumPy."""
    rng, r = np.random.default_rng(k), 40
    wide = 8 if name == "gram_eight" else 4
    levels = [np.sort(rng.choice(r, size, replace=False)) for size in (0, 1, 7, 40, 3)]
    indptr = np.concatenate([[0], np.cumsum([len(own) for own in levels])])
    cols = np.concatenate(levels).astype(np.int32)
    Y, V = rng.normal(size=(len(cols), k)), rng.normal(size=(3, r, wide))
    w = rng.uniform(size=len(levels))
    S = np.zeros((r, r))
    for i, own in enumerate(levels):
        y = Y[indptr[i] : indptr[i + 1]]
        S[np.ix_(own, own)] += w[i] * (y @ y.T)
    kernel, out = getattr(kernels_krylov, name), np.ones(V.shape)
    kernel = kernel if form == "compiled" else kernel.__wrapped__
    kernel(indptr, cols, Y, w, V, out, 1, 3)
    close(out[1:], 1.0 + S @ V[1:])
    close(out[0], 1.0)


COLLECTED = """
import gc, numpy as np
from sparselmm.base import kernels_krylov
gc.collect()
seen = []
gc.callbacks.append(lambda phase, info: seen.append(phase))
kernels_krylov.level_grams(np.array([0, 1]), np.ones((1, 1)), np.empty((1, 1, 1)))
del gc.callbacks[:]
assert gc.isenabled()
print(len(seen))
"""


def test_nothing_is_collected_while_numba_loads():
    """But once at the end of it; it was a hundred times or more."""
    assert int(python(COLLECTED)) <= 4
