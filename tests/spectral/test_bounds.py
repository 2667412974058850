"""Bounds of theory, design (2) and (7): proven ones lie above what is measured, the law beside it."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchstu import Prior, Signs, Uniform, filter_bank, random_lds, system_to_stu
from torchstu.spectral import bounds
from torchstu.spectral.bounds import (
    eigenvalue_bound,
    eigenvalue_decay,
    eigenvalue_law,
    eigenvalue_panels,
    error_bound,
    filters_needed,
)

PAGE = Path(__file__).parents[2] / "docs" / "theory.md"
ROWS = re.findall(r"^\| \((\d+[a-z])\) [^|]*\|([^|]*)\|([^|]*)\|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
PRIORS = ["positive", "signed"]
SLACK = 1e-12  # of equal quantities computed in two ways, relative
FLAT = Prior("flat", lambda s: s**0, symmetric=False)


def summed_residual(alpha, filters):
    """h_α by its definition (7a): project, then add every second lag in a loop."""
    length = len(filters)
    g = (alpha**2 - 1) * alpha ** np.arange(length)
    h = g - filters @ (filters.T @ g)
    for lag in range(2, length):
        h[lag] += h[lag - 2]
    return h[: length - 2]


def reliable_count(length, count, prior):
    return min(count, length, filter_bank(length, 1, prior).reliable)


def measured_error(lds, length, count, seed):
    """max_t ‖y_t - ŷ_t‖ over a random input and over the worst input that a scalar system could see, with ‖u_t‖ ≤ 1."""
    layer, generator = system_to_stu(lds, length, count), torch.Generator().manual_seed(seed)
    u = torch.randn(length, lds.d_in, generator=generator, dtype=torch.float64)
    u /= u.norm(dim=1, keepdim=True)
    pulse = torch.zeros(lds.d_in, length, lds.d_in, dtype=torch.float64)
    pulse[:, 0] = torch.eye(lds.d_in)
    with torch.no_grad():
        random = (layer(u[None])[0][0] - lds.simulate(u)).norm(dim=1).max()
        response = layer(pulse)[0].permute(1, 2, 0) - lds.impulse_response(length)
    worst = response.abs().sum() if lds.d_in == lds.d_out == 1 else torch.zeros(())
    return float(max(random, worst))


def gain(lds):
    return float(torch.linalg.matrix_norm(lds.B, 2) * torch.linalg.matrix_norm(lds.C, 2))


@given(
    length=st.integers(1, 400),
    count=st.integers(1, 30),
    states=st.integers(1, 40),
    channels=st.integers(1, 3),
    low=st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_error_of_a_written_stu_is_below_every_bound(length, count, states, channels, low, seed):
    count = reliable_count(length, count, "positive")
    lds = random_lds(states, channels, channels, Uniform(low, 1.0), torch.Generator().manual_seed(seed))
    bound = error_bound(length, count, gain(lds))
    rounding = bound.rounding + 1e-14 * (gain(lds) + float(torch.linalg.matrix_norm(lds.D, 2)))
    assert measured_error(lds, length, count, seed) <= bound.computed + rounding
    assert bound.computed <= bound.spectral <= bound.theorem


def test_the_papers_system_is_below_the_bound_at_every_count():
    lds = random_lds(4, 1, 1, Signs(0.9999), torch.Generator().manual_seed(0))
    errors = [measured_error(lds, 1024, count, 0) for count in range(1, 25, 2)]
    above = [error_bound(1024, count, gain(lds)).computed for count in range(1, 25, 2)]
    assert np.all(np.array(errors) <= above)


@pytest.mark.parametrize("prior", PRIORS)
@given(length=st.integers(3, 200), count=st.integers(1, 30), place=st.floats(-12, 0), fine=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_no_eigenvalue_between_the_samples_exceeds_the_computed_bound(prior, length, count, place, fine):
    """Certificate (7d), at eigenvalues of any distance from 1, and with both signs where the prior has them."""
    count = reliable_count(length, count, prior)
    filters, bound = filter_bank(length, count, prior).filters, error_bound(length, count, prior=prior)
    for alpha in (1 - fine * 2.0**place, *([fine * 2.0**place - 1] if prior == "signed" else [])):
        assert np.abs(summed_residual(alpha, filters)).sum() <= bound.computed + bound.rounding + 1e-14


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize(("length", "count"), [(32, 8), (256, 12), (1024, 20)])
def test_one_eigenvalue_comes_close_to_the_computed_bound(prior, length, count):
    filters = filter_bank(length, count, prior).filters
    alphas = 1 - np.logspace(-5, 0, 400)
    worst = max(np.abs(summed_residual(alpha, filters)).sum() for alpha in alphas)
    bound = error_bound(length, count, prior=prior).computed
    assert bound / 1.5 < worst <= bound  # measured 1.2


@given(length=st.integers(1, 500))
@settings(max_examples=20, deadline=None)
def test_responses_are_bounded_on_the_ellipses_of_the_certificate(length):
    """(7d) takes ‖g_α‖ ≤ 3 √L on every ellipse with ρ = 5."""
    angle = np.linspace(0, 2 * np.pi, 200)
    circle = bounds._ELLIPSE * np.exp(1j * angle)
    for low, high in eigenvalue_panels(length):
        alpha = 1 - ((low + high) / 2 + (high - low) / 4 * (circle + 1 / circle))
        g = (alpha**2 - 1) * alpha ** np.arange(length)[:, None]
        assert np.linalg.norm(g, axis=0).max() <= 3 * np.sqrt(length)


@pytest.mark.parametrize("lags", [1, 2, 5, 16])
def test_norm_of_the_sum_over_every_second_lag(lags):
    S = np.tril(1.0 - np.add.outer(np.arange(lags), np.arange(lags)) % 2)
    np.testing.assert_allclose(bounds._summation_norm(lags), np.linalg.norm(S, 2), rtol=SLACK)


@pytest.mark.parametrize("prior", PRIORS)
@given(length=st.integers(1, 3000))
@settings(max_examples=25, deadline=None)
def test_eigenvalues_and_their_tails_are_below_the_proven_bounds(prior, length):
    count = reliable_count(length, length, prior)
    bank = filter_bank(length, count, prior)
    assert (bank.eigenvalues <= eigenvalue_bound(length, count, prior) * (1 + 1e-9)).all()
    named = bank.prior
    for kept in {1, (count + 1) // 2, count}:
        tail = bank.eigenvalues[kept:].sum()
        assert tail <= bounds._tail(length, kept, named)
        assert tail <= bounds._decayed_tail(length, kept, named) * (1 + 1e-9)


@pytest.mark.parametrize("prior", PRIORS)
def test_the_bound_on_a_tail_is_the_sum_of_the_bounds(prior):
    whole = eigenvalue_bound(4000, 4000, prior)
    for kept in (1, 6, 40, 41, 43):
        np.testing.assert_allclose(
            bounds._decayed_tail(4000, kept, filter_bank(4, 1, prior).prior), whole[kept:].sum(), rtol=1e-9
        )


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("length", [64, 1024, 65536])
def test_a_response_is_no_larger_than_its_integral_allows(prior, length):
    """Step (7c): max_α of the squared residual of g_α is within the polynomial constant of Σ_{k>K} σ_k."""
    bank = filter_bank(length, 8, prior)
    alpha = 1 - np.logspace(-np.log10(length) - 1, 0, 60)
    g = (alpha**2 - 1) * alpha ** np.arange(length)[:, None]
    residual = np.square(g - bank.filters @ (bank.filters.T @ g)).sum(0).max()
    constant = (length + 2) ** 2 / 2 if prior == "signed" else 4 * (length + 1) ** 2
    assert residual <= constant * bounds._tail(length, 8, bank.prior)


def test_the_proven_rate_is_almost_twice_the_theorems():
    length = 2**16
    proven = np.log(eigenvalue_bound(length, 101)[[60, 100]])
    theorem = np.log(eigenvalue_decay(length, 2)[1])
    assert (proven[1] - proven[0]) / 40 == pytest.approx(-(np.pi**2) / (2 * np.log(8 * length / np.pi)), rel=1e-6)
    assert 1.8 < (proven[1] - proven[0]) / 40 / theorem < 2


@pytest.mark.parametrize("prior", PRIORS)
def test_the_law_does_not_know_the_length_where_filters_are_few(prior):
    """(2b) for k < p (log L)²/π²: the slope over k = 5..13 is the law's to 1/20, and four times the L changes nothing."""
    sigma, law = filter_bank(2**16, 13, prior).eigenvalues, eigenvalue_law(2**16, 13, prior)
    assert np.log(sigma[4] / sigma[12]) == pytest.approx(np.log(law[4] / law[12]), rel=0.05)  # measured 2 % and 3.4 %
    np.testing.assert_allclose(filter_bank(2**18, 8, prior).eigenvalues, sigma[:8], rtol=1e-9)
    np.testing.assert_allclose(eigenvalue_law(2**18, 12, prior), law[:12], rtol=SLACK)


