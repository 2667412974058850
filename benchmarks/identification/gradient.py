"""A linear dynamical system in modal form, trained by gradient on its roll-out: what one would write in PyTorch."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from identification.models import StateSpace, relative_error

BUDGET_SECONDS = 10.0
ADAM_STEPS, ADAM_RATE = 300, 0.03
LBFGS_ROUNDS, LBFGS_ITERATIONS = 40, 10
CANDIDATES = [(kind, modes) for modes in (4, 12, 32) for kind in ("real", "complex")]


class Modes(NamedTuple):
    """h_i = [i = 0] D + Re Σ_j c_j b_jᵀ λ_j^i with λ = exp(-e^ν + iθ); θ is 0 or π and fixed for real modes: never unstable."""

    decay: Tensor  # ν, (M,)
    angle: Tensor  # θ, (M,)
    b: Tensor  # (M, D_in), real or complex
    c: Tensor  # (D_out, M)
    d: Tensor  # (D_out, D_in)

    def weights(self) -> list[Tensor]:
        return [tensor for tensor in self if tensor.requires_grad]

    def copy(self) -> Modes:
        return Modes(*(tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in self))


def start(kind: str, modes: int, length: int, d_in: int, d_out: int, generator: torch.Generator) -> Modes:
    """Memories log-uniform in 1..L; half of the real modes alternate in sign; angles of complex modes uniform in [0, π]."""

    def normal(*shape: int) -> Tensor:
        dtype = torch.float64 if kind == "real" else torch.complex128
        return torch.randn(*shape, generator=generator, dtype=dtype)

    memory = length ** torch.linspace(0.0, 1.0, modes, dtype=torch.float64)
    if kind == "real":
        angle = torch.pi * (torch.arange(modes) % 2).double()
    else:
        angle = torch.pi * torch.rand(modes, generator=generator, dtype=torch.float64)
        angle.requires_grad_()
    decay = (-memory.log()).requires_grad_()
    b = normal(modes, d_in).requires_grad_()
    c = (normal(d_out, modes) / (modes * memory.sqrt())).requires_grad_()
    return Modes(decay, angle, b, c, torch.zeros(d_out, d_in, dtype=torch.float64, requires_grad=True))


def outputs(model: Modes, u: Tensor) -> Tensor:
    """The roll-out from rest of u (L, D_in) by transforms, (L, D_out)."""
    length = len(u)
    lags = torch.arange(length, dtype=torch.float64)[:, None]
    size = torch.exp(-lags * model.decay.exp())
    if model.b.is_complex():
        powers = torch.polar(size, lags * model.angle)
    else:
        powers = size * torch.where(model.angle > 0, 1 - 2 * (lags % 2), 1.0)
    pairs = torch.einsum("om,mi->moi", model.c, model.b)
    kernel = torch.einsum("lm,moi->loi", powers, pairs)
    kernel = kernel.real if kernel.is_complex() else kernel
    kernel = torch.cat([kernel[:1] + model.d, kernel[1:]])
    points = 1 << (2 * length - 1).bit_length()
    product = torch.einsum("foi,fi->fo", torch.fft.rfft(kernel, points, dim=0), torch.fft.rfft(u, points, dim=0))
    return torch.fft.irfft(product, points, dim=0)[:length]


def loss(model: Modes, u: Tensor, y: Tensor) -> Tensor:
    return (outputs(model, u) - y).square().mean() / y.square().mean()


def adam(model: Modes, u: Tensor, y: Tensor, until: float) -> None:
    optimizer = torch.optim.Adam(model.weights(), lr=ADAM_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ADAM_STEPS)
    for _ in range(ADAM_STEPS):
        optimizer.zero_grad()
        loss(model, u, y).backward()
        optimizer.step()
        schedule.step()
        if time.process_time() > until:
            break


def polish(model: Modes, u: Tensor, y: Tensor, rounds: int, until: float, watch: Any = None) -> None:
    """L-BFGS with a line search in rounds; ``watch`` sees the model after each."""
    optimizer = torch.optim.LBFGS(
        model.weights(), max_iter=LBFGS_ITERATIONS, line_search_fn="strong_wolfe", tolerance_grad=1e-14, tolerance_change=1e-16
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(model, u, y)
        value.backward()
        return value

    for done in range(rounds):
        optimizer.step(closure)  # type: ignore[arg-type]
        if watch is not None:
            watch(done + 1, model)
        if time.process_time() > until:
            break


def to_state_space(model: Modes, choice: str) -> StateSpace:
    """Real matrices: a complex mode is a rotation of two states."""
    value = torch.polar(torch.exp(-model.decay.exp()), model.angle).detach()
    b, c = model.b.detach().to(value.dtype), model.c.detach().to(value.dtype)
    if not model.b.is_complex():
        A, B, C = torch.diag(value.real), b.real, c.real
    else:
        A = torch.block_diag(*(torch.stack([torch.stack([z.real, -z.imag]), torch.stack([z.imag, z.real])]) for z in value))
        B = torch.stack([b.real, b.imag], 1).flatten(0, 1)
        C = torch.stack([c.real, -c.imag], 2).flatten(1)
    # the sum above has C B at lag 0: one step later in the form x_{t+1} = A x_t + B u_t
    return StateSpace(A, B, C @ A, model.d.detach() + C @ B, None, choice)


def gradient_lds(U: np.ndarray, Y: np.ndarray) -> StateSpace:
    """Full-batch training in float64, `BUDGET_SECONDS` of processor time in all.

    Adam from each of `CANDIDATES` on the first three quarters, a twelfth of the time each at most; the best on the last quarter
    goes on by L-BFGS there, and as many rounds of L-BFGS as were best are then made on the whole recording.
    """
    began, cut, length = time.process_time(), 3 * len(U) // 4, len(U)
    u, y = torch.as_tensor(U), torch.as_tensor(Y)
    generator = torch.Generator().manual_seed(0)

    def held_out(model: Modes) -> float:
        with torch.no_grad():
            return relative_error(outputs(model, u)[cut:].numpy(), Y[cut:])

    found = []
    for kind, modes in CANDIDATES:
        model = start(kind, modes, length, U.shape[1], Y.shape[1], generator)
        adam(model, u[:cut], y[:cut], time.process_time() + BUDGET_SECONDS / 12)
        error = held_out(model)
        if np.isfinite(error):
            found.append((error, kind, modes, model))
    error, kind, modes, chosen = min(found, key=lambda entry: entry[0])
    history = [(error, 0)]
    half = began + 0.75 * BUDGET_SECONDS
    polish(chosen.copy(), u[:cut], y[:cut], LBFGS_ROUNDS, half, lambda done, at: history.append((held_out(at), done)))
    rounds = min(entry for entry in history if np.isfinite(entry[0]))[1]
    polish(chosen, u, y, rounds, began + BUDGET_SECONDS)
    return to_state_space(chosen, f"{modes} {kind} modes, {rounds} rounds")
