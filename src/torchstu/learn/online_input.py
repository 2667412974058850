"""What an online learner is given: numbers with missing ones, options, saved states."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np
import torch
from torch import Tensor


def real_array(name: str, value: Any) -> np.ndarray:
    """An array or tensor in float64.

    Raises:
        TypeError: not real numbers.
    """
    if isinstance(value, Tensor):
        if value.is_complex() or value.dtype == torch.bool:
            raise TypeError(f"{name}: dtype {value.dtype}; it must be real numbers")
        value = value.detach().cpu().double().numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name}: dtype {array.dtype}; it must be real numbers")
    return array.astype(np.float64)


def check_finite(name: str, array: np.ndarray, missing: bool) -> np.ndarray:
    """The array, if its values are finite, or with ``missing`` finite or NaN.

    Raises:
        ValueError: they are not; it says where.
    """
    bad = np.isinf(array) if missing else ~np.isfinite(array)
    if bad.any():
        what = "is infinite" if missing else "is not finite"
        raise ValueError(f"{name}: has a value that {what}, first at {tuple(int(i) for i in np.argwhere(bad)[0])}")
    return array


def positive_number(name: str, value: Any) -> float:
    """A positive, finite number.

    Raises:
        TypeError: no number. ValueError: not positive, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: {value!r}; it must be a positive number")
    if not 0 < float(value) < math.inf:
        raise ValueError(f"{name}: {value!r}; it must be positive and finite")
    return float(value)


def check_state(state: Any, own: dict[str, Any]) -> dict[str, Any]:
    """A saved state with tensors as arrays, if it has the names, shapes, dtypes and types of one's own.

    Raises:
        ValueError: it has not.
    """
    if not isinstance(state, dict) or set(state) != set(own):
        found = sorted(state) if isinstance(state, dict) else type(state).__name__
        raise ValueError(f"state: {found}; it must have {sorted(own)}")
    for name, value in own.items():
        given = state[name]
        if isinstance(value, Tensor):
            if not isinstance(given, Tensor) or given.shape != value.shape or given.dtype != value.dtype:
                what = f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else repr(given)
                raise ValueError(f"state: {name!r} is {what}; here it must be {value.dtype} {tuple(value.shape)}")
        elif type(given) is not type(value):
            raise ValueError(f"state: {name!r} is {given!r}; it must be of type {type(value).__name__}")
    return {name: x.numpy().copy() if isinstance(x, Tensor) else x for name, x in state.items()}


def step_of(name: str, value: Any, batch_size: int | None, width: int, missing: bool = False) -> np.ndarray:
    """One step, (n, width), of (width,) or with ``batch_size`` n (n, width).

    Raises:
        ValueError: another shape, or values not finite. TypeError: not numbers.
    """
    shape = (width,) if batch_size is None else (batch_size, width)
    array = real_array(name, value)
    if array.shape != shape:
        raise ValueError(f"{name}: shape {array.shape}; it must be {shape}")
    return check_finite(name, array, missing).reshape(-1, width)


def steps_of(name: str, value: Any, batch_size: int | None, width: int, missing: bool = False) -> np.ndarray:
    """Steps, (n, T, width), of (T, width) or with ``batch_size`` n (n, T, width).

    Raises:
        ValueError: another shape, or values not finite. TypeError: not numbers.
    """
    array = real_array(name, value)
    batch = () if batch_size is None else (batch_size,)
    expected = ", ".join([*map(str, batch), "T", str(width)])
    if array.ndim != len(batch) + 2 or array.shape[: len(batch)] != batch or array.shape[-1] != width or not array.size:
        raise ValueError(f"{name}: shape {array.shape}; it must be ({expected}), T at least 1")
    return check_finite(name, array, missing).reshape(-1, *array.shape[-2:])
