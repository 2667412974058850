"""Feedback of past outputs, design (5) and (6): y_t = x_t + Σ_i y_{t-i} M_i."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK = 16
"""Steps that one matrix product of the learned feedback covers."""


def lag2_cumsum(x: Tensor, past: Tensor | None = None) -> Tensor:
    """y_t = y_{t-2} + x_t, design (5): two interleaved cumulative sums.

    Args:
        x: (B, T, D).
        past: the two outputs before, most recent first, (B, 2, D); None means zero.
    """
    batch, steps, channels = x.shape
    pairs = pad(x, (0, 0, 0, steps % 2)).view(batch, -1, 2, channels)
    total = pairs.cumsum(dim=1)
    if past is not None:
        total = total + past.flip(1)[:, None]
    return total.reshape(batch, -1, channels)[:, :steps]


def lag2_difference(y: Tensor) -> Tensor:
    """x_t = y_t - y_{t-2}, the inverse of `lag2_cumsum`."""
    return y - pad(y, (0, 0, 2, 0))[:, : y.shape[1]]


def lagged_sum(y: Tensor, M: Tensor, past: Tensor | None = None) -> Tensor:
    """Σ_i y_{t-i} M_i for given outputs, i = 1..k; y (B, T, D), M (k, D, E), past (B, k, D) most recent first."""
    lags, steps = M.shape[0], y.shape[1]
    history = y.new_zeros(y.shape[0], lags, y.shape[2]) if past is None else past.flip(1)
    known = torch.cat([history, y], dim=1)
    windows = [known[:, lags - i : lags - i + steps] for i in range(1, lags + 1)]
    return torch.cat(windows, dim=2) @ M.flatten(0, 1)


def feedback(x: Tensor, M: Tensor, past: Tensor | None = None) -> Tensor:
    """y_t = x_t + Σ_{i=1}^{k} y_{t-i} M_i, design (6), by blocks instead of by steps.

    Inside a block of C steps y is a lower-triangular Toeplitz product with the impulse response of the feedback; what a block
    hands on is its last k outputs, one small matrix product a block.

    Args:
        x: (B, T, D).
        M: (k, D, D), index 0 the most recent lag.
        past: the k outputs before, most recent first, (B, k, D); None means zero.
    """
    batch, steps, channels = x.shape
    lags = M.shape[0]
    block = min(max(BLOCK, lags), max(steps, lags))
    blocks = -(-steps // block)
    toeplitz = _toeplitz(_impulse_response(M, block))  # (C·D, C·D): row (s, in), column (t, out)
    rows = pad(x, (0, 0, 0, blocks * block - steps)).reshape(batch, blocks, block * channels)
    forced = rows @ toeplitz  # (B, n, C·D)
    carry_to_block = _carry_drive(M, block) @ toeplitz  # (k·D, C·D)
    width = lags * channels
    carry_to_carry = carry_to_block[:, -width:]
    carry = forced.new_zeros(batch, width) if past is None else past.flip(1).reshape(batch, width)
    carries = []
    for end in forced[..., -width:].unbind(1):
        carries.append(carry)
        carry = end + carry @ carry_to_carry
    result = forced + torch.stack(carries, dim=1) @ carry_to_block
    return result.view(batch, -1, channels)[:, :steps]


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
