"""The tensordot STU of Flash STU: one filter a channel instead of a matrix a filter."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from torchstu.layers.base import compute_dtype, without_autocast
from torchstu.layers.spectral import Mode, SpectralMixer
from torchstu.ops.blocks import block_convolution, free_response
from torchstu.ops.convolution import channel_convolution
from torchstu.spectral.filters import FilterBank
from torchstu.spectral.priors import PriorLike, positive_int


class TensordotState(NamedTuple):
    """What a TensordotSTU remembers."""

    features: Tensor
    """(B, banks, R, D) the bank's output, design (8)."""
    inputs: Tensor
    """(B, m, D) projected inputs, most recent first; m = 0, or L - 1 for a user's own bank."""


class TensordotSTU(SpectralMixer):
    """y_t = Σ_i h(i) ∘ (u_{t-i} M_inputs),  h = Σ_k σ_k^{1/4} φ_k(i) (M_filters_k ± (-1)^i M'_k); no y-term, no delay.

    The - bank has weights M' of its own, ``M_filters_minus``. With ``banks="tied"``, as in Flash STU, both banks share
    ``M_filters`` (M' = M_filters): odd taps cancel, so the layer sees even lags only, and a stack of such layers too. A prior
    whose filters have parity has one bank, and ``banks="tied"`` uses it alone.

    Weights: ``M_inputs`` (D, D), ``M_filters`` and ``M_filters_minus`` (K, D), random with variance 1/D and 1/K.

    Args:
        d_model: D.
        length, num_filters, prior, mode, device, dtype: as in `STU`.
        banks: "both", "tied", or None: both for the prior "positive" and sums with it, tied for others and arrays of one's own.

    Raises:
        ValueError: numbers out of range, ``banks="both"`` with "signed", an unknown ``mode``, "block" with a bank of one's own.

    Source: arXiv 2409.10489.
    """

    M_inputs: nn.Parameter
    M_filters: nn.Parameter
    M_filters_minus: nn.Parameter | None

    def __init__(
        self,
        d_model: int,
        *,
        length: int,
        num_filters: int = 24,
        banks: Literal["both", "tied"] | None = None,
        prior: PriorLike | FilterBank = "positive",
        mode: Mode = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if banks not in ("both", "tied", None):
            raise ValueError(f"banks: {banks!r}; it must be 'both', 'tied' or None")
        super().__init__(length, num_filters, prior, "both" if banks == "both" else None, mode)
        if self.bank.prior is None:  # a user's own arrays are tied as Flash STU ties its own
            self.banks, self.signs = "both", (1, -1)
        self.tied = banks == "tied" or (banks is None and (self.bank.prior is None or len(self.signs) == 1))
        self.d_in = self.d_out = positive_int("d_model", d_model)
        self.memory = 0 if self.bank.state_space is not None else self.length - 1
        self.M_inputs = nn.Parameter(torch.empty(d_model, d_model, device=device, dtype=dtype))
        self.M_filters = nn.Parameter(torch.empty(self.num_filters, d_model, device=device, dtype=dtype))
        minus = None if self.tied else nn.Parameter(torch.empty_like(self.M_filters))
        self.register_parameter("M_filters_minus", minus)
        self.make_buffers()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Random weights: products of two, so all zero would never train."""
        nn.init.normal_(self.M_inputs, std=1 / math.sqrt(self.d_in))
        for weight in (self.M_filters, self.M_filters_minus):
            if weight is not None:
                nn.init.normal_(weight, std=1 / math.sqrt(self.num_filters))

    @property
    def config(self) -> dict[str, Any]:  # type: ignore[override]
        """The constructor's arguments."""
        own = {"d_model": self.d_in, "length": self.length, "num_filters": self.num_filters}
        return own | {"banks": "tied" if self.tied else "both", "mode": self.mode} | self.prior_config()

    def initial_state(self, batch_size: int) -> TensordotState:
        """All zero."""
        inputs = self.filters.new_zeros(batch_size, self.memory, self.d_in)
        return TensordotState(self.initial_features(batch_size, self.d_in), inputs)

    @without_autocast
    def mix(self, u: Tensor, state: TensordotState | None) -> tuple[Tensor, TensordotState]:
        """Project, convolve channel by channel, add what the state left behind."""
        kind = torch.promote_types(u.dtype, self.M_inputs.dtype)
        x = self._project(u)
        batch, steps, _ = x.shape
        known = x if state is None else torch.cat([state.inputs.flip(1).to(x.dtype), x], dim=1)
        features = self.initial_features(batch, self.d_in) if state is None else state.features
        features, weights = features.to(x.dtype), self._bank_weights(x.dtype)
        form = self.block_tensors(x)
        if form is None:
            y = channel_convolution(known, self._kernel(known.shape[1], x.dtype))[:, -steps:]
            if state is not None and self.order:
                y = y + free_response(features, steps, self.free_form(features, steps), weights)
            features = self.absorb(features, x)
        else:
            y, states = block_convolution(x, features, form, weights)
            features = self.absorb(states[:, -1], x[:, steps - steps % form.block :])
        inputs = nn.functional.pad(known, (0, 0, max(0, self.memory - known.shape[1]), 0))
        return y.to(kind), TensordotState(features, inputs[:, inputs.shape[1] - self.memory :].flip(1))

    @without_autocast
    def mix_step(self, u_t: Tensor, state: TensordotState) -> tuple[Tensor, TensordotState]:
        """One step of the recurrence (8)."""
        kind = torch.promote_types(u_t.dtype, self.M_inputs.dtype)
        x = self._project(u_t)
        inputs = torch.cat([x[:, None], state.inputs.to(x.dtype)], dim=1)[:, : self.memory] if self.memory else state.inputs
        features = state.features
        if self.order:
            features = self.advance(features, x)
            scaled = features[:, :, : self.num_filters] * self.scale[:, None].to(x.dtype)
        else:
            scaled = self.window_features(torch.cat([x[:, None], state.inputs.to(x.dtype)], dim=1))
        if self.tied:
            y = (scaled.sum(1) * self.M_filters.to(x.dtype)).sum(1)
        else:
            y = (scaled * self._bank_weights(x.dtype)).sum((1, 2))
        return y.to(kind), TensordotState(features, inputs)

    @without_autocast
    def mix_free(self, state: TensordotState, steps: int) -> tuple[Tensor, TensordotState]:
        """The free response of the features."""
        if not self.order:
            return super().mix_free(state, steps)
        features = state.features.to(compute_dtype(state.features, self.M_filters))
        y = free_response(features, steps, self.free_form(features, steps), self._bank_weights(features.dtype))
        return y, TensordotState(self.coast(features, steps), state.inputs)

    def _project(self, u: Tensor) -> Tensor:
        kind = compute_dtype(u, self.M_inputs)
        return u.to(kind) @ self.M_inputs.to(kind)

    def _bank_weights(self, dtype: torch.dtype) -> Tensor:
        """(banks, K, D)."""
        second = self.M_filters if self.M_filters_minus is None else self.M_filters_minus
        banks: list[Tensor] = [self.M_filters, second]
        return torch.stack(banks[: len(self.signs)]).to(dtype)

    def _kernel(self, steps: int, dtype: torch.dtype) -> Tensor:
        """h, (steps, D)."""
        weights, taps = self._bank_weights(dtype), self.taps(steps, dtype)
        kernel = taps @ weights[0]
        if len(weights) == 2:
            sign = taps.new_ones(steps, 1)
            sign[1::2] = -1
            kernel = kernel + sign * (taps @ weights[1])
        return kernel
