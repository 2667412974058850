"""Priors that oscillate, design (9): measures, eigenpairs, realizations."""

import json
import math

import mpmath
import numpy as np
import pytest

from torchstu import STU, Prior, filter_bank, hankel_matrix
from torchstu.spectral import cache
from torchstu.spectral.decomposition import decompose
from torchstu.spectral.priors import POSITIVE, SIGNED, get_prior
from torchstu.spectral.products import longest_length
from torchstu.spectral.sector import Harmonics, Sector
from torchstu.testing import TOLERANCES

PRIORS = [
    Sector(0.1),
    Sector(0.3, radius=(0.99, 1.0)),
    Sector(math.pi),
    Harmonics([24, 5.5]),
    Harmonics([24, 5.5], width=0.01, harmonics=2, radius=(0.9, 1.0)),
    "positive" + Sector(0.1),
    Sector(0.1) + Harmonics([7]),
    "signed" + Harmonics([24]),
]


def sector_entry(i, j, angle):
    """Z_ij = 2/((i+j)³-(i+j)) · 2 sin((i-j)β)/(i-j), in mpmath."""
    n, k = mpmath.mpf(i + j), i - j
    return 2 / (n**3 - n) * 2 * (mpmath.sin(k * angle) / k if k else angle)


def test_gram_matrix_of_a_sector_is_hankel_times_sinc():
    expected = [[float(sector_entry(i, j, mpmath.mpf("0.3"))) for j in range(1, 41)] for i in range(1, 41)]
    np.testing.assert_allclose(hankel_matrix(40, Sector(0.3)), expected, rtol=0, atol=1e-15)


def test_eigenpairs_against_60_digits():
    length, count, angle = 24, 18, 0.5
    with mpmath.workdps(60):
        gram = mpmath.matrix(length, length)
        for i in range(length):
            for j in range(length):
                gram[i, j] = sector_entry(i + 1, j + 1, mpmath.mpf(angle))
        values, vectors = mpmath.eigsy(gram)
        sigma = np.array([float(values[length - 1 - k]) for k in range(count)])
        phi = np.array([[float(vectors[i, length - 1 - k]) for k in range(count)] for i in range(length)])
    bank = filter_bank(length, count, Sector(angle))
    assert sigma[-1] < 1e-13 * sigma[0]
    assert np.abs(bank.eigenvalues / sigma - 1).max() <= 1e-9  # measured 9e-12
    assert np.linalg.norm(bank.filters - phi * np.sign((phi * bank.filters).sum(0)), axis=0).max() <= 1e-9  # 3e-11


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
@pytest.mark.parametrize("length", [1, 33, 200])
def test_filters_are_orthonormal_eigenvectors(prior, length):
    available = decompose(prior, length)
    count = min(available.reliable, 40)
    bank = filter_bank(length, count, prior)
    assert np.abs(bank.filters.T @ bank.filters - np.eye(count)).max() <= TOLERANCES["orthonormality"]
    residual = hankel_matrix(length, prior) @ bank.filters - bank.filters * bank.eigenvalues
    assert np.abs(residual).max() <= 1e-14 * max(1.0, bank.eigenvalues[0])
    peaks = np.abs(bank.filters).argmax(axis=0)
    assert (bank.filters[peaks, range(count)] > 0).all()


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_realization_reproduces_the_filters_and_is_stable(prior):
    bank = filter_bank(200, min(30, decompose(prior, 200).reliable - 8), prior)
    space = bank.realization()
    impulse = space.free_response(space.b, 200)[:, : bank.count]
    error = np.abs((impulse - bank.filters) * bank.eigenvalues**0.25).max()
    assert error <= TOLERANCES["realization"]
    assert error == pytest.approx(space.error, rel=0.5, abs=1e-13)
    assert np.abs(np.linalg.eigvals(space.A)).max() < 1
    far = bank.continued(4000)[-1000:]
    assert np.isfinite(far).all()


def test_a_mode_inside_the_sector_is_spanned_and_one_outside_is_not():
    times = np.arange(512)

    def left_over(angle, bank):
        wave = 0.9995**times * np.cos(angle * times)
        return np.linalg.norm(wave - bank.filters @ (bank.filters.T @ wave)) / np.linalg.norm(wave)

    sector, plain = filter_bank(512, 50, Sector(0.1)), filter_bank(512, 30)
    assert left_over(0.09, sector) < 1e-6
    assert left_over(0.09, plain) > 0.1
    assert left_over(0.3, sector) > 0.5
    assert left_over(2 * math.pi / 24, filter_bank(512, 50, Harmonics([24]))) < 1e-6
    assert left_over(2 * math.pi / 12, filter_bank(512, 50, Harmonics([24]))) > 0.5
    assert left_over(2 * math.pi / 12, filter_bank(512, 90, Harmonics([24], harmonics=2))) < 1e-6


def test_known_radii_need_fewer_filters():
    wide, narrow = (decompose(Sector(0.1, radius=radius), 1024).reliable for radius in ((0.0, 1.0), (0.999, 1.0)))
    assert narrow <= wide - 15


