"""Small models of every kind the engine must fit, and the thetas to evaluate them at.

``MODELS`` maps a name to a :class:`Model`; ``THETAS`` lists the kinds of theta that
:meth:`Model.theta` knows. Designs are put together by hand, so that nothing here depends on
formulas. The data are simulated with a seed of their own.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from sparselmm.base.providers import provider
from sparselmm.design.terms import Design, Levels, RandomTerm
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.layout import Strategy
from sparselmm.factor.solver import BlockSolver
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.dense import DenseDeviance
from sparselmm.likelihood.deviance import ProfiledDeviance

THETAS = ("interior", "random", "boundary", "zero", "near", "touching", "huge")
ORDERINGS = ("amd", "metis", "nesdis") if provider().name == "scikit-sparse" else ("amd",)
MODES = ("simplicial", "supernodal")


def term(name, codes, values=None, *, n_levels=None, structure="unstructured"):
    """A coded term: level of every row, (n,), and covariate values, (n, k)."""
    codes = np.asarray(codes, dtype=np.int32)
    l = int(codes.max()) + 1 if n_levels is None else n_levels
    if values is not None:
        values = np.asarray(values, dtype=float)
    columns = tuple(f"c{i}" for i in range(1 if values is None else values.shape[1]))
    levels = Levels((name,), (np.arange(l),))
    return RandomTerm(name, "bar", columns, levels, codes, values, structure=structure)


def block(name, matrix):
    """A user-made term: any (n, l) matrix, one variance."""
    matrix = sp.csr_array(matrix)
    levels = Levels((name,), (np.arange(matrix.shape[1]),))
    return RandomTerm(name, "array", ("c0",), levels, block=matrix)


def design(y, X, *terms, weights=None, offset=None):
    """A design with default names."""
    names = tuple(f"x{j}" for j in range(X.shape[1]))
    return Design(y=y, X=X, x_names=names, terms=terms, weights=weights, offset=offset)


@dataclass(frozen=True, eq=False)
class Model:
    """A design, and the size of an ordinary relative standard deviation of each coefficient.

    ``unit`` has one entry per coefficient of every term, 1 unless a covariate is badly scaled.
    """

    design: Design
    unit: tuple[float, ...] | None = None

    @property
    def covariance(self):
        return Covariance.of(self.design.terms)

    def theta(self, kind):
        """Theta of one kind, in units of ``unit``."""
        covariance = self.covariance
        diagonal = covariance.on_diagonal
        theta = np.where(diagonal, 0.7, 0.2)
        last = [part.stop - 1 for part in covariance.slices]  # diagonal of the last coefficient
        if kind == "random":
            theta = np.random.default_rng(len(theta)).normal(size=len(theta))
        elif kind == "boundary":
            theta[last[-1]] = 0.0
        elif kind == "zero":
            theta[:] = 0.0
        elif kind == "near":
            theta[last] = 1e-5
        elif kind == "touching":
            theta[last] = 1e-10
        elif kind == "huge":
            theta *= 1e3
        else:
            assert kind == "interior"
        return theta * self.unit_of_theta

    @cached_property
    def unit_of_theta(self):
        """Size of an ordinary standard deviation for every entry of theta."""
        covariance = self.covariance
        unit = np.ones(sum(t.k for t in covariance.terms)) if self.unit is None else self.unit
        parts = np.split(np.asarray(unit), np.cumsum([t.k for t in covariance.terms])[:-1])
        return np.concatenate([u[t.rows] for u, t in zip(parts, covariance.terms, strict=True)])

    def sparse(self, reml, strategy=None):
        """The sparse engine, with LAPACK on all of M unless told otherwise."""
        cross = CrossProducts.from_design(self.design)
        solver = BlockSolver(cross.pattern, strategy or Strategy(None, "dense"))
        return ProfiledDeviance(cross, self.covariance, solver, reml=reml)

    def dense(self, reml):
        """The textbook's formulas on the rows."""
        return DenseDeviance(self.design, self.covariance, reml=reml)

    def strategies(self):
        """Every way to factor M that the solvers know."""
        leads = [t for t, one in enumerate(self.design.terms) if one.codes is not None]
        rests = [("dense", "amd", "supernodal")]
        rests += [("sparse", ordering, mode) for ordering in ORDERINGS for mode in MODES]
        return [Strategy(lead, *rest) for lead in [None, *leads] for rest in rests]


