"""Noise with a memory: an autoregression of the residual of a roll-out, and data filtered so that the noise is white again."""

from __future__ import annotations

import numpy as np

LAGS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24)
"""Numbers of lags that are tried."""


def noise_lags(residual: np.ndarray) -> np.ndarray:
    """a of e_t = Σ_i a_i e_{t-i} + white noise, one autoregression for all outputs, of the least BIC.

    From Yule and Walker's equations, the autocorrelation summed over sequences and outputs of variance 1; divided by one count
    at every lag it is positive definite, and the autoregression stable.

    Args:
        residual: (N, L, D_out), NaN where not observed.

    Returns:
        (p,), p = 0 where the residual is white.
    """
    seen = np.isfinite(residual)
    values = np.where(seen, residual, 0.0)
    values = values / np.sqrt(np.maximum((values**2).sum((0, 1)) / np.maximum(seen.sum((0, 1)), 1), np.finfo(float).tiny))
    count, most = int(seen.sum()), min(max(LAGS), residual.shape[1] // 4)
    r = np.array([(values[:, k:] * values[:, : values.shape[1] - k]).sum() for k in range(most + 1)]) / count
    best, least = np.zeros(0), 0.0
    for p in LAGS[1:]:
        if p > most or not r[0] > 0:
            break
        toeplitz = r[np.abs(np.subtract.outer(np.arange(p), np.arange(p)))]
        a = np.linalg.solve(toeplitz + 1e-12 * r[0] * np.eye(p), r[1 : p + 1])
        score = count * np.log(max(1 - a @ r[1 : p + 1] / r[0], np.finfo(float).eps)) + p * np.log(count)
        if score < least:
            best, least = a, score
    return best


def filtered(x: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """x_t - Σ_i a_i x_{t-i} with zero before the start, (N, L, D); NaN wherever a value that is needed is."""
    out = x.copy()
    for i, a in enumerate(lags, 1):
        out[:, i:] -= a * x[:, :-i]
    return out