def test_many_arcs_are_decomposed_by_doubling_the_guess_to_the_same_result():
    """A measure whose rank is above the first guess."""
    prior = Harmonics([100.0 / n for n in range(1, 40)], radius=(0.0, 1.0))
    parts = decompose(prior, 300)
    dense = np.linalg.eigvalsh(hankel_matrix(300, prior))[::-1]
    np.testing.assert_allclose(parts.singular_values[:20] ** 2, dense[:20], rtol=1e-10)


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_configurations_go_through_json(prior):
    assert get_prior(json.loads(json.dumps(prior.config))) == prior
    layer = STU(1, 1, length=32, num_filters=6, prior=prior)
    again = STU(**json.loads(json.dumps(layer.config)))
    assert again.bank.prior == prior
    assert again.bank is layer.bank


def test_priors_add_up_as_measures():
    total = "positive" + Sector(0.1) + Harmonics([7])
    assert total.parts[0] == POSITIVE
    assert total == POSITIVE + (Sector(0.1) + Harmonics([7]))
    expected = sum(hankel_matrix(20, part) for part in ("positive", Sector(0.1), Harmonics([7])))
    np.testing.assert_allclose(hankel_matrix(20, total), expected, atol=1e-15)
    assert Sector(0.1) != Sector(0.1, radius=(0.5, 1.0))
    assert len({Sector(0.1), Sector(0.1), Sector(0.2)}) == 2


def test_banks_are_both_only_where_the_prior_is_positive():
    def banks(prior):
        return STU(1, 1, length=32, num_filters=4, prior=prior).banks

    assert banks("positive") == banks("positive" + Sector(0.1)) == banks(Sector(0.1) + POSITIVE) == "both"
    assert banks(Sector(0.1)) == banks(Harmonics([8])) == banks("signed" + Sector(0.1)) == "positive"
    assert STU(1, 1, length=32, num_filters=4, prior=Sector(0.1), banks="both").signs == (1, -1)


def test_cache_key_carries_the_parameters(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHSTU_CACHE", str(tmp_path))
    decompose.cache_clear()
    first = decompose(Sector(0.21), 40)
    decompose(Sector(0.22), 40)
    assert len(list(tmp_path.glob("*.npz"))) == 2
    decompose.cache_clear()
    monkeypatch.setattr("torchstu.spectral.decomposition.decompose_products", lambda *_: pytest.fail("computed again"))
    np.testing.assert_array_equal(decompose(Sector(0.21), 40).left, first.left)
    decompose.cache_clear()
    monkeypatch.undo()
    assert cache.cache_folder() != tmp_path


def test_a_users_measure_in_a_sum_is_not_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHSTU_CACHE", str(tmp_path))
    own = Prior("mine", POSITIVE.density, symmetric=False)
    decompose.cache_clear()
    assert filter_bank(40, 5, own + Sector(0.1)).count == 5
    assert not list(tmp_path.glob("*.npz"))
    decompose.cache_clear()


def test_the_longest_length_is_stated_and_falls_with_the_angle():
    assert longest_length(Sector(0.1)) > 8192
    assert longest_length(Sector(0.1)) > longest_length(Sector(0.5)) > longest_length(Sector(math.pi)) >= 512
    limit = longest_length(Sector(0.5))
    with pytest.raises(ValueError, match=f"length: {limit + 1} .* at most {limit}"):
        decompose(Sector(0.5), limit + 1)


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: Sector(0), ValueError, "max_angle: 0"),
        (lambda: Sector(3.2), ValueError, "max_angle: 3.2"),
        (lambda: Sector(math.nan), ValueError, "max_angle: nan"),
        (lambda: Sector("wide"), TypeError, "max_angle: 'wide'"),
        (lambda: Sector(0.1, radius=(1.0, 0.5)), ValueError, r"radius: \(1, 0.5\)"),
        (lambda: Sector(0.1, radius=0.5), TypeError, "radius: 0.5"),
        (lambda: Harmonics([]), ValueError, r"periods: \[\]"),
        (lambda: Harmonics([1.5]), ValueError, r"periods: \[1.5\]"),
        (lambda: Harmonics(24), TypeError, "periods: 24"),
        (lambda: Harmonics([24], width=-1), ValueError, "width: -1"),
        (lambda: Harmonics([24], harmonics=0), ValueError, "harmonics: 0"),
        (lambda: "positve" + Sector(0.1), ValueError, "prior: 'positve'"),
        (lambda: Sector(0.1) + 3, TypeError, "prior: a sum with int"),
        (lambda: get_prior({"sector": {"angle": 1}}), ValueError, "prior: {'sector'"),
        (lambda: get_prior({"cone": {}}), ValueError, "prior: {'cone'"),
        (lambda: get_prior([]), TypeError, "prior: list"),
        (lambda: filter_bank(500, 60, Harmonics([50], radius=(0.9999, 1.0))), ValueError, "count: 60 filters of length 500"),
        (lambda: STU(1, 1, length=32, num_filters=4, prior=SIGNED, banks="both"), ValueError, "banks: 'both'"),
    ],
)
def test_bad_input_is_refused(call, kind, text):
    with pytest.raises(kind, match=text):
        call()
