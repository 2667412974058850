"""The decomposition of priors that oscillate, design (9): measures that are products of one on radii and one on angles.

V_i,q = √w_q r^i (cos iθ, sin iθ) is a product, row by row, of a factor in r and one in θ. Each is decomposed alone, to 50 or so
functions of r and (high - low)·L/π + O(log L) of θ; the pairs that matter are the columns of a smaller V with the same Gram
matrix, whose range is found by random products. V itself, let alone Z, is never formed. See ``docs/oscillation.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torchstu.spectral.measures import Measure, Prior
from torchstu.spectral.quadrature import arc_nodes, eigenvalue_nodes

RELIABLE_EIGENVALUE = 1e-26
"""Eigenvalues above this share of the largest have vectors right to about 1e-5 (measured against 80 digits)."""
MOST_WORK = 1.2e11
"""Multiplications that a decomposition may take: about a minute on one core."""
_EPS = float(np.finfo(np.float64).eps)
_NOISE = 16 * _EPS
"""Singular values below this share of the largest are rounding: such filters are refused, and no states either."""
_RADIAL = 56  # functions of r that matter, at most (measured: 48 at L = 1024, 56 at 4096)
_EXTRA = 32  # functions of θ that an arc needs beyond its length times L/π


def holds(decomposition: object, shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether arrays have the shapes they must have, and finite values only."""
    arrays = {name: getattr(decomposition, name) for name in shapes}
    return all(arrays[name].shape == shape and bool(np.isfinite(arrays[name]).all()) for name, shape in shapes.items())


def reliable_count(singular_values: np.ndarray) -> int:
    """How many leading pairs are above `RELIABLE_EIGENVALUE`."""
    return int((singular_values**2 >= RELIABLE_EIGENVALUE * singular_values[0] ** 2).sum())


@dataclass(frozen=True, eq=False)
class ProductDecomposition:
    """SVD V = U S Wᵀ down to the rounding of float64.

    Attributes:
        singular_values: s, descending, (R,).
        balanced: Wᵀ Λ W, (R, R), Λ the rotations by which the rows of V go on, design (8).
        left: U, (L, R).
        length: L.
    """

    singular_values: np.ndarray
    balanced: np.ndarray
    left: np.ndarray
    length: int

    @property
    def is_sound(self) -> bool:
        """Whether shapes fit each other and all values are finite: a file may hold anything."""
        order = self.singular_values.size
        expected = {"singular_values": (order,), "balanced": (order, order), "left": (self.length, order)}
        return order > 0 and holds(self, expected)

    @property
    def reliable(self) -> int:
        """How many leading pairs the arithmetic supports."""
        return reliable_count(self.singular_values)

    @property
    def first_row(self) -> np.ndarray:
        """φ(0) of all columns."""
        return self.left[0]

    def signs(self, filters: np.ndarray) -> np.ndarray:
        """The signs (R,) that turn the columns of the decomposition into the given filters; +1 beyond them."""
        signs = np.ones(len(self.singular_values))
        signs[: filters.shape[1]] = np.sign(np.einsum("lk,lk->k", filters, self.left[:, : filters.shape[1]]))
        return signs

    def evaluate(self, count: int) -> np.ndarray:
        """The first filters at every time, (L, count), largest entry positive."""
        filters = self.left[:, :count]
        return filters * np.where(filters.max(axis=0) >= -filters.min(axis=0), 1.0, -1.0)