def _codes(rng, n, l):
    """Levels in no order, each at least once."""
    return rng.permutation(np.concatenate([np.arange(l), rng.integers(0, l, n - l)]))


def _respond(rng, X, *terms):
    """Response with unit residuals and effects of about the same size."""
    n = len(X)
    y = X @ rng.normal(size=X.shape[1]) + rng.normal(size=n)
    for one in terms:
        b = rng.normal(size=(one.n_levels, one.k)) * 0.8
        if one.block is not None:
            y += one.block @ b[:, 0]
        else:
            v = np.ones((n, 1)) if one.values is None else one.values
            y += np.where(one.codes >= 0, (v * b[one.codes]).sum(axis=1), 0.0)
    return y


def _models():
    rng = np.random.default_rng(20240)
    n = 60
    one, x = np.ones(n), rng.normal(size=n)
    X = np.column_stack([one, x])
    g = _codes(rng, n, 8)
    slope = np.column_stack([one, x])
    yield "intercept", Model(design(_respond(rng, X, t := term("g", g)), X, t))
    t = term("g", g, slope)
    y = _respond(rng, X, t)
    yield "slope", Model(design(y, X, t))
    yield "offset", Model(design(y + 3.0 * x, X, t, offset=3.0 * x))
    yield "large_mean", Model(design(y + 1e6, X, t))
    w = rng.uniform(0.2, 3.0, n)
    w[[3, 17]] = 0.0
    yield "weights", Model(design(y, X, t, weights=w))
    yield "no_fixed", Model(design(y, X[:, :0], t))
    dependent = np.column_stack([one, x, 2.0 * x - one, x**2])
    yield "rank_deficient", Model(design(y, dependent, t))
    t = term("g", _codes(rng, n, 6), np.column_stack([one, x, x**2]))
    yield "cubic", Model(design(_respond(rng, X, t), X, t))
    g = np.where(rng.uniform(size=n) < 0.2, -1, g)
    s, t = term("g", g, slope, n_levels=10), term("h", np.where(g < 3, -1, g % 3))
    yield "absent", Model(design(_respond(rng, X, s, t), X, s, t))
    s, t = term("g", _codes(rng, n, 8), slope, structure="diagonal"), term("h", _codes(rng, n, 5))
    yield "diagonal", Model(design(_respond(rng, X, s, t), X, s, t))

    n = 120
    one, x, z = np.ones(n), rng.normal(size=n), rng.uniform(-1, 1, n)
    X = np.column_stack([one, x, z])
    s, t = term("g", _codes(rng, n, 9)), term("h", _codes(rng, n, 7), np.column_stack([one, x]))
    yield "crossed", Model(design(_respond(rng, X, s, t), X, s, t))
    r = term("i", _codes(rng, n, 4), np.column_stack([one, x, z]))
    s = term("g", _codes(rng, n, 9), np.column_stack([one, z]))
    yield "crossed_three", Model(design(_respond(rng, X, s, t, r), X, s, t, r))
    inner = _codes(rng, n, 15)
    s, t = term("class", inner), term("school", inner // 3, np.column_stack([one, x]))
    yield "nested", Model(design(_respond(rng, X, s, t), X, s, t))
    members = sp.random_array((n, 6), density=0.3, rng=rng, format="csr")
    members = sp.csr_array(sp.hstack([members, sp.csr_array((n, 1))]))  # a column without rows
    s, t = block("members", members), term("g", _codes(rng, n, 8), np.column_stack([one, x]))
    yield "block", Model(design(_respond(rng, X, s, t), X, s, t))
    steep = np.column_stack([one, 1e5 * x + 3e5])
    t = term("g", _codes(rng, n, 8), steep)
    y = _respond(rng, X, term("g", t.codes, np.column_stack([one, x])))
    yield "badly_scaled", Model(design(y, steep, t), unit=(1.0, 1e-5))


MODELS = dict(_models())
