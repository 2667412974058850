"""Filter banks: the leading eigenpairs of the Gram operator, design (2) and (3), without ever forming it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import numpy as np

from torchstu.spectral.decomposition import decompose
from torchstu.spectral.identified import Identified
from torchstu.spectral.priors import Prior, PriorLike, get_prior, positive_int
from torchstu.spectral.products import RELIABLE_EIGENVALUE as RELIABLE_EIGENVALUE
from torchstu.spectral.realization import InputNormal, StateSpace, realize


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
        parts = decompose(self.prior, self.length)
        signs = parts.signs(self.filters)
        balanced = signs[:, None] * parts.balanced * signs
        return InputNormal(balanced, parts.singular_values, parts.first_row * signs, self.count)

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


def filter_bank(length: int, count: int, prior: PriorLike = "positive") -> FilterBank:
    """The K leading spectral filters of length L, design (1)-(3).

    Z = V Vᵀ with V_iq = √w_q α_q^i on quadrature nodes; the rows of V are compressed by a second quadrature over time, so the
    decomposition costs O(log³ L) and only the evaluation, O(L K), grows with the length. Float64, unit norm, descending, the
    entry of largest magnitude positive. Decompositions are kept on disk (`torchstu filters --clear-cache`).

    Args:
        length: L, at least 1.
        count: K, at most L.
        prior: "positive" (the paper's Z), "signed" (the paper's Z_L), a `Prior` such as `Sector` and `Harmonics`, or a sum
            of those; for systems that oscillate the cost grows with β²L³, and the length is limited (``docs/oscillation.md``).

    Raises:
        ValueError: ``count`` above ``length`` or above what the prior has, numbers below 1, an unknown prior, a length above
            the prior's longest.

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
        parts = decompose(prior, length)
        if count > len(parts.singular_values):
            raise ValueError(
                f"count: {count} filters of length {length}; the prior {prior.name!r} has only {len(parts.singular_values)}"
            )
        bank = FilterBank(parts.singular_values[:count] ** 2, parts.evaluate(count), prior, parts.reliable)
        _BANKS[length, count, prior] = bank
    return bank


def resolve_bank(prior: PriorLike | FilterBank, length: int, count: int) -> FilterBank:
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
