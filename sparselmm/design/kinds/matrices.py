"""Random-effects terms given as matrices: statsmodels' ``VCSpec`` and the ``z_terms`` argument."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from sparselmm.base.arguments import check_list, check_numbers, shown, wrong_type
from sparselmm.base.exceptions import DataError, warn_user
from sparselmm.base.types import CSR, AnyArray, BoolArray, IntArray
from sparselmm.design.column_types import float_matrix
from sparselmm.design.exact_labels import canonical
from sparselmm.design.factors import Factor, factorize, match
from sparselmm.design.kinds.coded import NewRows, TermSpec
from sparselmm.design.kinds.components import stack_blocks
from sparselmm.design.levels import Levels
from sparselmm.design.rows import GroupRows
from sparselmm.design.terms import Grouping, RandomTerm, TermLayout
from sparselmm.design.validate import Rows, aligned, check_finite, check_length, check_names

Built = tuple[RandomTerm, TermSpec]


class VCSpec:
    """Variance components as matrices, the holder statsmodels uses.

    Parameters
    ----------
    names : sequence of str
        Names of the components.
    colnames : sequence of sequence of sequence of str
        ``colnames[k][i]`` names the columns of ``mats[k][i]``.
    mats : sequence of sequence of array or sparse array
        ``mats[k][i]``, (n_i, q_ki): design of component ``k`` in the ``i``-th group, groups in
        sorted order, rows in the order of the data.

    Examples
    --------
    >>> import numpy as np
    >>> VCSpec(["a"], [[["1"], ["1"]]], [[np.ones((2, 1)), np.ones((3, 1))]]).names
    ['a']
    """

    def __init__(self, names: Sequence[str], colnames: Any, mats: Any) -> None:
        self.names = check_list(names, "names", "a list of names")
        self.colnames = check_list(colnames, "colnames", "a list of lists of names")
        self.mats = check_list(mats, "mats", "a list of lists of matrices")
        for argument in ("colnames", "mats"):
            if len(getattr(self, argument)) != len(self.names):
                raise DataError(
                    f"{argument} has {len(getattr(self, argument))} entries for "
                    f"{len(self.names)} names; give one per component"
                )


@dataclass(frozen=True, eq=False)
class Stack:
    """One component of a :class:`VCSpec`, its groups put together.

    Attributes
    ----------
    name : str
        Name of the component.
    block : csr_array, (n, l)
        All groups' matrices.
    groups : ndarray, (l,)
        Group label of each column.
    columns : ndarray of str, (l,)
        Name of each column within its group.
    """

    name: str
    block: CSR
    groups: AnyArray
    columns: AnyArray

    def kept(self, kept: BoolArray | None, grouping: Grouping | None) -> Stack:
        """Only the rows kept, and the columns of groups that still have rows."""
        if kept is None or grouping is None:
            return self
        still = np.flatnonzero(match(grouping.labels, self.groups) >= 0)
        block = sp.csr_array(self.block[np.flatnonzero(kept)][:, still])
        return Stack(self.name, block, self.groups[still], self.columns[still])

    def term(self, rows: Rows) -> Built:
        """The term and its memory."""
        check_finite(self.block.data, [self.name], "a matrix of exog_vc", rows)
        levels = Levels(("Group", self.name), (self.groups, self.columns))
        layout = TermLayout(name=self.name, origin="vc", columns=("{}",), levels=levels)
        return layout.on_rows(block=self.block), StackSpec(layout)


@dataclass(frozen=True, eq=False)
class StackSpec(TermSpec):
    """Memory of a component given as matrices."""

    def evaluate(self, new: NewRows) -> RandomTerm:
        """The component on new rows, columns matched by group and name."""
        vc = new.arrays["exog_vc"]
        if vc is None:
            raise DataError(
                f"component {self.layout.name!r} was given as matrices; pass exog_vc= with the "
                "matrices of the new rows"
            )
        stacks = {s.name: s for s in stack_all(vc, factorize(new.group_values, sort=True))}
        if self.layout.name not in stacks:
            raise DataError(f"exog_vc has no component {self.layout.name!r}")
        stack = stacks[self.layout.name]
        known = {pair: j for j, pair in enumerate(_pairs(*self.layout.levels.parts))}
        if len(known) < self.layout.n_levels:
            raise DataError(
                f"component {self.layout.name!r} has columns of one name in one group, which "
                "cannot be matched with those of new rows; give them names of their own in colnames"
            )
        found = [known.get(pair, -1) for pair in _pairs(stack.groups, stack.columns)]
        place = np.array(found, dtype=np.intp)
        entries = stack.block.tocoo()
        keep = place[entries.col] >= 0
        where = (entries.row[keep], place[entries.col[keep]])
        shape = (new.rows.n, self.layout.n_levels)
        return self.layout.on_rows(block=sp.csr_array((entries.data[keep], where), shape=shape))


def _pairs(groups: AnyArray, columns: AnyArray) -> Iterator[tuple[Any, Any]]:
    return zip(groups.tolist(), columns.tolist(), strict=True)


def _real(matrix: Any, name: str) -> Any:
    """A sparse matrix as it is, anything else as floats; complex numbers are refused."""
    if sp.issparse(matrix):
        check_numbers(matrix.data if hasattr(matrix, "data") else matrix, name, finite=False)
        return matrix
    return float_matrix(matrix, name)


def stack_all(vc: VCSpec | dict[str, Any], groups: Factor) -> list[Stack]:
    """Every component's matrices over the groups, put together."""
    rows = [rows for rows in GroupRows.of(groups.codes, len(groups.labels)) if len(rows)]
    if isinstance(vc, dict):
        vc = _from_dict(vc, groups, rows)
    if not all(hasattr(vc, part) for part in ("names", "colnames", "mats")):
        raise wrong_type("exog_vc", "a VCSpec", vc)
    check_names(list(vc.names), "components of exog_vc")
    return [
        _stack(name, vc.colnames[k], vc.mats[k], groups, rows) for k, name in enumerate(vc.names)
    ]


