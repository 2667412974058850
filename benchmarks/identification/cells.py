"""The grid of systems, and one recording and fresh data for each cell. NumPy alone."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FRESH_SEQUENCES = 4
LONG = 16
"""The long roll-out, in lengths of the recording."""
DIRECT_SHARE = 0.1
"""Of the output's power on the recording that the direct term D u_t has."""
NOISE = 0.1
"""Standard deviation of the observation noise over the clean output's root mean square."""
MODES_AT_ONCE = 64


class Cell(NamedTuple):
    """One system and one recording of it."""

    family: str
    states: int
    gap: float
    """δ: the largest |λ| is 1 - δ."""
    length: int
    channels: int
    noise: float

    @property
    def name(self) -> str:
        size = f"{self.channels}x{self.channels} " if self.channels > 1 else ""
        return f"{size}{self.family} N={self.states} δ={self.gap:.0e} L={self.length} noise={self.noise:g}"

    @property
    def symmetric(self) -> bool:
        return self.family in ("symmetric", "slow")


FAMILIES = {
    "symmetric": "|λ| uniform in [0, 1-δ], random signs",
    "slow": "|λ| uniform in [0.9, 1-δ], random signs",
    "rotating": "pairs r e^{±iθ}, r uniform in [0.9, 1-δ], θ in [0, π]",
    "sector": "pairs r e^{±iθ}, r uniform in [0.9, 1-δ], θ in [0, 0.1]",
}
STATES, GAPS, LENGTHS = (4, 32, 256, 1000), (1e-2, 1e-4, 1e-7), (256, 1024, 8192)


def grid(noises: tuple[float, ...] = (0.0, NOISE)) -> list[Cell]:
    """All cells, those with noise first, then by length."""
    found = []
    for noise in noises:
        found += [Cell("symmetric", n, gap, length, 1, noise) for n in STATES for gap in GAPS for length in LENGTHS]
        found += [Cell("slow", n, gap, length, 1, noise) for n in (32, 256) for gap, length in ((1e-2, 1024), (1e-4, 8192))]
        found += [Cell("rotating", n, gap, 1024, 1, noise) for n in (4, 32) for gap in (1e-2, 1e-4)]
        found += [Cell("sector", n, 1e-4, 1024, 1, noise) for n in (4, 32)]
        found += [Cell("symmetric", n, 1e-4, length, 3, noise) for n in (32, 256) for length in (1024, 8192)]
    return sorted(found, key=lambda cell: (-cell.noise, cell.length))


def quick() -> list[Cell]:
    return [Cell("symmetric", n, 1e-2, 256, 1, noise) for n in (4, 32) for noise in (0.0, NOISE)] + [
        Cell("rotating", 4, 1e-2, 256, 1, NOISE), Cell("symmetric", 32, 1e-4, 1024, 3, NOISE)
    ]  # fmt: skip


def seed(cell: Cell) -> int:
    """The same system and inputs for both noises."""
    return zlib.crc32(repr(cell._replace(noise=0.0)).encode())


def modes(cell: Cell, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (M,) and residues (M, D_out, D_in), M modes whose responses' real parts add up; the largest |λ| is 1 - δ.

    Seen from rest, any system with these eigenvalues and residues C w_j w̃_jᵀ B is the same, whatever its basis.
    """
    paired = cell.family in ("rotating", "sector")
    count = cell.states // 2 if paired else cell.states
    radius = rng.uniform(0.0 if cell.family == "symmetric" else 0.9, 1 - cell.gap, count)
    radius[np.argmax(radius)] = 1 - cell.gap
    angle = rng.uniform(0, math.pi if cell.family == "rotating" else 0.1, count)
    turn = np.exp(1j * angle) if paired else rng.choice([-1.0, 1.0], count)

    def vectors() -> np.ndarray:
        real = rng.normal(size=(count, cell.channels))
        return real + 1j * rng.normal(size=real.shape) if paired else real

    return radius * turn, vectors()[:, :, None] * vectors()[:, None, :]


def response(values: np.ndarray, residues: np.ndarray, length: int) -> np.ndarray:
    """Real part of Σ_j residue_j λ_j^i, i = 0..length-1, (length, D_out, D_in)."""
    total, lags = np.zeros((length, *residues.shape[1:])), np.arange(length)
    for start in range(0, len(values), MODES_AT_ONCE):
        value, residue = values[start : start + MODES_AT_ONCE], residues[start : start + MODES_AT_ONCE]
        powers = np.exp(lags[:, None] * np.log(np.abs(value)))
        if np.iscomplexobj(value):
            powers = powers * np.exp(1j * lags[:, None] * np.angle(value))
        else:
            powers[1::2] *= np.sign(value)
        total += (powers @ residue.reshape(len(value), -1)).real.reshape(total.shape)
    return total


def convolve(kernel: np.ndarray, u: np.ndarray) -> np.ndarray:
    """y_t = Σ_i h_i u_{t-i} by transforms: kernel (≥ L, D_out, D_in), u (B, L, D_in), to (B, L, D_out)."""
    length = u.shape[1]
    size = 1 << (2 * length - 1).bit_length()
    product = np.einsum("foi,bfi->bfo", np.fft.rfft(kernel[:length], size, axis=0), np.fft.rfft(u, size, axis=1))
    return np.fft.irfft(product, size, axis=1)[:, :length]


def make(cell: Cell) -> dict[str, Any]:
    """Recording U, Y (L, D), fresh clean sequences of L and of 16 L steps, and fresh observed outputs for one step ahead."""
    rng = np.random.default_rng(seed(cell))
    kernel = response(*modes(cell, rng), LONG * cell.length)
    draw = [(1, cell.length), (FRESH_SEQUENCES, cell.length), (1, LONG * cell.length)]
    inputs = [rng.normal(size=(*shape, cell.channels)) for shape in draw]
    direct, recording = rng.normal(size=kernel.shape[1:]), convolve(kernel, inputs[0])
    aim = recording.var() * DIRECT_SHARE / (1 - DIRECT_SHARE)
    kernel[0] += direct * math.sqrt(aim / (inputs[0] @ direct.T).var())
    outputs = [convolve(kernel, u) for u in inputs]
    scale = float(np.sqrt(np.mean(outputs[0] ** 2)))
    given = {"U": inputs[0][0], "fresh_U": inputs[1], "long_U": inputs[2][0]}
    noises = [cell.noise * scale * rng.normal(size=y.shape) for y in outputs[:2]]
    return given | {
        "Y": (outputs[0] + noises[0])[0], "fresh_Y": outputs[1], "long_Y": outputs[2][0],
        "observed_Y": outputs[1] + noises[1],
    }  # fmt: skip


def stored(cell: Cell, folder: Path) -> Path:
    """The file of a cell's data, made if it is not there."""
    path = folder / (cell.name.replace(" ", "_") + ".npz")
    if not path.is_file():
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **make(cell))
        partial.rename(path)
    return path


def floor(path: Path) -> float:
    """Relative one-step error of the Kalman filter told the truth: from rest, without process noise, the true roll-out."""
    with np.load(path) as data:
        observed, clean = data["observed_Y"], data["fresh_Y"]
    return float(np.mean([np.mean((y - z) ** 2) / np.mean(y**2) for y, z in zip(observed, clean, strict=True)]))
