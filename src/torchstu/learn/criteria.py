"""What gradient training minimizes, and what it records of data held out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import TensorDataset

from torchstu.data.sequences import IGNORED
from torchstu.layers.base import Mixer
from torchstu.learn.diagnostics import relative_error
from torchstu.learn.least_squares import sequence


@dataclass(frozen=True)
class Criterion:
    """What is minimized, and what is recorded.

    Attributes:
        dataset: (mixer, U, Y, dtype) to checked tensors.
        loss: (outputs, targets) to a scalar.
        error: (outputs, targets) of all validation data to a number.
    """

    dataset: Callable[[Mixer, Any, Any, torch.dtype], TensorDataset]
    loss: Callable[[Tensor, Tensor], Tensor]
    error: Callable[[Tensor, Tensor], float]


def signal_dataset(mixer: Mixer, U: Any, Y: Any, dtype: torch.dtype) -> TensorDataset:
    """Inputs (N, L, D_in) and targets (N, L, D_out).

    Raises:
        ValueError: shapes that do not fit, values not finite.
    """
    u, y = sequence("U", U), sequence("Y", Y)
    if u.shape[2] != mixer.d_in or y.shape != (*u.shape[:2], mixer.d_out):
        raise ValueError(
            f"U, Y: shapes {tuple(u.shape)}, {tuple(y.shape)}; they must be (N, L, {mixer.d_in}) and (N, L, {mixer.d_out})"
        )
    return TensorDataset(u.to(dtype), y.to(dtype))


def label_dataset(mixer: Mixer, U: Any, Y: Any, dtype: torch.dtype) -> TensorDataset:
    """Inputs (N, L, D_in) and labels (N, L), 0..D_out-1 or -100 for nothing to predict.

    Raises:
        TypeError: labels that are not integers. ValueError: shapes or labels that do not fit, no label at all.
    """
    u, labels = sequence("U", U), torch.as_tensor(Y)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"Y: dtype {labels.dtype}; with loss='cross_entropy' it must be integers")
    if u.shape[2] != mixer.d_in or labels.shape != u.shape[:2]:
        raise ValueError(f"U, Y: shapes {tuple(u.shape)}, {tuple(labels.shape)}; they must be (N, L, {mixer.d_in}) and (N, L)")
    counted = labels[labels != IGNORED]
    if not len(counted):
        raise ValueError(f"Y: {IGNORED} everywhere; at least one label must be counted")
    if counted.min() < 0 or counted.max() >= mixer.d_out:
        raise ValueError(
            f"Y: labels {int(counted.min())}..{int(counted.max())}; they must be 0..{mixer.d_out - 1} or {IGNORED}"
        )
    return TensorDataset(u.to(dtype), labels.detach().long().cpu())


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Over the labels that count; 0 where a batch has none."""
    total = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def error_rate(logits: Tensor, labels: Tensor) -> float:
    """The share of wrong labels among those that count; inf where a logit is not finite."""
    if not torch.isfinite(logits).all():
        return math.inf
    counted = labels != IGNORED
    return float((logits.argmax(-1) != labels)[counted].double().mean())


CRITERIA: dict[str, Criterion] = {
    "l2": Criterion(signal_dataset, mse_loss, relative_error),
    "cross_entropy": Criterion(label_dataset, mean_cross_entropy, error_rate),
}