@pytest.mark.parametrize("length", [1024, 4096, 65536])
def test_the_law_where_filters_are_many(length):
    """(2b) for k > (log L)²/π²: the slope of the last reliable eigenvalues is π² / log L, to a tenth."""
    sigma = filter_bank(length, filter_bank(length, 1).reliable).eigenvalues
    measured = np.log(sigma[-11] / sigma[-1]) / 10
    law = np.log(eigenvalue_law(length, len(sigma)))
    assert law[-11] - law[-1] == pytest.approx(10 * np.pi**2 / np.log(length), rel=1e-9)
    assert measured == pytest.approx(np.pi**2 / np.log(length), rel=0.12)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("error", [1.0, 1e-3])
def test_filters_needed_are_the_fewest(prior, error):
    length, needed = 200, filters_needed(error, 200, 2.0, prior)
    assert needed.computed <= needed.spectral <= needed.theorem
    for index, count in enumerate(needed[:2]):
        assert error_bound(length, count, 2.0, prior)[index] <= error
        assert all(error_bound(length, fewer, 2.0, prior)[index] > error for fewer in range(1, count))
    named = filter_bank(length, 1, prior).prior
    assert 2 * bounds._theorem(length, needed.theorem, named) <= error < 2 * bounds._theorem(length, needed.theorem - 1, named)


