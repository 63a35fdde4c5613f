"""Seeds: the generator a user's seed makes, and a stream of its own for every replicate."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np

from sparselmm.base.arguments import wrong_type, wrong_value


def generator(seed: Any) -> np.random.Generator:
    """A source of random numbers: one that was given, or a new one of a seed."""
    if isinstance(seed, np.random.Generator):
        return seed
    return np.random.default_rng(seed_sequence(seed))


def stream(seed: np.random.SeedSequence, i: int) -> np.random.SeedSequence:
    """The seed of replicate ``i``."""
    return np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, i))


def seed_sequence(seed: Seed, name: str = "seed") -> np.random.SeedSequence:
    """The seed as NumPy keeps it; fresh entropy for None.

    Raises
    ------
    DataError
        When it is none of None, a non-negative integer, a sequence of them or a SeedSequence.
    """
    if isinstance(seed, np.random.SeedSequence):
        return seed
    entries = (
        seed if isinstance(seed, (list, tuple, np.ndarray)) else [] if seed is None else [seed]
    )
    wanted = "None, a non-negative integer or several, or a numpy SeedSequence"
    for entry in entries:
        if isinstance(entry, (bool, np.bool_)) or not isinstance(entry, Integral):
            raise wrong_type(name, wanted, seed)
        if entry < 0:
            raise wrong_value(name, wanted, seed)
    return np.random.SeedSequence(seed)


Seed = int | Sequence[int] | np.random.SeedSequence | None