class _Product:
    """One product measure: scaled functions of r and of θ, and the matrices by which they go on in time."""

    def __init__(self, measure: Measure, length: int) -> None:
        times = np.arange(length, dtype=np.float64)
        s, weights = eigenvalue_nodes(length, measure.radius)
        powers = np.exp(times[:, None] * np.log1p(-s)) * np.sqrt(weights * measure.density(s))
        self.radial, right = _leading(powers)  # (L, k)
        self.shrink = (right.T * (1 - s)) @ right
        angles, masses = arc_nodes(measure.arcs, length)
        phases = np.outer(times, angles)
        self.angular, right = _leading(np.concatenate([np.cos(phases), np.sin(phases)], axis=1) * np.sqrt(np.tile(masses, 2)))
        c, s, x, y = np.cos(angles), np.sin(angles), right[: len(angles)].T, right[len(angles) :].T
        self.turn = right.T @ np.concatenate([x * c - y * s, x * s + y * c], axis=1).T  # Wᵀ Λ W
        energy = self.radial.T**2 @ self.angular**2  # (k, m): of each pair
        self.kept = energy > (_EPS / 2) ** 2 * energy.max()
        self.width = int(self.kept.sum())

    def times(self, columns: np.ndarray) -> np.ndarray:
        """V X for X (width, n): function by function of r."""
        result, start = np.zeros((len(self.radial), columns.shape[1])), 0
        for function, kept in zip(self.radial.T, self.kept, strict=True):
            stop = start + int(kept.sum())
            if stop > start:
                result += function[:, None] * (self.angular[:, kept] @ columns[start:stop])
            start = stop
        return result

    def under(self, rows: np.ndarray) -> np.ndarray:
        """Qᵀ V for Q (L, n)."""
        parts = [
            (rows * function[:, None]).T @ self.angular[:, kept]
            for function, kept in zip(self.radial.T, self.kept, strict=True)
            if kept.any()
        ]
        return np.concatenate(parts, axis=1)

    def moved(self, right: np.ndarray) -> np.ndarray:
        """Wᵀ Λ W on right vectors (width, R)."""
        whole = np.zeros((*self.kept.shape, right.shape[1]))
        whole[self.kept] = right
        whole = np.einsum("kj,jmr->kmr", self.shrink, whole, optimize=True)
        return right.T @ np.einsum("mn,knr->kmr", self.turn, whole, optimize=True)[self.kept]


def _leading(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """U S and W of the singular values above rounding."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    keep = values > 2 * _EPS * values[0]
    return left[:, keep] * values[keep], right[keep].T


def decompose_products(prior: Prior, length: int) -> ProductDecomposition:
    """The SVD of a prior's V over 0..length-1, by products of its measures.

    Args:
        prior: with `measures`.
        length: L, at most `longest_length`.

    Raises:
        ValueError: a length above the longest.
    """
    if work(prior, length) > MOST_WORK:
        raise ValueError(
            f"length: {length} with the prior {prior.name}; it must be at most {longest_length(prior)}, since the filters "
            "grow in number with the arcs times the length: use a shorter memory or narrower angles"
        )
    products = [_Product(measure, length) for measure in prior.measures]
    widths = [product.width for product in products]
    most, rng = min(length, sum(widths)), np.random.default_rng(0)
    guess = min(most, sum(product.angular.shape[1] for product in products) + 48)
    while True:
        if guess == most:
            basis = np.eye(length) if most == length else np.linalg.qr(_columns(products, np.eye(most)))[0]
        else:
            basis = np.linalg.qr(_columns(products, rng.standard_normal((sum(widths), guess))))[0]
        rest = np.concatenate([product.under(basis) for product in products], axis=1)
        left, values, right = np.linalg.svd(rest, full_matrices=False)
        if guess == most or values[-1] < _EPS * values[0]:
            break
        guess = min(most, 2 * guess)
    order = int((values >= _NOISE * values[0]).sum())
    starts = np.cumsum([0, *widths])
    parts = np.split(right[:order].T, starts[1:-1])
    balanced = np.sum([product.moved(part) for product, part in zip(products, parts, strict=True)], axis=0)
    return ProductDecomposition(values[:order], balanced, basis @ left[:, :order], length)


def _columns(products: list[_Product], columns: np.ndarray) -> np.ndarray:
    """V X of all measures."""
    starts = np.cumsum([product.width for product in products])[:-1]
    parts = np.split(columns, starts)
    return np.sum([product.times(part) for product, part in zip(products, parts, strict=True)], axis=0)


def work(prior: Prior, length: int) -> float:
    """About how many multiplications the decomposition takes: L · nodes² for the factors, L · pairs · rank for the pairs."""
    functions, nodes = 0.0, 0.0
    for measure in prior.measures:
        phases = [(high - low) * length / np.pi for low, high, _ in measure.arcs]
        functions += sum(min(phase + _EXTRA * (phase > 0) + 2, length) for phase in phases)
        nodes += sum((np.pi / 2 * phase + 64 * (phase > 0) + 2) ** 2 for phase in phases) + (24 * np.log2(8 * length)) ** 2
    return 4 * length * nodes + 2 * length * _RADIAL * functions * min(length, functions + 48)


def longest_length(prior: Prior) -> int:
    """The longest L that a prior allows, by `MOST_WORK`."""
    low, high = 1, 2
    while work(prior, high) <= MOST_WORK:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if work(prior, middle) <= MOST_WORK else (low, middle)
    return low
