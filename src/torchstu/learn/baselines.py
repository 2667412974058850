"""What a model must beat: persistence, a plain autoregression, and a linear regression on input lags.

Each has the interface of `SpectralRegressor`: ``fit(U, Y)``, ``predict(U, past=None)`` for the roll-out and
``predict_next(U, Y)`` for one step ahead; arrays or tensors, (N, L, D) or (L, D).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from torchstu.learn.least_squares import sequence
from torchstu.ops.autoregression import lagged_sum
from torchstu.spectral.priors import positive_int

_NUMBERS_AT_ONCE = 2**23
"""Numbers of regression matrix held at a time; more is reduced by QR."""


class _Baseline:
    """The widths seen in ``fit``, and checks against them.

    Attributes:
        d_in, d_out: widths; not there before ``fit``.
    """

    d_in: int
    d_out: int

    def _learn(self, U: Any, Y: Any) -> tuple[Tensor, Tensor]:
        u, y = _pair("U", U, "Y", Y)
        self.d_in, self.d_out = u.shape[2], y.shape[2]
        return u, y

    def _inputs(self, name: str, U: Any) -> Tensor:
        if not hasattr(self, "d_in"):
            raise ValueError(f"{type(self).__name__}: not fitted; call fit(U, Y) first")
        return _of_width(name, sequence(name, U), self.d_in)

    def _both(self, U: Any, Y: Any, names: tuple[str, str] = ("U", "Y")) -> tuple[Tensor, Tensor]:
        u = self._inputs(names[0], U)
        return u, _of_width(names[1], _pair(names[0], u, names[1], Y)[1], self.d_out)

    def _with_past(self, U: Any, past: tuple[Any, Any] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, and inputs and outputs of the steps before them: none of those without a past."""
        u = self._inputs("U", U)
        if past is None:
            return u, u[:, :0], u.new_zeros(len(u), 0, self.d_out)
        before = self._both(*past, names=("past[0]", "past[1]"))
        if len(before[0]) != len(u):
            raise ValueError(f"past[0]: {len(before[0])} sequences; U has {len(u)}")
        return u, *before


class Persistence(_Baseline):
    """ŷ_t = y_{t-1}; the roll-out holds the last known output, 0 without a past."""

    def fit(self, U: Any, Y: Any) -> Persistence:
        """Nothing is learned; the number of outputs is kept. U (N, L, D_in), Y (N, L, D_out), or one sequence of each."""
        self._learn(U, Y)
        return self

    def predict(self, U: Any, past: tuple[Any, Any] | None = None) -> Any:
        """The last output of the past, at every step of U; ``past`` as in `SpectralRegressor.predict`."""
        u, _, before = self._with_past(U, past)
        held = pad(before, (0, 0, 1, 0))[:, -1:]
        return _like(U, held.repeat(1, u.shape[1], 1))

    def predict_next(self, U: Any, Y: Any) -> Any:
        """Y shifted by one step, 0 first."""
        y = self._both(U, Y)[1]
        return _like(U, pad(y, (0, 0, 1, 0))[:, : y.shape[1]])


class PlainAutoregression(_Baseline):
    """ŷ_t = c + Σ_{i=1}^{lags} y_{t-i} M_i: past outputs only, inputs unused.

    Several outputs are one vector autoregression. Fitted to the next step; the roll-out feeds predictions back. Outputs before
    the first known one count as 0.

    Args:
        lags: at least 1, below the length of the training sequences.
        ridge: strength of ridge·Σ‖M_i‖², at least 0.

    Raises:
        ValueError: options out of range.
    """

    def __init__(self, lags: int, ridge: float = 0.0) -> None:
        self.lags, self.ridge = positive_int("lags", lags), _check_ridge(ridge)

    def fit(self, U: Any, Y: Any) -> PlainAutoregression:
        """Fit to sequences; U is only checked.

        Raises:
            ValueError: sequences no longer than ``lags``, shapes that do not fit, values not finite.
        """
        _, y = self._learn(U, Y)
        weights, self.intercept = _regress(y[:, :-1], y[:, 1:], self.lags, self.ridge)
        self.weights = weights.view(self.lags, y.shape[2], y.shape[2])
        return self

    def predict(self, U: Any, past: tuple[Any, Any] | None = None) -> Any:
        """The roll-out over the steps of U; ``past`` as in `SpectralRegressor.predict`."""
        u, _, before = self._with_past(U, past)
        y = u.new_zeros(len(u), self.lags + u.shape[1], self.d_out)
        before = before[:, -self.lags :]
        y[:, self.lags - before.shape[1] : self.lags] = before
        weights = self.weights.flip(0).flatten(0, 1)  # (lags·D, D), oldest first
        for t in range(u.shape[1]):
            y[:, self.lags + t] = self.intercept + y[:, t : t + self.lags].flatten(1) @ weights
        return _like(U, y[:, self.lags :])

    def predict_next(self, U: Any, Y: Any) -> Any:
        """Predictions of y_t from true outputs up to t-1; those before the first count as 0."""
        return _like(U, lagged_sum(self._both(U, Y)[1], self.weights) + self.intercept)


