"""What every regressor with an STU in it shares: predictions, and what scikit-learn asks of an estimator."""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from typing import Any, Self

import torch
from torch import Tensor

from torchstu.layers.stu import STU
from torchstu.learn.least_squares import sequence
from torchstu.learn.recordings import recordings


class Estimator:
    """Constructor arguments as parameters; attributes that are fitted are properties."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments, as scikit-learn asks for them; ``deep`` makes no difference."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Self:
        """Change constructor arguments.

        Raises:
            ValueError: a name that is none.
        """
        for name, value in params.items():
            if name not in self.get_params():
                raise ValueError(f"{name}: no parameter; there are {sorted(self.get_params())}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.get_params().items())})"

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn asks of an estimator; only scikit-learn calls this."""
        utils: Any = import_module("sklearn.utils")
        return utils.Tags(
            estimator_type="regressor",
            target_tags=utils.TargetTags(required=True, multi_output=True),
            regressor_tags=utils.RegressorTags(),
            input_tags=utils.InputTags(three_d_array=True),
        )

    def _not_fitted(self) -> Exception:
        """The error of an attribute that comes with `fit`; scikit-learn's own where it is loaded."""
        exceptions: Any = sys.modules.get("sklearn.exceptions")
        kind = ValueError if exceptions is None else exceptions.NotFittedError
        return kind(f"{type(self).__name__}: not fitted; call fit(U, Y) first")


class SequenceRegressor(Estimator):
    """Predictions with an STU and an intercept, in the kind and shape of what is given."""

    @property
    def layer(self) -> STU:
        """The fitted `STU`."""
        raise self._not_fitted()

    @property
    def intercept(self) -> Tensor:
        """(D_out,), added to the output."""
        raise self._not_fitted()

    def predict(self, U: Any, past: tuple[Any, Any] | None = None) -> Any:
        """The roll-out: outputs from inputs alone, after a known past if given.

        Args:
            U: (N, L, D_in) or (L, D_in).
            past: inputs and true outputs of the steps right before, shaped as U and Y.

        Returns:
            (N, L, D_out) or (L, D_out), an array for an array, a tensor for a tensor; without the channel after a fit to
            outputs without it.
        """
        u = self._inputs("U", U)
        state = None
        if past is not None:
            before_u, before_y = self._past(past, len(u))
            state = self.layer.observe(before_u, before_y - self.intercept)
        with torch.no_grad():
            return self._like(U, self.layer(u, state)[0] + self.intercept)

    def predict_next(self, U: Any, Y: Any) -> Any:
        """Predictions of y_t from inputs up to t and true outputs up to t-1; shapes as in `predict`."""
        u, y = self._inputs("U", U), self._outputs("Y", Y)
        with torch.no_grad():
            return self._like(U, self.layer.next_step(u, y - self.intercept) + self.intercept)

    def score(self, U: Any, Y: Any, sample_weight: Any = None) -> float:
        """R² of the roll-out, averaged over outputs, as scikit-learn defines it."""
        given = recordings(U, Y, sample_weight)
        if len(given) > 1:
            raise ValueError(f"U: a list of {len(given)} sequences; it must be one array, of sequences of one length")
        u, y, weights = given[0]
        prediction = torch.as_tensor(self.predict(u)).reshape(-1, y.shape[2])
        weight = torch.ones(len(prediction), 1) if weights is None else weights.reshape(-1, 1)
        y = y.flatten(0, 1)
        spread = (weight * (y - (weight * y).sum(0) / weight.sum()).square()).sum(0)
        return float((1 - (weight * (y - prediction).square()).sum(0) / spread).mean())

    @property
    def _is_flat(self) -> bool:
        return self.__dict__.get("_flat", False)

    def _past(self, past: tuple[Any, Any], count: int) -> tuple[Tensor, Tensor]:
        before = self._inputs("past[0]", past[0]), self._outputs("past[1]", past[1])
        if len(before[0]) != count:
            raise ValueError(f"past[0]: {len(before[0])} sequences; U has {count}")
        return before

    def _inputs(self, name: str, U: Any) -> Tensor:
        layer = self.layer
        u = sequence(name, U)
        if u.shape[2] != layer.d_in:
            raise ValueError(f"{name}: shape {tuple(u.shape)}; it must have {layer.d_in} channels last")
        return u

    def _outputs(self, name: str, Y: Any) -> Tensor:
        if self._is_flat:
            Y = torch.as_tensor(Y)
            Y = Y if Y.ndim > 1 and Y.shape[-1] == 1 else Y[..., None]
        y = sequence(name, Y)
        if y.shape[2] != self.layer.d_out:
            raise ValueError(f"{name}: shape {tuple(y.shape)}; it must have {self.layer.d_out} channels last")
        return y

    def _like(self, template: Any, result: Tensor) -> Any:
        if torch.as_tensor(template).ndim == 2:
            result = result[0]
        return in_kind(template, result[..., 0] if self._is_flat else result)


class LayerRegressor(SequenceRegressor):
    """A given layer and intercept, to predict with.

    Args:
        given_layer: an `STU`.
        given_intercept: (D_out,), zero if None.
    """

    def __init__(self, given_layer: STU, given_intercept: Tensor | None = None) -> None:
        self.given_layer, self.given_intercept = given_layer, given_intercept

    @property
    def layer(self) -> STU:
        """The layer."""
        return self.given_layer

    @property
    def intercept(self) -> Tensor:
        """(D_out,)."""
        return torch.zeros(self.layer.d_out, dtype=torch.float64) if self.given_intercept is None else self.given_intercept


def in_kind(template: Any, result: Tensor) -> Any:
    """A tensor where a tensor was given, else an array."""
    return result if isinstance(template, Tensor) else result.numpy()
