"""The two quadratures that make the filters cheap, design (3).

Integrals over eigenvalues use Gauss-Legendre nodes on dyadic panels towards the unit circle; sums over time use the Gauss
rule of the discrete uniform measure (Gram polynomials) on dyadic panels towards time 0. The matrix between the two sets of
nodes has a few hundred rows and columns, whatever the length. See ``docs/filters.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.polynomial.legendre import leggauss, legvander

from torchstu.spectral.measures import Arc

# Golden values at L = 32 and 96: 20 nodes a panel leave 4e-8 at eigenvalue 1e-22, 30 leave 2e-8, 12 leave 7e-2.
NODES_PER_PANEL = 24
# Filters at L = 1000 and 4096: 16 rows leave 2e-9, 20 and more only the rounding of the decomposition itself.
ROWS_PER_PANEL = 24
_CHUNK = 65_536


class Panel(NamedTuple):
    """Times ``start <= i < stop``; ``rows`` of the compressed axis stand for them."""

    start: int
    stop: int
    rows: slice


class TimeGrid(NamedTuple):
    """Times x and weights w with sum_i f(i) = sum_r w_r f(x_r) over 0..length-1, for f smooth on each dyadic panel."""

    length: int
    times: np.ndarray
    weights: np.ndarray
    panels: tuple[Panel, ...]


def eigenvalue_nodes(length: int, radius: tuple[float, float] = (0.0, 1.0)) -> tuple[np.ndarray, np.ndarray]:
    """Nodes s = 1 - α on (0, 1) and weights for integrals of functions α^i, i < 2·length; shapes (Q,), Q = 24 (log2 L + 3).

    With a ``radius`` (low, high) of the integral over low < α < high, on panels cut there.
    """
    nodes, weights = leggauss(NODES_PER_PANEL)
    levels = int(np.ceil(np.log2(max(length, 2)))) + 2
    edges = np.concatenate([[0.0], 2.0 ** -np.arange(levels, -1, -1, dtype=np.float64)])
    edges = np.unique(edges.clip(1 - radius[1], 1 - radius[0]))
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (1 + nodes)).ravel(), (half * weights).ravel()


def arc_nodes(arcs: Sequence[Arc], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Angles in [0, π] and masses, conjugates counted, for integrals over arcs of functions e^{iθj}, |j| < length."""
    angles, masses = [], []
    for low, high, weight in arcs:
        if high == low:
            angles.append(np.array([low]))
            masses.append(np.array([weight if low in (0.0, np.pi) else 2 * weight]))
            continue
        wave = (high - low) * length / 2  # half the phase that the fastest function runs through
        nodes, weights = leggauss(int(np.ceil(wave / 2 + 7 * np.cbrt(wave))) + 24)
        angles.append(low + (high - low) / 2 * (1 + nodes))
        masses.append((high - low) * weight * weights)
    return np.concatenate(angles), np.concatenate(masses)


def gram_nodes(count: int, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss rule of sum_{i=0}^{count-1}: exact for polynomials of degree < 2·order (Golub-Welsch on the Gram recurrence)."""
    k = np.arange(1, order, dtype=np.float64)
    off_diagonal = np.sqrt(k**2 * (float(count) ** 2 - k**2) / (4 * (4 * k**2 - 1)))
    nodes, vectors = np.linalg.eigh(np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1))
    return nodes + (count - 1) / 2, count * vectors[0] ** 2


def time_grid(length: int) -> TimeGrid:
    """Compress the times 0..length-1 to O(log length) rows; short panels keep every time."""
    edges = [0, min(length, 3 * ROWS_PER_PANEL)]
    while edges[-1] < length:
        edges.append(min(2 * edges[-1], length))
    times, weights, panels, used = [], [], [], 0
    for start, stop in pairwise(edges):
        count = stop - start
        if count <= 3 * ROWS_PER_PANEL:
            x, w = np.arange(count, dtype=np.float64), np.ones(count)
        else:
            x, w = gram_nodes(count, ROWS_PER_PANEL)
        times.append(start + x)
        weights.append(w)
        panels.append(Panel(start, stop, slice(used, used + len(x))))
        used += len(x)
    return TimeGrid(length, np.concatenate(times), np.concatenate(weights), tuple(panels))


def interpolate(grid: TimeGrid, values: np.ndarray) -> np.ndarray:
    """Values (rows, K) on the grid to all times (length, K), by a Legendre series on each panel."""
    result = np.empty((grid.length, values.shape[1]))
    for panel in grid.panels:
        if panel.rows.stop - panel.rows.start == panel.stop - panel.start:
            result[panel.start : panel.stop] = values[panel.rows]
            continue
        series = np.linalg.solve(_legendre(panel, grid.times[panel.rows]), values[panel.rows])
        for first in range(panel.start, panel.stop, _CHUNK):
            last = min(first + _CHUNK, panel.stop)
            result[first:last] = _legendre(panel, np.arange(first, last, dtype=np.float64)) @ series
    return result


def _legendre(panel: Panel, times: np.ndarray) -> np.ndarray:
    """The Legendre polynomials of a panel at some times, (n, 24)."""
    return legvander((2 * times - (panel.start + panel.stop - 1)) / (panel.stop - 1 - panel.start), ROWS_PER_PANEL - 1)