def _stack(name: str, colnames: Any, mats: Any, groups: Factor, rows: Sequence[IntArray]) -> Stack:
    if len(mats) != len(groups.labels):
        raise DataError(
            f"exog_vc component {name!r} has matrices for {len(mats)} groups but there are "
            f"{len(groups.labels)}; give one per group, in sorted order"
        )
    pieces, start = [], 0
    of_group: list[int] = []
    columns: list[str] = []
    for i, (matrix, where) in enumerate(zip(mats, rows, strict=True)):
        matrix = _real(matrix, f"exog_vc component {name!r}")
        matrix = matrix[:, None] if matrix.ndim == 1 else matrix
        if matrix.shape[0] != len(where):
            raise DataError(
                f"exog_vc component {name!r}: the matrix of group {shown(groups.labels[i])} has "
                f"{matrix.shape[0]} rows but the group has {len(where)}"
            )
        names = list(colnames[i])[: matrix.shape[1]]
        if len(names) < matrix.shape[1]:
            raise DataError(
                f"exog_vc component {name!r}: the matrix of group {shown(groups.labels[i])} has "
                f"{matrix.shape[1]} columns and {len(names)} name(s); give one per column"
            )
        pieces.append((matrix, where, start))
        start += matrix.shape[1]
        of_group.extend([i] * matrix.shape[1])
        columns.extend(map(str, names))
    block = stack_blocks(pieces, (len(groups.codes), start))
    return Stack(name, block, groups.labels[of_group], np.array(columns, dtype=object))


def _from_dict(vc: dict[str, Any], groups: Factor, rows: Sequence[IntArray]) -> VCSpec:
    """The deprecated ``{name: {group: matrix}}``; a group without an entry has no columns."""
    warn_user("Using deprecated variance components format", FutureWarning)
    names, colnames, mats = list(vc), [], []
    for name in names:
        if not isinstance(vc[name], Mapping):
            raise wrong_type("exog_vc", "a VCSpec, or {name: {group: matrix}}", vc[name])
        labels = groups.labels.tolist()
        known = set(labels)
        unknown = [key for key, Z in vc[name].items() if key not in known and np.shape(Z)[0]]
        if unknown:
            raise DataError(
                f"exog_vc component {name!r} has a matrix of group {shown(unknown[0])}, and no row "
                f"is of that group; labels of groups look like {shown(labels[0])}"
            )
        of_groups = []
        for label, where in zip(labels, rows, strict=True):
            matrix = vc[name].get(label, np.empty((len(where), 0)))
            matrix = _real(matrix, f"exog_vc component {name!r}")
            of_groups.append(matrix[:, None] if matrix.ndim == 1 else matrix)
        mats.append(of_groups)
        colnames.append([[str(j) for j in range(m.shape[1])] for m in of_groups])
    return VCSpec(names, colnames, mats)


