"""What a regressor was asked for, checked."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any, Literal

from torchstu.spectral.priors import positive_int

Auto = Literal["auto"]


@dataclass(frozen=True)
class Options:
    """What a regressor was asked for, checked."""

    num_filters: int | Auto
    length: int | None
    layer: dict[str, Any]  # further arguments of the STU
    rollout: bool
    intercept: bool
    ridge: float | Auto
    ridge_power: float | Auto
    tail: float | Auto

    @property
    def chooses(self) -> bool:
        """Whether something is chosen by cross-validation."""
        return self.ridge == "auto" or self.num_filters == "auto"


def options_of(regressor: Any) -> Options:
    """The constructor's arguments of a `SpectralRegressor`.

    Raises:
        ValueError, TypeError: one that is out of range.
    """
    if regressor.objective not in ("rollout", "next"):
        raise ValueError(f"objective: {regressor.objective!r}; it must be 'rollout' or 'next'")
    if regressor.objective == "rollout" and regressor.autoregression == "learned":
        raise ValueError("objective: 'rollout' with autoregression='learned' is not convex; use objective='next'")
    if regressor.missing not in ("error", "mask"):
        raise ValueError(f"missing: {regressor.missing!r}; it must be 'error' or 'mask'")
    names = ("prior", "banks", "autoregression", "output_lags", "input_lags", "preconditioning")
    return Options(
        num_filters="auto" if regressor.num_filters == "auto" else positive_int("num_filters", regressor.num_filters),
        length=None if regressor.length is None else positive_int("length", regressor.length),
        layer={name: getattr(regressor, name) for name in names},
        rollout=regressor.objective == "rollout",
        intercept=bool(regressor.fit_intercept),
        ridge=_strength("ridge", regressor.ridge),
        ridge_power=_strength("ridge_power", regressor.ridge_power),
        tail=_strength("tail_penalty", regressor.tail_penalty),
    )


def _strength(name: str, value: Any) -> float | Auto:
    if isinstance(value, str) and value == "auto":
        return "auto"
    if not (isinstance(value, numbers.Real) and not isinstance(value, bool) and 0 <= float(value) < math.inf):
        raise ValueError(f"{name}: {value!r}; it must be 'auto' or a finite number of at least 0")
    return float(value)


def share(name: str, value: Any) -> float:
    """A number in (0, 1).

    Raises:
        ValueError: another value.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < float(value) < 1:
        raise ValueError(f"{name}: {value!r}; it must be a number between 0 and 1")
    return float(value)
