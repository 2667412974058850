"""Seasons of a series: periods that the calendar suggests, and those that the data show."""

from __future__ import annotations

import numpy as np

CYCLES = 3
"""A period that was not seen so many times is none."""
MOST_PERIODS = 3
MOST_STEPS = 2**12
"""The last so many steps are looked at."""
HARMONICS = (2, 24)
"""Of each period, whichever does best."""
STRENGTH = 0.1
"""Share of the variance left over that a period with its harmonics must explain on data it was not fitted to."""


def find_periods(y: np.ndarray, candidates: tuple[float, ...] = ()) -> tuple[float, ...]:
    """Periods in steps, shortest first, at most three.

    Peaks of the spectrum of the differences, refined between its lines, and the calendar's candidates: each in turn must
    explain, with its harmonics fitted to one half of the differences, 10 % of what those before left of the other half. What is
    a harmonic of another is dropped, unless the calendar has it.

    Args:
        y: (T,), NaN where missing.
        candidates: periods to look at too.
    """
    y = y[-MOST_STEPS:]
    seen = np.flatnonzero(~np.isnan(y))
    if len(seen) < 4 * CYCLES:
        return ()
    w = np.diff(np.interp(np.arange(len(y)), seen, y[seen]))
    w = w - w.mean()
    if not w.any():
        return ()
    limit = len(w) / CYCLES
    found: list[float] = []
    rest = w
    for _ in range(MOST_PERIODS):
        peaks = _peaks(rest)
        tried = [p for p in (*candidates, *peaks) if 2 <= p <= limit and all(abs(p / q - 1) > 0.02 for q in found)]
        before = _left(w, found)
        errors = [_left(w, [*found, p]) for p in tried]
        if not tried or min(errors) > (1 - STRENGTH) * before:
            break
        enough = min(errors) + 0.25 * (before - min(errors))
        near = [float(p) for p, error in zip(tried, errors, strict=True) if error <= enough]
        shortest = min([p for p in near if p in candidates] or near)  # what else a multiple of it explains comes next
        found.append(_refined(shortest, dict(zip(tried, errors, strict=True)), candidates, 0.05 * (before - min(errors))))
        most = HARMONICS[int(np.argmin([_error(w, found, most) for most in HARMONICS]))]
        design = _harmonics(len(w), found, most)
        rest = w - design @ _fit(design, w)
    return tuple(sorted(p for p in found if p in candidates or not any(_harmonic(p, q) for q in found)))


def _refined(period: float, errors: dict[float, float], candidates: tuple[float, ...], close: float) -> float:
    """The best within 1 % of a period, or one of the calendar or of whole steps that is nearly as good."""
    alike = {p: error for p, error in errors.items() if abs(p / period - 1) < 0.01}
    best = min(alike, key=alike.__getitem__)
    good = [p for p in alike if alike[p] <= alike[best] + close]
    return float(next((p for p in good if p in candidates), next((p for p in good if p == round(p)), best)))


def _harmonic(p: float, q: float) -> bool:
    return q > 1.5 * p and abs(q / p / round(q / p) - 1) < 0.01


def _left(w: np.ndarray, periods: list[float]) -> float:
    return min(_error(w, periods, most) for most in HARMONICS)


def _error(w: np.ndarray, periods: list[float], harmonics: int) -> float:
    """Squares left over of the second half by harmonics fitted to the first, and of the first by those of the second."""
    design = _harmonics(len(w), periods, harmonics)
    early, late = slice(0, len(w) // 2), slice(len(w) // 2, None)
    return sum(float(np.sum((w[b] - design[b] @ _fit(design[a], w[a])) ** 2)) for a, b in ((early, late), (late, early)))


def _harmonics(rows: int, periods: list[float], harmonics: int) -> np.ndarray:
    turns = sorted({round(j / p, 9) for p in periods for j in range(1, harmonics + 1) if j / p <= 0.5})
    angles = 2 * np.pi * np.fmod(np.arange(rows)[:, None] * np.array(turns), 1.0)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


def _fit(design: np.ndarray, w: np.ndarray) -> np.ndarray:
    return np.linalg.solve(design.T @ design + 1e-6 * len(w) * np.eye(design.shape[1]), design.T @ w)


def _peaks(w: np.ndarray, most: int = 5) -> list[float]:
    """Periods of the highest lines of the spectrum, refined between lines, and what they are the second harmonic of."""
    window = np.hanning(len(w))
    power = np.abs(np.fft.rfft(w * window)) ** 2
    inside = np.flatnonzero((power[1:-1] > power[:-2]) & (power[1:-1] >= power[2:])) + 1
    inside = inside[inside >= CYCLES]
    top = inside[np.argsort(power[inside])[::-1][:most]]
    found = []
    for line in top.tolist():
        left, centre, right = np.log(power[line - 1 : line + 2] + 1e-300)
        bend = left - 2 * centre + right
        frequency = (line + (0.5 * (left - right) / bend if bend else 0.0)) / len(w)
        found += [1 / frequency, 2 / frequency]
    rounded = [round(p) for p in found if round(p) >= 2 and abs(p - round(p)) < 0.5 * p * p / len(w)]
    return [*found, *map(float, rounded)]
