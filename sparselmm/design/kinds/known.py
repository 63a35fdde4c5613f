"""Terms whose levels have a known covariance: labels matched, columns of Z mixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from sparselmm.base.arguments import shown
from sparselmm.base.exceptions import DataError, MemoryLimitError
from sparselmm.base.types import CSR, FloatArray, IntArray, index_dtype
from sparselmm.design.factors import match
from sparselmm.design.kinds.coded import GROUPS, CodedSpec, NewRows, TermSpec
from sparselmm.design.kinds.matrices import Built
from sparselmm.design.known_covariance import LARGEST_ROOT, KnownCovariance
from sparselmm.design.levels import Levels
from sparselmm.design.terms import RandomTerm, TermLayout

SHOWN_LABELS = 5


@dataclass(frozen=True, eq=False)
class KnownSpec(TermSpec):
    """Memory of a term with a known covariance between levels.

    Attributes
    ----------
    inner : CodedSpec
        Memory of the same term with independent levels.
    """

    inner: CodedSpec

    @property
    def factors(self) -> tuple[str, ...]:
        """Expression of the grouping factor; ``GROUPS`` for the ``groups`` argument."""
        return self.inner.factors

    def codes_used(self) -> list[str]:
        """Expressions it evaluates on the data."""
        return self.inner.codes_used()

    def groupings(self) -> list[str]:
        """Those of them that are columns read as labels and nothing else."""
        return self.inner.groupings()

    def evaluate(self, new: NewRows) -> RandomTerm:
        """The term on new rows; rows of levels without a known covariance are empty."""
        (code,), labels = self.inner.factors, self.layout.levels.parts[0]
        if code == GROUPS:
            values = new.group_values
        else:
            assert new.space is not None
            values = new.space.labels(code)
        level = match(labels, values)
        return _mixed(self.layout, level, self.inner.new_values(new), new.rows.n)


def with_known(built: list[Built], covariance: Mapping[str, Any] | None) -> list[Built]:
    """The same terms, those of the factors named in ``covariance`` with mixed columns.

    Parameters
    ----------
    built : list of (RandomTerm, TermSpec)
    covariance : mapping or None
        Name of a grouping factor to :class:`~sparselmm.KnownCovariance`.

    Raises
    ------
    DataError
        When a name is no grouping factor of the model, or levels have no known covariance.
    """
    if covariance is None:
        return built
    if not isinstance(covariance, Mapping):
        raise DataError(
            f"covariance must be a dict of grouping factor to KnownCovariance, not "
            f"{type(covariance).__name__}; write covariance={{'animal': known}}"
        )
    factors = {":".join(term.levels.names): term for term, _ in built}
    for name, known in covariance.items():
        if name not in factors:
            raise DataError(
                f"covariance names {name!r}, which is no grouping factor of the model; its "
                f"grouping factors are {', '.join(map(repr, factors))}"
            )
        if not isinstance(known, KnownCovariance):
            raise DataError(
                f"covariance[{name!r}] must be a KnownCovariance, not {type(known).__name__}; "
                "write KnownCovariance(matrix, labels, kind='covariance')"
            )
    return [
        _with_root(term, spec, covariance[":".join(term.levels.names)])
        if ":".join(term.levels.names) in covariance
        else (term, spec)
        for term, spec in built
    ]


def _with_root(term: RandomTerm, spec: Any, known: KnownCovariance) -> Built:
    if not isinstance(spec, CodedSpec) or term.origin == "vc" or len(term.levels.parts) != 1:
        raise DataError(
            f"a known covariance is for a term of one grouping factor, (x|g) or groups=; "
            f"{term.name!r} is not. Make a column with the labels of the interaction and use it "
            "as the grouping factor"
        )
    place = match(known.labels, term.levels.parts[0])
    absent = term.levels.parts[0][place < 0]
    if len(absent):
        names = ", ".join(shown(label) for label in absent[:SHOWN_LABELS])
        more = f" and {len(absent) - SHOWN_LABELS} more" if len(absent) > SHOWN_LABELS else ""
        raise DataError(
            f"{len(absent)} of {term.n_levels} level(s) of {term.name!r} have no row in the known "
            f"covariance: {names}{more}. Its labels look like {shown(known.labels[0])}; labels "
            "must be equal and of the same type"
        )
    assert term.codes is not None
    levels = Levels(term.levels.names, (known.labels,))
    layout = replace(spec.layout, levels=levels, root=known.root)
    level = np.where(term.codes < 0, -1, place[term.codes])
    memory = KnownSpec(layout, spec)
    return _mixed(layout, level, term.values, len(level)), memory


def _mixed(layout: TermLayout, level: IntArray, values: FloatArray | None, n: int) -> RandomTerm:
    """``Z_t (R (x) I_k)`` of some rows."""
    root = layout.root
    assert root is not None
    entries = int(np.diff(root.indptr)[level[level >= 0]].sum()) * layout.k
    if entries > LARGEST_ROOT:
        raise MemoryLimitError(
            f"the {n} rows of {layout.name!r} would have {entries:.3g} entries of Z with this "
            f"known covariance ({12e-9 * entries:.3g} GB); use fewer rows, or average the rows of "
            "a level that have the same covariates and give their numbers as weights"
        )
    known = np.flatnonzero(level >= 0)
    part, k = sp.csr_array(root[level[known]]), layout.k
    part.sort_indices()
    times = np.diff(part.indptr)
    data = part.data[:, None]
    if values is not None:
        data = data * np.repeat(values[known], times, axis=0)  # zeros stay: the row has a level
    itype = index_dtype(max(layout.q, entries))
    ends = np.zeros(n + 1, dtype=itype)
    ends[known + 1] = k * times
    columns = part.indices.astype(itype, copy=False)[:, None] * itype(k) + np.arange(k, dtype=itype)
    block: CSR = sp.csr_array((data.ravel(), columns.ravel(), ends.cumsum()), shape=(n, layout.q))
    return layout.on_rows(block=block)
