"""S5: a diagonal state-space model with many inputs and outputs, computed by a scan."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from torchstu.layers.base import Mixer, compute_dtype, without_autocast
from torchstu.layers.channel_ssm import check_steps, complex_weight, draw_log_steps
from torchstu.layers.hippo import legs_normal
from torchstu.ops.scan import diagonal_scan
from torchstu.spectral.priors import positive_int


class S5State(NamedTuple):
    """What an S5 remembers."""

    x: Tensor
    """(B, P) complex."""


class S5(Mixer):
    """x' = Λ x + B u, y = s Re(C x) + D ∘ u, by a zero-order hold with a step Δ_n of its own for every mode.

    Λ̄ = exp(Δ Λ), B̄ = Λ⁻¹ (Λ̄ - 1) B; x_t = Λ̄ x_{t-1} + B̄ u_t. With conjugate symmetry P = state_dim / 2 and s = 2, else
    P = state_dim and s = 1. Re Λ is held at -1e-4 or below (the published ``clip_eigs``), so every mode is stable.

    Weights, with H = d_model: ``Lambda_re``, ``Lambda_im``, ``log_step`` (P,); ``B`` (P, H, 2) and ``C`` (H, P, 2), real and
    imaginary parts; ``D`` (H,). At the start Λ repeats the eigenvalues of the normal part of a HiPPO-LegS of state_dim / blocks
    states; B and C are real Gaussian matrices in the basis of its eigenvectors.

    Args:
        d_model: H, channels in and out.
        state_dim: real states; a multiple of ``blocks``, and of 2 ``blocks`` with ``conj_sym``.
        blocks: copies of the HiPPO matrix at the start.
        conj_sym: whether one of each conjugate pair is kept.
        dt_min, dt_max: Δ starts log-uniform between them.
        device, dtype: of the weights.

    Raises:
        TypeError, ValueError: numbers out of range.

    Source: Smith, Warrington and Linderman, Simplified State Space Layers for Sequence Modeling, arXiv 2208.04933.
    """

    is_linear = True
    optimizer_hints: ClassVar[dict[str, tuple[float, bool]]] = dict.fromkeys(
        ("Lambda_re", "Lambda_im", "log_step", "B"), (0.25, False)
    )
    largest_real: ClassVar[float] = -1e-4

    def __init__(
        self,
        d_model: int,
        *,
        state_dim: int = 64,
        blocks: int = 1,
        conj_sym: bool = True,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.d_model = self.d_in = self.d_out = positive_int("d_model", d_model)
        self.state_dim, self.blocks = positive_int("state_dim", state_dim), positive_int("blocks", blocks)
        divisor = 2 * blocks if conj_sym else blocks
        if state_dim % divisor:
            raise ValueError(f"state_dim: {state_dim}; it must be a multiple of {divisor}")
        self.conj_sym = bool(conj_sym)
        self.dt_min, self.dt_max = check_steps(dt_min, dt_max)
        self.modes = state_dim // 2 if conj_sym else state_dim

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))

        p, h = self.modes, self.d_in
        self.Lambda_re, self.Lambda_im, self.log_step = weight(p), weight(p), weight(p)
        self.B, self.C, self.D = weight(p, h, 2), weight(h, p, 2), weight(h)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The published initialization: HiPPO blocks; B real, C complex, truncated Gaussian, all parts of variance 1/N."""
        n, h = self.state_dim, self.d_in
        Lambda, vectors = legs_normal(n // self.blocks)
        if self.conj_sym:
            Lambda, vectors = Lambda[Lambda.imag > 0], vectors[:, Lambda.imag > 0]
        basis = torch.block_diag(*[vectors] * self.blocks)  # (N, P)
        B, C = _truncated_normal(n, h, states=n), _truncated_normal(h, n, 2, states=n)
        with torch.no_grad():
            self.Lambda_re.copy_(Lambda.real.repeat(self.blocks))
            self.Lambda_im.copy_(Lambda.imag.repeat(self.blocks))
            self.log_step.copy_(draw_log_steps(self.modes, self.dt_min, self.dt_max))
            self.B.copy_(torch.view_as_real(basis.mH @ B.to(basis.dtype)))
            self.C.copy_(torch.view_as_real(torch.view_as_complex(C) @ basis))
        nn.init.normal_(self.D)

    @property
    def config(self) -> dict[str, Any]:  # type: ignore[override]
        """The constructor's arguments."""
        return {n: getattr(self, n) for n in ("d_model", "state_dim", "blocks", "conj_sym", "dt_min", "dt_max")}

    def initial_state(self, batch_size: int) -> S5State:
        """All zero."""
        kind = compute_dtype(self.log_step).to_complex()
        return S5State(torch.zeros(batch_size, self.modes, dtype=kind, device=self.log_step.device))

    @without_autocast
    def mix(self, u: Tensor, state: S5State | None) -> tuple[Tensor, S5State]:
        """A blocked scan."""
        kind, u = torch.promote_types(u.dtype, self.D.dtype), u.to(compute_dtype(u, self.D))
        log_a, B = self._discretize(u.dtype)
        past = None if state is None else state.x.to(B.dtype)
        x = diagonal_scan(log_a, u.to(B.dtype) @ B.mT, past)
        return self._read(x, u).to(kind), S5State(x[:, -1])

    @without_autocast
    def mix_step(self, u_t: Tensor, state: S5State) -> tuple[Tensor, S5State]:
        """One step of the recurrence."""
        kind, u_t = torch.promote_types(u_t.dtype, self.D.dtype), u_t.to(compute_dtype(u_t, self.D))
        log_a, B = self._discretize(u_t.dtype)
        x = torch.exp(log_a) * state.x + u_t.to(B.dtype) @ B.mT
        return self._read(x, u_t).to(kind), S5State(x)

    def _discretize(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Δ Λ (P,) and B̄ (P, H)."""
        Lambda = torch.complex(self.Lambda_re.to(dtype).clamp(max=self.largest_real), self.Lambda_im.to(dtype))
        log_a = torch.exp(self.log_step.to(dtype)) * Lambda
        return log_a, (torch.expm1(log_a) / Lambda)[:, None] * complex_weight(self.B, dtype)

    def _read(self, x: Tensor, u: Tensor) -> Tensor:
        C = self.C.to(u.dtype) * (2 if self.conj_sym else 1)
        return x.real @ C[..., 0].mT - x.imag @ C[..., 1].mT + u * self.D.to(u.dtype)


def _truncated_normal(*shape: int, states: int) -> Tensor:
    """Normal numbers cut at two deviations, of variance 1/N; float64 on the CPU."""
    deviation = 1 / (0.87962566 * math.sqrt(states))  # the cut takes 12 % of the deviation
    empty = torch.empty(*shape, dtype=torch.float64, device="cpu")
    return nn.init.trunc_normal_(empty, std=deviation, a=-2 * deviation, b=2 * deviation)
