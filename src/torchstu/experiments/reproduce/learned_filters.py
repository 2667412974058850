"""A bank of filters learned with its read-out: what an STU is without its prior."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from torchstu.layers.base import Mixer, compute_dtype, without_autocast
from torchstu.ops.convolution import transform_size
from torchstu.spectral.priors import positive_int


class PastInputs(NamedTuple):
    """The inputs that the filters still see."""

    inputs: Tensor
    """(B, L - 1, D_in), the most recent last."""


class LearnedFilters(Mixer):
    """y_t = Σ_k Σ_{i<L} φ_k(i) u_{t-i} M_k + u_t D with φ learned too: design (4) with nothing known beforehand.

    Weights: ``phi`` (L, K), at the start Gaussian with unit norm on average; ``M`` (K, D_in, D_out), at the start Gaussian and
    small; ``D`` (D_in, D_out), zero at the start.

    Args:
        d_in, d_out: channels.
        length: L; the response ends there.
        num_filters: K.
        device, dtype: of the weights.

    Raises:
        ValueError: numbers below 1.
    """

    is_linear = True
    optimizer_hints: ClassVar[dict[str, tuple[float, bool]]] = {}

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        length: int,
        num_filters: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.d_in, self.d_out = positive_int("d_in", d_in), positive_int("d_out", d_out)
        self.length, self.num_filters = positive_int("length", length), positive_int("num_filters", num_filters)

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))

        self.phi = weight(self.length, self.num_filters)
        self.M, self.D = weight(self.num_filters, d_in, d_out), weight(d_in, d_out)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A random start."""
        nn.init.normal_(self.phi, std=1 / math.sqrt(self.length))
        nn.init.normal_(self.M, std=1 / math.sqrt(self.num_filters * self.d_in))
        nn.init.zeros_(self.D)

    @property
    def config(self) -> dict[str, Any]:  # type: ignore[override]
        """The constructor's arguments."""
        return {name: getattr(self, name) for name in ("d_in", "d_out", "length", "num_filters")}

    def initial_state(self, batch_size: int) -> PastInputs:
        """All zero."""
        shape = batch_size, self.length - 1, self.d_in
        return PastInputs(torch.zeros(shape, dtype=compute_dtype(self.phi), device=self.phi.device))

    @without_autocast
    def mix(self, u: Tensor, state: PastInputs | None) -> tuple[Tensor, PastInputs]:
        """One transform a channel and one of the merged kernel H(i) = Σ_k φ_k(i) M_k, design (11)."""
        kind, u = torch.promote_types(u.dtype, self.phi.dtype), u.to(compute_dtype(u, self.phi))
        seen = u if state is None else torch.cat([state.inputs.to(u.dtype), u], dim=1)  # (B, T or L - 1 + T, D_in)
        kernel = torch.einsum("lk,kio->lio", self.phi.to(u.dtype), self.M.to(u.dtype))
        kernel = torch.cat([kernel[:1] + self.D.to(u.dtype), kernel[1:]])
        size = transform_size(seen.shape[1] + self.length - 1)
        spectrum = torch.einsum("bfi,fio->bfo", torch.fft.rfft(seen, size, dim=1), torch.fft.rfft(kernel, size, dim=0))
        y = torch.fft.irfft(spectrum, size, dim=1)[:, seen.shape[1] - u.shape[1] : seen.shape[1]]
        missing = max(0, self.length - 1 - seen.shape[1])
        kept = pad(seen, (0, 0, missing, 0))
        return y.to(kind), PastInputs(kept[:, kept.shape[1] - self.length + 1 :])
