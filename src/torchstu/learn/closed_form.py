"""Learning an STU by least squares, design (10), with the tail penalty of (8)."""

from __future__ import annotations

import inspect
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from torchstu.layers.spectral import Banks
from torchstu.layers.stu import STU, Autoregression
from torchstu.ops.autoregression import lag2_cumsum, lag2_difference
from torchstu.ops.convolution import features
from torchstu.spectral.filters import FilterBank
from torchstu.spectral.priors import Prior, positive_int

TAIL_FACTOR = 16
"""The penalized tail is the response at steps L..16 L."""
_NUMBERS_AT_ONCE = 2**23
"""Numbers of feature matrix held at a time; more is reduced by QR."""


class SpectralRegressor:
    """An STU fitted in closed form, design (10): one convex problem, one answer, no learning rate.

    ``objective="rollout"`` minimizes the error of the whole roll-out, ŷ = S F M with S the lag-2 cumulative sum, which is linear
    in M too; ``"next"`` minimizes the error of the prediction from true past outputs. To the squared error summed over steps and
    outputs are added ridge·‖M σ^{1/4}‖² (coordinates of unit-norm filters, whatever the data) and, beyond the memory,
    μ·N·L·D_out·‖response on L..16L‖² of (8).

    Args:
        num_filters: K.
        length: L, the memory; None means the length of the training sequences.
        prior, banks, autoregression: as in `STU`.
        objective: "rollout" or "next"; a learned autoregression is convex for "next" only.
        ridge: strength, at least 0.
        tail_penalty: μ, at least 0, or "auto": max(relative residual, 1e-10) × mean square of the target / energy of the
            unpenalized response on 0..L.
        fit_intercept: whether a constant is added to the output.

    Attributes:
        layer: the fitted `STU` (float64); not there before `fit`.
        intercept: (D_out,), zero without ``fit_intercept``.
        residual: relative error on the training data, of the objective's prediction.
        tail_weight: the μ that was used.

    Source: arXiv 2312.06837; the roll-out objective and the tail penalty are ours, ``docs/learning.md``.
    """

    layer: STU

    def __init__(
        self,
        num_filters: int = 24,
        *,
        length: int | None = None,
        prior: str | Prior | FilterBank = "positive",
        banks: Banks | None = None,
        autoregression: Autoregression | None = "fixed",
        objective: Literal["rollout", "next"] = "rollout",
        ridge: float = 0.0,
        tail_penalty: float | Literal["auto"] = "auto",
        fit_intercept: bool = False,
    ) -> None:
        self.num_filters, self.length, self.prior, self.banks = num_filters, length, prior, banks
        self.autoregression, self.objective, self.ridge = autoregression, objective, ridge
        self.tail_penalty, self.fit_intercept = tail_penalty, fit_intercept

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments, as scikit-learn asks for them; ``deep`` makes no difference."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> SpectralRegressor:
        """Change constructor arguments.

        Raises:
            ValueError: a name that is none.
        """
        for name, value in params.items():
            if name not in self.get_params():
                raise ValueError(f"{name}: no parameter; there are {sorted(self.get_params())}")
            setattr(self, name, value)
        return self

    def fit(self, U: Any, Y: Any) -> SpectralRegressor:
        """Fit to sequences.

        Args:
            U: inputs, (N, L, D_in) or (L, D_in), array or tensor.
            Y: outputs, (N, L, D_out) or (L, D_out).

        Raises:
            ValueError: shapes that do not fit, values not finite, options out of range, K above L.
            TypeError: values that are not numbers.
        """
        self._check_options()
        U, Y = sequence("U", U), sequence("Y", Y)
        if U.shape[:2] != Y.shape[:2]:
            raise ValueError(f"Y: shape {tuple(Y.shape)}; beside U {tuple(U.shape)} it must have as many sequences and steps")
        length = U.shape[1] if self.length is None else positive_int("length", self.length)
        self.layer = STU(
            U.shape[2],
            Y.shape[2],
            length=length,
            num_filters=self.num_filters,
            autoregression=self.autoregression,
            banks=self.banks,
            prior=self.prior,
            dtype=torch.float64,
        )
        problem = _normal_problem(self, self.layer, U, Y)
        power, count = float(Y.square().mean()), Y.numel()
        solution = _solve(problem, self.ridge, None, 0.0)
        self.residual = _residual(problem, solution, Y)
        self.tail_weight = 0.0
        if self.tail_penalty != 0:
            head, tail = _response_factors(self.layer, length)
            if self.tail_penalty == "auto":
                energy = _energy(head, solution, self.layer.d_in)
                self.tail_weight = max(self.residual, 1e-10) * power / energy if energy > 0 else 0.0
            else:
                self.tail_weight = float(self.tail_penalty)
            solution = _solve(problem, self.ridge, tail, self.tail_weight * count)
            self.residual = _residual(problem, solution, Y)
        self.intercept = _write_weights(self.layer, solution)
        return self

    def predict(self, U: Any, past: tuple[Any, Any] | None = None) -> Any:
        """The roll-out: outputs from inputs alone, after a known past if given.

        Args:
            U: (N, L, D_in) or (L, D_in).
            past: inputs and true outputs of the steps right before, shaped as U and Y.

        Returns:
            (N, L, D_out) or (L, D_out), an array for an array, a tensor for a tensor.
        """
        u = self._inputs("U", U)
        state = None
        if past is not None:
            before = sequence("past[0]", past[0]), sequence("past[1]", past[1])
            state = self.layer.observe(before[0], before[1] - self.intercept)
        with torch.no_grad():
            return _like(U, self.layer(u, state)[0] + self.intercept)

    def predict_next(self, U: Any, Y: Any) -> Any:
        """Predictions of y_t from inputs up to t and true outputs up to t-1; shapes as in `predict`."""
        u, y = self._inputs("U", U), sequence("Y", Y)
        with torch.no_grad():
            return _like(U, self.layer.next_step(u, y - self.intercept) + self.intercept)

    def score(self, U: Any, Y: Any) -> float:
        """R² of the roll-out, averaged over outputs, as scikit-learn defines it."""
        y, prediction = sequence("Y", Y), torch.as_tensor(self.predict(U))
        y, prediction = y.flatten(0, 1), prediction.reshape(-1, y.shape[2])
        spread = (y - y.mean(0)).square().sum(0)
        return float((1 - (y - prediction).square().sum(0) / spread).mean())

    def _inputs(self, name: str, U: Any) -> Tensor:
        if not hasattr(self, "layer"):
            raise ValueError("SpectralRegressor: not fitted; call fit(U, Y) first")
        u = sequence(name, U)
        if u.shape[2] != self.layer.d_in:
            raise ValueError(f"{name}: shape {tuple(u.shape)}; it must have {self.layer.d_in} channels last")
        return u

    def _check_options(self) -> None:
        if self.objective not in ("rollout", "next"):
            raise ValueError(f"objective: {self.objective!r}; it must be 'rollout' or 'next'")
        if self.objective == "rollout" and self.autoregression == "learned":
            raise ValueError("objective: 'rollout' with autoregression='learned' is not convex; use objective='next'")
        if not isinstance(self.ridge, (int, float)) or not self.ridge >= 0:
            raise ValueError(f"ridge: {self.ridge!r}; it must be a number of at least 0")
        number = isinstance(self.tail_penalty, (int, float)) and self.tail_penalty >= 0
        if self.tail_penalty != "auto" and not number:
            raise ValueError(f"tail_penalty: {self.tail_penalty!r}; it must be 'auto' or a number of at least 0")


