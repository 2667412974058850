"""The naive loops that define the fast operations. Slow on purpose; the tests hold the fast ones against them."""

from __future__ import annotations

import torch
from torch import Tensor


def basis_convolution(u: Tensor, taps: Tensor, plus: Tensor, minus: Tensor | None = None) -> Tensor:
    """Twin of `torchstu.ops.convolution.basis_convolution`: the double sum over times and lags."""
    minus = torch.zeros_like(plus) if minus is None else minus
    outputs = []
    for t in range(u.shape[1]):
        y = u.new_zeros(u.shape[0], plus.shape[2])
        for i in range(t + 1):
            kernel = torch.einsum("j,jio->io", taps[i], plus + (-1) ** i * minus)
            y = y + u[:, t - i] @ kernel
        outputs.append(y)
    return torch.stack(outputs, dim=1)


def channel_convolution(u: Tensor, kernel: Tensor) -> Tensor:
    """Twin of `torchstu.ops.convolution.channel_convolution`."""
    return torch.stack([(u[:, : t + 1].flip(1) * kernel[: t + 1]).sum(1) for t in range(u.shape[1])], dim=1)


def features(u: Tensor, taps: Tensor) -> Tensor:
    """Twin of `torchstu.ops.convolution.features`."""
    steps = range(u.shape[1])
    return torch.stack([torch.einsum("bsd,sj->bjd", u[:, : t + 1].flip(1), taps[: t + 1]) for t in steps], dim=1)


def feedback(x: Tensor, M: Tensor, past: Tensor | None = None) -> Tensor:
    """Twin of `torchstu.ops.autoregression.feedback` (and, with M_2 = I alone, of `lag2_cumsum`): a loop over time."""
    lags = M.shape[0]
    history = list((x.new_zeros(x.shape[0], lags, x.shape[2]) if past is None else past).unbind(1))  # most recent first
    outputs = []
    for t in range(x.shape[1]):
        y = x[:, t] + sum(history[i] @ M[i] for i in range(lags))
        history = [y, *history[:-1]]
        outputs.append(y)
    return torch.stack(outputs, dim=1)


def diagonal_scan(log_lambda: Tensor, v: Tensor, past: Tensor | None = None) -> Tensor:
    """Twin of `torchstu.ops.scan.diagonal_scan`: a loop over time."""
    x = torch.zeros_like(v[:, 0]) if past is None else past
    outputs = []
    for t in range(v.shape[1]):
        x = torch.exp(log_lambda) * x + v[:, t]
        outputs.append(x)
    return torch.stack(outputs, dim=1)


def recurrence(A: Tensor, b: Tensor, x: Tensor, w: Tensor) -> Tensor:
    """All states of x_t = A x_{t-1} + b w_t; A (R, R), b (R,), x (B, R, D), w (B, T, D) -> (B, T, R, D)."""
    states = []
    for t in range(w.shape[1]):
        x = A @ x + b[:, None] * w[:, t, None, :]
        states.append(x)
    return torch.stack(states, dim=1)


def bank_convolution(u: Tensor, x: Tensor, A: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Twin of `torchstu.ops.blocks.block_convolution`: the recurrence (8) of every bank a step at a time, read out.

    u (B, T, D_in); x (B, banks, R, D_in) before the first step; A (R, R), b (R,), states scaled by σ^{1/4}; weights
    (banks, K, D_in, D_out) or, channel by channel, (banks, K, D).
    """
    outputs = []
    for bank, weight in enumerate(weights):
        states = recurrence((-1) ** bank * A, b, x[:, bank], u)[:, :, : weights.shape[1]]  # (B, T, K, D_in)
        outputs.append(torch.einsum("btkd,kdo->bto" if weight.ndim == 3 else "btkd,kd->btd", states, weight))
    return torch.stack(outputs).sum(0)


def negacyclic_convolution(u: Tensor, taps: Tensor, weights: Tensor) -> Tensor:
    """Twin of `torchstu.ops.blocks.negacyclic_convolution`: the double sum, the sign negative where t - s wraps around.

    u (N, C, D_in); taps (C, K), of which even ones multiply weights[0], odd ones weights[1]; weights (2, K, D_in, D_out) or,
    channel by channel, (2, K, D).
    """
    block, outputs = len(taps), []
    for t in range(block):
        terms = []
        for s in range(block):
            kernel = torch.tensordot(taps[s], weights[s % 2], dims=1)
            term = u[:, t - s] @ kernel if kernel.ndim == 2 else u[:, t - s] * kernel
            terms.append(term if s <= t else -term)
        outputs.append(torch.stack(terms).sum(0))
    return torch.stack(outputs, dim=1)
