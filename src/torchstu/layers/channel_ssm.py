"""What S4, S4D and DSS have in common: one system with one input and one output for every channel."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from torchstu.layers.base import Mixer, compute_dtype, without_autocast
from torchstu.ops.convolution import channel_convolution
from torchstu.ops.kernels import vandermonde, vandermonde_state
from torchstu.spectral.priors import positive_int


class ChannelSSMState(NamedTuple):
    """What a layer of one system a channel remembers."""

    x: Tensor
    """(B, H, M) complex: M modes a channel."""


class ChannelSSM(Mixer):
    """y_t = (K * u)_t + D u_t, channel by channel: D_in = D_out = d_model, nothing mixed, no activation.

    A subclass has the weights ``log_dt`` (first dimension d_model) and ``D`` (d_model,) and implements `discretize`, `kernel`,
    `free_outputs`, `final_state` and `advance`. The last is given what `discretize` returns, the others what `unroll` does.
    """

    is_linear = True
    modes: int
    """M."""
    log_dt: nn.Parameter
    D: nn.Parameter
    option_names: ClassVar[tuple[str, ...]] = ("d_model", "state_dim", "dt_min", "dt_max")

    def __init__(self, d_model: int, state_dim: int, dt_min: float, dt_max: float) -> None:
        super().__init__()
        self.d_model = self.d_in = self.d_out = positive_int("d_model", d_model)
        self.state_dim = positive_int("state_dim", state_dim)
        self.dt_min, self.dt_max = check_steps(dt_min, dt_max)

    @property
    def config(self) -> dict[str, Any]:  # type: ignore[override]
        """The constructor's arguments."""
        return {name: getattr(self, name) for name in self.option_names}

    @abstractmethod
    def discretize(self, dtype: torch.dtype) -> Any:
        """The system in discrete time, from the weights; ``dtype`` real."""

    def unroll(self, dtype: torch.dtype, steps: int) -> Any:
        """What `kernel`, `free_outputs` and `final_state` need for a sequence of L steps: here the system itself."""
        return self.discretize(dtype)

    @abstractmethod
    def kernel(self, system: Any, steps: int) -> Tensor:
        """K_l, l = 0 … L - 1, without D: (H, L)."""

    @abstractmethod
    def free_outputs(self, system: Any, x: Tensor, steps: int) -> Tensor:
        """Outputs from a state x (B, H, M) without inputs: (B, H, L)."""

    @abstractmethod
    def final_state(self, system: Any, u: Tensor, x: Tensor | None) -> Tensor:
        """The state after inputs u (B, L, H) from a state x (B, H, M), None is zero: (B, H, M)."""

    @abstractmethod
    def advance(self, system: Any, u_t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """One step: output without D (B, H) and the next state (B, H, M)."""

    def initial_state(self, batch_size: int) -> ChannelSSMState:
        """All zero."""
        kind = compute_dtype(self.log_dt).to_complex()
        return ChannelSSMState(torch.zeros(batch_size, self.d_in, self.modes, dtype=kind, device=self.log_dt.device))

    @without_autocast
    def mix(self, u: Tensor, state: ChannelSSMState | None) -> tuple[Tensor, ChannelSSMState]:
        """The convolution by FFT, what the carried state brings, and the state at the end."""
        kind, u = torch.promote_types(u.dtype, self.D.dtype), u.to(compute_dtype(u, self.D))
        steps = u.shape[1]
        system = self.unroll(u.dtype, steps)
        x = None if state is None else state.x.to(u.dtype.to_complex())
        y = channel_convolution(u, self.kernel(system, steps).mT) + u * self.D.to(u.dtype)
        if x is not None:
            y = y + self.free_outputs(system, x, steps).mT
        return y.to(kind), ChannelSSMState(self.final_state(system, u, x))

    @without_autocast
    def mix_step(self, u_t: Tensor, state: ChannelSSMState) -> tuple[Tensor, ChannelSSMState]:
        """One step of the recurrence."""
        kind, u_t = torch.promote_types(u_t.dtype, self.D.dtype), u_t.to(compute_dtype(u_t, self.D))
        y, x = self.advance(self.discretize(u_t.dtype), u_t, state.x.to(u_t.dtype.to_complex()))
        return (y + u_t * self.D.to(u_t.dtype)).to(kind), ChannelSSMState(x)


class DiagonalSystem(NamedTuple):
    """x_t = exp(log_a) ∘ x_{t-1} + b u_t, y_t = Re Σ_n c_n x_{t,n}."""

    log_a: Tensor
    """(H, M) complex."""
    b: Tensor
    """(H, M) complex."""
    c: Tensor
    """(H, M) complex."""


class DiagonalSSM(ChannelSSM):
    """The engine of diagonal layers, which differ only in how weights become a `DiagonalSystem`."""

    @abstractmethod
    def discretize(self, dtype: torch.dtype) -> DiagonalSystem:
        """The system in discrete time."""

    def kernel(self, system: DiagonalSystem, steps: int) -> Tensor:
        """K_l = Re Σ_n c_n b_n a_n^l."""
        return vandermonde(system.c * system.b, system.log_a, steps)

    def free_outputs(self, system: DiagonalSystem, x: Tensor, steps: int) -> Tensor:
        """Re Σ_n c_n a_n^t x_n, t = 1 … L."""
        return vandermonde(system.c * torch.exp(system.log_a) * x, system.log_a, steps)

    def final_state(self, system: DiagonalSystem, u: Tensor, x: Tensor | None) -> Tensor:
        """a^L x + Σ_i a^{L-1-i} b u_i."""
        driven = system.b * vandermonde_state(u, system.log_a)
        return driven if x is None else driven + torch.exp(system.log_a * u.shape[1]) * x

    def advance(self, system: DiagonalSystem, u_t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """x_t = a x_{t-1} + b u_t, y_t = Re c x_t."""
        x = torch.exp(system.log_a) * x + system.b * u_t[..., None]
        return (system.c * x).real.sum(dim=-1), x


def complex_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight (…, 2) of real and imaginary parts as complex numbers (…)."""
    return torch.view_as_complex(weight.to(dtype))


def complex_normal_(weight: Tensor) -> None:
    """Fill (…, 2) with complex normal numbers of variance 1, real and imaginary parts of variance 1/2."""
    nn.init.normal_(weight, std=2**-0.5)


def check_steps(dt_min: float, dt_max: float) -> tuple[float, float]:
    """The range of Δ at the start.

    Raises:
        ValueError: not 0 < dt_min <= dt_max < inf.
    """
    if not 0 < dt_min <= dt_max < math.inf:
        raise ValueError(f"dt_min, dt_max: {dt_min}, {dt_max}; they must satisfy 0 < dt_min <= dt_max < inf")
    return float(dt_min), float(dt_max)


def draw_log_steps(count: int, dt_min: float, dt_max: float) -> Tensor:
    """log Δ uniform between the logarithms of ``dt_min`` and ``dt_max``; (count,) float64 on the CPU."""
    low, high = math.log(dt_min), math.log(dt_max)
    return low + (high - low) * torch.rand(count, dtype=torch.float64, device="cpu")


def even(name: str, value: int) -> int:
    """A positive even integer.

    Raises:
        TypeError, ValueError: it is none.
    """
    if positive_int(name, value) % 2:
        raise ValueError(f"{name}: {value}; it must be even, for its modes are conjugate pairs")
    return value
