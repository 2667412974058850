"""A filter bank as a linear system, design (8): x_t = A x_{t-1} + b u_t, whose state is the bank's own output."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TOLERANCE = 1e-12
"""Largest σ^{1/4}-scaled error of the default realization; what is reached where K nears the arithmetic is in `error`."""


@dataclass(frozen=True, eq=False)
class StateSpace:
    """x_t = A x_{t-1} + b u_t with the features as the first states, design (8).

    Attributes:
        A: (R, R) transition, spectral radius below 1.
        b: (R,) input vector, the filters at lag 0.
        error: max over sampled lags below L and over k of |σ_k^{1/4} (impulse response - filter)|, as measured.
    """

    A: np.ndarray
    b: np.ndarray
    error: float

    @property
    def order(self) -> int:
        """R, the number of states."""
        return len(self.b)

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


def realize(
    nodes: np.ndarray, singular_values: np.ndarray, right: np.ndarray, filters: np.ndarray, first_row: np.ndarray
) -> StateSpace:
    """The input-normal realization of a bank from its decomposition V = U S Wᵀ, design (8).

    A = S⁻¹ Wᵀ diag(α) W S, b = φ(0), cut at the smallest order R >= K whose error is within `TOLERANCE`, or else at the order
    of the smallest error. This realization *is* the meaning of the filters beyond L.

    Args:
        nodes: α_q, (Q,).
        singular_values: s, descending, (R_all,).
        right: W, (Q, R_all).
        filters: φ, (L, K).
        first_row: φ(0) of all R_all columns.
    """
    count = filters.shape[1]
    scale = np.sqrt(singular_values[:count])  # σ^{1/4}
    balanced = (right.T * nodes) @ right
    best: StateSpace | None = None
    for order in range(count, len(singular_values) + 1):
        s = singular_values[:order]
        if order > count and s[-1] < np.finfo(np.float64).eps * s[0]:
            break
        A, b = balanced[:order, :order] * s / s[:, None], first_row[:order].copy()
        error = _sampled_error(A, b, filters, scale)
        if best is None or error < best.error:
            best = StateSpace(A, b, error)
        if error <= TOLERANCE:
            break
    assert best is not None
    return best


def _sampled_error(A: np.ndarray, b: np.ndarray, filters: np.ndarray, scale: np.ndarray) -> float:
    """The largest scaled error at the lags 2^j - 1, 3·2^j - 1 and L - 1."""
    length, count = filters.shape
    worst, power, lag = 0.0, A, 1
    state = b  # A^(lag-1) b
    while lag <= length:
        worst = max(worst, float(np.abs((state[:count] - filters[lag - 1]) * scale).max()))
        state = power @ state  # A^(2 lag - 1) b
        if 3 * lag <= length:
            later = power @ state
            worst = max(worst, float(np.abs((later[:count] - filters[3 * lag - 1]) * scale).max()))
        power, lag = power @ power, 2 * lag
    last = StateSpace(A, b, 0.0).state_at(length - 1)[:count]
    return max(worst, float(np.abs((last - filters[-1]) * scale).max()))
