"""S4: the structured state space, diagonal plus low rank, one system a channel."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from torchstu.layers.channel_ssm import ChannelSSM, complex_normal_, complex_weight, draw_log_steps, even
from torchstu.layers.hippo import legs_nplr
from torchstu.ops.kernels import dense_response, dense_state, dplr_kernel, matrix_power


class DPLRSystem(NamedTuple):
    """x' = (Λ - p p*) x + b u, y = 2 Re(c x), bilinear with step Δ; one mode of each conjugate pair, (H, M) complex."""

    log_dt: Tensor
    """(H,) real."""
    Lambda: Tensor
    p: Tensor
    b: Tensor
    c: Tensor


class Unrolled(NamedTuple):
    """A system and its dense discrete matrix on [Re x, Im x], for a whole sequence."""

    system: DPLRSystem
    A: Tensor
    """Ā, (H, 2M, 2M) real."""
    A_L: Tensor
    """Āᴸ."""


class S4(ChannelSSM):
    """x' = (Λ - p p*) x + B u, y = 2 Re(C x) + D u, sampled every Δ by the bilinear rule; every channel has its own system.

    Ā = (1 - Δ/2 A)⁻¹ (1 + Δ/2 A), B̄ = (1 - Δ/2 A)⁻¹ Δ B with A = Λ - p p*, and y = K * u + D u with K_l = 2 Re(C Ā^l B̄), from
    its generating function at the roots of unity: four products with a Cauchy matrix and Woodbury's formula. `step` applies Ā
    in O(N), again by Woodbury's formula. Λ = -exp(log_A_real) + i A_imag, so A + A* < 0 and Ā contracts whatever the weights.
    The length enters the kernel only through Cᵀ (I - Āᴸ), made from C at every call: any L works, none is stored.

    Weights, with H = d_model and M = state_dim / 2 conjugate pairs: ``log_dt`` (H,), ``log_A_real`` and ``A_imag`` (H, M),
    ``P``, ``B`` and ``C`` (H, M, 2), real and imaginary parts, ``D`` (H,). At the start Λ, P and B are those of HiPPO-LegS.

    Args:
        d_model: H, channels in and out.
        state_dim: N, even: real states a channel.
        dt_min, dt_max: Δ starts log-uniform between them.
        device, dtype: of the weights.

    Raises:
        TypeError, ValueError: numbers out of range.

    Source: Gu, Goel and Ré, Efficiently Modeling Long Sequences with Structured State Spaces, arXiv 2111.00396; p p* in place
    of p q*, which keeps A stable, from Goel et al., arXiv 2202.09729.
    """

    optimizer_hints: ClassVar[dict[str, tuple[float, bool]]] = dict.fromkeys(
        ("log_dt", "log_A_real", "A_imag", "P", "B"), (0.1, False)
    )

    def __init__(
        self,
        d_model: int,
        *,
        state_dim: int = 64,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model, even("state_dim", state_dim), dt_min, dt_max)
        self.modes = state_dim // 2

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))

        h, m = self.d_in, self.modes
        self.log_dt, self.log_A_real, self.A_imag = weight(h), weight(h, m), weight(h, m)
        self.P, self.B, self.C, self.D = weight(h, m, 2), weight(h, m, 2), weight(h, m, 2), weight(h)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The published initialization."""
        Lambda, p, b = legs_nplr(self.state_dim)
        with torch.no_grad():
            self.log_dt.copy_(draw_log_steps(self.d_in, self.dt_min, self.dt_max))
            self.log_A_real.copy_(torch.log(-Lambda.real).expand(self.d_in, -1))
            self.A_imag.copy_(Lambda.imag.expand(self.d_in, -1))
            self.P.copy_(torch.view_as_real(p).expand(self.d_in, -1, -1))
            self.B.copy_(torch.view_as_real(b).expand(self.d_in, -1, -1))
        complex_normal_(self.C)
        nn.init.normal_(self.D)

    def discretize(self, dtype: torch.dtype) -> DPLRSystem:
        """The continuous system and Δ; the bilinear rule is in what uses them."""
        Lambda = torch.complex(-torch.exp(self.log_A_real.to(dtype)), self.A_imag.to(dtype))
        p, b, c = (complex_weight(weight, dtype) for weight in (self.P, self.B, self.C))
        return DPLRSystem(self.log_dt.to(dtype), Lambda, p, b, c)

    def unroll(self, dtype: torch.dtype, steps: int) -> Unrolled:
        """The system with Ā and Āᴸ, which kernel and states share."""
        system = self.discretize(dtype)
        A = _dense(system)
        return Unrolled(system, A, matrix_power(A, steps))

    def kernel(self, unrolled: Unrolled, steps: int) -> Tensor:
        """By the generating function, with c̃ᵀ = Cᵀ (I - Āᴸ)."""
        system, row = unrolled.system, _real_row(unrolled.system.c)
        real, imag = (row - torch.einsum("hn,hnm->hm", row, unrolled.A_L)).chunk(2, dim=-1)
        return dplr_kernel(system.log_dt, system.Lambda, system.p, system.b, torch.complex(real, -imag) / 2, steps)

    def free_outputs(self, unrolled: Unrolled, x: Tensor, steps: int) -> Tensor:
        """2 Re(C Ā^t x), t = 1 … L."""
        return dense_response(unrolled.A, _real_row(unrolled.system.c), torch.cat([x.real, x.imag], dim=-1), steps)

    def final_state(self, unrolled: Unrolled, u: Tensor, x: Tensor | None) -> Tensor:
        """Ā^L x + Σ_i Ā^{L-1-i} B̄ u_i."""
        b = _bilinear(unrolled.system, 2 * unrolled.system.b)
        after = dense_state(unrolled.A, torch.cat([b.real, b.imag], dim=-1), u)
        if x is not None:
            after = after + torch.einsum("hnm,bhm->bhn", unrolled.A_L, torch.cat([x.real, x.imag], dim=-1))
        return torch.complex(*after.chunk(2, dim=-1))

    def advance(self, system: DPLRSystem, u_t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """x_t = (2/Δ - A)⁻¹ ((2/Δ + A) x_{t-1} + 2 B u_t), in O(N)."""
        x = _bilinear(system, _forward(system, x) + 2 * system.b * u_t[..., None])
        return 2 * (system.c * x).real.sum(dim=-1), x


def _forward(system: DPLRSystem, x: Tensor) -> Tensor:
    """(2/Δ + A) x; p* x runs over both of each conjugate pair, so it is twice a real part."""
    inner = 2 * (system.p.conj() * x).real.sum(dim=-1, keepdim=True)
    return (2 * torch.exp(-system.log_dt)[:, None] + system.Lambda) * x - system.p * inner


def _bilinear(system: DPLRSystem, x: Tensor) -> Tensor:
    """(2/Δ - A)⁻¹ x = R x - R p (1 + p* R p)⁻¹ p* R x with R = (2/Δ - Λ)⁻¹, Woodbury's formula."""
    resolvent = 1 / (2 * torch.exp(-system.log_dt)[:, None] - system.Lambda)
    x = resolvent * x
    inner = 2 * (system.p.conj() * x).real.sum(dim=-1, keepdim=True)
    weight = 1 + 2 * (system.p.abs().square() * resolvent).real.sum(dim=-1, keepdim=True)
    return x - resolvent * system.p * (inner / weight)


def _real_row(c: Tensor) -> Tensor:
    """The row that gives 2 Re(c x) from [Re x, Im x]; (H, M) complex -> (H, 2M)."""
    return torch.cat([2 * c.real, -2 * c.imag], dim=-1)


def _dense(system: DPLRSystem) -> Tensor:
    """Ā on [Re x, Im x], (H, 2M, 2M) real: the step applied to a basis."""
    modes = system.Lambda.shape[-1]
    eye = torch.eye(modes, dtype=system.log_dt.dtype, device=system.log_dt.device)
    basis = torch.complex(torch.cat([eye, torch.zeros_like(eye)]), torch.cat([torch.zeros_like(eye), eye]))[:, None]
    columns = _bilinear(system, _forward(system, basis))  # (2M, H, M)
    return torch.cat([columns.real, columns.imag], dim=-1).permute(1, 2, 0)
