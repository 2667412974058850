"""What the spectral layers share: a filter bank as buffers, and the recurrence whose state is the bank's output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from torchstu.layers.base import Mixer, compute_dtype
from torchstu.ops.recurrence import absorb, free_response
from torchstu.spectral.filters import FilterBank, resolve_bank
from torchstu.spectral.priors import Prior, positive_int

Banks = Literal["both", "positive"]


class SpectralMixer(Mixer):
    """A mixer over a fixed filter bank, design (2), (4) and (8).

    The filters are non-persistent buffers, made in float64 on the CPU and made again after every change of dtype or device. A
    user's own `FilterBank` is saved with the weights.

    Buffers: ``filters`` σ^{1/4} φ (L, K), ``transition`` A (R, R), ``input_vector`` b (R,), ``continuation`` A^L b (R,),
    ``scale`` σ^{1/4} (K,). A user's own bank has no realization: R = 0, and the state holds the last L inputs instead.
    """

    filters: Tensor
    transition: Tensor
    input_vector: Tensor
    continuation: Tensor
    scale: Tensor

    def __init__(self, length: int, num_filters: int, prior: str | Prior | FilterBank, banks: Banks | None) -> None:
        super().__init__()
        self.length, self.num_filters = positive_int("length", length), positive_int("num_filters", num_filters)
        self.bank = resolve_bank(prior, self.length, self.num_filters)
        symmetric = self.bank.prior is not None and self.bank.prior.symmetric
        if banks is None:
            banks = "positive" if symmetric or self.bank.prior is None else "both"
        if banks not in ("both", "positive"):
            raise ValueError(f"banks: {banks!r}; it must be None, 'both' or 'positive'")
        if banks == "both" and symmetric:
            raise ValueError(
                "banks: 'both' with the prior 'signed'; its filters have parity, so a second bank adds nothing: "
                "use None or 'positive'"
            )
        self.banks = banks
        self.signs: tuple[int, ...] = (1, -1) if banks == "both" else (1,)

    @property
    def order(self) -> int:
        """R, the states of the recurrence a channel and bank; 0 for a user's own bank."""
        return 0 if self.bank.state_space is None else self.bank.state_space.order

    def make_buffers(self) -> None:
        """(Re)make the buffers from the bank, in the dtype and on the device of the weights."""
        weight = next(self.parameters())
        space, scaled = self.bank.state_space, self.bank.scaled_filters
        arrays: dict[str, Any] = {"filters": scaled, "scale": self.bank.eigenvalues**0.25}
        if space is None:
            arrays.update(transition=scaled[:0, :0], input_vector=scaled[:0, 0], continuation=scaled[:0, 0])
        else:
            arrays.update(transition=space.A, input_vector=space.b, continuation=space.state_at(self.length))
        for name, array in arrays.items():
            value = torch.as_tensor(array.copy()).to(dtype=compute_dtype(weight)).to(device=weight.device)
            self.register_buffer(name, value, persistent=False)
        if self.bank.prior is None:
            for name in ("eigenvalues", "filters"):  # saved as given: in float64, whatever the weights are in
                value = torch.as_tensor(getattr(self.bank, name).copy())
                if weight.device.type == "mps":  # has no float64
                    value = value.float()
                self.register_buffer(f"bank_{name}", value if weight.is_meta else value.to(weight.device))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        super()._apply(fn, recurse)
        self.make_buffers()
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        names = [f"{prefix}bank_eigenvalues", f"{prefix}bank_filters"]
        if self.bank.prior is None and all(name in state_dict for name in names):
            eigenvalues, filters = (state_dict[name].double().cpu().numpy() for name in names)
            if filters.shape == self.bank.filters.shape:  # else torch reports the mismatch
                self.bank = FilterBank(eigenvalues, filters)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.make_buffers()

    def taps(self, steps: int) -> Tensor:
        """σ^{1/4} φ_k(i) for i < steps, (steps, K), continued past L as design (8) says; in the dtype of the buffers."""
        if steps <= self.length:
            return self.filters[:steps]
        if not len(self.input_vector):
            return nn.functional.pad(self.filters, (0, 0, 0, steps - self.length))
        first = self.continuation[None, :, None]
        parts = [self.continuation[None, : self.num_filters]]
        for _, rows in free_response(self.transition, first, steps - self.length - 1, self.num_filters):
            parts.append(rows[0, ..., 0])
        return torch.cat([self.filters, torch.cat(parts) * self.scale])

    def initial_features(self, batch_size: int, channels: int) -> Tensor:
        """Zero features, (B, banks, R, D)."""
        return self.filters.new_zeros(batch_size, len(self.signs), len(self.input_vector), channels)

    def absorb(self, features: Tensor, w: Tensor) -> Tensor:
        """Features (B, banks, R, D) after the inputs w (B, T, D): U_t = ±A U_{t-1} + b w_t."""
        if not len(self.input_vector):
            return features
        A, b, features = self.transition.to(w.dtype), self.input_vector.to(w.dtype), features.to(w.dtype)
        return torch.stack([absorb(s * A, b, features[:, i], w) for i, s in enumerate(self.signs)], dim=1)

    def decay(self, features: Tensor, steps: int) -> Iterator[tuple[slice, Tensor]]:
        """What is left of the features 1..steps steps on, scaled: (times, (B, C, banks, K, D)) by blocks."""
        A, scale, count = self.transition.to(features.dtype), self.scale.to(features.dtype), self.num_filters
        runs = [free_response(s * A, features[:, i], steps, count) for i, s in enumerate(self.signs)]
        for parts in zip(*runs, strict=True):
            yield parts[0][0], torch.stack([x for _, x in parts], dim=2) * scale[:, None]

    def window_features(self, window: Tensor) -> Tensor:
        """Scaled features of a user's bank from the last inputs, most recent first: (B, <=L, D) to (B, banks, K, D)."""
        sign = window.new_ones(len(self.signs), window.shape[1])
        sign[1:, 1::2] = -1
        return torch.einsum("sl,lk,bld->bskd", sign, self.filters[: window.shape[1]].to(window.dtype), window)

    def prior_config(self) -> dict[str, Any]:
        """How to find the bank again: the name of its prior, or None for one that is saved with the weights."""
        return {"prior": None if self.bank.prior is None else self.bank.prior.name}
