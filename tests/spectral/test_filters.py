"""Filters against 80-digit arithmetic, their laws, and the cache; design (1)-(3)."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchstu import FilterBank, Prior, filter_bank, hankel_matrix
from torchstu.spectral import cache
from torchstu.spectral.bounds import eigenvalue_decay
from torchstu.spectral.decomposition import decompose as _decompose
from torchstu.spectral.filters import ReliabilityWarning
from torchstu.testing import TOLERANCES

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "hankel_eigenpairs_80_digits.json").read_text())
CASES = {"Z_32": (32, "positive"), "Z_96": (96, "positive"), "Z_L_32": (32, "signed"), "Z_L_96": (96, "signed")}


@pytest.mark.parametrize("key", CASES)
def test_eigenpairs_against_80_digits(key):
    length, prior = CASES[key]
    eigenvalues = np.array([float(x) for x in GOLDEN[key]["eigenvalues"]])
    vectors = np.array([[float(x) for x in row] for row in GOLDEN[key]["eigenvectors"]]).T
    known = eigenvalues >= 1e-22
    assert known.sum() >= 19
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ReliabilityWarning)
        bank = filter_bank(length, 32, prior)
    assert np.abs(bank.eigenvalues / eigenvalues - 1)[known].max() <= TOLERANCES["golden eigenvalues"]
    assert np.linalg.norm(bank.filters - vectors, axis=0)[known].max() <= TOLERANCES["golden vectors"]


@pytest.mark.parametrize("key", CASES)
def test_reliable_pairs_are_right_to_five_digits(key):
    length, prior = CASES[key]
    reliable = min(filter_bank(length, 1, prior).reliable, 32)
    vectors = np.array([[float(x) for x in row] for row in GOLDEN[key]["eigenvectors"]]).T[:, :reliable]
    assert np.linalg.norm(filter_bank(length, reliable, prior).filters - vectors, axis=0).max() <= 3e-5


@pytest.mark.parametrize("prior", ["positive", "signed"])
@given(length=st.integers(1, 700), count=st.integers(1, 16))
@settings(max_examples=25, deadline=None)
def test_filters_are_ordered_orthonormal_eigenvectors(prior, length, count):
    count = min(count, filter_bank(length, 1, prior).reliable, length)
    bank = filter_bank(length, count, prior)
    assert bank.filters.shape == (length, count)
    assert bank.filters.dtype == np.float64
    assert np.abs(bank.filters.T @ bank.filters - np.eye(count)).max() <= TOLERANCES["orthonormality"]
    assert (np.diff(bank.eigenvalues) < 0).all()
    peaks = np.abs(bank.filters).argmax(axis=0)
    assert (bank.filters[peaks, range(count)] > 0).all()
    residual = hankel_matrix(length, prior) @ bank.filters - bank.filters * bank.eigenvalues
    assert np.abs(residual).max() <= 1e-14


@pytest.mark.parametrize("prior", ["positive", "signed"])
def test_compressed_rows_agree_with_a_full_decomposition(prior):
    """At L = 3000 most times are interpolated; the dense matrix V of (3) is not compressed."""
    from torchstu.spectral.priors import get_prior
    from torchstu.spectral.quadrature import eigenvalue_nodes

    length, count = 3000, 24
    s, weights = eigenvalue_nodes(length)
    powers = np.exp(np.arange(length)[:, None] * np.log1p(-s))
    v = powers * np.sqrt(weights * get_prior(prior).density(s))
    if prior == "signed":
        v = np.concatenate([v, v * (-1.0) ** np.arange(length)[:, None]], axis=1)
    left, singular_values, _ = np.linalg.svd(v, full_matrices=False)
    bank = filter_bank(length, count, prior)
    assert np.abs(bank.eigenvalues / singular_values[:count] ** 2 - 1).max() <= 1e-8
    left = left[:, :count] * np.sign((left[:, :count] * bank.filters).sum(0))
    assert np.linalg.norm(bank.filters - left, axis=0).max() <= 1e-8


def test_signed_filters_have_parity():
    bank = filter_bank(65, 12, "signed")
    sign = (-1.0) ** np.arange(65)[:, None]
    odd_or_even = np.minimum(
        np.abs(bank.filters - sign * bank.filters).max(0), np.abs(bank.filters + sign * bank.filters).max(0)
    )
    assert odd_or_even.max() == 0


def test_hankel_matrix_of_a_prior_without_closed_form():
    """The quadrature reproduces the closed form, so a prior of one's own needs no formula."""
    from torchstu.spectral.priors import POSITIVE, SIGNED

    for prior in (POSITIVE, SIGNED):
        nameless = Prior("own", prior.density, prior.symmetric)
        np.testing.assert_allclose(hankel_matrix(40, nameless), hankel_matrix(40, prior), rtol=0, atol=1e-15)
        np.testing.assert_allclose(filter_bank(40, 6, nameless).filters, filter_bank(40, 6, prior).filters, atol=1e-12)


