"""Filter banks: the leading eigenpairs of the Gram operator, design (2) and (3), without ever forming it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from weakref import WeakValueDictionary

import numpy as np

from torchstu.spectral import cache
from torchstu.spectral.priors import PRIORS, Prior, get_prior, positive_int
from torchstu.spectral.quadrature import ROWS_PER_PANEL, TimeGrid, eigenvalue_nodes, interpolate, time_grid
from torchstu.spectral.realization import Identified, InputNormal, StateSpace, realize

RELIABLE_EIGENVALUE = 1e-26
"""Eigenvalues above this share of the largest have vectors right to about 1e-5 (measured against 80 digits)."""
_CACHE_VERSION = 1


class ReliabilityWarning(UserWarning):
    """More filters were asked for than float64 supports at this length."""


@dataclass(frozen=True, eq=False)
class FilterBank:
    """K fixed filters of length L: eigenpairs σ_k, φ_k of the Gram operator Z, design (2).

    Build one with `filter_bank`, or give arrays of your own: such a bank ends where its arrays end, and is saved with the
    weights of a layer that uses it.

    Attributes:
        eigenvalues: σ, (K,), positive and descending.
        filters: φ, (L, K).
        prior: the measure, None for a user's own arrays.
        reliable: how many leading pairs the arithmetic supports.

    Raises:
        TypeError: arrays that are not of real floating-point numbers.
        ValueError: shapes that do not fit, values not finite, eigenvalues not positive and descending.
    """

    eigenvalues: np.ndarray
    filters: np.ndarray
    prior: Prior | None = None
    reliable: int = field(default=-1)
    _realizations: dict[tuple[int | None, float | None], StateSpace] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("eigenvalues", "filters"):
            array = np.asarray(getattr(self, name))
            if array.dtype.kind != "f":
                raise TypeError(f"{name}: dtype {array.dtype}; it must be real floating point")
            array = np.ascontiguousarray(array, dtype=np.float64)
            if not np.isfinite(array).all():
                raise ValueError(f"{name}: has values that are not finite")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        if self.eigenvalues.ndim != 1 or self.eigenvalues.size == 0:
            raise ValueError(f"eigenvalues: shape {self.eigenvalues.shape}; it must be (K,) with K at least 1")
        if self.filters.ndim != 2 or self.filters.shape[1] != self.eigenvalues.size or not self.filters.shape[0]:
            raise ValueError(f"filters: shape {self.filters.shape}; it must be (L, {self.eigenvalues.size})")
        if (self.eigenvalues <= 0).any() or (np.diff(self.eigenvalues) > 0).any():
            raise ValueError("eigenvalues: must be positive and descending")
        if self.reliable < 0:
            object.__setattr__(self, "reliable", self.count)

    def __deepcopy__(self, memo: dict[int, object]) -> FilterBank:
        return self  # nothing of it can change

    @property
    def length(self) -> int:
        """L, the number of steps that the filters were made for."""
        return self.filters.shape[0]

    @property
    def count(self) -> int:
        """K, the number of filters."""
        return self.filters.shape[1]

    @property
    def scaled_filters(self) -> np.ndarray:
        """σ_k^{1/4} φ_k, (L, K): what the stored weights multiply, design (5)."""
        return self.filters * self.eigenvalues**0.25

    def realization(self, order: int | None = None, tolerance: float | None = None) -> StateSpace:
        """The filters as a linear system, design (8): φ_k(i) = (A^i b)_k, so U_t = A U_{t-1} + b u_t holds the features.

        The error is max over the lags i < L and over k of |σ_k^{1/4} ((A^i b)_k - φ_k(i))|. A prior's bank is realized from its
        decomposition, arrays of your own by identification (``docs/realization.md``). Results are kept with the bank.

        Args:
            order: R, the number of states, at least K; None for the smallest whose error is within the tolerance.
            tolerance: the largest error allowed; not reached, it is an error. None: 1e-12, or the order of the smallest error
                where none reaches that; ``.error`` says what was reached. For arrays of your own 1e-12 is a share of the
                largest |σ_k^{1/4} φ_k(i)|, and if no order is given either, more than 1e-6 of it is refused.

        Raises:
            TypeError: an order that is no integer, a tolerance that is no number.
            ValueError: an order out of range; a tolerance that is not positive or not reached; arrays of your own that are no
                sum of few decaying exponentials, or whose recurrence is not stable.
        """
        order = None if order is None else positive_int("order", order)
        tolerance = None if tolerance is None else _positive_number("tolerance", tolerance)
        key = (order, tolerance)
        if key not in self._realizations:
            self._realizations[key] = realize(self._candidates(), self.filters, self.eigenvalues**0.25, order, tolerance)
        return self._realizations[key]

    def _candidates(self) -> InputNormal | Identified:
        if self.prior is None:
            return Identified(self.filters, self.eigenvalues**0.25)
        parts = _decompose(self.prior, self.length)
        signs = parts.signs(self.filters)
        return InputNormal(parts.nodes, parts.singular_values, parts.right * signs, parts.first_row * signs, self.count)

    @property
    def state_space(self) -> StateSpace | None:
        """`realization()`, by which layers stream and continue the filters; None for a user's arrays, which end at L."""
        return None if self.prior is None else self.realization()

    def continued(self, length: int) -> np.ndarray:
        """The filters on 0..length-1, beyond L those of the realization (8); zero there for a user's arrays."""
        if length <= self.length:
            return self.filters[:length]
        tail = np.zeros((length - self.length, self.count))
        if self.state_space is not None:
            state = self.state_space.state_at(self.length)
            tail = self.state_space.free_response(state, len(tail))[:, : self.count]
        return np.concatenate([self.filters, tail])


