"""A recording in, a system in the units of the data out, with honest figures beside it."""

import numpy as np
import pytest
import torch

from torchstu import LDS, impulse_response
from torchstu.data.scaling import Scaler
from torchstu.experiments.identify_report import fit_table, in_plain_words, report_sections, verdicts
from torchstu.experiments.identify_series import identify_series
from torchstu.experiments.identify_system import choose_system, in_units, one_step_ahead, simulate_from_level
from torchstu.learn.responses import frequency_response

ROUNDING = 1e-10  # relative to the largest output; measured 1e-14
TRUE = LDS(np.diag([0.95, 0.6]), [[1.0, 0.0], [0.5, 2.0]], [[1.0, -1.0], [0.0, 3.0]], np.zeros((2, 2)))
LEVELS = np.array([5.0, -300.0]), np.array([1000.0, 0.02])  # of inputs and of outputs, whose units differ by 1e4
UNITS = np.array([1e-2, 7.0]), np.array([100.0, 1e-3])


def recording(rows=400, noise=0.0, seed=0):
    """Deviations from the levels go through the true system, which is not at rest when the recording begins."""
    rng = np.random.default_rng(seed)
    u = rng.standard_normal((rows, 2))
    y = TRUE.simulate(torch.as_tensor(u), x0=torch.tensor([4.0, -2.0])).numpy()
    y = y + noise * y.std(axis=0) * rng.standard_normal(y.shape)
    return LEVELS[0] + UNITS[0] * u, LEVELS[1] + UNITS[1] * y


def in_data_units():
    return in_units(TRUE, Scaler(LEVELS[0], UNITS[0]), Scaler(LEVELS[1], UNITS[1]))


@pytest.fixture(scope="module")
def clean():
    return identify_series(*recording(), order=2, prior="positive", sample_time=0.5)


@pytest.fixture(scope="module")
def noisy():
    return identify_series(*recording(600, 0.1), order=2, prior="positive", input_names=["a", "b"], output_names=["x", "y"])


def test_the_system_of_a_clean_recording_is_found_in_the_units_of_the_data(clean):
    truth, found = in_data_units(), clean.system
    assert found.state_dim == 2
    expected = truth.impulse_response(60)
    scale = expected.abs().amax(dim=(0, 2), keepdim=True)
    assert ((found.impulse_response(60) - expected).abs() / scale).max() < 1e-4  # measured 1e-9
    assert sorted(found.eigenvalues().real.tolist()) == pytest.approx([0.6, 0.95], abs=1e-4)
    system = {row.output: row.rollout for row in clean.fits if row.model == "system"}
    assert min(system.values()) > 99.9
    assert np.allclose(clean.rollouts["system"], clean.target, rtol=0, atol=1e-2 * UNITS[1] * 3)


def test_the_exported_system_with_its_levels_predicts_what_the_pipeline_does(clean):
    """y = y_0 + G (u - u_0), from anywhere: after the start has died away nothing else is needed."""
    u, _ = recording()
    deviations = clean.system.simulate(torch.as_tensor(u - clean.input_level)).numpy()
    predicted = clean.output_level + deviations[clean.test_start :]
    assert np.allclose(predicted, clean.rollouts["system"], rtol=0, atol=1e-3 * UNITS[1])  # 0.95^300 = 2e-7 of the start


def test_with_noise_the_fit_is_what_the_noise_leaves_and_the_inputs_are_used_up(noisy):
    system = [row for row in noisy.fits if row.model == "system"]
    assert all(87 < row.rollout < 92 for row in system)  # noise of 10 % leaves 90 %
    assert bool(noisy.residuals["system"].inputs.passed.all())
    assert bool(noisy.residuals["system"].own_past.passed.all())
    assert set(noisy.residuals) == {"STU", "system"}
    assert noisy.settings["rows"] == {"identification": 450, "test": 150}
    assert noisy.settings["order"] == 2


def test_responses_are_in_the_units_of_the_data(noisy, clean):
    truth, found = in_data_units(), noisy.responses
    expected = truth.impulse_response(len(found.system_impulse))
    scale = expected.abs().amax(dim=(0, 2), keepdim=True)
    assert ((found.system_impulse - expected).abs() / scale).max() < 0.1
    assert ((found.impulse.response - expected).abs() / scale).max() < 0.3
    assert bool((found.impulse.lower < found.impulse.response).all() | (found.impulse.response == 0).any())
    assert np.all(np.diff(found.frequencies) > 0)
    assert found.frequencies[-1] < 0.5
    assert clean.responses.frequencies[-1] == pytest.approx(0.499 / 0.5)  # Hz
    whole = frequency_response(in_data_units(), clean.responses.frequencies, 0.5)
    size = whole.abs().amax(dim=(0, 2), keepdim=True)
    assert ((clean.responses.system_spectrum - whole).abs() / size).max() < 1e-3


