"""From one vector a step to one a sequence, in a form that can be streamed: the pooled past at every step.

Shapes: B sequences, L steps, D channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from torchstu.layers.spectral import exact_dtype
from torchstu.models.backbone import real_steps
from torchstu.models.config import check_choice

PoolingName = Literal["last", "mean", "attention"]


class PoolState(NamedTuple):
    """What pooling remembers, in float64 where there is one; nothing for "last"."""

    total: Tensor
    """(B, D) Σ_s w_s x_s / e^top."""
    weight: Tensor
    """(B, 1) Σ_s w_s / e^top; the steps seen for "mean", where w = 1."""
    top: Tensor
    """(B, 1) the largest log w_s."""


class Pooling(nn.Module, ABC):
    """p_t = Σ_{s≤t} w_s x_s / Σ_{s≤t} w_s."""

    @abstractmethod
    def log_weights(self, x: Tensor) -> Tensor:
        """log w_s of x (..., D): (...)."""

    def initial_state(self, batch_size: int, like: Tensor) -> PoolState:
        """Nothing seen."""
        kind = exact_dtype(like)
        zeros = torch.zeros(batch_size, like.shape[-1] + 1, dtype=kind, device=like.device)
        return PoolState(zeros[:, 1:], zeros[:, :1], torch.full_like(zeros[:, :1], torch.finfo(kind).min))

    def forward(self, x: Tensor, state: PoolState) -> tuple[Tensor, PoolState]:
        """The pooled past at every step of x (B, L, D), and the state after the last."""
        kind = state.total.dtype
        scores = self.log_weights(x).to(kind)[..., None]  # (B, L, 1)
        sums = PoolState(x.to(kind), torch.ones_like(scores), scores)
        shift = 1
        while shift < x.shape[1]:  # sums of 1, 2, 4, … steps up to each
            earlier = PoolState(*(part[:, :-shift] for part in sums))
            later = _joined(earlier, PoolState(*(part[:, shift:] for part in sums)))
            sums = PoolState(*(torch.cat([old[:, :shift], new], dim=1) for old, new in zip(sums, later, strict=True)))
            shift *= 2
        sums = _joined(PoolState(*(part[:, None] for part in state)), sums)
        return (sums.total / sums.weight).to(x.dtype), PoolState(*(part[:, -1] for part in sums))

    def at_end(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """The pooled whole of x (B, L, D), each sequence up to its length: (B, D)."""
        scores = self.log_weights(x)
        if lengths is not None:
            scores = scores.masked_fill(~real_steps(x, lengths), -torch.inf)
            x = x.masked_fill(~real_steps(x, lengths)[..., None], 0)
        return (scores.softmax(1)[..., None] * x).sum(1)


def _joined(a: PoolState, b: PoolState) -> PoolState:
    """The sums of two stretches, relative to the larger of their largest weights."""
    top = torch.maximum(a.top, b.top)
    of_a, of_b = torch.exp(a.top - top), torch.exp(b.top - top)
    return PoolState(a.total * of_a + b.total * of_b, a.weight * of_a + b.weight * of_b, top)


class MeanPooling(Pooling):
    """The mean of the past: w = 1."""

    def log_weights(self, x: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros(x.shape[:-1], dtype=x.dtype, device=x.device)


class AttentionPooling(Pooling):
    """The past weighted by a learned score: w_s = exp(⟨q, x_s⟩ / √D).

    Weights: ``query`` (D,), zero at the start, where it is the mean.
    """

    def __init__(self, width: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(width, device=device, dtype=dtype))

    def log_weights(self, x: Tensor) -> Tensor:
        """The scores."""
        return x @ (self.query / self.query.numel() ** 0.5)


def make_pooling(
    name: PoolingName, width: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Pooling | None:
    """A pooling by its name; None for "last", which leaves each step as it is.

    Raises:
        ValueError: an unknown name.
    """
    check_choice("pooling", name, get_args(PoolingName))
    if name == "last":
        return None
    return MeanPooling() if name == "mean" else AttentionPooling(width, device, dtype)
