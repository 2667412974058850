"""Measures on eigenvalues, design (1) and (9): what a prior is made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


class Arc(NamedTuple):
    """Angles low..high in [0, π], taken with their conjugates; of mass 2·(high - low)·weight, or 1 angle of mass ``weight``."""

    low: float
    high: float
    weight: float = 1.0


class Measure(NamedTuple):
    """density(s) dr on ``radius`` times arcs of angles: α = r e^{iθ}, s = 1 - r."""

    density: Callable[[np.ndarray], np.ndarray]
    radius: tuple[float, float]
    arcs: tuple[Arc, ...]


@dataclass(frozen=True)
class Prior:
    """A measure dw = density(s) dα, s = 1 - |α|, on the eigenvalues that a system may have.

    Priors add up, names included: ``"positive" + Sector(0.1)`` is the sum of the measures.

    Attributes:
        name: how the prior is called in configurations.
        density: the weight as a function of s = 1 - |α| in (0, 1); s and not α, so that nothing cancels near |α| = 1.
        symmetric: whether the measure covers [-1, 1] (filters then have parity) or [0, 1].
        entries: the Hankel entry Z_ij in closed form, given i + j with i, j = 1..L; None where there is none.
    """

    name: str
    density: Callable[[np.ndarray], np.ndarray]
    symmetric: bool
    entries: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def config(self) -> Any:
        """What JSON can hold and `get_prior` reads: a name, {"sector": {…}}, {"harmonics": {…}}, or a list of those."""
        return self.name

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The measure as a sum of products of a measure on radii and one on angles."""
        arcs = (Arc(0.0, 0.0), Arc(math.pi, math.pi)) if self.symmetric else (Arc(0.0, 0.0),)
        return (Measure(self.density, (0.0, 1.0), arcs),)

    @property
    def covers_positive(self) -> bool:
        """Whether it is "positive" or a sum with it: mirrored, the second bank of (4) then covers negative eigenvalues."""
        return not self.symmetric

    def __add__(self, other: object) -> Prior:
        return PriorSum(self, _summand(other))

    def __radd__(self, other: object) -> Prior:
        return PriorSum(_summand(other), self)


def positive_density(s: np.ndarray) -> np.ndarray:
    """(1-α)², also of the radii of what oscillates."""
    return s**2


def _positive_entries(n: np.ndarray) -> np.ndarray:
    return 2.0 / (n**3 - n)


def _signed_density(s: np.ndarray) -> np.ndarray:
    return (s * (2 - s)) ** 2


def _signed_entries(n: np.ndarray) -> np.ndarray:
    return np.where(n % 2 == 0, 16.0 / ((n - 1) * (n + 1) * (n + 3)), 0.0)


POSITIVE = Prior("positive", positive_density, symmetric=False, entries=_positive_entries)
SIGNED = Prior("signed", _signed_density, symmetric=True, entries=_signed_entries)


class Oscillating(Prior):
    """What `Sector`, `Harmonics` and `PriorSum` share: their name is their configuration, and they have no parity."""

    def complete(self, name: str, **fields: Any) -> None:
        """Set the fields of `Prior` and one's own."""
        base = {"name": name, "density": positive_density, "symmetric": False, "entries": None}
        for key, value in (base | fields).items():
            object.__setattr__(self, key, value)

    def __repr__(self) -> str:
        return self.name

    @property
    def covers_positive(self) -> bool:
        """No: it is no measure on [0, 1]."""
        return False


@dataclass(frozen=True, init=False, repr=False, kw_only=True)
class PriorSum(Oscillating):
    """The sum of two or more priors, made by ``+``."""

    parts: tuple[Prior, ...]

    def __init__(self, *priors: Prior) -> None:
        parts = tuple(part for prior in priors for part in (prior.parts if isinstance(prior, PriorSum) else (prior,)))
        self.complete(" + ".join(part.name for part in parts), parts=parts)

    @property
    def config(self) -> Any:
        """Those of the parts."""
        return [part.config for part in self.parts]

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Those of the parts."""
        return tuple(measure for part in self.parts for measure in part.measures)

    @property
    def covers_positive(self) -> bool:
        """Whether a part does."""
        return any(part.covers_positive for part in self.parts)


PRIORS: dict[str, Prior] = {POSITIVE.name: POSITIVE, SIGNED.name: SIGNED}


def by_name(name: str) -> Prior:
    """A prior of ``PRIORS``.

    Raises:
        ValueError: the name is none of them.
    """
    if name not in PRIORS:
        raise ValueError(f"prior: {name!r}; it must be one of {sorted(PRIORS)}")
    return PRIORS[name]


def _summand(value: object) -> Prior:
    if not isinstance(value, (str, Prior)):
        raise TypeError(f"prior: a sum with {type(value).__name__}; it must be with a name of {sorted(PRIORS)} or a Prior")
    return by_name(value) if isinstance(value, str) else value


def positive_int(name: str, value: object, minimum: int = 1) -> int:
    """The value as an int of at least ``minimum``.

    Raises:
        TypeError: not an integer (bool counts as none).
        ValueError: below the minimum.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: {value!r}; it must be an integer of at least {minimum}")
    if value < minimum:
        raise ValueError(f"{name}: {int(value)}; it must be at least {minimum}")
    return int(value)
