"""A filter bank as a linear system, design (8): x_t = A x_{t-1} + b u_t, whose state is the bank's own output."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Measured (L = 32 … 65,536, both priors): features right to 1e-12 (σ^{1/4}-scaled) with all states above this share.
STATE_TOLERANCE = 1e-13


@dataclass(frozen=True, eq=False)
class StateSpace:
    """x_t = A x_{t-1} + b u_t with the features as the first states, design (8).

    Attributes:
        A: (R, R) transition, spectral radius below 1.
        b: (R,) input vector, the filters at lag 0.
    """

    A: np.ndarray
    b: np.ndarray

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
    nodes: np.ndarray, singular_values: np.ndarray, right: np.ndarray, first_row: np.ndarray, count: int
) -> StateSpace:
    """The input-normal realization of a bank from its decomposition V = U S Wᵀ, design (8).

    A = S⁻¹ Wᵀ diag(α) W S, b = φ(0), cut at the smallest order R ≥ K beyond which the states are below rounding.

    Args:
        nodes: α_q, (Q,).
        singular_values: s, descending, (R_all,).
        right: W, (Q, R_all).
        first_row: φ(0), (R_all,).
        count: K.
    """
    order = max(count, int((singular_values > STATE_TOLERANCE * singular_values[0]).sum()))
    s, w = singular_values[:order], right[:, :order]
    balanced = (w.T * nodes) @ w
    return StateSpace(balanced * s / s[:, None], first_row[:order].copy())
