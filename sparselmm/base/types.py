"""Array types shared by every module."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.integer[Any]]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
AnyArray: TypeAlias = npt.NDArray[Any]
CSR: TypeAlias = sp.csr_array
CSC: TypeAlias = sp.csc_array


class Snapshot:
    """Pickled as a copy of what it holds: another thread may fill a cached property meanwhile."""

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)


def index_dtype(largest: int) -> type[np.int32] | type[np.int64]:
    """Smallest of int32 / int64 that holds ``largest`` (a dimension or a number of nonzeros)."""
    return np.int32 if largest <= np.iinfo(np.int32).max else np.int64
