"""What enters a deep model: real signals, tokens or pixels, turned into D channels step by step."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from torchstu.layers.base import check_signal
from torchstu.models.config import check_choice

InputKind = Literal["reals", "tokens", "pixels"]


class Embedding(nn.Module):
    """x_t = W u_t + b for "reals"; row u_t of a table for "tokens"; W (u_t / 127.5 - 1) + b for "pixels".

    Args:
        kind: see above.
        d_in: channels, or the size of the vocabulary.
        d_model: D.
        bias: whether there is a b.
        device, dtype: of the weights.

    Raises:
        ValueError: an unknown kind.
    """

    def __init__(
        self,
        kind: InputKind,
        d_in: int,
        d_model: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_choice("inputs", kind, get_args(InputKind))
        self.kind, self.d_in = kind, d_in
        if kind == "tokens":
            self.table = nn.Embedding(d_in, d_model, device=device, dtype=dtype)
        else:
            self.linear = nn.Linear(d_in, d_model, bias=bias, device=device, dtype=dtype)

    def forward(self, u: Tensor) -> Tensor:
        """u (..., d_in), or (...) of tokens, to (..., D)."""
        if self.kind == "tokens":
            return self.table(u)
        weight = self.linear.weight
        return self.linear(u.to(weight.dtype) / 127.5 - 1 if self.kind == "pixels" else u.to(weight.dtype))

    def check(self, name: str, u: Tensor, ndim: int) -> None:
        """Refuse what cannot be embedded; ``ndim`` is 3 for sequences, 2 for single steps.

        Raises:
            TypeError: a wrong dtype. ValueError: a wrong shape, tokens or pixels out of range.
        """
        if self.kind == "reals":
            check_signal(name, u, self.d_in, ndim)
            return
        if not isinstance(u, Tensor) or u.is_floating_point() or u.is_complex() or u.dtype == torch.bool:
            found = u.dtype if isinstance(u, Tensor) else type(u).__name__
            raise TypeError(f"{name}: {found}; it must be a tensor of integers: the inputs are {self.kind}")
        tokens = self.kind == "tokens"
        shape = ("(B, L)" if ndim == 3 else "(B,)") if tokens else f"(B, {'L, ' * (ndim - 2)}{self.d_in})"
        if u.ndim != ndim - tokens or 0 in u.shape or (not tokens and u.shape[-1] != self.d_in):
            raise ValueError(f"{name}: shape {tuple(u.shape)}; it must be {shape}, with no dimension of 0")
        top = self.d_in if tokens else 256
        if not u.is_meta and (int(u.min()) < 0 or int(u.max()) >= top):
            raise ValueError(f"{name}: values {int(u.min())}..{int(u.max())}; {self.kind} must be 0..{top - 1}")

    def blank(self, batch: int, steps: int, like: Tensor) -> Tensor:
        """Zeros as inputs, (B, L, d_in) or (B, L)."""
        if self.kind == "tokens":
            return torch.zeros(batch, steps, dtype=torch.int64, device=like.device)
        kind = like.real.dtype if like.is_complex() else like.dtype
        return torch.zeros(batch, steps, self.d_in, dtype=torch.uint8 if self.kind == "pixels" else kind, device=like.device)
