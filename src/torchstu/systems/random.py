"""Random systems of stated spectrum: the paper's, marginally stable symmetric ones, and rotating ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstu.spectral.priors import positive_int
from torchstu.systems.lds import LDS


@dataclass(frozen=True)
class Signs:
    """λ = radius × random sign, A diagonal: the paper's system."""

    radius: float = 0.9999


@dataclass(frozen=True)
class Uniform:
    """|λ| uniform in [low, high] with random signs, A symmetric: dense, or diagonal on request."""

    low: float = 0.999
    high: float = 1.0
    dense: bool = True


@dataclass(frozen=True)
class Rotations:
    """λ = r e^{±iθ}, r uniform in ``radius`` and θ (radians) in ``angle``; A not symmetric, nor normal.

    ``skew`` is the condition number of the change of basis; 1 keeps A normal.
    """

    radius: tuple[float, float] = (0.999, 1.0)
    angle: tuple[float, float] = (0.0, math.pi)
    skew: float = 4.0


Spectrum = Signs | Uniform | Rotations
SPECTRA: dict[str, Spectrum] = {"paper": Signs(), "symmetric": Uniform(), "asymmetric": Rotations()}


def random_lds(
    state_dim: int,
    d_in: int,
    d_out: int,
    spectrum: str | Spectrum = "paper",
    generator: torch.Generator | None = None,
) -> LDS:
    """A random system; B, C and D are Gaussian, B and C scaled by 1/√N but for the paper's system, which has none.

    Args:
        state_dim: N; even for `Rotations`.
        d_in, d_out: channels.
        spectrum: "paper" (`Signs`), "symmetric" (`Uniform`), "asymmetric" (`Rotations`), or one of those with its own numbers.
        generator: source of randomness.

    Raises:
        ValueError: an unknown spectrum, radii outside [0, 1], an odd ``state_dim`` for rotations.

    Source: arXiv 2312.06837, section 5.1, for "paper".
    """
    n, d_in, d_out = positive_int("state_dim", state_dim), positive_int("d_in", d_in), positive_int("d_out", d_out)
    if isinstance(spectrum, str):
        if spectrum not in SPECTRA:
            raise ValueError(f"spectrum: {spectrum!r}; it must be one of {list(SPECTRA)} or one of their classes")
        spectrum = SPECTRA[spectrum]
    if not isinstance(spectrum, Spectrum):
        raise TypeError(f"spectrum: {type(spectrum).__name__}; it must be one of {list(SPECTRA)} or one of their classes")

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def uniform(count: int, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)

    def signs(count: int) -> Tensor:
        return torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0).double()

    scale = 1 / math.sqrt(n)
    if isinstance(spectrum, Signs):
        _check_radii(spectrum.radius, spectrum.radius)
        A, scale = torch.diag(spectrum.radius * signs(n)), 1.0
    elif isinstance(spectrum, Uniform):
        _check_radii(spectrum.low, spectrum.high)
        values = uniform(n, spectrum.low, spectrum.high) * signs(n)
        basis = torch.linalg.qr(normal(n, n)).Q if spectrum.dense else torch.eye(n, dtype=torch.float64)
        A = (basis * values) @ basis.T
        A = (A + A.T) / 2
    else:
        _check_radii(*spectrum.radius)
        A = _rotations(spectrum, n, uniform, torch.linalg.qr(normal(n, n)).Q, torch.linalg.qr(normal(n, n)).Q)
    return LDS(A, scale * normal(n, d_in), scale * normal(d_out, n), normal(d_out, d_in))


def _check_radii(low: float, high: float) -> None:
    if not 0 <= low <= high <= 1:
        raise ValueError(f"spectrum: radii {low}..{high}; they must satisfy 0 <= low <= high <= 1")


def _rotations(spectrum: Rotations, n: int, uniform: object, left: Tensor, right: Tensor) -> Tensor:
    if n % 2:
        raise ValueError(f"state_dim: {n}; rotations come in pairs, so it must be even")
    if not spectrum.skew >= 1:
        raise ValueError(f"spectrum: skew {spectrum.skew}; a condition number is at least 1")
    r, angle = uniform(n // 2, *spectrum.radius), uniform(n // 2, *spectrum.angle)  # type: ignore[operator]
    c, s = r * torch.cos(angle), r * torch.sin(angle)
    A = torch.block_diag(*torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2))
    stretch = torch.logspace(0, math.log10(spectrum.skew), n, dtype=torch.float64)
    basis = (left * stretch) @ right.T
    return torch.linalg.solve(basis.T, (basis @ A).T).T
