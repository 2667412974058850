"""The realization of a user's arrays from their values, design (8); see ``docs/realization.md``."""

from __future__ import annotations

import numpy as np

from torchstu.spectral.realization import TOLERANCE

ACCEPTED = 1e-6
"""Largest error, over the largest value, at which a user's arrays count as a sum of exponentials: float32 leaves 5e-8."""
MOST_EXTRA = 128
"""States tried beyond the K features when a user's arrays are identified."""


class Identified:
    """The realization of arrays by the eigensystem realization algorithm, with the features as the first states; design (8).

    The futures of the σ^{1/4}-scaled filters, H_(p,k),i = σ_k^{1/4} φ_k(i+p) for p < P and i <= L - P, are linear in the state
    at lag i. What of them the filters at lag i do not say is H (I - ΠΠᵀ), Π an orthonormal basis of the filters; its leading
    right singular vectors are the states beyond K, and A is the least-squares map from the states at lag i to those at i + 1.
    P = max(L/(K+1), L/8): at least as many futures as lags. H is never formed: products with it are correlations, and its
    singular vectors come from a random projection on `MOST_EXTRA` columns, each O(L K log L) time and O(L) memory.

    Args:
        filters: φ, (L, K), any real array.
        scale: σ^{1/4}, (K,).

    Source: S. Kung, "A new identification and model reduction algorithm via singular value decompositions", Asilomar 1978;
    J.-N. Juang and R. S. Pappa, J. Guidance 8(5), 1985; N. Halko et al., SIAM Review 53(2), 2011 for the projection.
    """

    gradual = False

    def __init__(self, filters: np.ndarray, scale: np.ndarray) -> None:
        length, self.count = filters.shape
        largest = float(np.abs(filters * scale).max())  # a user's filters may have any size
        self.target, self.accepted = TOLERANCE * largest, ACCEPTED * largest
        futures = max(-(-length // (self.count + 1)), length // 8 if length >= 8 * self.count else 1)
        window = filters[: length - futures + 1]
        features = _orthonormal_columns(window)
        extra = _extra_states(filters * scale, futures, features[0])
        self.highest = self.count + extra.shape[1]
        self.alone = _OneStep(_orthonormal_columns(filters), np.empty((length, 0)))
        self.extended = _OneStep(features, extra)

    def at(self, order: int) -> tuple[np.ndarray, np.ndarray]:
        """A (R, R) and b (R,); the K features alone are fitted at all lags."""
        return self.alone.at(0) if order == self.count else self.extended.at(order - self.count)

    def radius(self, order: int) -> float:
        """The spectral radius of A."""
        return float(np.abs(np.linalg.eigvals(self.at(order)[0])).max())


_Columns = tuple[np.ndarray, np.ndarray, np.ndarray]  # orthonormal (T, r), T (r, K) and its pseudo-inverse: filters = first @ T


def _orthonormal_columns(filters: np.ndarray) -> _Columns:
    """An orthonormal basis of the filters, which may be dependent, and the way back."""
    left, s, right = np.linalg.svd(filters, full_matrices=False)
    rank = int((s > np.finfo(np.float64).eps * max(filters.shape) * s[0]).sum())
    left, s, right = left[:, :rank], s[:rank, None], right[:rank]
    return left, s * right, (right / s).T


class _OneStep:
    """Least squares from states at lag i to states at lag i + 1, for the features and the first n extra states."""

    def __init__(self, features: _Columns, extra: np.ndarray) -> None:
        basis, self.forth, self.back = features
        basis = np.concatenate([basis, extra], axis=1)  # orthonormal columns
        self.first, self.last, self.moved = basis[0], basis[-1], basis[:-1].T @ basis[1:]

    def at(self, extra: int) -> tuple[np.ndarray, np.ndarray]:
        """A and b with ``extra`` states beyond the features."""
        (rank, count), size = self.forth.shape, self.forth.shape[0] + extra
        last, moved = self.last[:size], self.moved[:size, :size]
        energy = float(last @ last)  # the Gram matrix of all lags but the last is I - last lastᵀ
        if energy:
            moved = moved + np.outer(last, last @ moved) / (1 - energy if energy < 1 - 1e-10 else -energy)
        forth, back = np.eye(size, count + extra, count - rank), np.eye(count + extra, size, rank - count)
        forth[:rank, :count], back[:count, :rank] = self.forth, self.back
        return (back @ moved @ forth).T, self.first[:size] @ forth


def _extra_states(scaled: np.ndarray, futures: int, features: np.ndarray) -> np.ndarray:
    """Leading right singular vectors of the Hankel matrix H less its part along the features, (L - P + 1, n)."""
    window, rank = features.shape
    width = min(MOST_EXTRA, window - rank, futures * scaled.shape[1])
    if width < 1:
        return np.empty((window, 0))
    sketch = _random_rows(scaled, futures, width)
    for _ in range(2):  # once is not enough in floating point
        sketch, _ = np.linalg.qr(sketch - features @ (features.T @ sketch))
    _, s, right = np.linalg.svd(_triangle(scaled, futures, sketch))
    kept = int((s > np.finfo(np.float64).eps * np.linalg.norm(scaled)).sum())
    return sketch @ right[:kept].T


def _random_rows(scaled: np.ndarray, futures: int, width: int) -> np.ndarray:
    """Hᵀ Ω for Ω (P K, n) of normal numbers: Σ_pk h_k(i+p) Ω_pk, (L - P + 1, n), by transforms."""
    (length, count), rng = scaled.shape, np.random.default_rng(0)
    spectrum = np.fft.rfft(scaled, length, axis=0)
    result = np.empty((length - futures + 1, width))
    for n in range(width):
        weights = np.fft.rfft(rng.standard_normal((futures, count)), length, axis=0)
        result[:, n] = np.fft.irfft((spectrum * weights.conj()).sum(axis=1), length)[: len(result)]
    return result


def _triangle(scaled: np.ndarray, futures: int, columns: np.ndarray) -> np.ndarray:
    """The triangular factor of H X for X (L - P + 1, n), a filter at a time: Σ_i h_k(i+p) X_in by transforms."""
    length = len(scaled)
    weights = np.fft.rfft(columns, length, axis=0).conj()
    triangle = np.empty((0, columns.shape[1]))
    for filter_ in scaled.T:
        block = np.fft.irfft(np.fft.rfft(filter_)[:, None] * weights, length, axis=0)[:futures]
        triangle = np.asarray(np.linalg.qr(np.concatenate([triangle, block]), mode="r"))
    return triangle
