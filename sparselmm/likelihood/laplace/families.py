"""Families: the log-likelihood of a row and its derivatives, in NumPy.

With mean ``mu`` and further predictors ``d`` (the logarithm of a dispersion parameter):

    gaussian          sd exp(d), divided by the root of the weight
    gamma             coefficient of variation exp(d)
    inverse_gaussian  variance exp(2 d) mu^3
    nbinom1           variance mu (1 + exp(d))
    nbinom2           variance mu + mu^2 / exp(d)
    beta              precision exp(d): variance mu (1 - mu) / (1 + exp(d))
    betabinomial      precision exp(d) of the beta distribution of the probability

A positive mean enters as ``x = log mu``, through which the jets pass; that is where a common
derivative is simplest and loses no digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import scipy.special as ss

from sparselmm.base.types import FloatArray
from sparselmm.likelihood.laplace.jets import Jet
from sparselmm.likelihood.laplace.links import DISTRIBUTIONS, distribution, log_mean, mean_slopes
from sparselmm.likelihood.laplace.special import (
    gamma_excess,
    log_factorials,
    log_minus_digamma,
    polygamma,
    rising,
)

POSITIVE = ("log", "identity", "sqrt", "inverse", "inverse_squared")
"""Links of positive means."""

_HALF_LOG_TAU = 0.5 * float(np.log(2.0 * np.pi))


class Family(Protocol):
    """What the engine asks of a family.

    Attributes
    ----------
    name, link : str
    further : tuple of str
        Names of the predictors besides ``eta``.
    """

    name: str
    link: str

    @property
    def further(self) -> tuple[str, ...]:
        """Names of the predictors besides ``eta``."""

    def jet(
        self, y: FloatArray, m: FloatArray, eta: FloatArray, further: tuple[FloatArray, ...],
        extra: bool,
    ) -> Jet:  # fmt: skip
        """Log-likelihoods and derivatives; those by the further predictors only if ``extra``."""

    def constant(self, y: FloatArray, m: FloatArray) -> FloatArray:
        """Part of the log-likelihood that depends on the data alone, (n,)."""


@dataclass(frozen=True)
class _Base:
    """Name, link and the links that are allowed."""

    link: str

    name: ClassVar[str] = ""
    links: ClassVar[tuple[str, ...]] = ()
    further: ClassVar[tuple[str, ...]] = ()

    def constant(self, y: FloatArray, m: FloatArray) -> FloatArray:
        """See `Family`."""
        return np.zeros(len(y))


def _linked(jet: Jet, slopes: tuple[FloatArray, ...] | None) -> Jet:
    return jet if slopes is None else jet.through(*slopes)


def _choose(m: FloatArray, y: FloatArray) -> FloatArray:
    return log_factorials(m) - log_factorials(y) - log_factorials(m - y)


@dataclass(frozen=True)
class Binomial(_Base):
    """Successes y out of m trials."""

    name: ClassVar[str] = "binomial"
    links: ClassVar[tuple[str, ...]] = DISTRIBUTIONS

    def constant(self, y: FloatArray, m: FloatArray) -> FloatArray:
        """See `Family`."""
        return _choose(m, y)

    def jet(
        self, y: FloatArray, m: FloatArray, eta: FloatArray, further: Any = (), extra: bool = False
    ) -> Jet:  # fmt: skip
        """See `Family`."""
        at, no = distribution(self.link, eta), m - y
        if self.link == "logit":
            v = m * at.F * at.upper
            f = y * at.log_F + no * at.log_upper
            return Jet(f, y - m * at.F, -v, -v * (at.upper - at.F))
        a2 = at.r * (at.c - at.r)
        a3 = a2 * (at.c - at.r) + at.r * (at.dc - a2)
        s1 = at.s * (at.c + at.s)
        s2 = s1 * (at.c + at.s) + at.s * (at.dc + s1)
        return Jet(
            _times(y, at.log_F) + _times(no, at.log_upper), _times(y, at.r) - _times(no, at.s),
            _times(y, a2) - _times(no, s1), _times(y, a3) - _times(no, s2),
        )  # fmt: skip


def _times(count: FloatArray, value: FloatArray) -> FloatArray:
    """``count * value``, zero where the count is, also of an infinite value."""
    return np.asarray(count * np.where(count == 0.0, 0.0, value))


@dataclass(frozen=True)
class BetaBinomial(_Base):
    """Successes y out of m trials whose probability has a beta distribution."""

    name: ClassVar[str] = "betabinomial"
    links: ClassVar[tuple[str, ...]] = DISTRIBUTIONS
    further: ClassVar[tuple[str, ...]] = ("dispersion",)

    def constant(self, y: FloatArray, m: FloatArray) -> FloatArray:
        """See `Family`."""
        return _choose(m, y)

    def jet(
        self, y: FloatArray, m: FloatArray, eta: FloatArray, further: tuple[FloatArray, ...],
        extra: bool = False,
    ) -> Jet:  # fmt: skip
        """See `Family`."""
        at, phi = distribution(self.link, eta), np.exp(further[0])
        p, q = np.maximum(at.F, 1e-300), np.maximum(at.upper, 1e-300)
        A, B = rising(y, p * phi), rising(m - y, q * phi)
        e = A[1] / p - B[1] / q
        ee = (A[2] - A[1]) / p**2 + (B[2] - B[1]) / q**2
        eee = (A[3] - 3 * A[2] + 2 * A[1]) / p**3 - (B[3] - 3 * B[2] + 2 * B[1]) / q**3
        C = rising(m, phi)
        a: tuple[Any, ...] = ()
        aa = None
        if extra:
            mixed = A[2] / p - B[2] / q, (A[3] - A[2]) / p**2 + (B[3] - B[2]) / q**2
            a, aa = ((A[1] + B[1] - C[1], *mixed),), {(0, 0): A[2] + B[2] - C[2]}
        spread = Jet(A[0] + B[0] - C[0], e, ee, eee, a, aa).through(*at.slopes)
        return spread.plus(Binomial(self.link).jet(y, m, eta))


@dataclass(frozen=True)
class Beta(_Base):
    """Proportions strictly between zero and one."""

    name: ClassVar[str] = "beta"
    links: ClassVar[tuple[str, ...]] = DISTRIBUTIONS
    further: ClassVar[tuple[str, ...]] = ("dispersion",)

    def jet(
        self, y: FloatArray, m: FloatArray, eta: FloatArray, further: tuple[FloatArray, ...],
        extra: bool = False,
    ) -> Jet:  # fmt: skip
        """See `Family`."""
        at, f = distribution(self.link, eta), np.exp(further[0])
        mu = np.clip(at.F, 1e-300, None)
        nu = np.clip(at.upper, 1e-300, None)
        p, q, T = mu * f, nu * f, ss.logit(y)
        (p0, p1, p2), (q0, q1, q2) = polygamma(p), polygamma(q)
        t = T - p0 + q0
        value = ss.gammaln(f) - ss.gammaln(p) - ss.gammaln(q) + (p - 1) * np.log(y)
        value = value + (q - 1) * np.log1p(-y)
        a: tuple[Any, ...] = ()
        aa = None
        if extra:
            lf = ss.digamma(f) - mu * (p0 - np.log(y)) - nu * (q0 - np.log1p(-y))
            lff = ss.polygamma(1, f) - mu**2 * p1 - nu**2 * q1
            mf = t + f * (nu * q1 - mu * p1)
            mmf = -2 * f * (p1 + q1) - f**2 * (mu * p2 + nu * q2)
            a, aa = ((f * lf, f * mf, f * mmf),), {(0, 0): f * lf + f**2 * lff}
        core = Jet(value, f * t, -(f**2) * (p1 + q1), -(f**3) * (p2 - q2), a, aa)
        return core.through(*at.slopes)


class _Counts(_Base):
    """Counts without an upper limit."""

    links: ClassVar[tuple[str, ...]] = ("log", "identity", "sqrt")

    def constant(self, y: FloatArray, m: FloatArray) -> FloatArray:
        """See `Family`."""
        return -log_factorials(y)


@dataclass(frozen=True)
class Poisson(_Counts):
    """Counts whose variance is their mean."""

    name: ClassVar[str] = "poisson"

    def jet(
        self, y: FloatArray, m: FloatArray, eta: FloatArray, further: Any = (), extra: bool = False
    ) -> Jet:  # fmt: skip
        """See `Family`."""
        if self.link == "sqrt":
            return _root_of_mean(y, eta)
        x, slopes = log_mean(self.link, eta)
        mu = np.exp(x)
        return _linked(Jet(y * x - mu, y - mu, -mu, -mu), slopes)


def _root_of_mean(y: FloatArray, eta: FloatArray) -> Jet:
    """Poisson counts of mean ``eta^2``; of a zero, ``-eta^2``, the predictor may be negative."""
    some = y > 0
    e = np.where(some, np.where(eta > 0.0, eta, np.nan), 1.0)
    share = np.where(some, 2.0 * y / e, 0.0)
    value = np.where(some, 2.0 * y * np.log(e), 0.0) - eta**2
    return Jet(value, share - 2.0 * eta, -share / e - 2.0, 2.0 * share / e**2)


@dataclass(frozen=True)
class NegativeBinomial1(_Counts):
    """Counts whose variance is a multiple of their mean."""

    name: ClassVar[str] = "nbinom1"
    further: ClassVar[tuple[str, ...]] = ("dispersion",)

    def jet(
        self, y: FloatArray, m: FloatArray, eta: FloatArray, further: tuple[FloatArray, ...],
        extra: bool = False,
    ) -> Jet:  # fmt: skip
        """See `Family`."""
        x, slopes = log_mean(self.link, eta)
        d = further[0]
        mu, alpha = np.exp(x), np.exp(d)
        R = rising(y, np.exp(x - d))
        h = np.log1p(alpha) / alpha
        share = alpha / (1 + alpha)
        a: tuple[Any, ...] = ()
        aa = None
        if extra:
            h1 = 1 / (1 + alpha) - h
            h2 = -share / (1 + alpha) - h1
            a = ((-R[1] - y * share - mu * h1, -R[2] - mu * h1, -R[3] - mu * h1),)
            aa = {(0, 0): R[2] - y * share / (1 + alpha) - mu * h2}
        value = R[0] + y * (x - np.log1p(alpha)) - mu * h
        return _linked(Jet(value, R[1] + y - mu * h, R[2] - mu * h, R[3] - mu * h, a, aa), slopes)


@dataclass(frozen=True)
class NegativeBinomial2(_Counts):
    """Counts whose variance grows with the square of their mean."""

    name: ClassVar[str] = "nbinom2"
    further: ClassVar[tuple[str, ...]] = ("dispersion",)

    def jet(
        self, y: FloatArray, m: FloatArray, eta: FloatArray, further: tuple[FloatArray, ...],
        extra: bool = False,
    ) -> Jet:  # fmt: skip
        """See `Family`."""
        x, slopes = log_mean(self.link, eta)
        d = further[0]
        k, p, q = np.exp(d), ss.expit(x - d), ss.expit(d - x)
        R, ratio = rising(y, k), np.logaddexp(0.0, x - d)
        v = (y + k) * p * q
        a: tuple[Any, ...] = ()
        aa = None
        if extra:
            kl, yp = k * ratio, (y + k) * p
            a = ((R[1] - kl + yp, v - k * p, v * (q - p) - k * p * q),)
            aa = {(0, 0): R[2] - kl + 2 * k * p - v}
        jet = Jet(
            R[0] + y * x - (y + k) * ratio, y - (y + k) * p, -v, -v * (q - p), a, aa
        )  # fmt: skip
        return _linked(jet, slopes)


@dataclass(frozen=True)
class Gamma(_Base):
    """Positive responses of constant coefficient of variation."""

    name: ClassVar[str] = "gamma"
    links: ClassVar[tuple[str, ...]] = POSITIVE
    further: ClassVar[tuple[str, ...]] = ("dispersion",)

    def constant(self, y: FloatArray, m: FloatArray) -> FloatArray:
        """See `Family`."""
        return -np.log(y)

    def jet(
        self, y: FloatArray, m: FloatArray, eta: FloatArray, further: tuple[FloatArray, ...],
        extra: bool = False,
    ) -> Jet:  # fmt: skip
        """See `Family`."""
        x, slopes = log_mean(self.link, eta)
        nu = np.exp(-2.0 * further[0])
        log_q = np.log(y) - x
        q = np.exp(log_q)
        gap = log_q - q + 1
        a: tuple[Any, ...] = ()
        aa = None
        if extra:
            excess, slope = log_minus_digamma(nu)
            first = gap + excess
            a = ((-2 * nu * first, -2 * nu * (q - 1), 2 * nu * q),)
            aa = {(0, 0): 4 * nu * first + 4 * nu**2 * slope}
        jet = Jet(nu * gap + gamma_excess(nu), nu * (q - 1), -nu * q, nu * q, a, aa)
        return _linked(jet, slopes)


@dataclass(frozen=True)
class InverseGaussian(_Base):
    """Positive responses whose variance grows with the cube of their mean."""

    name: ClassVar[str] = "inverse_gaussian"
    links: ClassVar[tuple[str, ...]] = POSITIVE
    further: ClassVar[tuple[str, ...]] = ("dispersion",)

    def constant(self, y: FloatArray, m: FloatArray) -> FloatArray:
        """See `Family`."""
        return -_HALF_LOG_TAU - 1.5 * np.log(y)

    def jet(
        self, y: FloatArray, m: FloatArray, eta: FloatArray, further: tuple[FloatArray, ...],
        extra: bool = False,
    ) -> Jet:  # fmt: skip
        """See `Family`."""
        x, slopes = log_mean(self.link, eta)
        d = further[0]
        lam, Q = np.exp(-2.0 * d), np.exp(-x)
        P = y * Q * Q
        u, u1, u2, u3 = (y * Q - 1) ** 2 / y, 2 * (Q - P), 4 * P - 2 * Q, 2 * Q - 8 * P
        a: tuple[Any, ...] = ()
        aa = None
        if extra:
            a, aa = ((lam * u - 1, lam * u1, lam * u2),), {(0, 0): -2 * lam * u}
        half = -0.5 * lam
        return _linked(Jet(-d + half * u, half * u1, half * u2, half * u3, a, aa), slopes)


@dataclass(frozen=True)
class Gaussian(_Base):
    """Normal responses; m are the prior weights, one over variances up to a factor."""

    name: ClassVar[str] = "gaussian"
    links: ClassVar[tuple[str, ...]] = ("identity", *POSITIVE[:1], *POSITIVE[2:], *DISTRIBUTIONS)
    further: ClassVar[tuple[str, ...]] = ("dispersion",)

    def constant(self, y: FloatArray, m: FloatArray) -> FloatArray:
        """See `Family`."""
        return 0.5 * np.log(np.where(m > 0, m, 1.0)) - _HALF_LOG_TAU * (m > 0)

    def jet(
        self, y: FloatArray, m: FloatArray, eta: FloatArray, further: tuple[FloatArray, ...],
        extra: bool = False,
    ) -> Jet:  # fmt: skip
        """See `Family`."""
        mu, *slopes = mean_slopes(self.link, eta)
        d, live = further[0], m > 0
        v = m * np.exp(-2.0 * d)
        r = y - mu
        square = r * r * v
        a: tuple[Any, ...] = ()
        aa = None
        if extra:
            a, aa = ((square - live, -2 * r * v, 2 * v),), {(0, 0): -2 * square}
        core = Jet(-0.5 * square - d * live, r * v, -v, np.zeros_like(v), a, aa)
        return core if self.link == "identity" else core.through(*slopes)


@dataclass(frozen=True)
class Ordinal(_Base):
    """Categories 0, ..., J - 1, cut from a latent variable by thresholds.

    ``P(y <= j) = F(alpha_j - eta)``. The further predictors are the thresholds above and below a
    row's category, infinite at the ends.
    """

    name: ClassVar[str] = "ordinal"
    links: ClassVar[tuple[str, ...]] = DISTRIBUTIONS
    further: ClassVar[tuple[str, ...]] = ("upper", "lower")

    def jet(
        self, y: FloatArray, m: FloatArray, eta: FloatArray, further: tuple[FloatArray, ...],
        extra: bool = False,
    ) -> Jet:  # fmt: skip
        """See `Family`."""
        h, k = further[0] - eta, further[1] - eta
        P, (h1, h2, h3), (k1, k2, k3) = interval(self.link, h, k)
        e1, e2, e3 = k1 - h1, h2 - k2, k3 - h3
        a: tuple[Any, ...] = ()
        aa = None
        if extra:
            hh, ll, hl = h2 - h1**2, -k2 - k1**2, h1 * k1
            hhh, lll = h3 - 3 * h1 * h2 + 2 * h1**3, -k3 - 3 * k1 * k2 - 2 * k1**3
            hhl, hll = h2 * k1 - 2 * h1**2 * k1, h1 * (k2 + 2 * k1**2)
            a = (
                (h1, -(hh + hl), hhh + 2 * hhl + hll),
                (-k1, -(hl + ll), hhl + 2 * hll + lll),
            )
            aa = {(0, 0): hh, (0, 1): hl, (1, 1): ll}
        return Jet(np.log(P), e1, e2 - e1**2, e3 - 3 * e1 * e2 + 2 * e1**3, a, aa)


def interval(
    link: str, upper: FloatArray, lower: FloatArray
) -> tuple[FloatArray, tuple[FloatArray, ...], tuple[FloatArray, ...]]:
    """``P = F(upper) - F(lower)``, and ``F', F'', F'''`` at both ends divided by P."""
    ends = []
    for z in (upper, lower):
        finite = np.isfinite(z)
        at = distribution(link, np.where(finite, z, 0.0))
        F = np.where(finite, at.F, z > 0)
        over = np.where(finite, at.upper, z < 0)
        ends.append((F, over, tuple(np.where(finite, f, 0.0) for f in at.slopes)))
    (Fh, Gh, fh), (Fl, Gl, fl) = ends
    P = np.where(lower > 0, Gl - Gh, Fh - Fl)  # in the tail that keeps digits
    with np.errstate(divide="ignore"):
        P = np.where(upper > lower, np.maximum(P, 1e-300), np.nan)
    return P, tuple(f / P for f in fh), tuple(f / P for f in fl)


FAMILIES: dict[str, type[Any]] = {
    kind.name: kind
    for kind in (
        Binomial, BetaBinomial, Beta, Poisson, NegativeBinomial1, NegativeBinomial2, Gamma,
        InverseGaussian, Gaussian, Ordinal,
    )
}  # fmt: skip
"""Families by name; the first of their ``links`` is the default, but gamma's, see `DEFAULTS`."""

DEFAULTS = {"gaussian": "identity"}
"""Default links that are not the first."""
