"""Priors by name or configuration, and their Gram matrices, design (1) and (9)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from torchstu.spectral.measures import POSITIVE as POSITIVE
from torchstu.spectral.measures import PRIORS as PRIORS
from torchstu.spectral.measures import SIGNED as SIGNED
from torchstu.spectral.measures import Prior as Prior
from torchstu.spectral.measures import PriorSum, by_name
from torchstu.spectral.measures import positive_int as positive_int
from torchstu.spectral.quadrature import arc_nodes, eigenvalue_nodes
from torchstu.spectral.sector import Harmonics, Sector

PriorLike = Any
"""What `get_prior` takes: a name, a `Prior`, or what `Prior.config` says of one."""


def get_prior(prior: PriorLike) -> Prior:
    """A prior by its name or by its `Prior.config`.

    Raises:
        ValueError: the name is not one of ``PRIORS``; a configuration of another form, or with numbers out of range.
        TypeError: neither a name, a configuration nor a ``Prior``.
    """
    if isinstance(prior, Prior):
        return prior
    if isinstance(prior, str):
        return by_name(prior)
    if isinstance(prior, Mapping):
        kinds: dict[str, Callable[..., Prior]] = {"sector": Sector, "harmonics": Harmonics}
        name, values = next(iter(prior.items()), (None, None))
        if len(prior) != 1 or name not in kinds or not isinstance(values, Mapping):
            raise ValueError(f"prior: {dict(prior)!r}; a configuration must be {{'sector': {{…}}}} or {{'harmonics': {{…}}}}")
        try:
            return kinds[name](**values)
        except TypeError as error:
            raise ValueError(f"prior: {dict(prior)!r}: {error}") from None
    if isinstance(prior, (list, tuple)) and prior:
        parts = [get_prior(part) for part in prior]
        return parts[0] if len(parts) == 1 else PriorSum(*parts)
    raise TypeError(f"prior: {type(prior).__name__}; it must be one of {sorted(PRIORS)}, a Prior or the configuration of one")


def is_known(prior: Prior) -> bool:
    """Whether its configuration says all of it: not so for a measure of the user's own."""
    parts = prior.parts if isinstance(prior, PriorSum) else (prior,)
    return all(isinstance(part, (Sector, Harmonics)) or PRIORS.get(part.name) == part for part in parts)


def hankel_matrix(length: int, prior: PriorLike = "positive") -> np.ndarray:
    """The Gram matrix Z of a prior, design (1), for looking: the filters are never computed from it.

    ``positive``: Z_ij = 2/((i+j)³-(i+j)).  ``signed``: Z_ij = [1+(-1)^(i+j)]·8/((i+j-1)(i+j+1)(i+j+3)). Both are Hankel
    matrices; of a prior that oscillates Z is one times a Toeplitz matrix, entry by entry.

    Returns:
        (L, L) float64.

    Raises:
        ValueError: ``length`` below 1 or an unknown prior.

    Source: arXiv 2312.06837, section 3.
    """
    length, prior = positive_int("length", length), get_prior(prior)
    if prior.entries is not None:
        index = np.arange(1, length + 1, dtype=np.float64)
        return prior.entries(index[:, None] + index)
    gram, times = np.zeros((length, length)), np.arange(length)
    for density, radius, arcs in prior.measures:
        s, weights = eigenvalue_nodes(length, radius)
        powers = np.exp(times[:, None] * np.log1p(-s))
        angles, masses = arc_nodes(arcs, length)
        waves = np.exp(1j * np.outer(times, angles))
        gram += ((powers * weights * density(s)) @ powers.T) * ((waves * masses) @ waves.conj().T).real
    return gram
