"""S4D: a diagonal state-space model, one system a channel."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from torchstu.layers.channel_ssm import (
    ChannelSSM,
    DiagonalSSM,
    DiagonalSystem,
    complex_normal_,
    complex_weight,
    draw_log_steps,
    even,
)
from torchstu.layers.hippo import legs_nplr

INITS = ("lin", "inv", "legs")
DISCRETIZATIONS = ("zoh", "bilinear")


class S4D(DiagonalSSM):
    """x' = Λ x + B u, y = 2 Re(C x) + D u, sampled every Δ; every channel has its own Λ, B, C, D and Δ.

    Λ = -exp(log_A_real) + i A_imag keeps every mode stable. With the zero-order hold Λ̄ = exp(Δ Λ) and
    B̄ = Λ⁻¹ (exp(Δ Λ) - 1) B; with the bilinear rule Λ̄ = (1 + Δ Λ/2) / (1 - Δ Λ/2) and B̄ = Δ / (1 - Δ Λ/2) B. Then
    K_l = 2 Re Σ_n C_n Λ̄_n^l B̄_n and y = K * u + D u: by FFT over a sequence, by the recurrence in `step`.

    Weights, with H = d_model and M = state_dim / 2 conjugate pairs: ``log_dt`` (H,), ``log_A_real`` and ``A_imag`` (H, M),
    ``B`` and ``C`` (H, M, 2), real and imaginary parts, ``D`` (H,).

    Args:
        d_model: H, channels in and out.
        state_dim: N, even: real states a channel.
        init: Re Λ_n = -1/2 and Im Λ_n = π n ("lin"), N/π (N/(2n+1) - 1) ("inv") or the normal part of HiPPO-LegS ("legs", with
            its B); B = 1 with the first two.
        discretization: "zoh" or "bilinear".
        dt_min, dt_max: Δ starts log-uniform between them.
        device, dtype: of the weights.

    Raises:
        TypeError, ValueError: numbers out of range, unknown names.

    Source: Gu, Gupta, Goel and Ré, On the Parameterization and Initialization of Diagonal State Space Models, arXiv 2206.11893.
    """

    option_names: ClassVar[tuple[str, ...]] = (*ChannelSSM.option_names, "init", "discretization")
    optimizer_hints: ClassVar[dict[str, tuple[float, bool]]] = dict.fromkeys(
        ("log_dt", "log_A_real", "A_imag", "B"), (0.1, False)
    )

    def __init__(
        self,
        d_model: int,
        *,
        state_dim: int = 64,
        init: str = "lin",
        discretization: str = "zoh",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model, even("state_dim", state_dim), dt_min, dt_max)
        if init not in INITS:
            raise ValueError(f"init: {init!r}; it must be one of {INITS}")
        if discretization not in DISCRETIZATIONS:
            raise ValueError(f"discretization: {discretization!r}; it must be one of {DISCRETIZATIONS}")
        self.init, self.discretization, self.modes = init, discretization, state_dim // 2

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))

        h, m = self.d_in, self.modes
        self.log_dt, self.log_A_real, self.A_imag = weight(h), weight(h, m), weight(h, m)
        self.B, self.C, self.D = weight(h, m, 2), weight(h, m, 2), weight(h)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The published initialization."""
        Lambda, B = diagonal_init(self.init, self.state_dim)
        with torch.no_grad():
            self.log_dt.copy_(draw_log_steps(self.d_in, self.dt_min, self.dt_max))
            self.log_A_real.copy_(torch.log(-Lambda.real).expand(self.d_in, -1))
            self.A_imag.copy_(Lambda.imag.expand(self.d_in, -1))
            self.B.copy_(torch.view_as_real(B).expand(self.d_in, -1, -1))
        complex_normal_(self.C)
        nn.init.normal_(self.D)

    def discretize(self, dtype: torch.dtype) -> DiagonalSystem:
        """Zero-order hold or bilinear rule."""
        dt = torch.exp(self.log_dt.to(dtype))[:, None]  # (H, 1)
        Lambda = torch.complex(-torch.exp(self.log_A_real.to(dtype)), self.A_imag.to(dtype))
        B, C = complex_weight(self.B, dtype), complex_weight(self.C, dtype)
        if self.discretization == "zoh":
            return DiagonalSystem(dt * Lambda, B * torch.expm1(dt * Lambda) / Lambda, 2 * C)
        below = 1 - dt * Lambda / 2
        return DiagonalSystem(torch.log((1 + dt * Lambda / 2) / below), B * dt / below, 2 * C)


def diagonal_init(name: str, state_dim: int) -> tuple[Tensor, Tensor]:
    """Λ and B of a start of S4D, one of each conjugate pair: (N/2,) complex, float64 on the CPU."""
    if name == "legs":
        Lambda, _, B = legs_nplr(state_dim)
        return Lambda, B
    n = torch.arange(state_dim // 2, dtype=torch.float64, device="cpu")
    frequency: dict[str, Any] = {"lin": math.pi * n, "inv": state_dim / math.pi * (state_dim / (2 * n + 1) - 1)}
    Lambda = torch.complex(torch.full_like(n, -0.5), frequency[name])
    return Lambda, torch.ones_like(Lambda)
