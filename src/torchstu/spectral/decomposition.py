"""Singular value decompositions behind the filters, design (3): on a compressed time grid, kept in memory and on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TypeVar

import numpy as np

from torchstu.spectral import cache
from torchstu.spectral.measures import Oscillating
from torchstu.spectral.priors import Prior, is_known
from torchstu.spectral.products import ProductDecomposition, decompose_products, holds, reliable_count
from torchstu.spectral.quadrature import ROWS_PER_PANEL, TimeGrid, eigenvalue_nodes, interpolate, time_grid

_CACHE_VERSION = 1


@dataclass(frozen=True, eq=False)
class HankelDecomposition:
    """SVD of V on the compressed time grid, both parities merged, in order of singular value."""

    nodes: np.ndarray  # (Q,) eigenvalues α_q, signed
    singular_values: np.ndarray  # (R,)
    right: np.ndarray  # (Q, R)
    first_row: np.ndarray  # (R,) φ_k(0)
    left: np.ndarray  # (rows, R) filter values on the compressed grid
    parity: np.ndarray  # (R,) 0 for even or no parity, 1 for odd
    stride: int
    length: int

    @property
    def is_sound(self) -> bool:
        """Whether shapes fit each other and all values are finite: a file may hold anything."""
        order, rows = (
            self.singular_values.size,
            max(len(_parity_grid(self.length, i, self.stride).times) for i in range(self.stride)),
        )
        expected = {"singular_values": (order,), "right": (self.nodes.size, order), "first_row": (order,), "parity": (order,)}
        expected |= {"left": (rows, order), "nodes": (self.stride * len(eigenvalue_nodes(self.length)[0]),)}
        return order > 0 and holds(self, expected)

    @property
    def reliable(self) -> int:
        """How many leading pairs the arithmetic supports."""
        return reliable_count(self.singular_values)

    @property
    def balanced(self) -> np.ndarray:
        """Wᵀ diag(α) W, (R, R), design (8)."""
        return (self.right.T * self.nodes) @ self.right

    def signs(self, filters: np.ndarray) -> np.ndarray:
        """The signs (R,) that turn the columns of the decomposition into the given filters; +1 beyond them."""
        signs = np.ones(len(self.singular_values))
        for k in range(filters.shape[1]):
            head = filters[self.parity[k] :: self.stride, k][:ROWS_PER_PANEL]  # the first rows of the grid are times
            signs[k] = np.sign(head @ self.left[: len(head), k])
        return signs

    def evaluate(self, count: int) -> np.ndarray:
        """The first filters at every time, (L, count), largest entry positive."""
        if self.stride == 1:
            filters = interpolate(time_grid(self.length), self.left[:, :count])
        else:
            filters = np.zeros((self.length, count))
            for offset in range(min(self.stride, self.length)):
                grid = _parity_grid(self.length, offset, self.stride)
                columns = np.flatnonzero(self.parity[:count] == offset)
                filters[offset :: self.stride, columns] = interpolate(grid, self.left[: len(grid.times), columns])
        filters *= np.where(filters.max(axis=0) >= -filters.min(axis=0), 1.0, -1.0)
        return filters


def _parity_grid(length: int, offset: int, stride: int) -> TimeGrid:
    return time_grid((length - offset + stride - 1) // stride)


@lru_cache(maxsize=32)
def decompose(prior: Prior, length: int) -> HankelDecomposition | ProductDecomposition:
    """The decomposition of a prior at a length, from memory, from disk, or anew.

    Raises:
        ValueError: a length above the longest that a prior that oscillates allows.
    """
    if isinstance(prior, Oscillating):
        names = {"singular_values", "balanced", "left"}
        return _stored(prior, length, names, decompose_products, partial(ProductDecomposition, length=length))
    names = {"nodes", "singular_values", "right", "first_row", "left", "parity"}
    known = partial(HankelDecomposition, length=length, stride=2 if prior.symmetric else 1)
    return _stored(prior, length, names, _decompose_anew, known)


_Parts = TypeVar("_Parts", HankelDecomposition, ProductDecomposition)


def _stored(
    prior: Prior, length: int, names: set[str], make: Callable[[Prior, int], _Parts], load: Callable[..., _Parts]
) -> _Parts:
    if not is_known(prior):  # a user's own measure: its name says nothing about it
        return make(prior, length)
    name = prior.name if not isinstance(prior, Oscillating) else _digest(prior)
    key = f"filters-v{_CACHE_VERSION}-{name}-{length}"
    stored = cache.load(key)
    if stored is not None and set(stored) == names:
        parts = load(**stored)
        if parts.is_sound:
            return parts
    parts = make(prior, length)
    cache.store(key, {name: getattr(parts, name) for name in names})
    return parts


def _digest(prior: Prior) -> str:
    """The parameters of a prior as a file name."""
    return hashlib.sha256(json.dumps(prior.config).encode()).hexdigest()[:24]


def _decompose_anew(prior: Prior, length: int) -> HankelDecomposition:
    s, weights = eigenvalue_nodes(length)
    log_alpha, root_weights = np.log1p(-s), np.sqrt(weights * prior.density(s))
    stride = 2 if prior.symmetric else 1
    blocks = []
    for offset in range(min(stride, length)):
        grid = _parity_grid(length, offset, stride)
        vandermonde = np.exp((offset + stride * grid.times)[:, None] * log_alpha) * root_weights
        vandermonde *= np.sqrt(stride * grid.weights)[:, None]  # both signs of α share a row
        left, singular_values, right = np.linalg.svd(vandermonde, full_matrices=False)
        keep = min(len(singular_values), grid.length)
        left = left[:, :keep] / np.sqrt(grid.weights)[:, None]
        blocks.append((left, singular_values[:keep], right[:keep].T))
    rows = max(len(left) for left, _, _ in blocks)
    left = np.concatenate([np.pad(x, ((0, rows - len(x)), (0, 0))) for x, _, _ in blocks], axis=1)
    singular_values = np.concatenate([x for _, x, _ in blocks])
    parity = np.concatenate([np.full(len(x), i) for i, (_, x, _) in enumerate(blocks)])
    right = np.concatenate([x for _, _, x in blocks], axis=1)
    nodes = np.exp(log_alpha)
    if prior.symmetric:
        nodes = np.concatenate([nodes, -nodes])
        right = np.concatenate([right, right * np.where(parity == 0, 1, -1)]) / np.sqrt(2)
    order = np.argsort(-singular_values, kind="stable")
    first_row = np.where(parity == 0, left[0], 0.0)
    return HankelDecomposition(
        nodes, singular_values[order], right[:, order], first_row[order], left[:, order], parity[order], stride, length
    )
