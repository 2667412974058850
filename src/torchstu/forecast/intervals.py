"""How far forecasts may be off, horizon by horizon, from their errors on data that they were not fitted to."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

FEWEST = 20
"""Errors of a horizon that quantiles are taken from; with fewer, a normal distribution of their size."""


def error_quantiles(residuals: np.ndarray, horizons: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Quantiles of y_{t+h} - ŷ_{t+h} from residuals on folds.

    The ⌊α (n+1)⌋-th smallest below the median and the ⌈α (n+1)⌉-th above it, as split conformal prediction has it; beyond the
    largest of n errors that one times z_α / z_{n/(n+1)}. Where n < 20, z_α √h times the root mean square of e_h / √h.

    Args:
        residuals: (n, H), NaN where unknown.
        horizons: (H,) in steps.
        levels: α, (A,) in (0, 1).

    Returns:
        (H, A), not decreasing in α.

    Source: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005; the two tails are ours.
    """
    normal = np.array([NormalDist().inv_cdf(float(level)) for level in levels])
    known = ~np.isnan(residuals)
    steps = np.sqrt(horizons.astype(float))
    pooled = (residuals / steps)[known]
    typical = float(np.sqrt(np.mean(pooled**2))) if pooled.size else 1.0  # the deviation of the series' steps
    found = np.empty((len(horizons), len(levels)))
    for h in range(len(horizons)):
        errors = np.sort(residuals[known[:, h], h])
        count = len(errors)
        if count < FEWEST:
            found[h] = normal * typical * steps[h]
            continue
        ranks = levels * (count + 1)
        ranks = np.where(levels < 0.5, np.floor(ranks + 1e-9), np.ceil(ranks - 1e-9)).astype(int)
        found[h] = errors[np.clip(ranks, 1, count) - 1]
        reach = np.abs(normal) / NormalDist().inv_cdf(count / (count + 1))
        outermost = np.where(levels < 0.5, np.minimum(errors[0], 0.0), np.maximum(errors[-1], 0.0))
        found[h] = np.where((ranks < 1) | (ranks > count), outermost * np.maximum(reach, 1.0), found[h])
    order = np.argsort(levels, kind="stable")
    found[:, order] = np.maximum.accumulate(found[:, order], axis=1)
    return found