def filter_bank(length: int, count: int, prior: str | Prior = "positive") -> FilterBank:
    """The K leading spectral filters of length L, design (1)-(3).

    Z = V Vᵀ with V_iq = √w_q α_q^i on quadrature nodes; the rows of V are compressed by a second quadrature over time, so the
    decomposition costs O(log³ L) and only the evaluation, O(L K), grows with the length. Float64, unit norm, descending, the
    entry of largest magnitude positive. Decompositions are kept on disk (`torchstu filters --clear-cache`).

    Args:
        length: L, at least 1.
        count: K, at most L.
        prior: "positive" (the paper's Z), "signed" (the paper's Z_L) or a `Prior`.

    Raises:
        ValueError: ``count`` above ``length``, numbers below 1, an unknown prior.

    Warns:
        ReliabilityWarning: ``count`` above ``reliable``.

    Source: arXiv 2312.06837, section 3 and appendix A; accuracy in ``docs/filters.md``.
    """
    length, count, prior = positive_int("length", length), positive_int("count", count), get_prior(prior)
    if count > length:
        raise ValueError(f"count: {count} filters of length {length}; it must be at most the length")
    bank = _shared_bank(length, count, prior)
    if count > bank.reliable:
        warnings.warn(
            f"count: {count} filters of length {length}, of which float64 supports {bank.reliable} "
            f"(prior {prior.name!r}); the others are noise",
            ReliabilityWarning,
            stacklevel=2,
        )
    return bank


_BANKS: WeakValueDictionary[tuple[int, int, Prior], FilterBank] = WeakValueDictionary()


def _shared_bank(length: int, count: int, prior: Prior) -> FilterBank:
    """The bank that someone else holds already, or a new one: its arrays cannot be written to."""
    bank = _BANKS.get((length, count, prior))
    if bank is None:
        parts = _decompose(prior, length)
        bank = FilterBank(parts.singular_values[:count] ** 2, parts.evaluate(count), prior, parts.reliable)
        _BANKS[length, count, prior] = bank
    return bank


def resolve_bank(prior: str | Prior | FilterBank, length: int, count: int) -> FilterBank:
    """A name, a prior or a bank as a bank of that length and count.

    Raises:
        ValueError: a bank whose length or count differs from what is asked.
    """
    if not isinstance(prior, FilterBank):
        if count > length:
            raise ValueError(f"num_filters: {count}; it must be at most length={length}")
        return filter_bank(length, count, prior)
    if (prior.length, prior.count) != (length, count):
        raise ValueError(
            f"prior: a bank of {prior.count} filters of length {prior.length}; "
            f"length={length} and num_filters={count} must say the same"
        )
    return prior


def _positive_number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: {value!r}; it must be a positive number or None")
    if not 0 < value < np.inf:
        raise ValueError(f"{name}: {value!r}; it must be positive and finite")
    return float(value)


@dataclass(frozen=True, eq=False)
class _Decomposition:
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
        return order > 0 and all(
            getattr(self, name).shape == shape and np.isfinite(getattr(self, name)).all() for name, shape in expected.items()
        )

    @property
    def reliable(self) -> int:
        return int((self.singular_values**2 >= RELIABLE_EIGENVALUE * self.singular_values[0] ** 2).sum())

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
def _decompose(prior: Prior, length: int) -> _Decomposition:
    if PRIORS.get(prior.name) != prior:  # a user's own measure: its name says nothing about it
        return _decompose_anew(prior, length)
    key = f"filters-v{_CACHE_VERSION}-{prior.name}-{length}"
    names = set(_Decomposition.__dataclass_fields__) - {"stride", "length"}
    stored = cache.load(key)
    if stored is not None and set(stored) == names:
        parts = _Decomposition(**stored, stride=2 if prior.symmetric else 1, length=length)
        if parts.is_sound:
            return parts
    parts = _decompose_anew(prior, length)
    cache.store(key, {name: getattr(parts, name) for name in names})
    return parts


def _decompose_anew(prior: Prior, length: int) -> _Decomposition:
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
    return _Decomposition(
        nodes, singular_values[order], right[:, order], first_row[order], left[:, order], parity[order], stride, length
    )
