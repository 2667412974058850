"""A stable system by its modes: real poles and conjugate pairs, each read and driven by one vector, design (7)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from torchstu.systems.lds import LDS

SLOWEST, FASTEST = 1e-12, 1 - 1e-4
"""The range of 1 - |λ|: a mode is stable, and its sign or angle is known."""


@dataclass(frozen=True, eq=False)
class Modes:
    """Poles and input vectors of x_t = A x_{t-1} + B u_t, λ_j = (1 - s_j) e^{iθ_j}; A is block diagonal.

    Attributes:
        gap: s = 1 - |λ|, (M,), in [`SLOWEST`, `FASTEST`]: kept instead of |λ|, which would lose its digits near 1.
        angle: θ, (M,): 0 or π for a real pole, inside (0, π) for a conjugate pair.
        inputs: β, (M, D_in) complex, of norm 1; real for a real pole.
    """

    gap: np.ndarray
    angle: np.ndarray
    inputs: np.ndarray

    def __len__(self) -> int:
        return len(self.gap)

    @property
    def pair(self) -> np.ndarray:
        """Which modes are conjugate pairs, (M,)."""
        return (self.angle != 0.0) & (self.angle != np.pi)

    @property
    def order(self) -> int:
        """States: one a real pole, two a pair."""
        return len(self) + int(self.pair.sum())

    @property
    def columns(self) -> np.ndarray:
        """The first state of every mode, (M,)."""
        return np.concatenate([[0], np.cumsum(1 + self.pair)[:-1]]).astype(int) if len(self) else np.zeros(0, int)

    @property
    def poles(self) -> np.ndarray:
        """λ, (M,) complex, of a pair the one above the real axis."""
        return (1 - self.gap) * self.direction

    @property
    def direction(self) -> np.ndarray:
        """e^{iθ}, (M,), exactly ±1 for real poles."""
        return np.where(self.pair, np.exp(1j * self.angle), np.where(self.angle == 0.0, 1.0, -1.0))

    def kernels(self, length: int, slope: bool = False) -> np.ndarray:
        """g_0 = 0, g_i = λ^{i-1} (or its derivative by λ), i < length: complex, (M, length)."""
        rate = np.log1p(-self.gap) + 1j * np.where(self.pair, self.angle, 0.0)
        fine, coarse = np.exp(np.multiply.outer(rate, np.arange(64.0))), np.arange(0.0, length, 64.0)
        powers = np.exp(np.multiply.outer(rate, coarse))[:, :, None] * fine[:, None, :]  # |λ|^i e^{iθ}, real poles without sign
        values = np.zeros((len(self), length), complex)
        values[:, 1 + slope :] = powers.reshape(len(self), 64 * len(coarse))[:, : length - 1 - slope]
        if slope:
            values *= np.arange(-1.0, length - 1)
        flipped = self.angle == np.pi  # (-1)^{i-1}, exactly
        values[flipped, slope::2] *= -1.0
        return values

    def matrices(self) -> tuple[np.ndarray, np.ndarray]:
        """A (n, n), real and block diagonal, and B (n, D_in)."""
        A, B = np.zeros((self.order, self.order)), np.zeros((self.order, self.inputs.shape[1]))
        for at, pole, pair, beta in zip(self.columns, self.poles, self.pair, self.inputs, strict=True):
            A[at, at], B[at] = pole.real, beta.real
            if pair:
                A[at + 1, at + 1], A[at, at + 1], A[at + 1, at] = pole.real, -pole.imag, pole.imag
                B[at + 1] = beta.imag
        return A, B

    def system(self, read: np.ndarray, direct: np.ndarray, inputs: int) -> LDS:
        """The `LDS` of y_t = C' x_{t-1} + D' u_t, driven by the first ``inputs`` channels: C = C' A⁻¹, D = D' - C B.

        Channels that ``direct`` lacks do not reach the output directly.
        """
        A, B = self.matrices()
        C = np.linalg.solve(A.T, read.T).T if len(A) else read
        direct = np.pad(direct, ((0, 0), (0, inputs - direct.shape[1])))
        return LDS(A, B[:, :inputs], C, direct - C @ B[:, :inputs])

    def joined(self, other: Modes) -> Modes:
        """Both sets of modes."""
        return Modes(*(np.concatenate([getattr(self, n), getattr(other, n)]) for n in ("gap", "angle", "inputs")))

    def normalized(self) -> Modes:
        """The same system with unit input vectors, gaps in range and poles that crossed zero on their own side."""
        gap, angle = self.gap.copy(), np.where(self.pair, np.mod(self.angle, 2 * np.pi), self.angle)
        crossed = (gap > 1) & ~self.pair
        angle = np.where(crossed, np.where(self.angle == 0.0, np.pi, 0.0), angle)
        gap = np.where(crossed, 2 - gap, gap)
        mirrored = self.pair & (angle > np.pi)  # the conjugate pole is the same pair
        angle, beta = np.where(mirrored, 2 * np.pi - angle, angle), np.where(mirrored[:, None], self.inputs.conj(), self.inputs)
        norm = np.linalg.norm(beta, axis=1, keepdims=True)
        beta = np.where(norm > 0, beta / np.where(norm > 0, norm, 1.0), 1 / np.sqrt(beta.shape[1]))
        return Modes(np.clip(gap, SLOWEST, FASTEST), angle, beta)


def no_modes(inputs: int) -> Modes:
    """A system without states."""
    return Modes(np.zeros(0), np.zeros(0), np.zeros((0, inputs), complex))


def modes_of(A: np.ndarray, B: np.ndarray) -> Modes:
    """The modes of a diagonalizable pair (A, B), unstable poles mirrored into the unit disk; D_in columns in B."""
    values, vectors = np.linalg.eig(A)
    drive = np.linalg.lstsq(vectors, B.astype(complex), rcond=None)[0]
    keep = values.imag >= 0
    values, drive = values[keep], drive[keep]
    real = values.imag == 0
    radius = np.abs(values)
    radius = np.where(radius > 1, 1 / np.maximum(radius, 1.0), radius)
    angle = np.where(real, np.where(values.real >= 0, 0.0, np.pi), np.angle(values))
    turn = np.exp(-1j * np.angle(np.where(real[:, None], drive.sum(1, keepdims=True), 1.0)))  # an eigenvector's phase is free
    drive = np.where(real[:, None], (drive * turn).real, drive)
    return Modes(1 - radius, angle, drive.astype(complex)).normalized()


def with_inputs(modes: Modes, count: int) -> Modes:
    """Input vectors widened by zeros to ``count`` channels."""
    missing = count - modes.inputs.shape[1]
    return replace(modes, inputs=np.pad(modes.inputs, ((0, 0), (0, missing))))


def hankel_reduction(response: torch.Tensor, order: int, probes: int = 24, seed: int = 0) -> tuple[np.ndarray, ...]:
    """A, B and all Hankel singular values found of a response h_1, h_2, …: the eigensystem realization of stated order.

    The leading singular vectors of the block Hankel matrix H_ij = h_{i+j+1}, i, j < m = ⌊(T-1)/2⌋, come from random probes and
    two power iterations; products with H are correlations, done by transforms, so nothing of size m² is formed.

    Args:
        response: h, (T, D_out, D_in) with h_0 first; h_0 is no part of it.
        order: n, states wanted; fewer come back where the matrix has not as many.
        probes: vectors beyond n.
        seed: of the probes.

    Returns:
        A (n, n), B (n, D_in), singular values (n + probes,) in descending order.

    Source: Juang and Pappa, 1985; Halko, Martinsson and Tropp, Finding structure with randomness, 2011.
    """
    h = response[1:].numpy()
    half, (d_out, d_in) = len(h) // 2, h.shape[1:]
    size = 2 ** int(np.ceil(np.log2(len(h) + half)))
    spectrum = np.fft.rfft(h, size, axis=0)

    def product(X: np.ndarray, transposed: bool, shift: int = 0) -> np.ndarray:
        """H X or Hᵀ X, of the Hankel matrix ``shift`` lags later; X (m, D, k)."""
        wave = np.fft.rfft(X[::-1], size, axis=0)
        mixed = np.einsum("foi,fok->fik" if transposed else "foi,fik->fok", spectrum, wave, optimize=True)
        return np.fft.irfft(mixed, size, axis=0)[half - 1 + shift : 2 * half - 1 + shift]

    width = min(order + probes, half * d_in, half * d_out)
    X = np.random.default_rng(seed).standard_normal((half, d_in, width))
    left = product(X, False)
    for _ in range(2):
        left = np.linalg.qr(left.reshape(half * d_out, -1))[0].reshape(half, d_out, -1)
        right = np.linalg.qr(product(left, True).reshape(half * d_in, -1))[0].reshape(half, d_in, -1)
        left = product(right, False)
    basis = np.linalg.qr(left.reshape(half * d_out, -1))[0]
    rows = product(basis.reshape(half, d_out, -1), True).reshape(half * d_in, -1).T  # Qᵀ H
    inner, sigma, V_T = np.linalg.svd(rows, full_matrices=False)
    n = min(order, int((sigma > 1e-15 * sigma[0]).sum())) if sigma[0] > 0 else 0
    left_n, right_n = (basis @ inner[:, :n]).reshape(half, d_out, n), V_T[:n].T.reshape(half, d_in, n)
    root = np.sqrt(sigma[:n])
    shifted = left_n.reshape(-1, n).T @ product(right_n, False, shift=1).reshape(-1, n)
    return shifted / root[:, None] / root, root[:, None] * right_n[0].T, sigma
