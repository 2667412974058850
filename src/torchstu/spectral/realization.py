"""A filter bank as a linear system, design (8): x_t = A x_{t-1} + b u_t, whose first states are the bank's own output.

A prior's bank is realized from its decomposition (`InputNormal`), a user's arrays from their values (`Identified`); `realize`
picks the order. See ``docs/realization.md``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

TOLERANCE = 1e-12
"""Largest σ^{1/4}-scaled error of the default realization; what is reached where K nears the arithmetic is in `error`."""
ACCEPTED = 1e-6
"""Largest error, over the largest value, at which a user's arrays count as a sum of exponentials: float32 leaves 5e-8."""
MOST_EXTRA = 128
"""States tried beyond the K features when a user's arrays are identified."""
_CHUNK = 2**16 - 1  # lags measured at a time; with the state after them a power of two


@dataclass(frozen=True, eq=False)
class StateSpace:
    """x_t = A x_{t-1} + b u_t with the features as the first K states, design (8): (A^i b)_k = φ_k(i).

    The realization of the filters (-1)^i φ_k(i), the paper's second bank, is (-A, b).

    Attributes:
        A: (R, R) transition, spectral radius below 1; read-only.
        b: (R,) input vector, the filters at lag 0; read-only.
        error: max over the lags i < L and over k of |σ_k^{1/4} ((A^i b)_k - φ_k(i))|, as measured in float64.
    """

    A: np.ndarray
    b: np.ndarray
    error: float

    @property
    def order(self) -> int:
        """R, the number of states."""
        return len(self.b)

    @property
    def increment(self) -> np.ndarray:
        """A - I, (R, R): x_t = x_{t-1} + ((A - I) x_{t-1} + b u_t) in float32 loses less than A x_{t-1}, slow states most."""
        return self.A - np.eye(self.order)

    def state_at(self, time: int) -> np.ndarray:
        """A^time b, (R,): all filters at lag ``time``, by repeated squaring."""
        state, power = self.b, self.A
        while time:
            if time & 1:
                state = power @ state
            time >>= 1
            if time:
                power = power @ power
        return state

    def free_response(self, state: np.ndarray, steps: int) -> np.ndarray:
        """A^j state for j = 0..steps-1, (steps, R), by doubling."""
        response, power = state[None, :], self.A
        while len(response) < steps:
            response = np.concatenate([response, response @ power.T])
            power = power @ power
        return response[:steps]


class Candidates(Protocol):
    """Realizations (A, b) of one bank by order."""

    target: float
    """The error that is aimed at if the caller gives no tolerance."""
    accepted: float
    """The error above which the bank has no realization if the caller gives neither order nor tolerance."""

    @property
    def highest(self) -> int:
        """The largest order that the arithmetic supports."""

    def at(self, order: int) -> tuple[np.ndarray, np.ndarray]:
        """A (R, R) and b (R,) for R = ``order``."""


def realize(
    candidates: Candidates, filters: np.ndarray, scale: np.ndarray, order: int | None = None, tolerance: float | None = None
) -> StateSpace:
    """The stable realization (A, b) of a bank at the smallest order that serves, design (8).

    The error is max over the lags i < L and the filters k of |σ_k^{1/4} ((A^i b)_k - φ_k(i))|. Orders that miss the tolerance
    at the lags 2^j - 1, 3·2^j - 1 or L - 1 are passed over; the one that is taken was measured at every lag.

    Args:
        candidates: `InputNormal` or `Identified`.
        filters: φ, (L, K).
        scale: σ^{1/4}, (K,).
        order: R, at least K and at most what the arithmetic supports; None for the smallest within the tolerance.
        tolerance: the largest error allowed. None: the candidates' target, or else the order of the smallest error.

    Raises:
        ValueError: an order out of range; a tolerance that is not reached; no stable candidate; a user's filters that are no
            sum of few decaying exponentials.
    """
    count = filters.shape[1]
    if order is not None and not count <= order <= candidates.highest:
        raise ValueError(f"order: {order}; it must be from K = {count} to {candidates.highest}, all that float64 supports here")
    orders: Sequence[int] = range(count, candidates.highest + 1) if order is None else [order]
    best = _search(candidates, orders, filters, scale, candidates.target if tolerance is None else tolerance)
    tried = f"order {orders[0]}" if len(orders) == 1 else f"orders {orders[0]} to {orders[-1]}"
    if best is None:
        raise ValueError(f"filters: the recurrence identified at {tried} is not stable (spectral radius 1 or more)")
    if tolerance is not None and best.error > tolerance:
        raise ValueError(f"tolerance: {tolerance:.3g} is not reached; {tried}: at best {best.error:.1e}, at order {best.order}")
    if tolerance is None and order is None and best.error > candidates.accepted:
        raise ValueError(
            f"filters: are no sum of few decaying exponentials; {tried}: order {best.order} still leaves {best.error:.1e}, "
            f"and above {candidates.accepted:.0e} an order or a tolerance must be given"
        )
    return best