class LaggedRegression(_Baseline):
    """ŷ_t = c + Σ_{i=0}^{lags-1} u_{t-i} M_i: a window of inputs, no past outputs.

    Args:
        lags: input lags with the current one, at least 1, at most the length of the training sequences.
        ridge: strength of ridge·Σ‖M_i‖², at least 0.

    Raises:
        ValueError: options out of range.
    """

    def __init__(self, lags: int, ridge: float = 0.0) -> None:
        self.lags, self.ridge = positive_int("lags", lags), _check_ridge(ridge)

    def fit(self, U: Any, Y: Any) -> LaggedRegression:
        """Fit to sequences.

        Raises:
            ValueError: sequences shorter than ``lags``, shapes that do not fit, values not finite.
        """
        u, y = self._learn(U, Y)
        weights, self.intercept = _regress(u, y, self.lags, self.ridge)
        self.weights = weights.view(self.lags, u.shape[2], y.shape[2])
        return self

    def predict(self, U: Any, past: tuple[Any, Any] | None = None) -> Any:
        """Predictions from inputs alone; inputs before the first known one count as 0."""
        u, before, _ = self._with_past(U, past)
        known = torch.cat([before, u], dim=1)
        shifted = pad(known, (0, 0, 0, 1))  # lag 1 of the step after is lag 0
        result = lagged_sum(shifted, self.weights)[:, 1:]
        return _like(U, result[:, known.shape[1] - u.shape[1] :] + self.intercept)

    def predict_next(self, U: Any, Y: Any) -> Any:
        """The same as `predict`: past outputs are only checked."""
        self._both(U, Y)
        return self.predict(U)


def _pair(u_name: str, U: Any, y_name: str, Y: Any) -> tuple[Tensor, Tensor]:
    u, y = sequence(u_name, U), sequence(y_name, Y)
    if u.shape[:2] != y.shape[:2]:
        beside = f"beside {u_name} {tuple(u.shape)}"
        raise ValueError(f"{y_name}: shape {tuple(y.shape)}; {beside} it must have as many sequences and steps")
    return u, y


def _of_width(name: str, x: Tensor, width: int) -> Tensor:
    if x.shape[2] != width:
        raise ValueError(f"{name}: shape {tuple(x.shape)}; it must have {width} channels last, as in fit")
    return x


def _check_ridge(ridge: float) -> float:
    if isinstance(ridge, bool) or not isinstance(ridge, (int, float)) or not ridge >= 0:
        raise ValueError(f"ridge: {ridge!r}; it must be a number of at least 0")
    return float(ridge)


def _regress(x: Tensor, y: Tensor, lags: int, ridge: float) -> tuple[Tensor, Tensor]:
    """Least squares of y_t on (x_t, …, x_{t-lags+1}, 1) over whole windows; weights (lags·D, E) and intercept (E,)."""
    if x.shape[1] < lags:
        raise ValueError(f"lags: {lags} for sequences of {x.shape[1]} usable steps; it must be at most that")
    width = lags * x.shape[2] + 1
    triangle = x.new_zeros(0, width + y.shape[2])
    batch = max(width, _NUMBERS_AT_ONCE // width)
    for row in range(len(x)):
        windows = x[row].unfold(0, lags, 1).flip(2).transpose(1, 2)  # (T, lags, D), most recent first
        targets = y[row, lags - 1 :]
        for first in range(0, len(windows), batch):
            part, target = windows[first : first + batch].flatten(1), targets[first : first + batch]
            stacked = torch.cat([part, part.new_ones(len(part), 1), target], dim=1)
            triangle = torch.linalg.qr(torch.cat([triangle, stacked]), mode="r").R
    penalty = ridge**0.5 * torch.eye(width - 1, triangle.shape[1], dtype=x.dtype)
    rows = torch.cat([triangle, penalty]) if ridge else triangle
    solution = torch.linalg.lstsq(rows[:, :width], rows[:, width:], rcond=1e-14, driver="gelsd").solution
    return solution[:-1], solution[-1]


def _like(template: Any, result: Tensor) -> Any:
    if torch.as_tensor(template).ndim == 2:
        result = result[0]
    return result if isinstance(template, Tensor) else result.numpy()
