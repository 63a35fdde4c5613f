"""What the blocks of R depend on."""

from __future__ import annotations

from dataclasses import dataclass

from sparselmm.base.types import AnyArray, BoolArray, FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Geometry:
    """What R depends on, for P blocks of m rows.

    Attributes
    ----------
    distance : ndarray, (P, m, m)
    visits : ndarray of int, (P, m)
    stratum : ndarray of int, (P,)
    D : ndarray, (P, m, a)
    half_log_w : ndarray, (P, m)
        Half the log of the weights.
    """

    distance: FloatArray
    visits: AnyArray
    stratum: IntArray
    D: FloatArray
    half_log_w: FloatArray

    def of(self, blocks: BoolArray) -> Geometry:
        """Some of the blocks."""
        return Geometry(
            self.distance[blocks], self.visits[blocks], self.stratum[blocks], self.D[blocks],
            self.half_log_w[blocks],
        )  # fmt: skip
