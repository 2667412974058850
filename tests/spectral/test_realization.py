"""A bank as a linear system: design (8), for priors from the decomposition and for a user's arrays from their values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchstu import FilterBank, Prior, filter_bank
from torchstu.testing import TOLERANCES

FLAT = Prior("flat", lambda s: s**0, symmetric=False)
STEPS = 100_000


def scaled_error(bank, space):
    """max over lags below L and filters of σ^{1/4} |A^i b - φ|, by plain iteration."""
    worst, x = 0.0, space.b
    for row in bank.filters:
        worst = max(worst, np.abs((x[: bank.count] - row) * bank.eigenvalues**0.25).max())
        x = space.A @ x
    return worst


def own(bank):
    """The arrays of a bank as a user's bank."""
    return FilterBank(bank.eigenvalues, bank.filters)


def orthonormal(length, count, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(length, count)))[0]


def exponentials(length, count, nodes, seed=0):
    """A bank whose filters are random mixtures of the powers of the nodes, which come with their conjugates."""
    rng = np.random.default_rng(seed)
    mixture = rng.normal(size=(len(nodes), count)) + 1j * rng.normal(size=(len(nodes), count))
    filters = (np.asarray(nodes) ** np.arange(length)[:, None] @ mixture).real
    return FilterBank(np.ones(count), filters / np.linalg.norm(filters, axis=0))


