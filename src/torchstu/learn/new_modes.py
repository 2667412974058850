"""Where the residual of an output-error fit asks for one more mode."""

from __future__ import annotations

import numpy as np

from torchstu.learn.separable import Fit, Recording
from torchstu.systems.modes import FASTEST, SLOWEST, Modes

_GAPS = 16  # 1 - |λ| tried for each sign
_PAIR_GAPS = 8
_SPLITS = (0.55, 0.9, 1.1, 1.8)  # 1 - |λ| tried beside every real mode, over its own


def best_real(data: Recording, fit: Fit) -> Modes:
    """The real pole, with its input vector, that takes most off the squared error of a fit when it is added."""
    grid = np.geomspace(max(0.1 / data.length, SLOWEST), 0.97, _GAPS)
    gap, angle = np.tile(grid, 2), np.repeat([0.0, np.pi], _GAPS)
    own = ~fit.modes.pair
    beside = np.outer(fit.modes.gap[own], _SPLITS)
    gap = np.concatenate([gap, np.clip(beside, SLOWEST, FASTEST).reshape(-1)])
    angle = np.concatenate([angle, np.repeat(fit.modes.angle[own], len(_SPLITS))])
    return _best(data, fit, gap, angle)


def best_pair(data: Recording, fit: Fit) -> Modes:
    """The conjugate pair that takes most off; the angles come from the correlation of the residual with past inputs.

    With ρ_i = Σ_t u_{t-i} r_t the product of a mode's output with the residual is Σ_i λ^{i-1} ρ_i, so a transform of damped ρ
    gives all angles at once; the same of the inputs' autocorrelation gives the energies of those outputs.
    """
    residual = np.zeros((len(data.direct), data.outputs))
    for part in fit.parts:
        residual[np.ix_(np.arange(len(residual))[part.rows], part.own)] = part.residual
    spectrum = data.spectrum.numpy()
    wave = np.fft.rfft(residual.reshape(len(spectrum), data.length, -1), data.size, axis=1)
    cross = np.fft.irfft(np.einsum("ndf,nfo->fdo", spectrum.conj(), wave), data.size, axis=0)[1 : data.length]
    auto = np.fft.irfft((np.abs(spectrum) ** 2).sum((0, 1)), data.size)[: data.length]
    gaps, angles, lags = [], [], np.arange(data.length - 1.0)
    for gap in np.geomspace(max(0.3 / data.length, SLOWEST), 0.6, _PAIR_GAPS):
        damped = (1 - gap) ** lags
        found = (np.abs(np.fft.rfft(cross * damped[:, None, None], data.size, axis=0)) ** 2).sum((1, 2))
        energy = 2 * np.fft.rfft(auto[1:] * damped * (1 - gap), data.size).real + auto[0]
        score = found * (2 * gap - gap**2) / np.maximum(energy, 1e-6 * energy.max())
        edge = max(1, int(0.5 * gap / np.pi * len(score)))  # nearer to the real axis a pair is two real poles
        peaks = edge + np.argsort(score[edge:-edge])[::-1][:1]
        gaps += [gap] * len(peaks)
        angles += list(np.pi * peaks / (len(score) - 1))
    return _best(data, fit, np.array(gaps), np.array(angles))


def _best(data: Recording, fit: Fit, gap: np.ndarray, angle: np.ndarray) -> Modes:
    """Of the poles the one whose outputs, all channels driving it, take most off the residual; β is the leading one."""
    candidates = Modes(gap, angle, np.zeros((len(gap), data.channels), complex))
    best, most, beta = 0, -1.0, np.ones(data.channels, complex)
    for k, (z, pair) in enumerate(zip(data.features(candidates), candidates.pair, strict=True)):
        columns = np.concatenate([z.real, z.imag], axis=1) if pair else z
        gained, weights = 0.0, np.zeros((columns.shape[1], data.outputs))
        for part in fit.parts:
            X = columns[part.rows]
            norm = np.linalg.norm(X, axis=0)
            X = X - part.span @ (part.span.T @ X)
            X[:, np.linalg.norm(X, axis=0) < 1e-7 * norm] = 0.0
            size, axes = np.linalg.eigh(X.T @ X)  # a choice, not a result: squaring the columns costs nothing here
            kept = axes[:, size > 1e-10 * size[-1]] / np.sqrt(size[size > 1e-10 * size[-1]])
            along = kept.T @ (X.T @ part.residual)
            weights[:, part.own], gained = kept @ along, gained + float((along**2).sum())
        if gained > most:
            gamma = weights[: data.channels] - 1j * weights[data.channels :] if pair else weights
            best, most, beta = k, gained, np.linalg.svd(gamma, full_matrices=False)[0][:, 0].astype(complex)
    chosen = slice(best, best + 1)
    return Modes(gap[chosen], angle[chosen], beta[None, :]).normalized()
