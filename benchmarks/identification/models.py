"""What every method returns, and how an order is chosen where a package does not choose it. NumPy and SciPy alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

SELECTION_SECONDS = 15.0
"""After so much processor time no further candidate is tried; they come from small to large."""


class Model(Protocol):
    """A fitted model."""

    choice: str

    def rollout(self, u: np.ndarray) -> np.ndarray:
        """Outputs (L, D_out) from rest for inputs (L, D_in)."""

    def one_step(self, u: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Predictions of y_t from u up to t and y up to t - 1."""

    def radius(self) -> float | None:
        """Spectral radius of the roll-out's recurrence; None where it is not known."""


class StateSpace:
    """x_{t+1} = A x_t + B u_t + K e_t, y_t = C x_t + D u_t + e_t; without K, one step ahead is the roll-out."""

    def __init__(self, A: Any, B: Any, C: Any, D: Any, K: Any = None, choice: str = "") -> None:
        self.A, self.B, self.C, self.D = (np.atleast_2d(np.asarray(m, dtype=float)) for m in (A, B, C, D))
        for name in "ABCD":
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name}: has values that are not finite")
        K = None if K is None or np.size(K) == 0 else np.atleast_2d(np.asarray(K, dtype=float))
        self.K = K if K is not None and np.isfinite(K).all() else None
        self.choice = choice

    def _run(self, A: np.ndarray, drive: np.ndarray) -> np.ndarray:
        states, x = np.zeros((len(drive), len(A))), np.zeros(len(A))
        for t in range(len(drive) - 1):
            states[t + 1] = x = A @ x + drive[t]
        return states

    def rollout(self, u: np.ndarray) -> np.ndarray:
        return self._run(self.A, u @ self.B.T) @ self.C.T + u @ self.D.T

    def one_step(self, u: np.ndarray, y: np.ndarray) -> np.ndarray:
        if self.K is None:
            return self.rollout(u)
        drive = u @ (self.B - self.K @ self.D).T + y @ self.K.T
        return self._run(self.A - self.K @ self.C, drive) @ self.C.T + u @ self.D.T

    def radius(self) -> float | None:
        return float(np.abs(np.linalg.eigvals(self.A)).max())


class Arx:
    """y_t = Σ_{i≥1} A_i y_{t-i} + Σ_{j≥0} B_j u_{t-j}; A is (p, D_out, D_out), B is (q, D_out, D_in)."""

    def __init__(self, A: Any, B: Any, choice: str = "") -> None:
        self.A, self.B, self.choice = np.asarray(A, dtype=float), np.asarray(B, dtype=float), choice
        if not (np.isfinite(self.A).all() and np.isfinite(self.B).all()):
            raise ValueError("coefficients: have values that are not finite")

    def _driven(self, weights: np.ndarray, series: np.ndarray, delay: int) -> np.ndarray:
        total = np.zeros((len(series), weights.shape[1]))
        for j, weight in enumerate(weights):
            lag = j + delay
            if lag < len(series):
                total[lag:] += series[: len(series) - lag] @ weight.T
        return total

    def rollout(self, u: np.ndarray) -> np.ndarray:
        from scipy.signal import lfilter

        drive = self._driven(self.B, u, 0)
        if self.A.shape[1] == 1:
            return lfilter([1.0], np.concatenate([[1.0], -self.A[:, 0, 0]]), drive, axis=0)
        lags, width, _ = self.A.shape
        weights = self.A[::-1].transpose(1, 0, 2).reshape(width, -1)  # oldest output first
        padded = np.zeros((lags + len(u), width))
        for t in range(len(u)):
            padded[lags + t] = weights @ padded[t : lags + t].reshape(-1) + drive[t]
        return padded[lags:]

    def one_step(self, u: np.ndarray, y: np.ndarray) -> np.ndarray:
        return self._driven(self.B, u, 0) + self._driven(self.A, y, 1)

    def radius(self) -> float | None:
        lags, width, _ = self.A.shape
        if lags == 0:
            return 0.0
        companion = np.eye(lags * width, k=-width)
        companion[:width] = self.A.transpose(1, 0, 2).reshape(width, -1)
        return float(np.abs(np.linalg.eigvals(companion)).max())


def relative_error(prediction: np.ndarray, target: np.ndarray) -> float:
    """Mean squared error over the mean square of the target; infinite where the prediction is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        error = float(np.mean((prediction - target) ** 2) / np.mean(target**2))
    return error if np.isfinite(error) else float("inf")


def validated(
    fit: Callable[[np.ndarray, np.ndarray, Any], Model], candidates: Sequence[Any], u: np.ndarray, y: np.ndarray
) -> Model:
    """Each candidate fitted to the first three quarters and rolled out over all; the best on the last quarter is fitted again.

    If that last fit is not finite or is worse on the recording than the one it replaces, the earlier one stays.

    Raises:
        RuntimeError: no candidate could be fitted.
    """
    start, cut, best, why = time.process_time(), 3 * len(u) // 4, None, ""
    for candidate in candidates:
        try:
            model = fit(u[:cut], y[:cut], candidate)
            error = relative_error(model.rollout(u)[cut:], y[cut:])
        except (Exception, SystemExit) as problem:
            why = f"{type(problem).__name__}: {problem}"
            continue
        if np.isfinite(error) and (best is None or error < best[0]):
            best = error, candidate, model
        if time.process_time() - start > SELECTION_SECONDS:
            break
    if best is None:
        raise RuntimeError(why or "every candidate's roll-out overflows")
    _, candidate, kept = best
    try:
        again = fit(u, y, candidate)
        if relative_error(again.rollout(u), y) <= relative_error(kept.rollout(u), y):
            return again
    except (Exception, SystemExit):
        pass
    return kept


def lagged(series: np.ndarray, lags: int, delay: int = 0) -> np.ndarray:
    """Columns series_{t-delay}, …, series_{t-delay-lags+1}, zero before the start: (L, lags · D)."""
    columns = np.zeros((len(series), lags, series.shape[1]))
    for j in range(lags):
        lag = j + delay
        columns[lag:, j] = series[: len(series) - lag]
    return columns.reshape(len(series), -1)
