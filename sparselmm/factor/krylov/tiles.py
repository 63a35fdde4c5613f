"""The scaled Schur complement factored on disk, in panels of rows, one pair of them in memory.

With ``C = T^-1 S T^-T = L L'`` and ``X = L^-1``, panel by panel (rows I, earlier panels K),

    L_IK = (C_IK - sum_(J<K) L_IJ L_KJ') L_KK^-T,    L_II L_II' = C_II - sum_(J<I) L_IJ L_IJ'
    X_II = L_II^-1,   X_IJ = -L_II^-1 sum_(J<=K<I) L_IK X_KJ

and X takes the place of L. The rows x of X give log|C| and every sum of blocks of the inverse,

    trailing:  sum_j [S^-1]_jj = sum_x sum_j (T^-T x)_j (T^-T x)_j'
    leading:   sum_l G_ll = sum_l R_l'R_l + sum_x sum_l (R_l'Y_l x)(R_l'Y_l x)'

A journal beside the panels says how far the work is, so that it goes on after an interrupt where it
was, for the same matrix alone. Disk space is taken before anything is computed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg import blas, lapack

from sparselmm.base import kernels_krylov as kernels
from sparselmm.base.cholesky import NotPositiveDefiniteError
from sparselmm.base.exceptions import DiskSpaceError
from sparselmm.base.threads import equal_parts, in_parts
from sparselmm.base.types import FloatArray
from sparselmm.factor.krylov.operator import ScaledComplement
from sparselmm.factor.krylov.solver import KrylovSolver
from sparselmm.factor.pattern import Pattern
from sparselmm.factor.solver import apply_blocks

WIDEST, NARROWEST = 2048, 64
"""Rows of a panel: BLAS gains nothing from more, and loses with fewer."""

PANELS = 3
"""Panels of full length in memory at a time."""

LEADING = 32
"""Rows of X that are taken up to the leading levels together."""

SPARE = 1.02
"""Disk space that must be free, as a share of what is needed."""

RATE = 3.5e10
"""Operations per second and core."""

READ = 1e9
"""Bytes per second from disk."""


@dataclass(frozen=True)
class Panels:
    """How a matrix is cut.

    Attributes
    ----------
    n : int
        Order of the matrix.
    width : int
        Rows of a panel, but the last.
    """

    n: int
    width: int

    @classmethod
    def of(cls, n: int, memory: float) -> Panels:
        """The widest panels of which a few fit in so many bytes."""
        rows = int(memory / (PANELS * 8 * max(n, 1)))
        return cls(n, max(min(WIDEST, rows, n), min(NARROWEST, n), 1))

    @property
    def count(self) -> int:
        """Number of panels."""
        return -(-self.n // self.width)

    def rows(self, i: int) -> tuple[int, int]:
        """First row of a panel, and of the next."""
        return i * self.width, min((i + 1) * self.width, self.n)

    def place(self, i: int) -> int:
        """Numbers before a panel in the file; after the last there is room for one more."""
        return self.width * self.width * i * (i + 1) // 2

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return 8 * (self.place(self.count) + self.width * self.n)

    @property
    def seconds(self) -> float:
        """Predicted time of factor and inverse on one core."""
        return 2.0 * self.n**3 / 3.0 / RATE + self.count / 1.5 * self.bytes / READ


@dataclass
class Journal:
    """How far the work is.

    Attributes
    ----------
    factored, inverted : int
        Panels that are done.
    spare : int
        Panel whose inverse stands in the room behind the last, -1 for none.
    logdet : float
    sums : dict
        What the inverted panels add to the blocks of every term, by its number.
    """

    factored: int = 0
    inverted: int = 0
    spare: int = -1
    logdet: float = 0.0
    sums: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Journal:
        """As it was written last; a new one where there is none."""
        return cls(**json.loads(path.read_text())) if path.exists() else cls()

    def write(self, path: Path) -> None:
        """All of it or nothing."""
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(self.__dict__))
        fresh.replace(path)


@dataclass(frozen=True, eq=False)
class Inverted:
    """What the factor on disk says of M.

    Attributes
    ----------
    logdet : float
        ``log|M|``.
    sums : dict
        Of the diagonal blocks of ``M^-1`` of every term over its levels, (k, k).
    """

    logdet: float
    sums: dict[int, FloatArray]


class Tiles:
    """The factorization of one scaled complement on disk.

    Parameters
    ----------
    folder : str or None
        Where to work; None for the system's folder of temporary files.
    memory : float
        Bytes that panels may take.

    Raises
    ------
    DiskSpaceError
        If the disk has no room.
    """

    def __init__(self, scaled: ScaledComplement, folder: str | None, memory: float):
        self.scaled, self.panels = scaled, Panels.of(scaled.n_trailing, memory)
        self.folder = Path(folder or tempfile.gettempdir()) / f"sparselmm-{self._digest()}"
        self._journal_path, self._data = self.folder / "journal.json", self.folder / "panels"

    def _digest(self) -> str:
        """A name that belongs to this matrix and this cut alone."""
        found = hashlib.sha256(f"{self.panels}".encode())
        for part in (self.scaled.Y, self.scaled.H.data, self.scaled.H.indices):
            found.update(np.ascontiguousarray(part).view(np.uint8).data)
        return found.hexdigest()[:16]

    def run(self) -> Inverted:
        """Factor and invert, from where an earlier run ended; the files go at the end."""
        journal = self._open()
        try:
            with self._data.open("r+b") as file:
                self._factor(file, journal)
                self._invert(file, journal)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(
                f"{self._progress(journal)}; the same fit goes on from there, or delete the folder"
            ) from stop
        except OSError as error:
            raise DiskSpaceError(
                f"the disk of {str(self.folder)!r} failed ({error.strerror or error}); "
                f"{self._progress(journal)}; the same fit goes on from there once there is room"
            ) from error
        found = Inverted(self.scaled.logdet + journal.logdet, self._sums(journal))
        shutil.rmtree(self.folder)
        return found

    def _progress(self, journal: Journal) -> str:
        n = self.panels.count
        return (
            f"{journal.factored} of {n} panels factored, {journal.inverted} inverted, kept in "
            f"{str(self.folder)!r}"
        )

    def _open(self) -> Journal:
        """The journal, with all the disk space that will be needed."""
        need = self.panels.bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        have = self._data.stat().st_size if self._data.exists() else 0
        free = shutil.disk_usage(self.folder).free + have
        if free < SPARE * need:
            if not have:
                self.folder.rmdir()
            raise DiskSpaceError(
                f"an exact factorization on disk needs {need / 1e9:.3g} GB in "
                f"{str(self.folder.parent)!r} and {free / 1e9:.3g} GB are free; name another "
                "folder by scratch="
            )
        if have != need:
            self._journal_path.unlink(missing_ok=True)
            try:
                with self._data.open("wb") as file:
                    _reserve(file, need)
            except OSError as error:
                shutil.rmtree(self.folder)
                raise DiskSpaceError(
                    f"{need / 1e9:.3g} GB cannot be taken in {str(self.folder.parent)!r}: "
                    f"{error.strerror or error}; name another folder by scratch="
                ) from error
        return Journal.read(self._journal_path)

    # -------------------------------------------------------------------------- panels

    def _read(self, file: Any, i: int) -> FloatArray:
        """A panel, (rows, its last column)."""
        a, b = self.panels.rows(i)
        file.seek(8 * self.panels.place(i))
        panel = np.empty((b - a, b))
        if file.readinto(panel.data.cast("B")) != panel.nbytes:
            raise OSError(f"{self._data} is shorter than it was")
        return panel

    def _write(self, file: Any, i: int, panel: FloatArray) -> None:
        file.seek(8 * self.panels.place(i))
        file.write(np.ascontiguousarray(panel).data.cast("B"))
        file.flush()

    def _formed(self, i: int) -> FloatArray:
        """Rows of C up to the end of their diagonal block, (rows, its last column)."""
        (a, b), crossing = self.panels.rows(i), self.scaled.crossing
        out = np.ascontiguousarray(self.scaled.H[a:b, :b].toarray())
        Y = self.scaled.Y
        if crossing.full:
            return np.asarray(out - Y[:, a:b].T @ Y[:, :b])
        loop = partial(kernels.gram_rows, crossing.indptr, crossing.cols, Y, a, out)
        in_parts(loop, equal_parts(np.full(b - a, 1e9 / max(b - a, 1))))
        return out

    def _factor(self, file: Any, journal: Journal) -> None:
        """L, one panel after the other."""
        for i in range(journal.factored, self.panels.count):
            a, _ = self.panels.rows(i)
            panel = self._formed(i)
            for k in range(i):
                c, d = self.panels.rows(k)
                other = self._read(file, k)
                block = panel[:, c:d] - panel[:, :c] @ other[:, :c].T
                own = np.asfortranarray(other[:, c:d])
                panel[:, c:d] = blas.dtrsm(1.0, own, block, side=1, lower=1, trans_a=1)
            block = panel[:, a:] - panel[:, :a] @ panel[:, :a].T
            L, info = lapack.dpotrf(np.asfortranarray(block), lower=1, clean=1)
            if info:
                raise NotPositiveDefiniteError("the Schur complement is not positive definite")
            panel[:, a:] = L
            self._write(file, i, panel)
            journal.logdet += float(2.0 * np.log(np.diag(L)).sum())
            journal.factored = i + 1
            journal.write(self._journal_path)

    def _invert(self, file: Any, journal: Journal) -> None:
        """X in the place of L, and what its rows add to the blocks of the inverse."""
        room = self.panels.count
        for i in range(journal.inverted, room):
            if journal.spare != i:
                X = self._inverse_rows(file, i)
                journal.sums = {
                    str(t): (np.array(journal.sums.get(str(t), 0.0)) + add).tolist()
                    for t, add in self._added(X).items()
                }
                self._write(file, room, X)
                journal.spare = i
                journal.write(self._journal_path)
            else:
                a, b = self.panels.rows(i)
                file.seek(8 * self.panels.place(room))
                X = np.fromfile(file, count=(b - a) * b).reshape(b - a, b)
            self._write(file, i, X)
            journal.inverted = i + 1
            journal.write(self._journal_path)

    def _inverse_rows(self, file: Any, i: int) -> FloatArray:
        """Rows of X, from those before and L."""
        a, _ = self.panels.rows(i)
        L = self._read(file, i)
        X = np.zeros(L.shape)
        for k in range(i):
            c, d = self.panels.rows(k)
            X[:, :d] -= L[:, c:d] @ self._read(file, k)
        X[:, a:] = np.eye(len(X))
        own = np.asfortranarray(L[:, a:])
        return np.ascontiguousarray(blas.dtrsm(1.0, own, X, side=0, lower=1))

    # --------------------------------------------------------------------------- sums

    def _added(self, X: FloatArray) -> dict[int, FloatArray]:
        """What rows of X add to the sum of the blocks of every term."""
        scaled, pattern = self.scaled, self.scaled.pattern
        lead = scaled.crossing.leading
        out: dict[int, FloatArray] = {}
        for start in range(0, len(X), LEADING):
            rows = X[start : start + LEADING]
            V = np.zeros((scaled.n_trailing, len(rows)))
            V[: X.shape[1]] = rows.T
            up = apply_blocks(scaled.R, scaled.up(V), transpose=True)
            parts = {lead: np.einsum("lam,lbm->ab", up, up, optimize=True)}
            down = scaled.scale(V, True)
            for t, part in scaled.crossing.parts.items():
                k, l = pattern.sizes[t]
                own = down[part].reshape(l, k, -1).transpose(1, 0, 2).reshape(k, -1)
                parts[t] = own @ own.T
            for t, add in parts.items():
                out[t] = out.get(t, 0.0) + add
        return out

    def _sums(self, journal: Journal) -> dict[int, FloatArray]:
        out = {int(t): np.array(add) for t, add in journal.sums.items()}
        R, lead = self.scaled.R, self.scaled.crossing.leading
        out[lead] = out[lead] + np.einsum("lba,lbc->ac", R, R)
        return out


def _reserve(file: Any, size: int) -> None:
    """Take disk space, as far as the system lets us."""
    allocate: Callable[..., None] | None = getattr(os, "posix_fallocate", None)
    if allocate is not None:
        allocate(file.fileno(), 0, size)
    else:
        file.truncate(size)


class TiledSolver(KrylovSolver):
    """A `KrylovSolver` whose log determinant and traces are exact, from a factorization on disk.

    Parameters
    ----------
    like : KrylovSolver
        Of the same pattern.
    folder : str or None
        Where to work.
    memory : float
        Bytes that panels may take.
    """

    def __init__(self, like: KrylovSolver, folder: str | None, memory: float):
        super().__init__(like.pattern, like.settings, like.crossing)
        self.V, self.folder, self.memory = like.V, folder, memory
        self._inverted: tuple[ScaledComplement, Inverted] | None = None

    exact = True

    def twin(self) -> TiledSolver:
        """Another solver of the same pattern."""
        return TiledSolver(self, self.folder, self.memory)

    def like(self, pattern: Pattern) -> TiledSolver:
        """One that works in the same place, for another pattern of the same terms."""
        return TiledSolver(super().like(pattern), self.folder, self.memory)

    @property
    def inverted(self) -> Inverted:
        """What the factor says at the factored theta."""
        if self._inverted is None or self._inverted[0] is not self.scaled:
            found = Tiles(self.scaled, self.folder, self.memory).run()
            self._inverted = self.scaled, found
        return self._inverted[1]

    def inverse_sum(self, t: int) -> FloatArray:
        """Sum over the levels of term t of the diagonal blocks of ``M^-1``."""
        return self.inverted.sums[t]

    def log_determinant(self) -> tuple[float, FloatArray]:
        """``log|M|``, to which no probe adds anything."""
        return self.inverted.logdet, np.zeros(len(self.group))
