"""DSS: the diagonal state space, one system a channel, Λ shared by all channels."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from torchstu.layers.channel_ssm import ChannelSSM, DiagonalSSM, DiagonalSystem, complex_weight, draw_log_steps
from torchstu.layers.hippo import legs_nplr
from torchstu.spectral.priors import positive_int

VARIANTS = ("exp", "softmax")


class DSS(DiagonalSSM):
    """K_l = Re Σ_n w_n s_n exp(l μ_n), with μ_n = Δ_re Re Λ_n + i Δ_im Im Λ_n and every mode scaled by s_n.

    - "exp": Re Λ = -exp(log_Lambda_re), every mode stable; s = (e^μ - 1) / Λ, the zero-order hold.
    - "softmax": Λ is free and s = 1 / (Λ Σ_{l < length} exp(l μ)), so a row of the kernel's matrix is a softmax over ``length``
      steps; where Re Λ > 0 the sum runs over exp((l - length + 1) μ) and so does the kernel. Its reciprocal is
      conj(z) / (|z|² + 1e-7).

    The published softmax normalizes over the length of the input at hand. Here ``length`` is a constant of the layer, so that
    cuts and steps give the whole sequence's result: on inputs of that many steps the two are the same; a shorter input sees the
    beginning of the same kernel; a longer one sees it continued, and a mode with Re Λ > 0 grows. ``length`` · Δ · Re Λ is
    to stay below 80 in float32 and 700 in float64, or the mode cannot be represented.

    Weights, with H = d_model and N = state_dim complex modes: ``log_dt`` (H, 2), for real and imaginary parts; ``Lambda_im``
    (N,) and ``log_Lambda_re`` ("exp") or ``Lambda_re`` ("softmax"), shared by all channels; ``W`` (H, N, 2); ``D`` (H,).
    At the start Λ are the eigenvalues with positive imaginary part of the skew part of a 2N × 2N HiPPO-LegS, minus 1/2, largest
    first.

    Args:
        d_model: H, channels in and out.
        state_dim: N, complex modes (no conjugate pairs are added).
        variant: "exp" or "softmax".
        length: of the softmax; None with "exp".
        dt_min, dt_max: Δ starts log-uniform between them, the same for both parts.
        device, dtype: of the weights.

    Raises:
        TypeError, ValueError: numbers out of range, an unknown variant, "softmax" without a length or "exp" with one.

    Source: Gupta, Gu and Berant, Diagonal State Spaces are as Effective as Structured State Spaces, arXiv 2203.14343.
    """

    option_names: ClassVar[tuple[str, ...]] = (*ChannelSSM.option_names, "variant", "length")
    optimizer_hints: ClassVar[dict[str, tuple[float, bool]]] = dict.fromkeys(
        ("log_dt", "Lambda_re", "log_Lambda_re", "Lambda_im", "W"), (0.1, False)
    )
    epsilon: ClassVar[float] = 1e-7
    log_Lambda_re: nn.Parameter
    Lambda_re: nn.Parameter

    def __init__(
        self,
        d_model: int,
        *,
        state_dim: int = 64,
        variant: str = "exp",
        length: int | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model, state_dim, dt_min, dt_max)
        if variant not in VARIANTS:
            raise ValueError(f"variant: {variant!r}; it must be one of {VARIANTS}")
        if (length is None) != (variant == "exp"):
            raise ValueError(f"length: {length}; it must be None with 'exp' and a number of steps with 'softmax'")
        self.variant, self.length, self.modes = variant, length, self.state_dim
        if length is not None:
            positive_int("length", length)

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))

        h, n = self.d_in, self.state_dim
        self.log_dt, self.Lambda_im = weight(h, 2), weight(n)
        if variant == "exp":
            self.log_Lambda_re = weight(n)
        else:
            self.Lambda_re = weight(n)
        self.W, self.D = weight(h, n, 2), weight(h)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The published initialization."""
        Lambda = legs_nplr(2 * self.state_dim)[0].flip(0)
        with torch.no_grad():
            self.log_dt.copy_(draw_log_steps(self.d_in, self.dt_min, self.dt_max)[:, None].expand(-1, 2))
            self.Lambda_im.copy_(Lambda.imag)
            if self.variant == "exp":
                self.log_Lambda_re.copy_(torch.log(-Lambda.real))
            else:
                self.Lambda_re.copy_(Lambda.real)
        nn.init.normal_(self.W)
        nn.init.normal_(self.D)

    def discretize(self, dtype: torch.dtype) -> DiagonalSystem:
        """Modes and their scale: b = s, c = w."""
        real = -torch.exp(self.log_Lambda_re.to(dtype)) if self.variant == "exp" else self.Lambda_re.to(dtype)
        imag, dt = self.Lambda_im.to(dtype), torch.exp(self.log_dt.to(dtype))
        Lambda = torch.complex(real, imag)  # (N,)
        mu = torch.complex(dt[:, :1] * real, dt[:, 1:] * imag)  # (H, N)
        if self.length is None:
            return DiagonalSystem(mu, torch.expm1(mu) / Lambda, complex_weight(self.W, dtype))
        grows = real > 0
        decaying = torch.where(grows, -mu, mu)
        total = Lambda * torch.expm1(self.length * decaying)
        scale = torch.expm1(decaying) * total.conj() / (total.abs().square() + self.epsilon)
        late = torch.where(grows, (1 - self.length) * mu, torch.zeros_like(mu))  # exp((l - length + 1) μ) where Re Λ > 0
        return DiagonalSystem(mu, scale * torch.exp(late), complex_weight(self.W, dtype))
