"""Scales of the response that means can be carried back to."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from sparselmm.base.arguments import check_number
from sparselmm.base.exceptions import ArgumentError
from sparselmm.base.types import FloatArray
from sparselmm.likelihood.laplace import links


@dataclass(frozen=True)
class Scale:
    """How the scale of the means goes back to that of the response.

    Attributes
    ----------
    name : str
        The transformation that was fitted.
    ratio : str, optional
        What a difference becomes, for logarithms and logits.
    base : float
        Of the logarithm.
    slopes : callable, optional
        The inverse and its first three derivatives; otherwise differences are taken.
    at_zero : {"", "turn", "pole"}
        Whether the inverse turns round at zero, as squares do, or goes to infinity.
    """

    name: str
    inverse: Callable[[FloatArray], FloatArray]
    ratio: str | None = None
    base: float = np.e
    slopes: Callable[[FloatArray], tuple[FloatArray, ...]] | None = None
    at_zero: str = ""

    def slope(self, x: FloatArray) -> FloatArray:
        """Derivative of the inverse."""
        if self.slopes is not None:
            return self.slopes(x)[1]
        h = 1e-5 * np.maximum(1.0, np.abs(x))
        return np.asarray((self.inverse(x + h) - self.inverse(x - h)) / (2.0 * h))

    def adjusted(self, variance: float) -> Scale:
        """The same for the mean of responses that vary around the mean by some variance.

        ``g(x) + variance g''(x) / 2`` with g the inverse, as R's emmeans does it.
        """
        inverse, slopes, half = self.inverse, self.slopes, 0.5 * variance
        if slopes is not None:

            def adjusted(x: FloatArray) -> tuple[FloatArray, ...]:
                f, first, second, third = slopes(x)
                return f + half * second, first + half * third

            return replace(self, inverse=lambda x: adjusted(x)[0], slopes=adjusted)

        def mean(x: FloatArray) -> FloatArray:
            h = 2e-3 * np.maximum(1.0, np.abs(x))
            two, one = (inverse(x + k * h) + inverse(x - k * h) for k in (2, 1))
            second = (16.0 * one - two - 30.0 * inverse(x)) / (12.0 * h**2)
            return np.asarray(inverse(x) + half * second)

        return replace(self, inverse=mean)

    def back(
        self, value: FloatArray, se: FloatArray, low: FloatArray, high: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Estimates, standard errors by the delta method and limits on the response's scale."""
        se = np.abs(self.slope(value)) * se
        return self.inverse(value), se, *self.limits(value, low, high)

    def limits(
        self, value: FloatArray, low: FloatArray, high: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Least and largest value of the inverse between two limits.

        Where it goes to infinity at zero, on that side of zero on which the estimate is.
        """
        if self.at_zero == "pole":
            low = np.where(value > 0.0, np.maximum(low, 0.0), low)
            high = np.where(value < 0.0, np.minimum(high, -0.0), high)
        ends = self.inverse(low), self.inverse(high)
        least, most = np.minimum(*ends), np.maximum(*ends)
        if self.at_zero == "turn":
            least = np.where((low < 0.0) & (high > 0.0), self.inverse(np.zeros_like(low)), least)
        return least, most


TRANSFORMATIONS = {
    scale.name: scale
    for scale in (
        Scale("log", np.exp, "ratio"),
        Scale("log2", np.exp2, "ratio", 2.0),
        Scale("log10", lambda x: np.power(10.0, x), "ratio", 10.0),
        Scale("log1p", np.expm1),
        Scale("sqrt", np.square, at_zero="turn"),
        Scale("cbrt", lambda x: x**3),
        Scale("arcsin", np.sin),
        Scale("exp", np.log),
    )
}

AT_ZERO = {"sqrt": "turn", "inverse": "pole", "inverse_squared": "pole"}
"""What inverse links do at zero."""


def link_scale(link: str, ratio: str | None = None) -> Scale:
    """The scale of a link of generalized models."""
    return Scale(
        link, partial(links.mean, link), ratio, slopes=partial(links.mean_slopes, link),
        at_zero=AT_ZERO.get(link, ""),
    )  # fmt: skip


def response_scale(response: str | None) -> Scale | None:
    """The scale that the formula's left side, such as ``np.log(y + 1)``, was carried to."""
    try:
        tree = ast.parse(response or "", mode="eval").body
    except SyntaxError:
        return None
    if not isinstance(tree, ast.Call) or len(tree.args) != 1 or tree.keywords:
        return None
    called = tree.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    scale = TRANSFORMATIONS.get(name)
    added = _added(tree.args[0])
    if scale is None or not added:
        return scale
    inverse = scale.inverse
    return replace(scale, inverse=lambda x: inverse(x) - added)


def bias_adjusted(
    scale: Scale | None, bias_adjust: Any, type: str, own: Callable[[], float]
) -> Scale | None:
    """A scale with the adjustment that was asked for: none, by the fit's own variance, by an sd."""
    if isinstance(bias_adjust, (bool, np.bool_)) and not bias_adjust:
        return scale
    if str(type) != "response":
        raise ArgumentError("bias_adjust is of means on the response scale: type='response'")
    if isinstance(bias_adjust, (bool, np.bool_)):
        return scale if scale is None else scale.adjusted(own())
    wanted = "True, or a standard deviation on the scale of the link up to 1e6"
    sd = check_number(bias_adjust, "bias_adjust", wanted, low=0.0, high=1e6)
    return None if scale is None else scale.adjusted(sd**2)


def _added(argument: ast.expr) -> float:
    """The number that stands beside the response, as 1 in ``y + 1``."""
    if not isinstance(argument, ast.BinOp) or not isinstance(argument.op, (ast.Add, ast.Sub)):
        return 0.0
    left, right = _number(argument.left), _number(argument.right)
    if isinstance(argument.op, ast.Sub):
        return 0.0 if right is None else -right
    return left or right or 0.0


def _number(node: ast.expr) -> float | None:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return None
    return float(value) if isinstance(value, (int, float)) else None