def sequence(name: str, value: Any) -> Tensor:
    """An array or tensor as (N, L, D) float64 on the CPU.

    Raises:
        TypeError: not numbers. ValueError: not two or three dimensions, empty, or not finite.
    """
    if not isinstance(value, Tensor):
        array = np.asarray(value)
        if array.dtype.kind not in "fiu":
            raise TypeError(f"{name}: dtype {array.dtype}; it must be real numbers")
        value = torch.as_tensor(np.ascontiguousarray(array))
    if value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name}: dtype {value.dtype}; it must be real numbers")
    value = value.detach().double().cpu()
    if value.ndim == 2:
        value = value[None]
    if value.ndim != 3 or 0 in value.shape:
        raise ValueError(f"{name}: shape {tuple(value.shape)}; it must be (N, L, D) or (L, D), none of them 0")
    if not torch.isfinite(value).all():
        bad = (~torch.isfinite(value)).nonzero()[0].tolist()
        raise ValueError(f"{name}: has a value that is not finite, first at (sequence, step, channel) = {tuple(bad)}")
    return value


class _Problem(NamedTuple):
    """min ‖R m - Q‖² + rest, the triangular reduction of min ‖F m - Y‖²."""

    R: Tensor  # (P, P)
    Q: Tensor  # (P, D_out)
    rest: float
    scale: Tensor  # (P,) σ^{1/4} on spectral columns: m = scale · M
    groups: dict[str, slice]


