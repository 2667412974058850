"""What the theory promises, design (2) and (7), with every constant computed: ``docs/theory.md`` has the proofs."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from torchstu.spectral.filters import filter_bank
from torchstu.spectral.priors import POSITIVE, SIGNED, Prior, get_prior, positive_int

_DEGREE = 32  # coefficients of the polynomial in α that stands for a response on one panel of eigenvalues
_SAMPLES = 96  # Chebyshev points of a panel
_ELLIPSE = 5.0  # Bernstein ellipse on which |α^i| is bounded, (7d)
_EIGENVALUE_ERROR = 1e-4  # relative, of a reliable eigenvalue; measured 8e-6 (``docs/filters.md``)


class ErrorBound(NamedTuple):
    """Bounds on max_t ‖y_t - ŷ_t‖, each above the one before it, and the rounding of float64, which none of them counts.

    Attributes:
        computed: from the responses' own projection errors, (7b).
        spectral: from the eigenvalues left out, as computed, (7c).
        theorem: the theorem's form, a function of L and K alone: (7c) with the proven decay (2a).
        rounding: about what float64 adds to a measured error, 2^-52 L^{3/2} times the gain.
    """

    computed: float
    spectral: float
    theorem: float
    rounding: float


class FiltersNeeded(NamedTuple):
    """The smallest K by which each bound of `ErrorBound` reaches an error.

    Attributes:
        computed: by (7b).
        spectral: by (7c); None where float64 has no eigenvalues that small.
        theorem: by (7c) and (2a), K = O(log L · log(L/ε)).
    """

    computed: int
    spectral: int | None
    theorem: int


def eigenvalue_decay(length: int, count: int) -> np.ndarray:
    """The theorem's factor exp(-π² k / (4 log L)), k = 0..count-1, design (2); shape (K,).

    A slope to draw beside σ_k / σ_1; `eigenvalue_bound` is a bound with its constants, `eigenvalue_law` what σ_k really does.

    Raises:
        ValueError: a length below 2, a count below 1.

    Source: arXiv 2312.06837, Lemma A.4.
    """
    length, count = positive_int("length", length, minimum=2), positive_int("count", count)
    return np.exp(-(np.pi**2) * np.arange(count) / (4 * np.log(length)))


def eigenvalue_bound(length: int, count: int, prior: str | Prior = "positive") -> np.ndarray:
    """Upper bounds on σ_1..σ_K that are proven, (2a); shape (K,).

    σ_{1+ν m} ≤ min(1, 16 exp(-π² m / log(4 / sin(π/2n)))) trace Z, with ν = 2, n = L for "positive" and ν = 4, n = ⌈L/2⌉ for
    "signed". Per filter and for large L the exponent is π² / (2 log(8L/π)), almost twice the theorem's.

    Raises:
        ValueError, TypeError: numbers below 1, ``count`` above ``length``, a prior that is not one of the named.

    Source: Beckermann and Townsend, arXiv 1609.09494, whose argument this is, with Zolotarev's problem posed for eigenvalues
    in [0, 1] and not for all real ones.
    """
    length, count, prior = _checked(length, count, prior)
    steps = np.arange(count) // (4 if prior.symmetric else 2)
    return _trace(length, prior) * np.minimum(1.0, 16 * np.exp(-_zolotarev_rate(length, prior) * steps))


def eigenvalue_law(length: int, count: int, prior: str | Prior = "positive") -> np.ndarray:
    """The leading-order law of σ_k / σ_1 for large L, (2b), k = 1..K; shape (K,). No bound: an estimate to compare with.

    With x = (k - 1/2)/p, p = 1 for "positive" and 2 for "signed" (one edge α = ±1 each), ℓ = log L and x₀ = ℓ²/π², the
    exponent is 2π √x while x ≤ x₀ and 2ℓ + π² (x - x₀) / ℓ from there on: while k is small the decay does not depend on L.

    Raises:
        ValueError, TypeError: as `eigenvalue_bound`; a length below 2.

    Source: ours, by counting states in phase space; for L = ∞ it is Widom's law for Hankel operators.
    """
    length, count, prior = _checked(positive_int("length", length, minimum=2), count, prior)
    log, edges = np.log(length), 2 if prior.symmetric else 1
    x, edge = (np.arange(count) + 0.5) / edges, log**2 / np.pi**2
    exponent = np.where(x <= edge, 2 * np.pi * np.sqrt(x), 2 * log + np.pi**2 * (x - edge) / log)
    return np.exp(exponent[0] - exponent)


def error_bound(length: int, count: int, gain: float = 1.0, prior: str | Prior = "positive") -> ErrorBound:
    """How far an STU of K filters can be from a symmetric system over L steps, (7b) and (7c).

    For every A = Aᵀ with ‖A‖ ≤ 1 of any size, all B, C, D and all inputs, the weights of `torchstu.system_to_stu` give
    ‖y_t - ŷ_t‖ ≤ gain · (worst summed projection error) for t = 1..L, the roll-out's accumulation included.

    Args:
        length: L, of the filters and of the roll-out.
        count: K.
        gain: ‖C‖ ‖B‖ max_t ‖u_t‖, spectral norms; times the condition number of the eigenvectors where A is not symmetric.
        prior: "positive" or "signed".

    Raises:
        ValueError: numbers below 1, ``count`` above ``length``, a gain not positive, a prior that is not one of the named.
        TypeError: numbers that are none.

    Warns:
        ReliabilityWarning: ``count`` above what float64 supports; "computed" is then for the filters as they are.

    Source: arXiv 2312.06837, Theorem 3.1; constants and the computed bound are ours, ``docs/theory.md``.
    """
    length, count, prior = _checked(length, count, prior)
    gain, lags = _positive("gain", gain), max(length - 2, 0)
    theorem, spectral = _theorem(length, count, prior), _spectral(length, count, prior)
    computed = min(_computed(length, count, prior), spectral)
    return ErrorBound(gain * computed, gain * spectral, gain * theorem, gain * 2.0**-52 * lags**1.5)


def filters_needed(error: float, length: int, gain: float = 1.0, prior: str | Prior = "positive") -> FiltersNeeded:
    """The K at which each bound of `error_bound` reaches an error, (7e); found by bisection, as bounds fall with K.

    Args:
        error: ε, the largest ‖y_t - ŷ_t‖ allowed.
        length: L.
        gain, prior: as in `error_bound`.

    Raises:
        ValueError: an error not positive, or below what the filters that float64 supports reach; else as `error_bound`.
        TypeError: numbers that are none.
    """
    length, _, prior = _checked(length, 1, prior)
    error, gain = _positive("error", error), _positive("gain", gain)
    target, highest = error / gain, min(filter_bank(length, 1, prior).reliable, length)
    theorem = _first(lambda count: _theorem(length, count, prior) <= target, length)
    spectral = _first(lambda count: _spectral(length, count, prior) <= target, highest)
    known = _spectral(length, spectral, prior) <= target
    computed = _first(lambda count: _computed(length, count, prior) <= target, spectral)
    if not known and _computed(length, computed, prior) > target:
        least = gain * _computed(length, highest, prior)
        raise ValueError(
            f"error: {error:.3g}; with the {highest} filters that float64 supports at length {length} the bound is {least:.2g}"
        )
    return FiltersNeeded(computed, spectral if known else None, theorem)


def _first(holds: Callable[[int], bool], highest: int) -> int:
    """The smallest count in 1..highest at which a bound that falls with the count holds; ``highest`` where none does."""
    low, high = 1, highest
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _positive(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: {value!r}; it must be a positive number")
    if not 0 < float(value) < math.inf:
        raise ValueError(f"{name}: {value!r}; it must be positive and finite")
    return float(value)


def _checked(length: int, count: int, prior: str | Prior) -> tuple[int, int, Prior]:
    length, count, prior = positive_int("length", length), positive_int("count", count), get_prior(prior)
    if count > length:
        raise ValueError(f"count: {count} filters of length {length}; it must be at most the length")
    if prior not in (POSITIVE, SIGNED):
        raise ValueError(f"prior: {prior.name!r}; the theory is for 'positive' and 'signed'")
    return length, count, prior


def _trace(length: int, prior: Prior) -> float:
    assert prior.entries is not None  # both named priors have them
    return float(prior.entries(2.0 * np.arange(1, length + 1)).sum())


def _zolotarev_rate(length: int, prior: Prior) -> float:
    """π² / log(4 / sin(π/2n)), the exponent of (2a) for two filters (four where both parities decay side by side)."""
    n = (length + 1) // 2 if prior.symmetric else length
    return float(np.pi**2 / np.log(4 / np.sin(np.pi / (2 * n))))


def _tail(length: int, count: int, prior: Prior) -> float:
    """An upper bound on Σ_{k>K} σ_k: computed where reliable, and by (2a) from the last reliable eigenvalue on."""
    reliable = filter_bank(length, 1, prior).reliable
    if count >= length:
        return 0.0
    if count > reliable:
        return _decayed_tail(length, count, prior)
    sigma = filter_bank(length, reliable, prior).eigenvalues * (1 + _EIGENVALUE_ERROR)
    block = 4 if prior.symmetric else 2
    unseen = 0.0 if reliable == length else block * sigma[-1] * _geometric(_zolotarev_rate(length, prior), 0)
    return float(sigma[count:].sum() + unseen)


def _decayed_tail(length: int, count: int, prior: Prior) -> float:
    """Σ_{k>K} of (2a)."""
    block = 4 if prior.symmetric else 2
    whole, part = divmod(count, block)
    rate = _zolotarev_rate(length, prior)
    first = min(1.0, 16 * np.exp(-rate * whole))
    return float(_trace(length, prior) * ((block - part) * first + block * _geometric(rate, whole + 1)))


def _geometric(rate: float, first: int) -> float:
    """Σ_{m≥first} min(1, 16 exp(-rate m))."""
    start = max(first, int(np.ceil(np.log(16) / rate)))
    return float((start - first) + 16 * np.exp(-rate * start) / -np.expm1(-rate))


def _theorem(length: int, count: int, prior: Prior) -> float:
    return _from_tail(length, 0.0 if count >= length else _decayed_tail(length, count, prior), prior)


def _spectral(length: int, count: int, prior: Prior) -> float:
    return min(_from_tail(length, _tail(length, count, prior), prior), _theorem(length, count, prior))


def _from_tail(length: int, tail: float, prior: Prior) -> float:
    """(7c): √n ‖S‖ times the largest residual that a tail Σ_{k>K} σ_k leaves room for."""
    lags = max(length - 2, 0)
    if not lags:
        return 0.0
    residual = (length + 2) * np.sqrt(tail / 2) if prior.symmetric else 2 * (length + 1) * np.sqrt(tail)
    return float(np.sqrt(lags) * _summation_norm(lags) * residual)


def _summation_norm(lags: int) -> float:
    """‖S‖, S the sum over every second lag: two interleaved cumulative sums of m = ⌈n/2⌉ steps, 1 / (2 sin(π/(4m+2)))."""
    return float(0.5 / np.sin(np.pi / (4 * ((lags + 1) // 2) + 2)))


def eigenvalue_panels(length: int) -> list[tuple[float, float]]:
    """Panels in s = 1 - α on which (7d) is certified: [0, a], [a, 2a], …, [1/2, 1] with 1/(4L) < a ≤ 1/(2L)."""
    levels = int(np.ceil(np.log2(2 * length)))
    return list(pairwise([0.0, *(2.0**-level for level in range(levels, -1, -1))]))


@lru_cache(maxsize=256)
def _computed(length: int, count: int, prior: Prior) -> float:
    """(7b) for a gain of 1: the smaller of √n max_α ‖h_α‖ and Σ_s max_α |h_α(s)|, with the certificate (7d)."""
    lags = max(length - 2, 0)
    if not lags or count == length:
        return 0.0
    filters = filter_bank(length, count, prior).filters
    summed = filters[:lags].copy()
    for start in (0, 1):
        np.cumsum(summed[start::2], axis=0, out=summed[start::2])
    energy, largest = 0.0, np.zeros(lags)
    for low, high in eigenvalue_panels(length):
        s = low + (high - low) * np.sin(np.pi * (np.arange(_SAMPLES) + 0.5) / (2 * _SAMPLES)) ** 2
        h = np.abs(_residual_sums(s, filters, summed))
        energy = max(energy, float(np.einsum("sn,sn->n", h, h).max()))
        np.maximum(largest, h.max(axis=1), out=largest)
    between = 1 / np.cos(np.pi * (_DEGREE - 1) / (2 * _SAMPLES))
    missed = _summation_norm(lags) * _interpolation_error(length)
    whole = np.sqrt(lags) * (between * (np.sqrt(energy) + missed) + missed)
    by_lag = between * (largest.sum() + lags * missed) + lags * missed
    return float(min(whole, by_lag))


def _residual_sums(s: np.ndarray, filters: np.ndarray, summed: np.ndarray) -> np.ndarray:
    """h_α = S (g_α - Φ Φᵀ g_α), (7a), for α = 1 - s; S g_α in closed form: α^{s+2} - 1 at even lags, α^{s+2} - α at odd ones.

    Args:
        s: (n,). filters: Φ, (L, K). summed: S Φ, (lags, K).

    Returns:
        (lags, n).
    """
    log_alpha, lags = np.log1p(-s), len(summed)
    powers = np.exp(np.arange(len(filters))[:, None] * log_alpha)
    projections = (filters.T @ powers) * (-s * (2 - s))
    h = np.empty((lags, len(s)))
    even, odd = np.arange(0, lags, 2), np.arange(1, lags, 2)
    h[::2] = np.expm1((even + 2)[:, None] * log_alpha)
    h[1::2] = np.expm1((odd + 1)[:, None] * log_alpha) * np.exp(log_alpha)
    h -= summed @ projections
    return h


def _interpolation_error(length: int) -> float:
    """How far g_α is from a polynomial of 32 coefficients on any panel, (7d): 2 M ρ^{-31} / (ρ - 1), M = 3 √L, ρ = 5."""
    return float(2 * 3 * np.sqrt(length) * _ELLIPSE ** (1 - _DEGREE) / (_ELLIPSE - 1))
