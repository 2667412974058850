"""Diagonal linear recurrences x_t = λ x_{t-1} + v_t, the engine of the LRU and its relatives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK = 32


def diagonal_scan(log_lambda: Tensor, v: Tensor, past: Tensor | None = None) -> Tensor:
    """x_t = exp(log λ) x_{t-1} + v_t by blocks: inside a block a Toeplitz product, between blocks one carry.

    Args:
        log_lambda: (N,) complex, real part at most 0.
        v: (B, T, N) complex.
        past: x_0, (B, N) complex; None means zero.

    Returns:
        (B, T, N), all states.
    """
    batch, steps, states = v.shape
    block = min(BLOCK, steps)
    blocks = -(-steps // block)
    time = torch.arange(block, device=v.device)
    lag = time[:, None] - time  # (t, s)
    decay = torch.exp(log_lambda[:, None] * torch.arange(block + 1, device=v.device))  # (N, C+1)
    toeplitz = decay[:, lag.clamp(min=0)] * (lag >= 0)  # (N, t, s)
    columns = pad(v, (0, 0, 0, blocks * block - steps)).view(batch * blocks, block, states)
    local = torch.bmm(toeplitz, columns.permute(2, 1, 0)).view(states, block, batch, blocks)
    carry = v.new_zeros(states, batch) if past is None else past.mT
    carries, jump = [], decay[:, block, None]
    for end in local[:, -1].unbind(-1):
        carries.append(carry)
        carry = end + jump * carry
    x = local + decay[:, 1:, None, None] * torch.stack(carries, dim=-1)[:, None]  # (N, C, B, n)
    return x.permute(2, 3, 1, 0).reshape(batch, -1, states)[:, :steps]