class _Solution(NamedTuple):
    m: Tensor  # (P, D_out) coordinates of unit-norm filters
    scale: Tensor
    groups: dict[str, slice]


def _basis(layer: STU, steps: int) -> Tensor:
    """Impulse responses (steps, J) of unit weights: delayed unit-norm filters (±), then input lags."""
    filters = torch.as_tensor(layer.bank.continued(steps).copy())
    sign = (-1.0) ** torch.arange(steps, dtype=torch.float64)[:, None]
    banks = torch.cat([filters if s > 0 else sign * filters for s in layer.signs], dim=1)
    banks = pad(banks, (0, 0, layer.delay, 0))[:steps]
    return torch.cat([banks, torch.eye(steps, layer.input_lags, dtype=torch.float64)], dim=1)


def _normal_problem(regressor: SpectralRegressor, layer: STU, U: Tensor, Y: Tensor) -> _Problem:
    """Features of all sequences, reduced by QR as they come."""
    steps = U.shape[1]
    rollout = regressor.objective == "rollout" and layer.autoregression == "fixed"
    basis = _basis(layer, steps)
    scale = torch.as_tensor(layer.bank.eigenvalues**0.25).repeat(len(layer.signs))
    scale = torch.cat([scale, torch.ones(layer.input_lags, dtype=torch.float64)]).repeat_interleave(layer.d_in)
    groups = {"kernel": slice(0, len(scale))}
    width = len(scale)
    if layer.autoregression == "learned":
        groups["outputs"] = slice(width, width + layer.output_lags * layer.d_out)
        width = groups["outputs"].stop
    if regressor.fit_intercept:
        groups["intercept"] = slice(width, width + 1)
        width += 1
    R, Q, rest = torch.zeros(0, width, dtype=torch.float64), torch.zeros(0, Y.shape[2], dtype=torch.float64), 0.0
    batch = max(1, _NUMBERS_AT_ONCE // (steps * width))
    for first in range(0, len(U), batch):
        u, y = U[first : first + batch], Y[first : first + batch]
        F = features(u, basis).flatten(2)  # (n, L, J·D_in)
        ones = torch.ones(len(u), steps, 1, dtype=torch.float64)
        if layer.autoregression == "learned":
            lags = [pad(y, (0, 0, i, 0))[:, :steps] for i in range(1, layer.output_lags + 1)]
            F = torch.cat([F, *lags], dim=2)
        elif rollout:
            F = lag2_cumsum(F)
        elif layer.autoregression == "fixed":
            y, ones = lag2_difference(y), lag2_difference(ones)
        if regressor.fit_intercept:
            F = torch.cat([F, ones], dim=2)
        stacked = torch.cat([torch.cat([R, Q], 1), torch.cat([F, y], 2).flatten(0, 1)])
        triangle = torch.linalg.qr(stacked, mode="r").R
        R, Q = triangle[:width, :width], triangle[:width, width:]
        rest += float(triangle[width:, width:].square().sum())
    full = torch.cat([scale, torch.ones(width - len(scale), dtype=torch.float64)])
    return _Problem(R, Q, rest, full, groups)


def _solve(problem: _Problem, ridge: float, tail: Tensor | None, tail_weight: float) -> _Solution:
    """The stacked least-squares problem, by a minimum-norm solver: too little data is no accident."""
    kernel = problem.groups["kernel"]
    rows = [problem.R]
    if ridge:
        identity = torch.eye(problem.R.shape[1], dtype=torch.float64)
        rows.append(ridge**0.5 * identity[: problem.groups.get("intercept", slice(None)).start])
    if tail is not None and tail_weight:
        d_in = kernel.stop // tail.shape[1]
        penalty = torch.zeros(len(tail) * d_in, problem.R.shape[1], dtype=torch.float64)
        penalty[:, kernel] = torch.kron(tail.contiguous(), torch.eye(d_in, dtype=torch.float64)) * tail_weight**0.5
        rows.append(penalty)
    left = torch.cat(rows)
    right = pad(problem.Q, (0, 0, 0, len(left) - len(problem.R)))
    norms = left.norm(dim=0).clamp(min=torch.finfo(torch.float64).tiny)
    solution = torch.linalg.lstsq(left / norms, right, rcond=1e-15, driver="gelsd").solution
    return _Solution(solution / norms[:, None], problem.scale, problem.groups)


def _residual(problem: _Problem, solution: _Solution, Y: Tensor) -> float:
    error = float((problem.R @ solution.m - problem.Q).square().sum()) + problem.rest
    return error / max(float(Y.square().sum()), torch.finfo(torch.float64).tiny)


def _response_factors(layer: STU, length: int) -> tuple[Tensor, Tensor]:
    """Triangular factors of the Gram matrices of the roll-out's impulse responses, inside 0..L and on L..16L."""
    response = _basis(layer, TAIL_FACTOR * length)
    if layer.autoregression == "fixed":
        response = lag2_cumsum(response[None])[0]
    return torch.linalg.qr(response[:length], mode="r").R, torch.linalg.qr(response[length:], mode="r").R


def _energy(factor: Tensor, solution: _Solution, d_in: int) -> float:
    m = solution.m[solution.groups["kernel"]]
    return float((factor @ m.reshape(factor.shape[1], -1)).square().sum())


def _write_weights(layer: STU, solution: _Solution) -> Tensor:
    """Copy a solution into a layer; returns the intercept, (D_out,)."""
    M = solution.m / solution.scale[:, None]
    kernel = M[solution.groups["kernel"]].view(-1, layer.d_in, layer.d_out)
    parts = kernel.split([layer.num_filters] * len(layer.signs) + [layer.input_lags])
    with torch.no_grad():
        layer.M_phi_plus.copy_(parts[0])
        if layer.M_phi_minus is not None:
            layer.M_phi_minus.copy_(parts[1])
        layer.M_u.copy_(parts[-1])
        if "outputs" in solution.groups:
            outputs = M[solution.groups["outputs"]]
            layer.M_y.copy_(outputs.view(layer.output_lags, layer.d_out, layer.d_out))  # type: ignore[union-attr]
    if "intercept" in solution.groups:
        return M[solution.groups["intercept"]][0]
    return torch.zeros(layer.d_out, dtype=torch.float64)


def _like(template: Any, result: Tensor) -> Any:
    if torch.as_tensor(template).ndim == 2:
        result = result[0]
    return result if isinstance(template, Tensor) else result.numpy()