@dataclass(frozen=True, eq=False)
class UserMatrix:
    """One entry of ``z_terms``.

    Attributes
    ----------
    name : str
        Its key.
    block : csr_array, (n, l)
        The matrix.
    labels : ndarray, (l,)
        Names of its columns.
    named : bool
        Whether these were given; else they are numbers.
    """

    name: str
    block: CSR
    labels: AnyArray
    named: bool

    def kept(self, kept: BoolArray | None) -> UserMatrix:
        """Only the rows kept."""
        if kept is None:
            return self
        return replace(self, block=self.block[np.flatnonzero(kept)])

    def term(self, rows: Rows) -> Built:
        """The term and its memory."""
        check_finite(self.block.data, [self.name], "the matrix z_terms", rows)
        levels = Levels(("column",), (self.labels,))
        layout = TermLayout(name=self.name, origin="array", columns=("{}",), levels=levels)
        return layout.on_rows(block=self.block), MatrixSpec(layout, self.named)

    def by_name(self, labels: AnyArray) -> CSR:
        """The columns in the order of some names of as many."""
        place = match(self.labels, labels)
        if (place < 0).any() or len(np.unique(place)) < len(place):
            if np.array_equal(self.labels, labels):  # names that repeat
                return self.block
            first = labels[int(np.argmax(place < 0))]
            raise DataError(
                f"z_terms[{self.name!r}] has other columns than at the fit, where they were called "
                f"{shown(first)} and so on; give them the same names, or pass an array"
            )
        return self.block if (np.diff(place) == 1).all() else sp.csr_array(self.block[:, place])


@dataclass(frozen=True, eq=False)
class MatrixSpec(TermSpec):
    """Memory of a ``z_terms`` entry, and whether its columns have names."""

    named: bool = False

    def evaluate(self, new: NewRows) -> RandomTerm:
        """The term with the new matrix."""
        name, width = self.layout.name, self.layout.n_levels
        if name not in new.arrays["z_terms"]:
            raise DataError(
                f"term {name!r} is a matrix of z_terms; pass z_terms={{{name!r}: Z}} with one row "
                f"per new row and {width} columns"
            )
        matrix = user_matrix(name, new.arrays["z_terms"][name], new.rows.n, new.rows.index)
        if matrix.block.shape[1] != width:
            raise DataError(
                f"z_terms[{name!r}] has {matrix.block.shape[1]} columns but the fit had {width}"
            )
        known = self.layout.levels.parts[0]
        both = self.named and matrix.named
        return self.layout.on_rows(block=matrix.by_name(known) if both else matrix.block)


def user_matrices(
    z_terms: Mapping[str, Any] | None, n: int, index: pd.Index | None
) -> list[UserMatrix]:
    """Every entry of ``z_terms``; ``index`` is that of the data."""
    if z_terms is None:
        return []
    if not isinstance(z_terms, Mapping):
        raise DataError(
            f"z_terms must be a dict of name to matrix, not {type(z_terms).__name__}; "
            "write z_terms={'name': Z}"
        )
    return [user_matrix(str(name), Z, n, index) for name, Z in z_terms.items()]


def user_matrix(name: str, Z: Any, n: int, index: pd.Index | None) -> UserMatrix:
    """One matrix as sparse float64, with the names of its columns."""
    Z = aligned(Z, index, f"z_terms[{name!r}]")
    labels = canonical(Z.columns) if isinstance(Z, pd.DataFrame) else None
    dense = _real(Z, f"z_terms[{name!r}]")
    if dense.ndim != 2 or dense.shape[1] == 0:
        raise DataError(f"z_terms[{name!r}] must be a matrix with columns, got shape {dense.shape}")
    check_length(dense.shape[0], n, f"z_terms[{name!r}]")
    block = sp.csr_array(dense, dtype=np.float64)
    names = np.arange(block.shape[1]) if labels is None else labels
    return UserMatrix(name, block, names, labels is not None)
