"""Feedback of past outputs, design (5) and (6): y_t = x_t + Σ_i y_{t-i} M_i."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

_OVERHEAD = 2.4e5
"""Multiplications by which one step of the carry is slower than its arithmetic (measured on a CPU)."""
_FIXED_BLOCK = 64
"""Steps of a block of `fixed_feedback`; 16 to 128 differ by less than a fifth (measured, 1000 channels, 8192 steps)."""


def lag2_cumsum(x: Tensor, past: Tensor | None = None) -> Tensor:
    """y_t = y_{t-2} + x_t, design (5): two interleaved cumulative sums.

    Args:
        x: (B, T, D).
        past: the two outputs before, most recent first, (B, 2, D); None means zero.
    """
    batch, steps, channels = x.shape
    pairs = pad(x, (0, 0, 0, steps % 2)).reshape(batch, -1, 2, channels)
    total = pairs.cumsum(dim=1)
    if past is not None:
        total = total + past.flip(1)[:, None]
    return total.reshape(batch, -1, channels)[:, :steps]


def lag2_difference(y: Tensor) -> Tensor:
    """x_t = y_t - y_{t-2}, the inverse of `lag2_cumsum`."""
    return y - pad(y, (0, 0, 2, 0))[:, : y.shape[1]]


def fixed_feedback(x: Tensor, coefficients: Sequence[float], past: Tensor | None = None) -> Tensor:
    """y_t = x_t + Σ_{j=1}^{n} a_j y_{t-j}, the same for every channel, design (9); a = (0, 1) is `lag2_cumsum`.

    By blocks: inside a block one triangular Toeplitz product along time, between blocks the last n outputs.

    Args:
        x: (B, T, D).
        coefficients: a, n numbers, that of the most recent lag first.
        past: the n outputs before, most recent first, (B, n, D); None means zero.
    """
    coefficients = tuple(float(a) for a in coefficients)
    if coefficients == (0.0, 1.0):
        return lag2_cumsum(x, past)
    (batch, steps, channels), lags = x.shape, len(coefficients)
    if not any(coefficients):
        return x
    block = max(lags, min(_FIXED_BLOCK, steps))
    blocks = -(-steps // block)
    toeplitz, drive = _scalar_response(coefficients, block)
    toeplitz, drive = toeplitz.to(x), drive.to(x)
    forced = toeplitz @ pad(x, (0, 0, 0, blocks * block - steps)).reshape(batch, blocks, block, channels)
    carry = x.new_zeros(batch, lags, channels) if past is None else past.flip(1)  # oldest first
    last, carries = drive[block - lags :], []
    for end in forced[:, :, block - lags :].unbind(1):
        carries.append(carry)
        carry = end + last @ carry
    result = forced + drive @ torch.stack(carries, dim=1)
    return result.reshape(batch, -1, channels)[:, :steps]


def fixed_sum(past: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Σ_j a_j y_{t-j}: one step of `fixed_feedback` without input; past (B, n, D), most recent first."""
    terms = [past[:, j] if a == 1 else a * past[:, j] for j, a in enumerate(coefficients) if a]
    return sum(terms[1:], terms[0]) if terms else torch.zeros_like(past[:, 0])


def fixed_innovation(y: Tensor, coefficients: Sequence[float], past: Tensor | None = None) -> Tensor:
    """x_t = y_t - Σ_j a_j y_{t-j}, the inverse of `fixed_feedback`; arguments as there."""
    lags, steps = len(coefficients), y.shape[1]
    known = pad(y, (0, 0, lags, 0)) if past is None else torch.cat([past.flip(1), y], dim=1)
    x = y
    for j, a in enumerate(coefficients, start=1):
        if a:
            x = x - a * known[:, lags - j : lags - j + steps]
    return x


def _scalar_response(coefficients: tuple[float, ...], count: int) -> tuple[Tensor, Tensor]:
    """Inside a block: what inputs (C, C) and the outputs before it, oldest first (C, n), bring to its steps; float64."""
    response, lags = [1.0], len(coefficients)
    for t in range(1, count):
        response.append(sum(a * response[t - j] for j, a in enumerate(coefficients[:t], start=1)))
    taps = torch.tensor(response, dtype=torch.float64)
    lag = torch.arange(count)[:, None] - torch.arange(count)
    toeplitz = torch.where(lag >= 0, taps[lag.clamp(min=0)], 0.0)
    reach = torch.zeros(count, lags, dtype=torch.float64)  # the output of age i, oldest first, in the equation of step t
    for age in range(1, lags + 1):
        for t in range(min(lags - age + 1, count)):
            reach[t, lags - age] = coefficients[t + age - 1]
    return toeplitz, toeplitz @ reach


def lag_windows(known: Tensor, lags: int, steps: int) -> Tensor:
    """Rows t, t-1, …, t-lags+1 side by side for the last ``steps`` times t; (B, T, D) -> (B, steps, lags·D)."""
    start = known.shape[1] - steps
    return torch.cat([known[:, start - i : start - i + steps] for i in range(lags)], dim=2)


