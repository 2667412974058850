"""Learning an STU by least squares, design (10), with the tail penalty of (8)."""

from __future__ import annotations

import inspect
import math
import numbers
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor

from torchstu.layers.spectral import Banks
from torchstu.layers.stu import STU, Autoregression
from torchstu.learn.least_squares import (
    TAIL_FACTOR,
    Problem,
    Solution,
    energy,
    normal_problem,
    response_factors,
    sequence,
    solve,
    squared_error,
    squared_target,
    write_weights,
)
from torchstu.spectral.filters import FilterBank
from torchstu.spectral.priors import Prior, positive_int


class SpectralRegressor:
    """An STU fitted in closed form, design (10): one convex problem, one answer, no learning rate.

    ``objective="rollout"`` minimizes the error of the whole roll-out, ŷ = S F M with S the lag-2 cumulative sum, which is
    linear in M too; ``"next"`` minimizes the error of the prediction from true past outputs. To the squared error summed over
    steps and outputs are added ridge·‖M σ^{1/4}‖² (coordinates of unit-norm filters, whatever the data) and
    μ·N·L·D_out·‖response on L..16L‖² of (8); where the sequences are shorter than the memory, the tail starts at their end.

    Args:
        num_filters: K.
        length: L, the memory; None means the length of the training sequences.
        prior, banks, autoregression: as in `STU`.
        objective: "rollout" or "next"; a learned autoregression is convex for "next" only.
        ridge: strength, at least 0.
        tail_penalty: μ, at least 0, or "auto": max(relative residual, 1e-10) × mean square of the objective's target /
            energy of the unpenalized response on 0..L.
        fit_intercept: whether a constant is added to the output.

    Attributes:
        layer: the fitted `STU` (float64); not there before `fit`.
        intercept: (D_out,), zero without ``fit_intercept``.
        residual: relative error on the training data of the objective's prediction.
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

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn asks of an estimator; only scikit-learn calls this."""
        utils: Any = import_module("sklearn.utils")
        return utils.Tags(
            estimator_type="regressor",
            target_tags=utils.TargetTags(required=True, multi_output=True),
            regressor_tags=utils.RegressorTags(),
            input_tags=utils.InputTags(three_d_array=True),
        )

    def __repr__(self) -> str:
        return f"SpectralRegressor({', '.join(f'{name}={value!r}' for name, value in self.get_params().items())})"

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

    def fit(self, U: Any, Y: Any, *, warmup: int = 0) -> SpectralRegressor:
        """Fit to sequences.

        Args:
            U: inputs, (N, L, D_in) or (L, D_in), array or tensor.
            Y: outputs, (N, L, D_out) or (L, D_out).
            warmup: steps at the start of every sequence that are a known past and not fitted: recordings that begin in the
                middle of things, where zero is no honest guess of what came before.

        Raises:
            ValueError: shapes that do not fit, values not finite, options out of range, K above L.
            TypeError: values that are not numbers.
        """
        self._check_options()
        U, Y = sequence("U", U), sequence("Y", Y)
        if U.shape[:2] != Y.shape[:2]:
            raise ValueError(f"Y: shape {tuple(Y.shape)}; beside U {tuple(U.shape)} it must have as many sequences and steps")
        if positive_int("warmup", warmup, minimum=0) >= U.shape[1]:
            raise ValueError(f"warmup: {warmup}; it must be below the {U.shape[1]} steps of a sequence")
        if self.fit_intercept and self.autoregression == "fixed" and warmup >= 2:
            raise ValueError("fit_intercept: True; with the fixed y-term and a warm-up the level comes from the known past")
        steps = U.shape[1]
        length = steps if self.length is None else positive_int("length", self.length)
        layer = STU(
            U.shape[2],
            Y.shape[2],
            length=length,
            num_filters=self.num_filters,
            autoregression=self.autoregression,
            banks=self.banks,
            prior=self.prior,
            dtype=torch.float64,
        )
        rollout = self.objective == "rollout" and self.autoregression == "fixed"
        problem = normal_problem(layer, U, Y, rollout=rollout, intercept=self.fit_intercept, warmup=warmup)
        Y = Y[:, warmup:]
        solution, tail_weight = solve(problem, self.ridge, None, 0.0), 0.0
        if self.tail_penalty != 0:
            head, tail = response_factors(layer, min(length, steps), TAIL_FACTOR * length)
            tail_weight = self._tail_weight(problem, solution, head, Y.numel())
            solution = solve(problem, self.ridge, tail, tail_weight * Y.numel())
        self.intercept = write_weights(layer, solution)
        self.residual = squared_error(problem, solution) / max(float(Y.square().sum()), torch.finfo(torch.float64).tiny)
        self.layer, self.tail_weight = layer, tail_weight
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
            before_u, before_y = self._inputs("past[0]", past[0]), self._outputs("past[1]", past[1])
            if len(before_u) != len(u):
                raise ValueError(f"past[0]: {len(before_u)} sequences; U has {len(u)}")
            state = self.layer.observe(before_u, before_y - self.intercept)
        with torch.no_grad():
            return _like(U, self.layer(u, state)[0] + self.intercept)

    def predict_next(self, U: Any, Y: Any) -> Any:
        """Predictions of y_t from inputs up to t and true outputs up to t-1; shapes as in `predict`."""
        u, y = self._inputs("U", U), self._outputs("Y", Y)
        with torch.no_grad():
            return _like(U, self.layer.next_step(u, y - self.intercept) + self.intercept)

    def score(self, U: Any, Y: Any) -> float:
        """R² of the roll-out, averaged over outputs, as scikit-learn defines it."""
        y, prediction = sequence("Y", Y), torch.as_tensor(self.predict(U))
        y, prediction = y.flatten(0, 1), prediction.reshape(-1, y.shape[2])
        spread = (y - y.mean(0)).square().sum(0)
        return float((1 - (y - prediction).square().sum(0) / spread).mean())

    def _tail_weight(self, problem: Problem, solution: Solution, head: Tensor, count: int) -> float:
        if self.tail_penalty != "auto":
            return float(self.tail_penalty)
        inside = energy(head, solution)
        left = max(squared_error(problem, solution), 1e-10 * squared_target(problem)) / count
        return left / inside if inside > 0 else 0.0

    def _inputs(self, name: str, U: Any) -> Tensor:
        if not hasattr(self, "layer"):
            raise ValueError("SpectralRegressor: not fitted; call fit(U, Y) first")
        u = sequence(name, U)
        if u.shape[2] != self.layer.d_in:
            raise ValueError(f"{name}: shape {tuple(u.shape)}; it must have {self.layer.d_in} channels last")
        return u

    def _outputs(self, name: str, Y: Any) -> Tensor:
        y = sequence(name, Y)
        if y.shape[2] != self.layer.d_out:
            raise ValueError(f"{name}: shape {tuple(y.shape)}; it must have {self.layer.d_out} channels last")
        return y

    def _check_options(self) -> None:
        if self.objective not in ("rollout", "next"):
            raise ValueError(f"objective: {self.objective!r}; it must be 'rollout' or 'next'")
        if self.objective == "rollout" and self.autoregression == "learned":
            raise ValueError("objective: 'rollout' with autoregression='learned' is not convex; use objective='next'")
        if not _is_strength(self.ridge):
            raise ValueError(f"ridge: {self.ridge!r}; it must be a finite number of at least 0")
        if not (isinstance(self.tail_penalty, str) and self.tail_penalty == "auto") and not _is_strength(self.tail_penalty):
            raise ValueError(f"tail_penalty: {self.tail_penalty!r}; it must be 'auto' or a finite number of at least 0")


def _is_strength(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and 0 <= float(value) < math.inf


def _like(template: Any, result: Tensor) -> Any:
    if torch.as_tensor(template).ndim == 2:
        result = result[0]
    return result if isinstance(template, Tensor) else result.numpy()