@pytest.mark.parametrize("prior", ["positive", "signed", FLAT], ids=["positive", "signed", "a user's"])
@given(length=st.integers(1, 700), count=st.integers(1, 16))
@settings(max_examples=15, deadline=None)
def test_powers_of_a_on_b_are_the_filters(prior, length, count):
    bank = filter_bank(length, min(count, length, 3 * filter_bank(length, 1, prior).reliable // 4 or 1), prior)
    space = bank.realization()
    assert space.A.shape == (space.order, space.order)
    assert bank.count <= space.order
    assert scaled_error(bank, space) <= TOLERANCES["realization"]
    assert np.abs(np.linalg.eigvals(space.A)).max() < 1


@pytest.mark.parametrize(("prior", "length"), [("positive", 4096), ("signed", 2047)])
def test_the_stated_error_is_that_of_every_lag(prior, length):
    bank = filter_bank(length, 24, prior)
    for space in (bank.realization(), bank.realization(tolerance=1e-6), bank.realization(order=30), own(bank).realization()):
        np.testing.assert_allclose(scaled_error(bank, space), space.error, rtol=1e-3, atol=1e-13)


@pytest.mark.parametrize("length", [33, 512])
def test_minus_a_realizes_the_second_bank(length):
    bank = filter_bank(length, 8)
    space = bank.realization()
    x = space.b
    for i, row in enumerate(bank.filters):
        np.testing.assert_allclose(x[:8], (-1) ** i * row, atol=1e-9)
        x = -space.A @ x


@pytest.mark.parametrize("bank", [filter_bank(1024, 24), filter_bank(512, 12, "signed"), own(filter_bank(512, 12))])
def test_order_falls_as_the_tolerance_grows(bank):
    tolerances = [1e-11, 1e-9, 1e-7, 1e-5, 1e-3]
    spaces = [bank.realization(tolerance=x) for x in tolerances]
    orders = [space.order for space in spaces]
    assert orders == sorted(orders, reverse=True)
    assert orders[0] > orders[-1]
    assert all(space.error <= x for space, x in zip(spaces, tolerances, strict=True))
    for space, tolerance in zip(spaces, tolerances, strict=True):  # the order is the smallest that serves
        assert space.order == bank.count or bank.realization(order=space.order - 1).error > tolerance


@pytest.mark.parametrize("prior", ["positive", "signed"])
@pytest.mark.parametrize("length", [256, 4096, 65_536])
def test_the_error_is_that_of_the_first_dropped_hankel_singular_value(prior, length):
    """σ_{R+1} / σ_K^{3/4}, times a constant of 0.06 to 0.3 that hardly depends on the order; docs/realization.md."""
    bank, sigma = filter_bank(length, 24, prior), filter_bank(length, 34, prior).eigenvalues
    orders = np.arange(26, 31 if length > 256 else 29)
    errors = np.array([bank.realization(order=order).error for order in orders])
    constants = errors / (sigma[orders] / sigma[23] ** 0.75)
    assert (constants > 0.05).all()
    assert (constants < 0.35).all()
    assert constants.max() < 2 * constants.min()


def test_forty_states_are_enough():
    space = filter_bank(4096, 24).realization(tolerance=1e-10)
    assert space.order <= 40
    assert space.error <= 1e-10


def test_an_order_given_is_the_order_taken():
    bank = filter_bank(256, 10)
    for order in (10, 13, np.int64(20)):
        assert bank.realization(order=order).order == order
    assert bank.realization(10).error > bank.realization(13).error > bank.realization(20).error
    assert bank.realization(order=20, tolerance=1e-6).order == 20


def test_a_float32_recurrence_holds_for_100000_steps():
    """Three draws of white noise, the largest error over all steps, filters and draws, in the form x + (A - I) x."""
    bank = filter_bank(4096, 24)
    space, scale = bank.realization(tolerance=1e-10), bank.eigenvalues[:, None] ** 0.25
    assert space.order <= 40
    u = np.random.default_rng(0).normal(size=(STEPS, 3)).astype(np.float32)
    b, increment, b32 = space.b[:, None], space.increment.astype(np.float32), space.b[:, None].astype(np.float32)
    x, x32, worst = np.zeros((space.order, 3)), np.zeros((space.order, 3), np.float32), 0.0
    for u_t in u:
        x, x32 = space.A @ x + b * u_t, x32 + (increment @ x32 + b32 * u_t)
        worst = max(worst, np.abs((x - x32)[:24] * scale).max())
    assert x32.dtype == np.float32
    assert worst <= TOLERANCES["realization float32"]


@pytest.mark.parametrize("prior", ["positive", "signed"])
@pytest.mark.parametrize(("length", "count"), [(32, 10), (64, 20), (1024, 24), (4096, 24)])
def test_the_arrays_of_a_prior_are_identified_near_its_own_order(prior, length, count):
    bank = filter_bank(length, count, prior)
    space, reference = own(bank).realization(tolerance=1e-8), bank.realization(tolerance=1e-8)
    assert scaled_error(bank, space) <= 1e-8
    assert space.order <= reference.order + 3
    assert np.abs(np.linalg.eigvals(space.A)).max() < 1


@given(
    length=st.integers(60, 400),
    count=st.integers(1, 12),
    real=st.integers(1, 4),
    pairs=st.integers(0, 3),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=25, deadline=None)
def test_sums_of_exponentials_are_identified(length, count, real, pairs, seed):
    """Filters that are mixtures of n decaying exponentials need n states, or K where K is more."""
    rng = np.random.default_rng(seed)
    nodes = [*np.linspace(-0.9, 0.97, real), *(rng.uniform(0.7, 0.99, pairs) * np.exp(1j * rng.uniform(0.3, 2.8, pairs)))]
    bank = exponentials(length, count, nodes, seed)
    space = bank.realization(tolerance=1e-8)
    assert space.order <= max(2 * len(nodes), count) + count
    assert scaled_error(bank, space) <= 1e-8


def test_the_eigenvalues_of_exact_exponentials_are_found():
    nodes = np.array([0.2, 0.5, 0.9, 0.99, -0.7])
    space = exponentials(300, 3, nodes).realization(order=5)
    np.testing.assert_allclose(np.sort(np.linalg.eigvals(space.A).real), np.sort(nodes), atol=1e-9)


def test_filters_may_be_dependent_or_zero():
    bank = exponentials(80, 1, [0.9, 0.5])
    twice = FilterBank(np.ones(3), np.concatenate([bank.filters, 2 * bank.filters, 0 * bank.filters], axis=1))
    space = twice.realization()
    assert space.order == 4
    assert scaled_error(twice, space) <= 1e-12


@pytest.mark.parametrize(("length", "count"), [(1, 1), (1, 3), (2, 2), (9, 9), (16, 15)])
def test_the_shortest_banks_are_exact(length, count):
    filters = orthonormal(length, count) if count <= length else np.ones((length, count))
    bank = FilterBank(np.ones(count), filters)
    space = bank.realization()
    assert space.order <= max(length, count)
    assert scaled_error(bank, space) <= 1e-12


def test_the_size_of_the_filters_does_not_matter():
    bank = filter_bank(256, 8)
    reference = own(bank).realization()
    for size in (1e-9, 1e9):
        assert FilterBank(bank.eigenvalues, size * bank.filters).realization().order == reference.order
        with pytest.raises(ValueError, match="no sum of few decaying exponentials"):
            FilterBank(np.ones(4), size * orthonormal(64, 4)).realization()


def test_float32_arrays_are_identified():
    bank = filter_bank(1024, 24)
    rounded = FilterBank(bank.eigenvalues, bank.filters.astype(np.float32))
    assert rounded.realization().error <= 1e-7
    assert rounded.realization(tolerance=1e-6).order <= 30


@pytest.mark.parametrize("length", [64, 500])
def test_a_random_bank_is_refused(length):
    bank = FilterBank(np.ones(4), orthonormal(length, 4))
    with pytest.raises(ValueError, match=r"^filters: are no sum of few decaying exponentials; orders 4 to .* leaves [1-9]"):
        bank.realization()
    with pytest.raises(ValueError, match=r"^tolerance: 0.001 is not reached; orders 4 to"):
        bank.realization(tolerance=1e-3)
    assert bank.realization(order=4).error > 0.01  # asked for by order, it is given


@pytest.mark.parametrize("base", [1.0, 1.05])
def test_filters_that_do_not_decay_are_refused(base):
    bank = FilterBank(np.ones(1), base ** np.arange(200.0)[:, None])
    with pytest.raises(ValueError, match=r"^filters: the recurrence identified at .* is not stable"):
        bank.realization()


@pytest.mark.parametrize("bank", [filter_bank(256, 8), own(filter_bank(256, 8))], ids=["prior", "own"])
def test_bad_arguments(bank):
    for order in (7, 0, -1, 200):
        with pytest.raises(ValueError, match=rf"^order: {order}; it must be"):
            bank.realization(order=order)
    for order in (8.0, "8", True):
        with pytest.raises(TypeError, match=r"^order: .*integer"):
            bank.realization(order=order)
    for tolerance in (0, -1e-3, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"^tolerance: .* must be positive and finite"):
            bank.realization(tolerance=tolerance)
    for tolerance in ("1e-3", True):
        with pytest.raises(TypeError, match=r"^tolerance: .* number"):
            bank.realization(tolerance=tolerance)
    with pytest.raises(ValueError, match=r"^tolerance: 1e-18 is not reached; orders 8 to \d+: at best \d"):
        bank.realization(tolerance=1e-18)
    with pytest.raises(ValueError, match=r"^tolerance: 1e-10 is not reached; order 9"):
        bank.realization(order=9, tolerance=1e-10)


def test_the_default_falls_back_to_the_smallest_error():
    """At L = 32, K = 22 no order reaches 1e-12."""
    bank = filter_bank(32, 22)
    errors = {order: bank.realization(order=order).error for order in range(22, 26)}
    space = bank.realization()
    assert space.error > 1e-12
    assert space.order == min(errors, key=errors.get)


def test_results_are_kept_and_cannot_be_changed():
    bank = filter_bank(128, 6)
    assert bank.realization() is bank.realization() is bank.state_space
    assert bank.realization(10) is bank.realization(order=10) is not bank.realization(11)
    assert own(bank).state_space is None
    for array in (bank.realization().A, bank.realization().b):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
