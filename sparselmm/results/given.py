"""What a fit was given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparselmm.inference.packing import MixedLMParams


@dataclass(frozen=True, eq=False)
class Given:
    """What a fit was given that its results do not tell otherwise.

    Attributes
    ----------
    free : MixedLMParams or None
        Mask of the parameters estimated.
    fix : mapping or None
        Covariance parameters held.
    fe_pen, cov_pen : object or None
        Penalties.
    """

    free: MixedLMParams | None = None
    fix: Mapping[str, Any] | None = None
    fe_pen: Any = None
    cov_pen: Any = None

    @classmethod
    def of(cls, free: MixedLMParams | None, fix: Any, fe_pen: Any, cov_pen: Any) -> Given:
        """Arguments of ``MixedLM.fit``; what the caller may change later is copied."""
        return cls(
            None if free is None else free.copy(), None if fix is None else dict(fix),
            fe_pen, cov_pen,
        )  # fmt: skip

    @property
    def penalized(self) -> bool:
        """Whether there is a penalty."""
        return self.fe_pen is not None or self.cov_pen is not None
