"""Single-input linear recurrences x_t = A x_{t-1} + b w_t run on many channels at once, design (8)."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 128


def powers(A: Tensor, columns: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """A^j X for j = 0..count-1, and A^count, by doubling; A (R, R), X (R, M) -> (count, R, M), (R, R)."""
    stack, power, size = columns[None], A, 1
    result = torch.eye(len(A), dtype=A.dtype, device=A.device)
    remaining = count
    while True:
        if remaining & 1:
            result = result @ power
        remaining >>= 1
        if size < count:
            stack, size = torch.cat([stack, power @ stack]), 2 * size
        if not remaining and size >= count:
            return stack[:count], result
        power = power @ power


def absorb(A: Tensor, b: Tensor, x: Tensor, w: Tensor) -> Tensor:
    """The state after the inputs w: x_t = A x_{t-1} + b w_t; x (B, R, D), w (B, T, D) -> (B, R, D), in the dtype of A.

    Blocks of `BLOCK` steps: memory does not grow with T.
    """
    x = x.to(A.dtype)
    if not w.shape[1]:
        return x
    block = min(BLOCK, w.shape[1])
    response, jump = powers(A, b[:, None], block)  # (C, R, 1), (R, R)
    response = response[..., 0].flip(0).T  # (R, C), newest input last
    first = w.shape[1] % block
    head, *blocks = w.split([first] + [block] * (w.shape[1] // block), dim=1)
    if first:
        _, short = powers(A, b[:, None], first)
        x = short @ x + response[:, block - first :] @ head.to(A.dtype)
    for part in blocks:
        x = jump @ x + response @ part.to(A.dtype)
    return x
