"""The read-out of one step: Σ_k x_k M_k, design (5), where the time goes into reading the matrices once.

With H heads, channels are H groups that do not mix: M (K, D_in, D_out/H) has the rows of group h for the outputs of group h.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

_LARGE = 2**17
"""Numbers of M from which the sum of rows pays."""


def read_out(x: Tensor, M: Tensor, heads: int = 1) -> Tensor:
    """Σ_k x_k M_k; x (B, K, D_in), M (K, D_in, D_out/H) -> (B, D_out).

    One sequence on a CPU reads M at the memory's speed as a weighted sum of its rows, twice as fast as the matrix product.
    """
    if heads > 1:
        grouped = x.unflatten(2, (heads, -1)).permute(2, 0, 1, 3).flatten(2)  # (H, B, K·D_in/H)
        y = torch.bmm(grouped, M.unflatten(1, (heads, -1)).transpose(0, 1).flatten(1, 2))
        return y.transpose(0, 1).flatten(1)
    plain = M.device.type == "cpu" and M.dtype == torch.float32 and not torch.compiler.is_compiling()
    if plain and len(x) == 1 and M.numel() >= _LARGE and not (torch.is_grad_enabled() and (x.requires_grad or M.requires_grad)):
        rows = torch.arange(x[0].numel(), device=M.device)
        shares = rows[:: -(-len(rows) // torch.get_num_threads())]  # one part of the rows a thread
        return embedding_bag(rows, M.flatten(0, 1), shares, mode="sum", per_sample_weights=x.flatten()).sum(0, keepdim=True)
    return torch.bmm(x.transpose(0, 1), M).sum(0)


def block_diagonal(M: Tensor, heads: int) -> Tensor:
    """The matrices of H groups side by side as whole ones: (K, D_in, D_out/H) -> (K, D_in, D_out), zero between groups."""
    if heads == 1:
        return M
    blocks = M.unflatten(1, (heads, -1))  # (K, H, D_in/H, D_out/H)
    same = torch.eye(heads, dtype=M.dtype, device=M.device)[:, None, :, None]
    return (blocks[:, :, :, None] * same).flatten(3).flatten(1, 2)
