"""Priors of systems that oscillate, design (9): a sector of the disk, and known periods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchstu.spectral.measures import Arc, Measure, Oscillating, positive_int


@dataclass(frozen=True, init=False, repr=False, kw_only=True)
class Sector(Oscillating):
    """dw = (1-r)² dr dθ on α = r e^{iθ}, |θ| <= ``max_angle``: systems that oscillate slowly, design (9).

    Needs about max_angle·L/π filters more than "positive".

    Args:
        max_angle: β in radians a step, in (0, π]; a period of p steps has the angle 2π/p.
        radius: the range of r, within [0, 1]; a narrow range needs fewer filters.

    Raises:
        ValueError: numbers out of range. TypeError: no numbers.

    Source: design (1); for sectors with other methods arXiv 2601.22400.
    """

    max_angle: float
    radius: tuple[float, float]

    def __init__(self, max_angle: float, radius: tuple[float, float] = (0.0, 1.0)) -> None:
        angle = _real("max_angle", max_angle)
        if not 0 < angle <= math.pi:
            raise ValueError(f"max_angle: {max_angle!r}; it must be in (0, π]")
        low, high = _radius(radius)
        self.complete(f"Sector({angle:g}, radius=({low:g}, {high:g}))", max_angle=angle, radius=(low, high))

    @property
    def config(self) -> Any:
        """Its parameters."""
        return {"sector": {"max_angle": self.max_angle, "radius": list(self.radius)}}

    @property
    def measures(self) -> tuple[Measure, ...]:
        """One product."""
        return (Measure(self.density, self.radius, (Arc(0.0, self.max_angle),)),)


@dataclass(frozen=True, init=False, repr=False, kw_only=True)
class Harmonics(Oscillating):
    """dw = (1-r)² dr at the angles of known periods, ±2πh/p for h = 1..``harmonics``, or in narrow arcs around them.

    Args:
        periods: p in steps, each at least 2; angles above π are left out.
        width: half the width of the arcs, in radians a step; 0 for periods known exactly.
        harmonics: how many multiples of each frequency.
        radius: the range of r, within [0, 1].

    Raises:
        ValueError: numbers out of range, no period. TypeError: no numbers.

    Source: design (9).
    """

    periods: tuple[float, ...]
    width: float
    harmonics: int
    radius: tuple[float, float]

    def __init__(
        self,
        periods: Sequence[float],
        width: float = 0.0,
        harmonics: int = 1,
        radius: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        if isinstance(periods, str) or not isinstance(periods, (Sequence, np.ndarray)):
            raise TypeError(f"periods: {periods!r}; it must be a list of numbers of steps")
        numbers = tuple(_real("periods", p) for p in periods)
        if not numbers or not all(2 <= number < math.inf for number in numbers):
            raise ValueError(f"periods: {list(periods)!r}; it must be one or more finite numbers of at least 2 steps")
        half = _real("width", width)
        if not 0 <= half <= math.pi:
            raise ValueError(f"width: {width!r}; it must be in [0, π]")
        low, high = _radius(radius)
        multiples = positive_int("harmonics", harmonics)
        shown = ", ".join(f"{p:g}" for p in numbers)
        name = f"Harmonics([{shown}], width={half:g}, harmonics={multiples}, radius=({low:g}, {high:g}))"
        self.complete(name, periods=numbers, width=half, harmonics=multiples, radius=(low, high))

    @property
    def config(self) -> Any:
        """Its parameters."""
        values = {"periods": list(self.periods), "width": self.width, "harmonics": self.harmonics, "radius": list(self.radius)}
        return {"harmonics": values}

    @property
    def measures(self) -> tuple[Measure, ...]:
        """One product; arcs that meet are one, of the same mass a radian."""
        multiples = range(1, self.harmonics + 1)
        angles = sorted({2 * math.pi * h / p for p in self.periods for h in multiples if 2 * h <= p * (1 + 1e-12)})
        if not self.width:
            return (Measure(self.density, self.radius, tuple(Arc(min(a, math.pi), min(a, math.pi)) for a in angles)),)
        arcs: list[Arc] = []
        for angle in angles:
            low, high = max(angle - self.width, 0.0), min(angle + self.width, math.pi)
            if arcs and low <= arcs[-1].high:
                low = arcs.pop().low
            arcs.append(Arc(low, high, 1 / (2 * self.width)))
        return (Measure(self.density, self.radius, tuple(arcs)),)


def _real(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: {value!r}; it must be a number")
    return float(value)


def _radius(radius: object) -> tuple[float, float]:
    if not isinstance(radius, (list, tuple)) or len(radius) != 2:
        raise TypeError(f"radius: {radius!r}; it must be a pair (low, high)")
    low, high = (_real("radius", r) for r in radius)
    if not 0 <= low < high <= 1:
        raise ValueError(f"radius: ({low:g}, {high:g}); it must satisfy 0 <= low < high <= 1")
    return low, high
