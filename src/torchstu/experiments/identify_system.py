"""The low-order system of a recording: where it starts from, what it predicts, and its matrices in the units of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from torchstu.data.scaling import Scaler
from torchstu.learn.closed_form import SpectralRegressor
from torchstu.learn.diagnostics import impulse_response
from torchstu.learn.identification import Identification
from torchstu.learn.output_error import refine
from torchstu.systems.lds import LDS
from torchstu.systems.modes import hankel_reduction

WORSE = 1.2
"""Times the STU's squared error on validation rows that a refined system may have and still be exported."""
MOST_STATES = 24
"""Of an automatic reduction."""
_NEGLIGIBLE = 1e-10
"""Hankel singular values below this share of the largest are rounding."""
_START_ROWS = 20_000
"""Rows that the state at the start is estimated from, at most."""


@dataclass(frozen=True, eq=False)
class ChosenSystem:
    """A system of low order of scaled channels, and what it starts from.

    Attributes:
        system: the `LDS`.
        level: (D_out,) added to its outputs; ignored with ``fitted_start``.
        fitted_start: whether state and level at the first row are fitted anew, instead of rest and ``level``.
        noise_lags: a, (p,), of the noise e_t = Σ_i a_i e_{t-i} + white.
        origin: "refined" by the error of the roll-out, or "reduced" from the STU's response.
    """

    system: LDS
    level: np.ndarray
    fitted_start: bool
    noise_lags: np.ndarray
    origin: Literal["refined", "reduced"]

    def simulate(self, u: np.ndarray, y: np.ndarray, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Outputs for all inputs, and their level; only outputs before ``stop`` are looked at."""
        if self.fitted_start:
            return simulate_from_level(self.system, u, y, stop)
        return self.system.simulate(torch.as_tensor(u)).numpy() + self.level, self.level


def choose_system(found: Identification, u: np.ndarray, y: np.ndarray, order: int | Literal["auto"]) -> ChosenSystem:
    """The system to export: `identify`'s, with a fitted start where that helps, or else the STU's own, reduced.

    `identify` lets its system begin at rest and waits a memory. A second fit takes the state at the start as unknown: exact for
    a clean recording, but slow modes may then pass for a trend. The last quarter of the rows decides; where both are worse
    there than the STU by more than `WORSE`, the balanced reduction of the STU's response is taken.
    """
    assert found.refined is not None  # an order was asked for
    refined, errors = found.refined, {"from rest": found.tried[-1].rollout}
    cut, power = round(0.75 * len(u)), float(np.mean(y[round(0.75 * len(u)) :] ** 2))
    if refined.order and not refined.kept_start:
        draft = refine(u[:cut], y[:cut], found.regressor, order=refined.order, initial_state="unknown")
        left = y[cut:] - simulate_from_level(draft.system, u, y, cut)[0][cut:]
        errors["fitted start"] = float(np.mean(left**2)) / power
    best = min(errors, key=lambda name: errors[name])
    if errors[best] > WORSE * min(trial.rollout for trial in found.tried[:-1]):
        reduced = _reduced(found.regressor, u, y, order)
        if reduced is not None:
            return ChosenSystem(reduced, found.regressor.intercept.numpy(), False, np.zeros(0), "reduced")
    if best == "fitted start":
        refined = refine(u, y, found.regressor, order=refined.order, initial_state="unknown")
    lags, level = refined.noise_lags.numpy(), refined.intercept.numpy()
    return ChosenSystem(refined.system, level, best == "fitted start", lags, "refined")


def _reduced(regressor: SpectralRegressor, u: np.ndarray, y: np.ndarray, order: int | Literal["auto"]) -> LDS | None:
    """A stable system of an order, or of the smallest whose roll-out misses the STU's by a hundredth of its residual.

    Fewer states than asked for where the response has no more, or where one more would be unstable; None without any.
    """
    response = impulse_response(regressor.layer, max(min(2 * regressor.layer.length, len(u)), 8)).double()
    largest = MOST_STATES if order == "auto" else order
    A, B, sigma = hankel_reduction(response, largest)
    rank = min(len(A), int((sigma > _NEGLIGIBLE * sigma[0]).sum()))
    target = np.asarray(regressor.predict(u)).reshape(y.shape)
    allowed = max(0.01 * float(np.mean((y - target) ** 2)), 1e-12 * float(np.mean(y**2)))
    best: tuple[float, LDS] | None = None
    for n in range(1, rank + 1) if order == "auto" else range(rank, 0, -1):
        if np.abs(np.linalg.eigvals(A[:n, :n])).max() >= 1:
            continue
        system = _read_out(A[:n, :n], B[:n], response)
        left = target - regressor.intercept.numpy() - system.simulate(torch.as_tensor(u)).numpy()
        error = float(np.mean(left**2))
        if best is None or error < best[0]:
            best = error, system
        if error <= allowed or order != "auto":
            break
    return None if best is None else best[1]


def _read_out(A: np.ndarray, B: np.ndarray, response: torch.Tensor) -> LDS:
    """C of least squares for h_i = C A^i B, i >= 1, and D = h_0 - C B."""
    h, states = response.numpy(), [B]
    for _ in range(len(h) - 1):
        states.append(A @ states[-1])
    X = np.concatenate(states[1:], axis=1)  # (n, (T-1) D_in)
    C = np.linalg.lstsq(X.T, h[1:].transpose(0, 2, 1).reshape(-1, h.shape[1]), rcond=None)[0].T
    return LDS(A, B, C, h[0] - C @ B)


def simulate_from_level(system: LDS, u: np.ndarray, y: np.ndarray, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Outputs for all inputs, with the state at the start and the level of the outputs that fit y before ``stop`` best.

    Least squares for y_t - (forced response) ≈ C A^t x_0 + c, the shortest (x_0, c) where they are not unique.

    Returns:
        (L, D_out) and c (D_out,).
    """
    forced = system.simulate(torch.as_tensor(u)).numpy()
    seen, n, d_out = min(stop, _START_ROWS), system.state_dim, system.d_out
    columns = np.zeros((len(u), d_out, n + d_out))  # C A^t and I
    columns[:, :, n:] = np.eye(d_out)
    row, A = system.C.numpy(), system.A.numpy()
    for own in columns:
        row = row @ A
        own[:, :n] = row
    solution = np.linalg.lstsq(columns[:seen].reshape(-1, n + d_out), (y - forced)[:seen].reshape(-1), rcond=1e-10)[0]
    return forced + columns @ solution, solution[n:]


def one_step_ahead(rollout: np.ndarray, y: np.ndarray, noise_lags: np.ndarray) -> np.ndarray:
    """One step ahead of a system with noise e_t = Σ_i a_i e_{t-i} + white: the roll-out and what its past errors tell."""
    left, result = y - rollout, rollout.copy()
    for i, a in enumerate(noise_lags.tolist(), 1):
        result[i:] += a * left[:-i]
    return result


def in_units(system: LDS, inputs: Scaler, outputs: Scaler) -> LDS:
    """A system of scaled channels as one of deviations in the units of the data: B / s_u, s_y C, s_y D / s_u."""
    s_u, s_y = torch.as_tensor(inputs.std), torch.as_tensor(outputs.std)
    return LDS(system.A, system.B / s_u, s_y[:, None] * system.C, s_y[:, None] * system.D / s_u)
