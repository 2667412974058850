"""The gated recurrent unit of PyTorch under the mixer contract."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchstu.layers.base import Mixer, compute_dtype, without_autocast
from torchstu.spectral.priors import positive_int


class GRUState(NamedTuple):
    """What a GRU remembers."""

    h: Tensor
    """(B, d_model) the last output."""


class GRU(Mixer):
    """The gated recurrent unit with the equations and weights of `torch.nn.GRU`, one layer, batch first.

    r = σ(W_r u_t + b_r + V_r h_{t-1} + c_r),  z = σ(W_z u_t + b_z + V_z h_{t-1} + c_z),
    n = tanh(W_n u_t + b_n + r ∘ (V_n h_{t-1} + c_n)),  y_t = h_t = (1 - z) ∘ n + z ∘ h_{t-1}

    Weights: ``weight_ih`` (W_r, W_z, W_n) and ``weight_hh`` (V_r, V_z, V_n), (3·d_model, d_model); ``bias_ih`` and ``bias_hh``
    (3·d_model,). They are `torch.nn.GRU`'s weights of layer 0.

    Args:
        d_model: channels in and out, and the size of the state.
        device, dtype: of the weights.

    Raises:
        ValueError: ``d_model`` below 1.

    Source: Cho et al., arXiv 1406.1078, in the variant of `torch.nn.GRU`.
    """

    def __init__(self, d_model: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.d_in = self.d_out = positive_int("d_model", d_model)

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))

        self.weight_ih, self.weight_hh = weight(3 * d_model, d_model), weight(3 * d_model, d_model)
        self.bias_ih, self.bias_hh = weight(3 * d_model), weight(3 * d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in ±1/√d_model, as `torch.nn.GRU`."""
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(self.d_in), 1 / math.sqrt(self.d_in))

    @property
    def config(self) -> dict[str, Any]:  # type: ignore[override]
        """The constructor's arguments."""
        return {"d_model": self.d_in}

    def initial_state(self, batch_size: int) -> GRUState:
        """All zero."""
        weight = self.weight_ih
        return GRUState(torch.zeros(batch_size, self.d_in, dtype=compute_dtype(weight), device=weight.device))

    @without_autocast
    def mix(self, u: Tensor, state: GRUState | None) -> tuple[Tensor, GRUState]:
        """PyTorch's own loop over time."""
        kind, u = torch.promote_types(u.dtype, self.weight_ih.dtype), u.to(compute_dtype(u, self.weight_ih))
        h = u.new_zeros(len(u), self.d_in) if state is None else state.h.to(u.dtype)
        weights = [w.to(u.dtype) for w in (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)]
        y, last = torch.gru(
            u, h[None], weights, has_biases=True, num_layers=1, dropout=0.0, train=False, bidirectional=False, batch_first=True
        )
        return y.to(kind), GRUState(last[0])