class InputNormal:
    """The realization of a bank from its decomposition V = U S Wᵀ: A = S⁻¹ Wᵀ diag(α) W S, b = φ(0), cut at R; design (8).

    Over the L steps the R states carry equal energy, Σ_i φ(i) φ(i)ᵀ = I. It *is* the meaning of the filters beyond L.

    Args:
        nodes: α_q, (Q,).
        singular_values: s, descending, (R_all,).
        right: W, (Q, R_all).
        first_row: φ(0) of all R_all columns.
        count: K.
    """

    target, accepted = TOLERANCE, math.inf  # a bank of a prior is a sum of exponentials, whatever the arithmetic leaves of it

    def __init__(
        self, nodes: np.ndarray, singular_values: np.ndarray, right: np.ndarray, first_row: np.ndarray, count: int
    ) -> None:
        self.singular_values, self.first_row = singular_values, first_row
        self.balanced = (right.T * nodes) @ right
        self.highest = max(count, int((singular_values >= np.finfo(np.float64).eps * singular_values[0]).sum()))

    def at(self, order: int) -> tuple[np.ndarray, np.ndarray]:
        """A (R, R) and b (R,)."""
        s = self.singular_values[:order]
        return self.balanced[:order, :order] * s / s[:, None], self.first_row[:order].copy()


