"""Random systems of stated spectrum: the paper's, symmetric, rotating, defective and non-normal ones."""

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


@dataclass(frozen=True)
class JordanBlocks:
    """Jordan blocks of ``size`` in an orthogonal basis: |λ| uniform in [low, high] with random signs, ``coupling`` above it.

    A response grows as i^{size-1} λ^i before it decays; there is no basis of eigenvectors.
    """

    low: float = 0.9
    high: float = 0.99
    size: int = 3
    coupling: float = 1.0


@dataclass(frozen=True)
class NonNormal:
    """A = Q (Λ + N) Qᵀ: |λ| uniform in [low, high] with random signs, N strictly upper triangular and Gaussian.

    ``departure`` is ‖N‖_F / ‖A‖_F in [0, 1), what `departure_from_normality` measures.
    """

    low: float = 0.9
    high: float = 0.99
    departure: float = 0.3


Spectrum = Signs | Uniform | Rotations | JordanBlocks | NonNormal
SPECTRA: dict[str, Spectrum] = {
    "paper": Signs(),
    "symmetric": Uniform(),
    "asymmetric": Rotations(),
    "jordan": JordanBlocks(),
    "non-normal": NonNormal(),
}


def random_lds(
    state_dim: int,
    d_in: int,
    d_out: int,
    spectrum: str | Spectrum = "paper",
    generator: torch.Generator | None = None,
) -> LDS:
    """A random system; B, C and D are Gaussian, B and C scaled by 1/√N but for the paper's system, which has none.

    Args:
        state_dim: N; even for `Rotations`, a multiple of the size for `JordanBlocks`.
        d_in, d_out: channels.
        spectrum: "paper" (`Signs`), "symmetric" (`Uniform`), "asymmetric" (`Rotations`), "jordan" (`JordanBlocks`),
            "non-normal" (`NonNormal`), or one of those classes with its own numbers.
        generator: source of randomness.

    Raises:
        ValueError: an unknown spectrum, radii outside [0, 1], a ``state_dim`` that does not fit the blocks, a departure outside
            [0, 1).

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
    elif isinstance(spectrum, (JordanBlocks, NonNormal)):
        _check_radii(spectrum.low, spectrum.high)
        values, basis = uniform(n, spectrum.low, spectrum.high) * signs(n), torch.linalg.qr(normal(n, n)).Q
        if isinstance(spectrum, JordanBlocks):
            A = basis @ _jordan(spectrum, values) @ basis.T
        else:
            A = basis @ _triangular(spectrum, values, normal(n, n)) @ basis.T
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


def _jordan(spectrum: JordanBlocks, values: Tensor) -> Tensor:
    n, size = len(values), positive_int("spectrum: size", spectrum.size)
    if n % size:
        raise ValueError(f"state_dim: {n}; with Jordan blocks of size {size} it must be a multiple of that")
    above = torch.full((n - 1,), float(spectrum.coupling), dtype=torch.float64)
    above[size - 1 :: size] = 0
    return torch.diag(values[::size].repeat_interleave(size)) + torch.diag(above, 1)


def _triangular(spectrum: NonNormal, values: Tensor, noise: Tensor) -> Tensor:
    if not 0 <= spectrum.departure < 1:
        raise ValueError(f"spectrum: departure {spectrum.departure}; it must be in [0, 1)")
    noise = noise.triu(1)
    share = spectrum.departure / math.sqrt(1 - spectrum.departure**2)
    return torch.diag(values) + noise * (share * values.norm() / noise.norm().clamp(min=torch.finfo(torch.float64).tiny))


def departure_from_normality(A: object) -> float:
    """Henrici's departure from normality as a share, √(‖A‖_F² - Σ|λ|²) / ‖A‖_F: 0 if A is normal, 1 if nilpotent.

    The difference cancels: below about 1e-7 the result is rounding.

    Args:
        A: (N, N), array or tensor.

    Raises:
        ValueError: no square matrix. TypeError: complex or not numbers.

    Source: P. Henrici, Numerische Mathematik 4, 1962.
    """
    matrix = LDS(A, torch.zeros(len(torch.as_tensor(A)), 1), torch.zeros(1, len(torch.as_tensor(A))), torch.zeros(1, 1)).A
    size = float(matrix.square().sum())
    if not size:
        return 0.0
    return math.sqrt(max(0.0, size - float(torch.linalg.eigvals(matrix).abs().square().sum())) / size)
