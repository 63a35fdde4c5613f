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
    turns : tuple of float
        Where the inverse, as that of a root at zero, turns round.
    slopes : callable, optional
        The inverse and its first three derivatives; otherwise differences are taken.
    pole : bool
        Whether the inverse goes to infinity at zero.
    of : str
        What the inverse gives, where that is not the response as it was fitted.
    """

    name: str
    inverse: Callable[[FloatArray], FloatArray]
    ratio: str | None = None
    base: float = np.e
    turns: tuple[float, ...] = ()
    slopes: Callable[[FloatArray], tuple[FloatArray, ...]] | None = None
    pole: bool = False
    of: str = ""

    def slope(self, x: FloatArray) -> FloatArray:
        """Derivative of the inverse, by differences that are exact for cubes if need be."""
        if self.slopes is not None:
            return self.slopes(x)[1]
        h = 1e-5 * np.maximum(1.0, np.abs(x))
        one, two = (self.inverse(x + k * h) - self.inverse(x - k * h) for k in (1, 2))
        return np.asarray((8.0 * one - two) / (12.0 * h))

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
        if self.pole:
            low = np.where(value > 0.0, np.maximum(low, 0.0), low)
            high = np.where(value < 0.0, np.minimum(high, -0.0), high)
        ends = [self.inverse(low), self.inverse(high)]
        for turn in self.turns:
            there = self.inverse(np.full_like(low, turn))
            ends.append(np.where((low < turn) & (turn < high), there, ends[0]))
        return np.min(ends, axis=0), np.max(ends, axis=0)


TRANSFORMATIONS = {
    scale.name: scale
    for scale in (
        Scale("log", np.exp, "ratio"),
        Scale("log2", np.exp2, "ratio", 2.0),
        Scale("log10", lambda x: np.power(10.0, x), "ratio", 10.0),
        Scale("log1p", np.expm1),
        Scale("sqrt", np.square, turns=(0.0,)),
        Scale("cbrt", lambda x: x**3),
        Scale("arcsin", np.sin, turns=(-0.5 * np.pi, 0.5 * np.pi)),
        Scale("exp", np.log),
    )
}


def link_scale(link: str, ratio: str | None = None) -> Scale:
    """The scale of a link of generalized models."""
    return Scale(
        link, partial(links.mean, link), ratio, slopes=partial(links.mean_slopes, link),
        turns=(0.0,) * (link == "sqrt"), pole=link in ("inverse", "inverse_squared"),
    )  # fmt: skip


def response_scale(response: str | None) -> Scale | None:
    """The scale that the formula's left side, such as ``np.log(y + 1)``, was carried to.

    What is done to the response within the transformation is undone, too; then contrasts are
    ratios as long as it is plain arithmetic.
    """
    try:
        tree = ast.parse(response or "", mode="eval").body
    except SyntaxError:
        return None
    outer = _transformation(tree)
    if outer is None:
        return None
    steps, node = [], tree.args[0]  # type: ignore[attr-defined]
    while (found := _undone(node)) is not None:
        steps.append(found[0])
        node = found[1]
    turns, do = list(outer.turns), [getattr(np, outer.name)]
    for step in steps:
        turns += [_outwards(do, turn) for turn in step.turns]
        do.append(step.do)

    def inverse(x: FloatArray) -> FloatArray:
        out = outer.inverse(x)
        for step in steps:
            out = step.undo(out)
        return out

    ratio = outer.ratio if all(step.plain for step in steps) else None
    fine = tuple(turn for turn in turns if np.isfinite(turn))
    scale = replace(outer, of=ast.unparse(node))
    return replace(scale, inverse=inverse, ratio=ratio, turns=fine) if steps else scale


def _outwards(do: list[Callable[[Any], Any]], value: float) -> float:
    """Where a value within the transformation stands on the scale of the model."""
    with np.errstate(divide="ignore", invalid="ignore"):
        for one in reversed(do):
            value = one(value)
    return float(value)


@dataclass(frozen=True)
class _Step:
    """Something that was done to the response, and how it is undone."""

    do: Callable[[Any], Any]
    undo: Callable[[Any], Any]
    plain: bool = True
    turns: tuple[float, ...] = ()


def _transformation(node: ast.expr) -> Scale | None:
    """The known transformation that a call is."""
    if not isinstance(node, ast.Call) or len(node.args) != 1 or node.keywords:
        return None
    called = node.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return TRANSFORMATIONS.get(name)


def _undone(node: ast.expr) -> tuple[_Step, ast.expr] | None:
    """What an expression does last and what it does it to; None for what is not known."""
    scale = _transformation(node)
    if scale is not None:
        inner: ast.expr = node.args[0]  # type: ignore[attr-defined]
        return _Step(getattr(np, scale.name), scale.inverse, False, scale.turns), inner
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _Step(lambda y: -y, lambda v: -v, False), node.operand
    if isinstance(node, ast.BinOp):
        left, right = _number(node.left), _number(node.right)
        step = _arithmetic(node.op, left, right)
        if step is not None:
            return step, node.left if left is None else node.right
    return None


def _arithmetic(op: ast.operator, left: float | None, right: float | None) -> _Step | None:
    """A number added to the response, or taken from it, or that it was multiplied by."""
    k = left if right is None else right
    if k is None or (left is not None and right is not None):
        return None
    if isinstance(op, ast.Add):
        return _Step(lambda y: y + k, lambda v: v - k)
    if isinstance(op, ast.Sub):
        if right is not None:
            return _Step(lambda y: y - k, lambda v: v + k)
        return _Step(lambda y: k - y, lambda v: k - v, False)
    if isinstance(op, ast.Mult) and k != 0.0:
        return _Step(lambda y: y * k, lambda v: v / k)
    if isinstance(op, ast.Div) and k != 0.0:
        if right is not None:
            return _Step(lambda y: y / k, lambda v: v * k)
        return _Step(lambda y: k / y, lambda v: k / v, False)
    return None


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


def _number(node: ast.expr) -> float | None:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return None
    return float(value) if isinstance(value, (int, float)) else None