class Identified:
    """The realization of arrays by the eigensystem realization algorithm, with the features as the first states; design (8).

    The futures of the σ^{1/4}-scaled filters, H_(p,k),i = σ_k^{1/4} φ_k(i+p) for p < P and i <= L - P, are linear in the state
    at lag i. What of them the filters at lag i do not say is H (I - ΠΠᵀ), Π an orthonormal basis of the filters; its leading
    right singular vectors are the states beyond K, and A is the least-squares map from the states at lag i to those at i + 1.
    P = max(L/(K+1), L/8): at least as many futures as lags. H is never formed: products with it are correlations, and its
    singular vectors come from a random projection on `MOST_EXTRA` columns, each O(L K log L) time and O(L) memory.

    Args:
        filters: φ, (L, K), any real array.
        scale: σ^{1/4}, (K,).

    Source: S. Kung, "A new identification and model reduction algorithm via singular value decompositions", Asilomar 1978;
    J.-N. Juang and R. S. Pappa, J. Guidance 8(5), 1985; N. Halko et al., SIAM Review 53(2), 2011 for the projection.
    """

    def __init__(self, filters: np.ndarray, scale: np.ndarray) -> None:
        length, self.count = filters.shape
        largest = float(np.abs(filters * scale).max())  # a user's filters may have any size
        self.target, self.accepted = TOLERANCE * largest, ACCEPTED * largest
        futures = max(-(-length // (self.count + 1)), length // 8 if length >= 8 * self.count else 1)
        window = filters[: length - futures + 1]
        features = _orthonormal_columns(window)
        extra = _extra_states(filters * scale, futures, features[0])
        self.highest = self.count + extra.shape[1]
        self.alone = _OneStep(_orthonormal_columns(filters), np.empty((length, 0)))
        self.extended = _OneStep(features, extra)

    def at(self, order: int) -> tuple[np.ndarray, np.ndarray]:
        """A (R, R) and b (R,); the K features alone are fitted at all lags."""
        return self.alone.at(0) if order == self.count else self.extended.at(order - self.count)


_Columns = tuple[np.ndarray, np.ndarray, np.ndarray]  # orthonormal (T, r), T (r, K) and its pseudo-inverse: filters = first @ T


def _orthonormal_columns(filters: np.ndarray) -> _Columns:
    """An orthonormal basis of the filters, which may be dependent, and the way back."""
    left, s, right = np.linalg.svd(filters, full_matrices=False)
    rank = int((s > np.finfo(np.float64).eps * max(filters.shape) * s[0]).sum())
    left, s, right = left[:, :rank], s[:rank, None], right[:rank]
    return left, s * right, (right / s).T


class _OneStep:
    """Least squares from states at lag i to states at lag i + 1, for the features and the first n extra states."""

    def __init__(self, features: _Columns, extra: np.ndarray) -> None:
        basis, self.forth, self.back = features
        basis = np.concatenate([basis, extra], axis=1)  # orthonormal columns
        self.first, self.last, self.moved = basis[0], basis[-1], basis[:-1].T @ basis[1:]

    def at(self, extra: int) -> tuple[np.ndarray, np.ndarray]:
        """A and b with ``extra`` states beyond the features."""
        (rank, count), size = self.forth.shape, self.forth.shape[0] + extra
        last, moved = self.last[:size], self.moved[:size, :size]
        energy = float(last @ last)  # the Gram matrix of all lags but the last is I - last lastᵀ
        if energy:
            moved = moved + np.outer(last, last @ moved) / (1 - energy if energy < 1 - 1e-10 else -energy)
        forth, back = np.eye(size, count + extra, count - rank), np.eye(count + extra, size, rank - count)
        forth[:rank, :count], back[:count, :rank] = self.forth, self.back
        return (back @ moved @ forth).T, self.first[:size] @ forth


def _extra_states(scaled: np.ndarray, futures: int, features: np.ndarray) -> np.ndarray:
    """Leading right singular vectors of the Hankel matrix H less its part along the features, (L - P + 1, n)."""
    window, rank = features.shape
    width = min(MOST_EXTRA, window - rank, futures * scaled.shape[1])
    if width < 1:
        return np.empty((window, 0))
    sketch = _random_rows(scaled, futures, width)
    for _ in range(2):  # once is not enough in floating point
        sketch, _ = np.linalg.qr(sketch - features @ (features.T @ sketch))
    _, s, right = np.linalg.svd(_triangle(scaled, futures, sketch))
    kept = int((s > np.finfo(np.float64).eps * np.linalg.norm(scaled)).sum())
    return sketch @ right[:kept].T


def _random_rows(scaled: np.ndarray, futures: int, width: int) -> np.ndarray:
    """Hᵀ Ω for Ω (P K, n) of normal numbers: Σ_pk h_k(i+p) Ω_pk, (L - P + 1, n), by transforms."""
    (length, count), rng = scaled.shape, np.random.default_rng(0)
    spectrum = np.fft.rfft(scaled, length, axis=0)
    result = np.empty((length - futures + 1, width))
    for n in range(width):
        weights = np.fft.rfft(rng.standard_normal((futures, count)), length, axis=0)
        result[:, n] = np.fft.irfft((spectrum * weights.conj()).sum(axis=1), length)[: len(result)]
    return result


def _triangle(scaled: np.ndarray, futures: int, columns: np.ndarray) -> np.ndarray:
    """The triangular factor of H X for X (L - P + 1, n), a filter at a time: Σ_i h_k(i+p) X_in by transforms."""
    length = len(scaled)
    weights = np.fft.rfft(columns, length, axis=0).conj()
    triangle = np.empty((0, columns.shape[1]))
    for filter_ in scaled.T:
        block = np.fft.irfft(np.fft.rfft(filter_)[:, None] * weights, length, axis=0)[:futures]
        triangle = np.asarray(np.linalg.qr(np.concatenate([triangle, block]), mode="r"))
    return triangle


def _search(
    candidates: Candidates, orders: Sequence[int], filters: np.ndarray, scale: np.ndarray, tolerance: float
) -> StateSpace | None:
    """The first stable candidate within the tolerance at every lag, else that of the smallest error; None: none is stable."""
    best: StateSpace | None = None
    for order in orders:
        A, b = candidates.at(order)
        error = _sampled_error(A, b, filters, scale)
        if not (error <= tolerance or best is None or error < best.error):  # also where the error is NaN
            continue
        if not np.isfinite(A).all() or np.abs(np.linalg.eigvals(A)).max() >= 1:
            continue
        if error <= tolerance:
            error = _largest_error(A, b, filters, scale)
        if best is None or error < best.error:
            A.setflags(write=False)
            b.setflags(write=False)
            best = StateSpace(A, b, error)
        if error <= tolerance:
            return best
    return best and StateSpace(best.A, best.b, _largest_error(best.A, best.b, filters, scale))


def _sampled_error(A: np.ndarray, b: np.ndarray, filters: np.ndarray, scale: np.ndarray) -> float:
    """The largest scaled error at the lags 2^j - 1, 3·2^j - 1 and L - 1; NaN or infinite where the powers overflow."""
    length, count = filters.shape
    power, lag, errors = A, 1, []
    state = b  # A^(lag-1) b
    with np.errstate(over="ignore", invalid="ignore"):
        while lag <= length:
            errors.append(state[:count] - filters[lag - 1])
            state = power @ state  # A^(2 lag - 1) b
            if 3 * lag <= length:
                errors.append((power @ state)[:count] - filters[3 * lag - 1])
            power, lag = power @ power, 2 * lag
        errors.append(StateSpace(A, b, 0.0).state_at(length - 1)[:count] - filters[-1])
        return float(np.abs(np.array(errors) * scale).max())


def _largest_error(A: np.ndarray, b: np.ndarray, filters: np.ndarray, scale: np.ndarray) -> float:
    """The largest scaled error over all lags."""
    space, state, worst = StateSpace(A, b, 0.0), b, 0.0
    for first in range(0, len(filters), _CHUNK):
        rows = filters[first : first + _CHUNK]
        response = space.free_response(state, len(rows) + 1)
        worst = np.maximum(worst, np.abs((response[:-1, : rows.shape[1]] - rows) * scale).max())
        state = response[-1]
    return float(worst)
