"""What users hand to a fit, as batches of sequences of equal length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchstu.learn.least_squares import sequence


class Recording(NamedTuple):
    """Sequences of one length."""

    u: Tensor  # (N, T, D_in) float64
    y: Tensor  # (N, T, D_out) float64, NaN where missing
    weights: Tensor | None  # (N, T), at least 0


def recordings(U: Any, Y: Any, sample_weight: Any = None, *, missing: bool = False) -> list[Recording]:
    """Inputs and outputs, checked against each other.

    Args:
        U: (N, L, D_in), (L, D_in), or a list of (L_i, D_in) for sequences of unequal length.
        Y: as U, with D_out; the channel may be left out where it is one.
        sample_weight: (N,), (N, L), or (L,) beside one sequence; a list of numbers or of (L_i,) beside a list. At least 0.
        missing: whether NaN in Y stands for a missing output.

    Raises:
        TypeError: values that are not real numbers.
        ValueError: shapes that do not fit, values not finite, negative weights.
    """
    if _is_ragged(U):
        return _ragged(U, Y, sample_weight, missing)
    u, y = sequence("U", U), _outputs("Y", Y, U, missing)
    if u.shape[:2] != y.shape[:2]:
        raise ValueError(f"Y: shape {tuple(y.shape)}; beside U {tuple(u.shape)} it must have as many sequences and steps")
    return [Recording(u, y, _weights(sample_weight, u))]


def batches(U: Any) -> Iterator[tuple[Any, Any, Any]]:
    """(U, Y, sample_weight or None) of every batch of an iterable.

    Raises:
        ValueError: an array, which is no iterable of batches; a batch of another form.
    """
    if isinstance(U, (np.ndarray, Tensor)) or not isinstance(U, Iterable):
        raise ValueError(
            "Y: None; SpectralRegressor requires y to be passed, but the target y is None "
            "(or U must be an iterable of batches (U, Y))"
        )
    for batch in U:
        if not isinstance(batch, (list, tuple)) or len(batch) not in (2, 3):
            raise ValueError(f"U: a batch of {type(batch).__name__}; it must be (U, Y) or (U, Y, sample_weight)")
        yield batch[0], batch[1], batch[2] if len(batch) == 3 else None


def _is_ragged(U: Any) -> bool:
    """A list of matrices, rather than one array written as lists."""
    return isinstance(U, (list, tuple)) and len(U) > 0 and getattr(U[0], "ndim", 0) == 2


def _ragged(U: Sequence[Any], Y: Any, sample_weight: Any, missing: bool) -> list[Recording]:
    if not isinstance(Y, (list, tuple)) or len(Y) != len(U):
        many = f"{len(Y)} of them" if isinstance(Y, (list, tuple)) else type(Y).__name__
        raise ValueError(f"Y: {many}; beside a list of {len(U)} inputs it must be a list of as many outputs")
    if sample_weight is not None and len(sample_weight) != len(U):
        raise ValueError(f"sample_weight: {len(sample_weight)} of them; there are {len(U)} sequences")
    result: list[Recording] = []
    for i, (one_u, one_y) in enumerate(zip(U, Y, strict=True)):
        u, y = sequence(f"U[{i}]", one_u), _outputs(f"Y[{i}]", one_y, one_u, missing)
        if u.shape[:2] != y.shape[:2]:
            raise ValueError(
                f"Y[{i}]: shape {tuple(y.shape[1:])}; beside U[{i}] {tuple(u.shape[1:])} it must have as many steps"
            )
        first = result[0] if result else None
        if first is not None and (u.shape[2], y.shape[2]) != (first.u.shape[2], first.y.shape[2]):
            raise ValueError(
                f"U[{i}], Y[{i}]: {u.shape[2]} and {y.shape[2]} channels; all sequences must have as many as the first"
            )
        weight = None
        if sample_weight is not None:
            own = np.asarray(sample_weight[i], dtype=np.float64)
            weight = _weights(np.broadcast_to(own, (u.shape[1],)) if own.ndim == 0 else own, u)
        result.append(Recording(u, y, weight))
    return result


def without_channel(U: Any, Y: Any) -> bool:
    """Whether outputs come without the axis of their one channel."""
    if _is_ragged(U):
        U, Y = U[0], Y[0]
    dimensions = [x.ndim if hasattr(x, "ndim") else np.ndim(x) for x in (U, Y)]
    return dimensions[1] == dimensions[0] - 1


def _outputs(name: str, Y: Any, U: Any, missing: bool) -> Tensor:
    """Outputs; a channel that was left out is put back."""
    if without_channel(U, Y):
        Y = Y[..., None] if isinstance(Y, Tensor) else np.asarray(Y)[..., None]
    return sequence(name, Y, missing=missing)


def _weights(value: Any, u: Tensor) -> Tensor | None:
    if value is None:
        return None
    weights = value.detach().double() if isinstance(value, Tensor) else torch.as_tensor(np.array(value, dtype=np.float64))
    count, steps = u.shape[:2]
    if weights.shape == (count,) and count > 1:
        weights = weights[:, None].expand(count, steps)
    if weights.shape == (steps,) and count == 1:
        weights = weights[None]
    if weights.shape != (count, steps):
        raise ValueError(
            f"sample_weight: shape {tuple(weights.shape)}; it must be ({count},) or ({count}, {steps}), "
            "one number a sequence or a step"
        )
    if not torch.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("sample_weight: has values that are negative or not finite")
    return weights