def test_filters_needed_grow_with_the_digits_and_with_log_length():
    """K = O(log L log(L/ε)), (7e)."""
    digits = np.diff([filters_needed(10.0**-d, 1024).theorem for d in (0, 2, 4, 6)])
    expected = 2 * np.log(10) * 2 / (np.pi**2 / (2 * np.log(8 * 1024 / np.pi)))
    np.testing.assert_allclose(digits, expected, atol=2)
    computed = [filters_needed(1e-3, length).computed for length in (128, 512, 1024)]
    assert computed == sorted(computed)
    assert computed[-1] < 3 * computed[0]


def test_an_error_below_what_float64_reaches_is_refused():
    with pytest.raises(ValueError, match=r"error: 1e-12; with the 42 filters that float64 supports at length 1024"):
        filters_needed(1e-12, 1024)
    assert filters_needed(1e-6, 1024).spectral is None


def test_short_lengths_are_exact():
    """The input terms hold the first two steps, and L filters are a basis."""
    assert error_bound(2, 1) == (0, 0, 0, 0)
    assert error_bound(12, 12)[:3] == (0, 0, 0)


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: error_bound(8, 9), ValueError, "count: 9 filters of length 8"),
        (lambda: error_bound(8, 0), ValueError, "count: 0; it must be at least 1"),
        (lambda: error_bound(8.0, 2), TypeError, r"length: 8\.0; it must be an integer"),
        (lambda: error_bound(8, 2, -1.0), ValueError, r"gain: -1\.0; it must be positive and finite"),
        (lambda: error_bound(8, 2, "1"), TypeError, "gain: '1'; it must be a positive number"),
        (lambda: error_bound(8, 2, prior=FLAT), ValueError, "prior: 'flat'; the theory is for 'positive' and 'signed'"),
        (lambda: filters_needed(0.0, 8), ValueError, r"error: 0\.0; it must be positive and finite"),
        (lambda: filters_needed(True, 8), TypeError, "error: True; it must be a positive number"),
        (lambda: filters_needed(0.1, 8, np.nan), ValueError, "gain: nan; it must be positive and finite"),
        (lambda: eigenvalue_bound(8, 9), ValueError, "count: 9 filters of length 8"),
        (lambda: eigenvalue_law(1, 1), ValueError, "length: 1; it must be at least 2"),
        (lambda: eigenvalue_decay(1, 1), ValueError, "length: 1; it must be at least 2"),
        (lambda: eigenvalue_decay(8, 0), ValueError, "count: 0; it must be at least 1"),
        (lambda: eigenvalue_bound(8, 2, "square"), ValueError, "prior: 'square'; it must be one of"),
    ],
)
def test_bad_arguments_are_named(call, kind, text):
    with pytest.raises(kind, match=text):
        call()


def test_the_page_lists_every_statement():
    assert [number for number, _, _ in ROWS] == ["2a", "2b", "7a", "7b", "7c", "7d", "7e"]


@pytest.mark.parametrize(("number", "functions", "tests"), ROWS, ids=[row[0] for row in ROWS])
def test_a_statement_leads_to_its_code_and_its_test(number, functions, tests):
    names = re.findall(r"`([\w.]+)`", functions)
    cases = re.findall(r"`(test_\w+)`", tests)
    assert names
    assert cases
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert f"({number})" in inspect.getdoc(getattr(import_module(module), attribute)), name
    for case in cases:
        assert case in globals(), case
