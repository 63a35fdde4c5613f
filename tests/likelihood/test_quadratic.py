"""The step of the trust region against the conditions that define it."""

from __future__ import annotations

import numpy as np
import pytest

from sparselmm.likelihood.quadratic import Quadratic, next_radius


def problem(seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """A symmetric matrix, a gradient and a radius; some gradients miss the lowest curvature."""
    rng = np.random.default_rng(seed)
    m = int(rng.integers(1, 7))
    A = rng.normal(size=(m, m))
    H = (A + A.T) * 10 ** rng.uniform(-4, 4)
    g = rng.normal(size=m) * 10 ** rng.uniform(-8, 4)
    if seed % 7 == 0 and m > 1:
        lowest = np.linalg.eigh(H)[1][:, 0]
        g -= lowest * (lowest @ g)
    return H, g, 10 ** rng.uniform(-6, 1)


@pytest.mark.parametrize("first", range(0, 1000, 100))
def test_step_is_the_minimizer_within_the_radius(first):
    """A multiplier makes H positive, ``(H + m I) s = -g``, and is zero inside (Sorensen 1982)."""
    for seed in range(first, first + 100):
        H, g, radius = problem(seed)
        step, promised = Quadratic.of(H, g).step(radius)
        length, size = np.linalg.norm(step), np.abs(np.linalg.eigvalsh(H)).max()
        assert 0 < length <= radius * (1.0 + 1e-9)
        multiplier = -float(step @ (g + H @ step)) / length**2
        assert multiplier >= max(0.0, -np.linalg.eigvalsh(H)[0]) - 1e-9 * size
        left = g + H @ step + multiplier * step
        assert np.linalg.norm(left) <= 1e-9 * (np.linalg.norm(g) + size * length)
        if length < 0.999 * radius:
            assert abs(multiplier) <= 1e-9 * size
        expected = -float(g @ step + 0.5 * step @ H @ step)
        assert promised == pytest.approx(expected, rel=1e-8)


def test_a_stack_of_steps_is_each_of_them():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(200, 4, 4))
    H, g = A + A.transpose(0, 2, 1), rng.normal(size=(200, 4))
    radius = 10 ** rng.uniform(-3, 1, 200)
    many = Quadratic.of(H, g)
    steps, promised = many.step(radius)
    for j in range(200):
        one = Quadratic.of(H[j], g[j])
        step, value = one.step(radius[j])
        np.testing.assert_allclose(steps[j], step, rtol=1e-9, atol=1e-12)
        assert promised[j] == pytest.approx(value, rel=1e-12)
        assert many.expected_decrease[j] == pytest.approx(one.expected_decrease, rel=1e-12)


def test_radius_follows_the_model():
    ratio = np.array([np.nan, 0.1, 0.5, 0.9, 0.9, 0.9])
    length = np.array([0.4, 0.4, 1.0, 0.4, 1.0, 1.0])
    largest = np.array([9.0, 9.0, 9.0, 9.0, 9.0, 2.0])
    np.testing.assert_allclose(next_radius(1.0, largest, ratio, length), [0.1, 0.1, 1, 1, 3, 2])
