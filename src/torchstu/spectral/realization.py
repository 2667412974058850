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
_MOST_SKIPPED = 8
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
    gradual: bool
    """Whether no order more takes more than a digit off the error."""

    @property
    def highest(self) -> int:
        """The largest order that the arithmetic supports."""

    def at(self, order: int) -> tuple[np.ndarray, np.ndarray]:
        """A (R, R) and b (R,) for R = ``order``."""

    def radius(self, order: int) -> float:
        """The spectral radius of A."""


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
    """The realization of a bank from its decomposition V = U S Wᵀ: A = S⁻¹ A_bal S, b = φ(0), cut at R; design (8).

    V's rows go on as v(i+1) = Λ v(i), Λ = diag(α) or, with real and imaginary parts as columns, rotations r (cos, -sin; sin,
    cos); A_bal = Wᵀ Λ W is a contraction. Over the L steps the R states carry equal energy, Σ_i φ(i) φ(i)ᵀ = I. It *is* the
    meaning of the filters beyond L.

    Args:
        balanced: A_bal, (R_all, R_all).
        singular_values: s, descending, (R_all,).
        first_row: φ(0) of all R_all columns.
        count: K.
    """

    target, accepted = TOLERANCE, math.inf  # a bank of a prior is a sum of exponentials, whatever the arithmetic leaves of it
    gradual = True

    def __init__(self, balanced: np.ndarray, singular_values: np.ndarray, first_row: np.ndarray, count: int) -> None:
        self.balanced, self.singular_values, self.first_row = balanced, singular_values, first_row
        self.highest = max(count, int((singular_values >= np.finfo(np.float64).eps * singular_values[0]).sum()))

    def at(self, order: int) -> tuple[np.ndarray, np.ndarray]:
        """A (R, R) and b (R,)."""
        s = self.singular_values[:order]
        return self.balanced[:order, :order] * s / s[:, None], self.first_row[:order].copy()

    def radius(self, order: int) -> float:
        """The spectral radius of A, from A_bal, whose entries do not differ by many orders."""
        return float(np.abs(np.linalg.eigvals(self.balanced[:order, :order])).max())


def _search(
    candidates: Candidates, orders: Sequence[int], filters: np.ndarray, scale: np.ndarray, tolerance: float
) -> StateSpace | None:
    """The first stable candidate within the tolerance at every lag, else that of the smallest error; None: none is stable.

    Where an order more takes no more than a digit off the error, orders are passed over by its digits.
    """
    best: StateSpace | None = None
    at = 0
    while at < len(orders):
        error = _sampled_error(*candidates.at(orders[at]), filters, scale)
        if error <= tolerance:
            found = _stable(candidates, orders[at])
            error = np.inf if found is None else _largest_error(*found, filters, scale)
            if found is not None and error <= tolerance:
                return StateSpace(*found, error)
        known = candidates.gradual and 0 < error < np.inf and tolerance > 0
        at += int(np.clip(np.log10(error / tolerance), 1, _MOST_SKIPPED)) if known else 1
    for order in orders:  # none serves: the best
        error = _sampled_error(*candidates.at(order), filters, scale)
        if best is None or error < best.error:
            found = _stable(candidates, order)
            best = best if found is None or not np.isfinite(error) else StateSpace(*found, error)
    return best and StateSpace(best.A, best.b, _largest_error(best.A, best.b, filters, scale))


def _stable(candidates: Candidates, order: int) -> tuple[np.ndarray, np.ndarray] | None:
    """A and b, read-only, if the recurrence is stable."""
    A, b = candidates.at(order)
    if not np.isfinite(A).all() or candidates.radius(order) >= 1:
        return None
    A.setflags(write=False)
    b.setflags(write=False)
    return A, b


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
