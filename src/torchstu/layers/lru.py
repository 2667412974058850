"""The linear recurrent unit, the baseline of the paper's experiment."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from torchstu.layers.base import Mixer, compute_dtype, without_autocast
from torchstu.ops.scan import diagonal_scan
from torchstu.spectral.priors import positive_int


class LRUState(NamedTuple):
    """What an LRU remembers."""

    x: Tensor
    """(B, N) complex."""


class LRU(Mixer):
    """x_t = Λ x_{t-1} + γ ∘ (u_t B),  y_t = Re(x_t C) + u_t D, with the three tricks of its paper.

    Exponential parameterization λ = exp(-exp(ν) + i exp(θ)), so |λ| < 1 whatever the weights; ring initialization, |λ|
    uniform in area between ``r_min`` and ``r_max`` and phase uniform in [0, ``max_phase``]; normalization γ = √(1 - |λ|²) at
    the start, then learned as exp(log γ).

    Weights: ``nu_log``, ``theta_log``, ``gamma_log`` (N,); ``B`` (D_in, N, 2) and ``C`` (N, D_out, 2), real and imaginary
    parts; ``D`` (D_in, D_out).

    Args:
        d_in, d_out: channels.
        state_dim: N.
        r_min, r_max: radii of the ring, 0 <= r_min < r_max <= 1.
        max_phase: largest phase at the start, radians, in (0, 2π].
        device, dtype: of the weights.

    Raises:
        ValueError: numbers out of range.

    Source: Orvieto et al., Resurrecting Recurrent Neural Networks for Long Sequences, arXiv 2303.06349.
    """

    is_linear = True
    optimizer_hints: ClassVar[dict[str, tuple[float, bool]]] = {
        "nu_log": (0.25, False),
        "theta_log": (0.25, False),
        "gamma_log": (0.25, False),
        "B": (0.25, False),
    }

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        state_dim: int = 256,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.d_in, self.d_out = positive_int("d_in", d_in), positive_int("d_out", d_out)
        self.state_dim = positive_int("state_dim", state_dim)
        if not 0 <= r_min < r_max <= 1:
            raise ValueError(f"r_min, r_max: {r_min}, {r_max}; they must satisfy 0 <= r_min < r_max <= 1")
        if not 0 < max_phase <= 2 * math.pi:
            raise ValueError(f"max_phase: {max_phase}; it must be in (0, 2π]")
        self.r_min, self.r_max, self.max_phase = float(r_min), float(r_max), float(max_phase)

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))

        n = self.state_dim
        self.nu_log, self.theta_log, self.gamma_log = weight(n), weight(n), weight(n)
        self.B, self.C, self.D = weight(d_in, n, 2), weight(n, d_out, 2), weight(d_in, d_out)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The published initialization."""
        with torch.no_grad():
            area, phase = torch.rand(2, self.state_dim, dtype=torch.float64, device="cpu")
            squared = (area * (self.r_max**2 - self.r_min**2) + self.r_min**2).clamp(1e-30, 1 - 1e-7)
            self.nu_log.copy_(torch.log(-0.5 * torch.log(squared)))
            self.theta_log.copy_(torch.log((self.max_phase * phase).clamp(min=1e-30)))
            self.gamma_log.copy_(0.5 * torch.log1p(-squared))
        nn.init.normal_(self.B, std=1 / math.sqrt(2 * self.d_in))
        nn.init.normal_(self.C, std=1 / math.sqrt(self.state_dim))
        nn.init.normal_(self.D, std=1 / math.sqrt(self.d_in))

    @property
    def config(self) -> dict[str, Any]:  # type: ignore[override]
        """The constructor's arguments."""
        return {n: getattr(self, n) for n in ("d_in", "d_out", "state_dim", "r_min", "r_max", "max_phase")}

    def initial_state(self, batch_size: int) -> LRUState:
        """All zero."""
        kind = compute_dtype(self.nu_log).to_complex()
        return LRUState(torch.zeros(batch_size, self.state_dim, dtype=kind, device=self.nu_log.device))

    @without_autocast
    def mix(self, u: Tensor, state: LRUState | None) -> tuple[Tensor, LRUState]:
        """A blocked scan."""
        kind, u = torch.promote_types(u.dtype, self.nu_log.dtype), u.to(compute_dtype(u, self.nu_log))
        x = diagonal_scan(self._log_lambda(u.dtype), self._drive(u), None if state is None else state.x)
        return self._read(x, u).to(kind), LRUState(x[:, -1])

    @without_autocast
    def mix_step(self, u_t: Tensor, state: LRUState) -> tuple[Tensor, LRUState]:
        """One step of the recurrence."""
        kind, u_t = torch.promote_types(u_t.dtype, self.nu_log.dtype), u_t.to(compute_dtype(u_t, self.nu_log))
        x = torch.exp(self._log_lambda(u_t.dtype)) * state.x + self._drive(u_t)
        return self._read(x, u_t).to(kind), LRUState(x)

    def _log_lambda(self, dtype: torch.dtype) -> Tensor:
        return torch.complex(-torch.exp(self.nu_log.to(dtype)), torch.exp(self.theta_log.to(dtype)))

    def _drive(self, u: Tensor) -> Tensor:
        parts = torch.einsum("...d,dnc->...nc", u, self.B.to(u.dtype)) * torch.exp(self.gamma_log.to(u.dtype))[:, None]
        return torch.view_as_complex(parts.contiguous())

    def _read(self, x: Tensor, u: Tensor) -> Tensor:
        C = self.C.to(u.dtype)
        return x.real @ C[..., 0] - x.imag @ C[..., 1] + u @ self.D.to(u.dtype)
