"""Online spectral filtering: predict, see the output, learn; an STU whose weights follow a stream, in constant memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchstu.layers.spectral import Banks
from torchstu.layers.stu import STU, Autoregression, STUState
from torchstu.learn.online_features import FeatureStream, weights_of, with_weights
from torchstu.learn.online_input import check_state, step_of, steps_of
from torchstu.learn.online_methods import Method, make_learner
from torchstu.spectral.filters import FilterBank
from torchstu.spectral.priors import Prior, positive_int


class OnlineSpectralFilter:
    """An STU (5), (6) that learns from a stream: ``predict(u_t)``, then ``update(y_t)``, for as long as it lasts.

    The prediction is linear in weights m, the coordinates of orthonormal responses,

        ŷ_t = f_t m_{t-1} + y_{t-2},    f_t = [T U⁺_{t-2}, T U⁻_{t-2}, u_t, u_{t-1}, u_{t-2}],

    and so the squared error is convex in them. ``autoregression`` changes what is beside f_t m: "fixed" adds y_{t-2}, so the
    target of the regression is y_t - y_{t-2}; "learned" puts the last k_y outputs into f_t; None has neither, nor the delay.
    Features come from the recurrence (8), so memory and time a step do not depend on how much was seen. All is float64 on the
    CPU.

    **Missing outputs.** NaN in y_t means that it was not seen. A sequence learns nothing from a step of which any output, or
    any past output that its prediction needs, is missing; in place of a missing output the prediction is kept.

    Args:
        d_in, d_out, length, num_filters, input_lags, autoregression, output_lags, banks, prior: as in `STU`.
        method: "rls", recursive least squares, "gradient", projected online gradient descent, or "none".
        ridge: δ > 0 of "rls", in units of a squared input: what holds the weights at their start until data speak; 0.01
            if None.
        forgetting: γ of "rls" in (0, 1], the weight of a step against the next; 1 if None, which forgets nothing.
        radius: R > 0 of "gradient": the ball that the weights stay in, which should hold the best ones; needed there.
        gradient_bound: G > 0 of "gradient": a bound on ‖∂ error² / ∂m‖ known before, for steps R / (G √t); None adapts the
            steps to the gradients met.
        batch_size: None for one sequence, arrays (D,); n for n sequences side by side that share weights, arrays (n, D).

    Raises:
        ValueError: as `STU`; options out of range or of the other method; a bank of one's own, which has no recurrence.
        TypeError: as `STU`; options that are no numbers.

    Source: E. Hazan, K. Singh and C. Zhang, arXiv 1711.00946; arXiv 2312.06837; the methods' own in ``docs/online.md``.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        length: int,
        num_filters: int = 24,
        method: Method = "rls",
        input_lags: int = 3,
        autoregression: Autoregression | None = "fixed",
        output_lags: int = 2,
        banks: Banks | None = None,
        prior: str | Prior | FilterBank = "positive",
        ridge: float | None = None,
        forgetting: float | None = None,
        radius: float | None = None,
        gradient_bound: float | None = None,
        batch_size: int | None = None,
    ) -> None:
        layer = STU(
            d_in,
            d_out,
            length=length,
            num_filters=num_filters,
            input_lags=input_lags,
            autoregression=autoregression,
            output_lags=output_lags,
            banks=banks,
            prior=prior,
            dtype=torch.float64,
        )
        self._begin(layer, method, batch_size, ridge, forgetting, radius, gradient_bound)

    @classmethod
    def from_layer(
        cls,
        layer: STU,
        *,
        method: Method = "rls",
        ridge: float | None = None,
        forgetting: float | None = None,
        radius: float | None = None,
        gradient_bound: float | None = None,
        batch_size: int | None = None,
    ) -> OnlineSpectralFilter:
        """A filter that starts from the weights of a fitted layer, at rest; with "none" it keeps them.

        Args:
            layer: an `STU` of any kind with a prior's bank.
            method, ridge, forgetting, radius, gradient_bound, batch_size: as of the class; ridge and radius hold the weights
                around those of the layer.

        Raises:
            ValueError, TypeError: as of the class.
        """
        if not isinstance(layer, STU):
            raise TypeError(f"layer: {type(layer).__name__}; it must be an STU")
        whole = STU(**layer.config | {"num_heads": 1}, dtype=torch.float64)
        with torch.no_grad():
            for name, weight in whole.named_parameters():
                weight.copy_(layer.whole(name))
        self = cls.__new__(cls)
        self._begin(whole, method, batch_size, ridge, forgetting, radius, gradient_bound)
        return self

    def _begin(self, layer: STU, method: Method, batch_size: int | None, *options: float | None) -> None:
        if layer.bank.state_space is None:
            raise ValueError("prior: a bank of arrays of one's own, which ends at its length; a stream needs a prior's bank")
        self._layer, self.method = layer, method
        self.batch_size = None if batch_size is None else positive_int("batch_size", batch_size)
        batch = self.batch_size or 1
        self._features = FeatureStream(layer, batch, orthonormal=method != "none")
        self._learner = make_learner(method, weights_of(layer, self._features.mixing), *options)
        lags = layer.output_lags
        self._fixed = {j: a for j, a in enumerate(layer.fixed_coefficients or ()) if a}
        self._outputs = np.zeros((batch, lags, layer.d_out))  # most recent first
        self._known = np.ones((batch, lags), dtype=bool)  # at rest before the first step
        self.gap = False
        """Whether an output that the next prediction goes on from was missing."""
        self.steps = 0
        self._pending: tuple[Any, ...] | None = None

    @property
    def weights(self) -> np.ndarray:
        """m, (P, D_out): a copy; rows (bank, response, input), (lag, input), (lag, output), see `FeatureStream`."""
        return self._learner.weights.copy()

    @property
    def loss(self) -> float:
        """Σ ‖y_t - ŷ_t‖² over the steps learned from."""
        return self._learner.loss

    @property
    def regret_bound(self) -> float:
        """The certificate of the method: a number that the loss cannot exceed the best fixed weights' by, so far.

        "rls" without forgetting: loss - Σ‖y_t - ŷ_t(m)‖² ≤ regret_bound + δ ‖m - m_0‖² for *every* m, with equality at the
        minimizer. "rls" with forgetting: NaN. "gradient": the same without the δ term for every m with ‖m - m_0‖ ≤ R. m_0 is
        zero, or the identity on y_{t-2} with a learned y-term. Over the steps learned from.
        """
        return self._learner.regret_bound

    def predict(self, u_t: Any) -> Any:
        """ŷ_t from u_t and all that was seen before.

        Time goes on with `update` only: asked again before that, the same step is predicted anew, also for other inputs.

        Args:
            u_t: (D_in,), or (n, D_in) with ``batch_size``; array or tensor.

        Returns:
            (D_out,) or (n, D_out), an array for an array, a tensor for a tensor.

        Raises:
            ValueError: another shape, or values not finite. TypeError: not numbers.
        """
        u = step_of("u_t", u_t, self.batch_size, self._layer.d_in)
        features, states = self._features.peek(u)
        features, offset = self._with_outputs(features)
        prediction = features @ self._learner.weights + offset
        self._pending = (u, states, features, offset, prediction)
        result = prediction if self.batch_size else prediction[0]
        return torch.from_numpy(result.copy()) if isinstance(u_t, Tensor) else result.copy()

    def update(self, y_t: Any) -> None:
        """Learn from the output that was predicted, and go on to the next step.

        Args:
            y_t: (D_out,), or (n, D_out) with ``batch_size``; NaN where it is missing.

        Raises:
            ValueError: another shape, infinite values, nothing predicted, an update that overflows; nothing is changed then.
            TypeError: not numbers.
        """
        y = step_of("y_t", y_t, self.batch_size, self._layer.d_out, missing=True)
        if self._pending is None:
            raise ValueError("y_t: nothing was predicted; call predict(u_t) first")
        u, states, features, offset, prediction = self._pending
        self._learn(features, offset, prediction, y, complete=not np.isnan(y).any())
        self._features.commit(u, states)
        self._pending = None

    def run(self, U: Any, Y: Any) -> Any:
        """`predict` and `update` at every step of a sequence, faster: the predictions that were made before each y_t.

        Args:
            U: (T, D_in), or (n, T, D_in) with ``batch_size``; array or tensor.
            Y: (T, D_out), or (n, T, D_out); NaN where missing.

        Returns:
            (T, D_out) or (n, T, D_out), an array for an array, a tensor for a tensor.

        Raises:
            ValueError: shapes that do not fit, values not finite, an update that overflows; nothing is changed then.
            TypeError: not numbers.
        """
        u, y = (
            steps_of("U", U, self.batch_size, self._layer.d_in),
            steps_of("Y", Y, self.batch_size, self._layer.d_out, missing=True),
        )
        if u.shape[:2] != y.shape[:2]:
            raise ValueError(f"Y: shape {np.shape(Y)}; beside U {np.shape(U)} it must have as many steps")
        before, predictions, t = self.state_dict(), np.empty_like(y), 0
        complete = (~np.isnan(y).any(axis=(0, 2))).tolist()
        try:
            for block in self._features.blocks(u):
                for row in block.transpose(1, 0, 2):
                    features, offset = self._with_outputs(row)
                    predictions[:, t] = prediction = features @ self._learner.weights + offset
                    self._learn(features, offset, prediction, y[:, t], complete[t])
                    t += 1
        except BaseException:
            self.load_state_dict(before)
            raise
        self._pending = None
        result = predictions if self.batch_size else predictions[0]
        return torch.from_numpy(result) if isinstance(U, Tensor) else result

    def forecast(self, U: Any) -> Any:
        """The roll-out from here: outputs for the inputs to come, alone, with the weights as they are; nothing is learned.

        Args:
            U: (T, D_in), or (n, T, D_in) with ``batch_size``.

        Returns:
            (T, D_out) or (n, T, D_out), an array for an array, a tensor for a tensor.

        Raises:
            ValueError, TypeError: as in `run`, for ``U``.
        """
        u = torch.from_numpy(steps_of("U", U, self.batch_size, self._layer.d_in))
        parts = (self._features.inputs, self._features.states, self._outputs)
        state = STUState(*(torch.from_numpy(part.copy()) for part in parts))
        with torch.no_grad():
            y = self.to_layer()(u, state)[0]
        y = y if self.batch_size else y[0]
        return y if isinstance(U, Tensor) else y.numpy()

    def to_layer(self) -> STU:
        """A new `STU` in float64 with the weights as they are now."""
        return with_weights(self._layer, self._features.mixing, self.weights)

    def rest(self) -> None:
        """Forget inputs and outputs, as before the first step; weights stay."""
        for array in (self._features.inputs, self._features.states, self._outputs):
            array[...] = 0
        self._known[...] = True
        self.gap, self._pending = False, None

    def state_dict(self) -> dict[str, Any]:
        """All that changes, as tensors and numbers that `torch.save` keeps: constant in size. A prediction asked for but not
        updated is not part of it."""
        parts = self._learner.state() | {
            "inputs": self._features.inputs, "features": self._features.states,
            "outputs": self._outputs, "known": self._known, "steps": self.steps,
        }  # fmt: skip
        return {name: torch.from_numpy(x.copy()) if isinstance(x, np.ndarray) else x for name, x in parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of an equally built filter, to the last digit.

        Raises:
            ValueError: names, shapes or numbers that do not fit; nothing is changed then.
        """
        arrays = check_state(state, self.state_dict())
        self._features.inputs, self._features.states = arrays.pop("inputs"), arrays.pop("features")
        self._outputs, self._known, self.steps = (arrays.pop(name) for name in ("outputs", "known", "steps"))
        self.gap = not self._known.all()
        for name, value in arrays.items():
            setattr(self._learner, name, value)
        self._pending = None

    def _with_outputs(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray | float]:
        """What the weights multiply, and what is added to it, with the y-term."""
        if self._layer.autoregression == "learned":
            return np.concatenate([features, self._outputs.reshape(len(features), -1)], axis=1), 0.0
        return features, sum((a * self._outputs[:, j] for j, a in self._fixed.items()), start=0.0)

    def _learn(self, features: np.ndarray, offset: Any, prediction: np.ndarray, y: np.ndarray, complete: bool) -> None:
        """One update of weights and outputs kept; nothing is changed if it raises."""
        if self.gap or not complete:
            absent = np.isnan(y)
            here = ~absent.any(axis=1)
            rows = here & (self._known[:, list(self._fixed) or slice(None)].all(axis=1))
            if rows.any():
                self._learner.update(features[rows], (y - offset)[rows])
            y = np.where(absent, prediction, y)
            self._known = np.concatenate([here[:, None], self._known], axis=1)[:, :-1]
            self.gap = not self._known.all()
        else:
            self._learner.update(features, y - offset)
        if self._outputs.shape[1]:
            self._outputs = np.concatenate([y[:, None], self._outputs[:, :-1]], axis=1)
        self.steps += 1
