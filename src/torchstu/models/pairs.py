"""Two sequences, one question: a classifier of pairs, as for document retrieval."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from torchstu.models.ssm import SpectralSSM


class PairClassifier(nn.Module):
    """logits = W₂ GELU(W₁ (z₁, z₂, z₁ ∘ z₂, z₁ - z₂) + b₁) + b₂,  z_i = encoder.at_end(u_i).

    One encoder, a `SpectralSSM` with d_model outputs, reads both sequences.

    Args:
        d_in: channels of the data, or the size of the vocabulary.
        d_out: classes.
        options: those of `SpectralSSM`.

    Raises:
        ValueError, TypeError: as `SpectralSSM`.

    Source: Tay et al., arXiv 2011.04006, the two-tower model of the retrieval task.
    """

    def __init__(self, d_in: int, d_out: int, *, d_model: int, **options: Any) -> None:
        super().__init__()
        placed = {name: options[name] for name in ("device", "dtype") if name in options}
        self.encoder = SpectralSSM(d_in, d_model, d_model=d_model, **options)
        self.d_in, self.d_out = d_in, d_out
        self.hidden = nn.Linear(4 * d_model, d_model, **placed)
        self.readout = nn.Linear(d_model, d_out, **placed)

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return self.encoder.config | {"d_out": self.d_out}

    def forward(self, pair: tuple[Tensor, Tensor], lengths: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Two batches of sequences, (B, L₁, d_in) and (B, L₂, d_in) or tokens, to logits (B, d_out).

        Args:
            pair: the sequences.
            lengths: of each, as in `SpectralSSM.at_end`.

        Raises:
            TypeError, ValueError: as there; batches of different size.
        """
        first, second = pair
        if len(first) != len(second):
            raise ValueError(f"pair: {len(first)} and {len(second)} sequences; there must be as many of each")
        of_first, of_second = (None, None) if lengths is None else lengths
        a, b = self.encoder.at_end(first, of_first), self.encoder.at_end(second, of_second)
        return self.readout(gelu(self.hidden(torch.cat([a, b, a * b, a - b], dim=-1))))
