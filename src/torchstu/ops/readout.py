"""The read-out of one step: Σ_k x_k M_k, design (5), where the time goes into reading the matrices once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

_LARGE = 2**17
"""Numbers of M from which the sum of rows pays."""


def read_out(x: Tensor, M: Tensor) -> Tensor:
    """Σ_k x_k M_k; x (B, K, D_in), M (K, D_in, D_out) -> (B, D_out).

    One sequence on a CPU reads M at the memory's speed as a weighted sum of its rows, twice as fast as the matrix product.
    """
    plain = M.device.type == "cpu" and M.dtype == torch.float32 and not torch.compiler.is_compiling()
    if plain and len(x) == 1 and M.numel() >= _LARGE and not (torch.is_grad_enabled() and (x.requires_grad or M.requires_grad)):
        rows = torch.arange(x[0].numel(), device=M.device)
        shares = rows[:: -(-len(rows) // torch.get_num_threads())]  # one part of the rows a thread
        return embedding_bag(rows, M.flatten(0, 1), shares, mode="sum", per_sample_weights=x.flatten()).sum(0, keepdim=True)
    return torch.bmm(x.transpose(0, 1), M).sum(0)