def test_hankel_matrix_is_the_papers():
    i = np.arange(1, 6)[:, None] + np.arange(1, 6)
    np.testing.assert_allclose(hankel_matrix(5), 2 / (i**3 - i))
    np.testing.assert_allclose(hankel_matrix(5, "signed"), ((-1.0) ** (i - 2) + 1) * 8 / ((i + 3) * (i - 1) * (i + 1)))


def test_eigenvalues_fall_faster_than_the_bound():
    bank = filter_bank(1024, 24)
    measured = np.polyfit(range(4, 24), np.log(bank.eigenvalues[4:]), 1)[0]
    bound = np.log(eigenvalue_decay(1024, 2)[1])
    assert bound == pytest.approx(-0.356, abs=1e-3)
    assert measured < 3 * bound


@pytest.mark.parametrize("prior", ["positive", "signed"])
@pytest.mark.parametrize(("length", "count"), [(32, 14), (1000, 24), (4096, 24)])
def test_realization_reproduces_the_filters(prior, length, count):
    """Design (8): A^i b are the filters, in the first K states, to 1e-11 of σ^{1/4} φ."""
    bank = filter_bank(length, count, prior)
    space = bank.state_space
    response = space.free_response(space.b, length)[:, :count]
    error = np.abs((response - bank.filters) * bank.eigenvalues**0.25).max()
    assert error <= TOLERANCES["realization"]
    assert np.abs(np.linalg.eigvals(space.A)).max() < 1
    np.testing.assert_allclose(space.state_at(37), np.linalg.matrix_power(space.A, 37) @ space.b, atol=1e-11)


@pytest.mark.parametrize("prior", ["positive", "signed"])
def test_continuation_is_the_realization_and_near_the_nystrom_extension(prior):
    """Just past L: φ_k(i) = (1/σ_k) Σ_j Z_ij φ_k(j), the eigenvalue equation read at i >= L. Far out: it dies away."""
    length, count = 1000, 16
    bank = filter_bank(length, count, prior)
    space, scale = bank.state_space, bank.eigenvalues**0.25
    response = space.free_response(space.b, 20 * length)[:, :count]
    np.testing.assert_allclose(bank.continued(20 * length) * scale, response * scale, rtol=0, atol=1e-11)
    np.testing.assert_array_equal(bank.continued(7), bank.filters[:7])
    near = length + length // 20
    z = hankel_matrix(near, prior)[length:, :length]
    nystrom = z @ bank.filters / bank.eigenvalues
    np.testing.assert_allclose(bank.continued(near)[length:] * scale, nystrom * scale, rtol=0, atol=1e-9)
    assert np.abs(response[-1]).max() < 1e-3 * np.abs(response).max()


def test_a_users_bank_ends_where_its_arrays_end():
    bank = filter_bank(20, 3)
    own = FilterBank(bank.eigenvalues, bank.filters)
    assert own.state_space is None
    assert own.reliable == 3
    assert (own.continued(50)[20:] == 0).all()