def lagged_sum(y: Tensor, M: Tensor, past: Tensor | None = None) -> Tensor:
    """Σ_i y_{t-i} M_i for given outputs, i = 1..k; y (B, T, D), M (k, D, E), past (B, k, D) most recent first."""
    past = y.new_zeros(y.shape[0], M.shape[0], y.shape[2]) if past is None else past
    known = torch.cat([past.flip(1), y[:, :-1]], dim=1)
    return lag_windows(known, M.shape[0], y.shape[1]) @ M.flatten(0, 1)


def feedback(x: Tensor, M: Tensor, past: Tensor | None = None) -> Tensor:
    """y_t = x_t + Σ_{i=1}^{k} y_{t-i} M_i, design (6), by blocks instead of by steps.

    Inside a block of C steps y is a lower-triangular Toeplitz product with the impulse response of the feedback; what a block
    hands on is its last k outputs, one small matrix product a block. The gradient of x is the same feedback, transposed and
    backwards in time; that of M a correlation of it with y.

    Args:
        x: (B, T, D).
        M: (k, D, D), index 0 the most recent lag.
        past: the k outputs before, most recent first, (B, k, D); None means zero.
    """
    past = x.new_zeros(x.shape[0], M.shape[0], x.shape[2]) if past is None else past
    return _Feedback.apply(x, M, past)


class _Feedback(torch.autograd.Function):
    """`feedback` with a past."""

    @staticmethod
    def forward(x: Tensor, M: Tensor, past: Tensor) -> Tensor:
        return _solve(x, M, past)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output, *inputs[1:])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        y, M, past = ctx.saved_tensors
        lags, steps = len(M), grad.shape[1]
        grad_x = _solve(grad.flip(1), M.mT, torch.zeros_like(past)).flip(1)
        grad_M = grad_past = None
        if ctx.needs_input_grad[1]:
            windows = lag_windows(torch.cat([past.flip(1), y[:, :-1]], dim=1), lags, steps)
            grad_M = (windows.flatten(0, 1).mT @ grad_x.flatten(0, 1)).view_as(M)
        if ctx.needs_input_grad[2]:
            first = pad(grad_x[:, :lags], (0, 0, 0, max(0, lags - steps)))  # the past acts on the first k steps only
            parts = [torch.einsum("bto,tio->bi", first[:, : lags - age], M[age:]) for age in range(lags)]
            grad_past = torch.stack(parts, dim=1)
        return grad_x, grad_M, grad_past


def _block_size(batch: int, steps: int, lags: int, channels: int) -> int:
    """C where the 2 C D² operations a step of the Toeplitz product cost what T/C steps of the carry do in overhead."""
    best = math.sqrt(_OVERHEAD / (batch * channels**2))
    size = 2 ** round(math.log2(min(max(best, 1), 64)))
    return min(max(size, lags), max(steps, lags))


def _solve(x: Tensor, M: Tensor, past: Tensor) -> Tensor:
    (batch, steps, channels), lags = x.shape, len(M)
    block = _block_size(batch, steps, lags, channels)
    blocks = -(-steps // block)
    toeplitz = _toeplitz(_impulse_response(M, block))  # (C·D, C·D): row (s, in), column (t, out)
    forced = pad(x, (0, 0, 0, blocks * block - steps)).reshape(batch, blocks, block * channels) @ toeplitz
    carry_to_block = _carry_drive(M, block) @ toeplitz  # (k·D, C·D)
    width = lags * channels
    carry_to_carry = carry_to_block[:, -width:].contiguous()
    carry, carries = past.flip(1).reshape(batch, width), []
    for end in forced[..., -width:].unbind(1):
        carries.append(carry)
        carry = torch.addmm(end, carry, carry_to_carry)
    result = forced + torch.stack(carries, dim=1) @ carry_to_block
    return result.reshape(batch, -1, channels)[:, :steps]


def _impulse_response(M: Tensor, count: int) -> Tensor:
    """G_0 = I, G_t = Σ_i G_{t-i} M_i; (count, D, D)."""
    response = [torch.eye(M.shape[1], dtype=M.dtype, device=M.device)]
    for t in range(1, count):
        reach = min(t, len(M))
        recent = torch.cat(response[::-1][:reach], dim=1)  # G_{t-1}, G_{t-2}, …
        response.append(recent @ M[:reach].flatten(0, 1))
    return torch.stack(response)


def _toeplitz(response: Tensor) -> Tensor:
    """Blocks G_{t-s} at row s, column t, zero below; (C·D, C·D)."""
    count, d, _ = response.shape
    shifted = pad(response, (0, 0, 0, 0, count - 1, 0)).unfold(0, count, 1)  # (C, D, D, C): window w is G_{t-(C-1-w)}
    return shifted.flip(0).permute(0, 1, 3, 2).reshape(count * d, count * d)


def _carry_drive(M: Tensor, count: int) -> Tensor:
    """What the k outputs before a block feed into its steps, oldest output first: (k·D, C·D)."""
    lags, d, _ = M.shape
    rows = [pad(M[age - 1 :], (0, 0, 0, 0, 0, count))[:count] for age in range(lags, 0, -1)]  # (C, D, D): step s, lag s + age
    return torch.stack(rows).permute(0, 2, 1, 3).reshape(lags * d, count * d)
