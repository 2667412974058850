"""Priors: the measures on eigenvalues that define a filter bank, design (1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from torchstu.spectral.quadrature import eigenvalue_nodes


@dataclass(frozen=True)
class Prior:
    """A measure dw = density(s) dα, s = 1 - |α|, on the eigenvalues that a system may have.

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


def _positive_density(s: np.ndarray) -> np.ndarray:
    return s**2


def _positive_entries(n: np.ndarray) -> np.ndarray:
    return 2.0 / (n**3 - n)


def _signed_density(s: np.ndarray) -> np.ndarray:
    return (s * (2 - s)) ** 2


def _signed_entries(n: np.ndarray) -> np.ndarray:
    return np.where(n % 2 == 0, 16.0 / ((n - 1) * (n + 1) * (n + 3)), 0.0)


POSITIVE = Prior("positive", _positive_density, symmetric=False, entries=_positive_entries)
SIGNED = Prior("signed", _signed_density, symmetric=True, entries=_signed_entries)

PRIORS: dict[str, Prior] = {POSITIVE.name: POSITIVE, SIGNED.name: SIGNED}


def get_prior(prior: str | Prior) -> Prior:
    """Look a prior up by name.

    Raises:
        ValueError: the name is not one of ``PRIORS``.
        TypeError: neither a name nor a ``Prior``.
    """
    if isinstance(prior, Prior):
        return prior
    if not isinstance(prior, str):
        raise TypeError(f"prior: {type(prior).__name__}; it must be one of {sorted(PRIORS)} or a Prior")
    if prior not in PRIORS:
        raise ValueError(f"prior: {prior!r}; it must be one of {sorted(PRIORS)}")
    return PRIORS[prior]


def hankel_matrix(length: int, prior: str | Prior = "positive") -> np.ndarray:
    """The Gram (Hankel) matrix Z of a prior, design (1), for looking: the filters are never computed from it.

    ``positive``: Z_ij = 2/((i+j)³-(i+j)).  ``signed``: Z_ij = [1+(-1)^(i+j)]·8/((i+j-1)(i+j+1)(i+j+3)).

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
    s, weights = eigenvalue_nodes(length)
    powers = np.exp(np.arange(length)[:, None] * np.log1p(-s))
    gram = (powers * weights * prior.density(s)) @ powers.T
    if prior.symmetric:
        gram *= 1 + (-1.0) ** np.add.outer(np.arange(length), np.arange(length))
    return gram


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