def test_more_filters_than_reliable_warns():
    reliable = filter_bank(32, 1).reliable
    filter_bank(32, reliable)
    with pytest.warns(ReliabilityWarning, match=f"supports {reliable}"):
        filter_bank(32, reliable + 1)


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: filter_bank(8, 9), ValueError, "count: 9 filters of length 8"),
        (lambda: filter_bank(0, 1), ValueError, "length: 0"),
        (lambda: filter_bank(8, 0), ValueError, "count: 0"),
        (lambda: filter_bank(8.0, 2), TypeError, "length: 8.0"),
        (lambda: filter_bank(8, True), TypeError, "count: True"),
        (lambda: filter_bank(8, 2, "hankel"), ValueError, "prior: 'hankel'"),
        (lambda: filter_bank(8, 2, 3), TypeError, "prior: int"),
        (lambda: hankel_matrix(0), ValueError, "length: 0"),
        (lambda: FilterBank(np.ones(2), np.ones((5, 3))), ValueError, r"filters: shape \(5, 3\)"),
        (lambda: FilterBank(np.array([1, 2]), np.ones((5, 2))), TypeError, "eigenvalues: dtype int64"),
        (lambda: FilterBank(np.array([1.0, 2.0]), np.ones((5, 2))), ValueError, "eigenvalues: must be positive and desc"),
        (lambda: FilterBank(np.array([1.0, 0.0]), np.ones((5, 2))), ValueError, "eigenvalues: must be positive and desc"),
        (lambda: FilterBank(np.ones(1), np.full((5, 1), np.nan)), ValueError, "filters: has values that are not finite"),
        (lambda: FilterBank(np.ones((1, 1)), np.ones((5, 1))), ValueError, "eigenvalues: shape"),
    ],
)
def test_bad_input_is_refused(call, kind, text):
    with pytest.raises(kind, match=text):
        call()


def test_cache_survives_corruption_and_is_cleared(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHSTU_CACHE", str(tmp_path / "cache"))
    _decompose.cache_clear()
    expected = filter_bank(50, 5).filters
    (file,) = (tmp_path / "cache").glob("*.npz")
    intact = file.read_bytes()
    for broken in (b"", intact[:1000], b"no archive at all"):
        file.write_bytes(broken)
        _decompose.cache_clear()
        np.testing.assert_array_equal(filter_bank(50, 5).filters, expected)
    assert file.read_bytes() != b"no archive at all"
    _decompose.cache_clear()
    np.testing.assert_array_equal(filter_bank(50, 5).filters, expected)  # now from the file
    assert cache.clear() >= len(intact)
    assert not list((tmp_path / "cache").iterdir())


def test_cache_of_wrong_contents_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHSTU_CACHE", str(tmp_path))
    _decompose.cache_clear()
    expected = filter_bank(50, 5).filters
    (file,) = tmp_path.glob("*.npz")
    good = dict(np.load(file))
    for change in ({"left": np.ones((3, 4))}, {"right": np.full_like(good["right"], np.nan)}):
        np.savez(file, **(good | change))
        _decompose.cache_clear()
        np.testing.assert_array_equal(filter_bank(50, 5).filters, expected)


def test_cache_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHSTU_CACHE", str(tmp_path))
    _decompose.cache_clear()
    filter_bank(50, 5)
    _decompose.cache_clear()
    monkeypatch.setattr("torchstu.spectral.decomposition._decompose_anew", lambda *_: pytest.fail("computed again"))
    filter_bank(50, 5)


def test_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TORCHSTU_CACHE", str(tmp_path / "file" / "cache"))
    _decompose.cache_clear()
    assert filter_bank(50, 5).count == 5


def test_cache_has_a_size_cap(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHSTU_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "SIZE_CAP", 3000)
    for i in range(5):
        cache.store(f"key{i}", {"x": np.zeros(100)})
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 3000
    assert cache.load("key4") is not None
    assert cache.load("key0") is None


def test_two_processes_write_the_same_cache(tmp_path):
    code = "from torchstu import filter_bank; print(repr(float(filter_bank(3000, 24).filters.sum())))"
    environment = {"TORCHSTU_CACHE": str(tmp_path), "PATH": ""}
    runs = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = {run.communicate(timeout=100)[0] for run in runs}
    assert [run.returncode for run in runs] == [0, 0]
    assert len(outputs) == 1
    assert [file.suffix for file in tmp_path.iterdir()] == [".npz"]


def test_arrays_of_a_bank_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        filter_bank(8, 2).filters[0, 0] = 1.0