def test_the_stu_of_the_model_is_the_one_of_the_responses(noisy):
    units = torch.as_tensor(noisy.model.output_scaler.std)[:, None] / torch.as_tensor(noisy.model.input_scaler.std)
    response = impulse_response(noisy.model.regressor.layer, 20) * units
    assert torch.allclose(response, noisy.responses.impulse.response[:20], rtol=1e-9, atol=0)


def test_a_start_that_is_not_at_rest_and_a_level_are_found():
    rng = np.random.default_rng(1)
    u = rng.standard_normal((80, 2))
    y = TRUE.simulate(torch.as_tensor(u), x0=torch.tensor([30.0, -2.0])).numpy() + np.array([7.0, -1.0])
    simulated, level = simulate_from_level(TRUE, u, y, 40)
    assert np.abs(simulated - y).max() < ROUNDING * np.abs(y).max()
    assert level == pytest.approx([7.0, -1.0])
    gain = LDS(np.zeros((0, 0)), np.zeros((0, 2)), np.zeros((2, 0)), np.eye(2))
    simulated, level = simulate_from_level(gain, u, u + 3.0, 40)
    assert np.allclose(simulated, u + 3.0)


def test_where_the_refined_system_is_worse_the_response_of_the_stu_is_reduced(clean, monkeypatch):
    monkeypatch.setattr("torchstu.experiments.identify_system.WORSE", 0.0)
    u, y = (scaler.transform(x)[:300] for scaler, x in zip(
        (clean.model.input_scaler, clean.model.output_scaler), recording(), strict=True))  # fmt: skip
    for order, most in ((1, 1), (2, 2), (9, 9), ("auto", 24)):
        chosen = choose_system(clean.identification, u, y, order)
        assert chosen.origin == "reduced"
        assert 1 <= chosen.system.state_dim <= most
        assert float(chosen.system.eigenvalues().abs().max()) < 1
        assert not chosen.fitted_start
    regressor = clean.identification.regressor  # the last one is automatic
    stu, own = np.asarray(regressor.predict(u)), chosen.simulate(u, y, 300)[0]
    assert np.mean((own - stu) ** 2) <= 0.0101 * np.mean((y - stu) ** 2) + 1e-11 * np.mean(y**2)


def test_one_step_ahead_uses_the_memory_of_the_noise():
    y, rollout = np.array([[1.0], [2.0], [4.0]]), np.array([[0.0], [1.0], [1.0]])
    assert one_step_ahead(rollout, y, np.array([0.5, 0.25]))[:, 0].tolist() == [0.0, 1.5, 1.75]
    assert one_step_ahead(rollout, y, np.zeros(0)).tolist() == rollout.tolist()


def test_the_report_says_all_of_it(noisy):
    sections = report_sections(noisy)
    titles = [section.title for section in sections]
    assert titles[0] == "Fit on the test rows"
    for wanted in (
        "Residual tests on the test rows",
        "Impulse response",
        "Frequency response",
        "Poles of the system",
        "Levels",
    ):
        assert wanted in titles
    poles = sections[titles.index("Poles of the system")].table
    assert len(poles.rows) == 2
    assert float(poles.rows[0][0]) == pytest.approx(0.95, abs=0.02)
    assert poles.rows[0][2] == pytest.approx(-1 / np.log(0.95), rel=0.3)
    assert "2 states" in in_plain_words(noisy)
    assert [row[1] for row in fit_table(noisy).rows] == ["x", "y", "x", "y"]
    assert len(verdicts(noisy).rows) == 2 * 2 * 3 + 2
    drawn = {section.title: section.figure for section in sections if section.figure}
    assert "a to y" in drawn["Impulse response"]
    assert "gain" in drawn["Frequency response"]


def test_poles_of_a_pair_are_one_line_with_frequency_and_damping():
    from torchstu.experiments.identify_report import poles_section

    turn = 0.9 * np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
    (row,) = poles_section(LDS(turn, np.ones((2, 1)), np.ones((1, 2)), np.zeros((1, 1))), 0.1).table.rows
    assert row[0] == "0.900000"
    assert row[3] == pytest.approx(0.5 / (2 * np.pi * 0.1))
    assert row[4] == pytest.approx(-np.log(0.9) / np.hypot(np.log(0.9), 0.5))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"order": 0}, "order"),
        ({"order": "high"}, "order"),
        ({"test": 1.0}, "test"),
        ({"level": 0.0}, "level"),
        ({"sample_time": -1.0}, "sample_time"),
        ({"length": 400}, "length: 400; it must be at most half"),
        ({"prior": "none"}, "prior"),
    ],
)
def test_bad_options(change, says):
    with pytest.raises((ValueError, TypeError), match=says):
        identify_series(*recording(), **change)


def test_bad_data():
    u, y = recording()
    with pytest.raises(ValueError, match=r"data: 40 rows; with 0\.25 of them for the test there must be at least 64"):
        identify_series(u[:40], y[:40])
    with pytest.raises(ValueError, match="outputs: 399 rows"):
        identify_series(u, y[:-1])
    flat = y.copy()
    flat[300:, 1] = 2.0
    with pytest.raises(ValueError, match="'output 2' is constant over rows 301 to 400, kept for the test"):
        identify_series(u, flat)
