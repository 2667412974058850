import json

import numpy as np
import pytest
import torch

from torchstu.experiments.candidates import Candidate
from torchstu.experiments.fitting import fit_series
from torchstu.experiments.series import error_about_mean, load_series_model
from torchstu.learn.baselines import Persistence
from torchstu.models.store import save_model
from torchstu.systems.lds import LDS

FAST = {"num_filters": 12, "length": 64, "progress": False}


@pytest.fixture(scope="module")
def recording():
    rng = np.random.default_rng(0)
    lds = LDS(np.diag([0.98, 0.9, -0.8]), rng.standard_normal((3, 2)), rng.standard_normal((1, 3)), np.zeros((1, 2)))
    u = rng.standard_normal((500, 2))
    y = lds.simulate(torch.as_tensor(u)[None])
    return 3 * u + 1, 40 + 7 * y[0].numpy()


@pytest.fixture(scope="module")
def result(recording):
    return fit_series(*recording, input_names=("a", "b"), output_names=("y",), **FAST)


def test_the_stu_beats_the_baselines_on_a_linear_system(result):
    errors = {row.model: row for row in result.errors}
    others = [row for row in result.errors if not row.model.startswith("STU")]
    assert result.errors[0].model == "STU"
    assert {"persistence", "plain autoregression", "lagged linear regression"} <= set(errors)
    assert errors["STU"].rollout < 1e-3
    assert errors["STU"].rollout < 0.1 * min(row.rollout for row in others)
    assert errors["STU"].one_step < 0.1 * min(row.one_step for row in others)


def test_errors_are_those_of_the_pictures(recording, result):
    np.testing.assert_allclose(result.target, recording[1][result.test_start :])
    assert result.errors[0].rollout == pytest.approx(error_about_mean(result.rollout, result.target), rel=1e-6)
    assert result.errors[0].one_step == pytest.approx(error_about_mean(result.one_step, result.target), rel=1e-6)
    assert result.settings["rows"] == {"training": 350, "validation": 75, "test": 75}


def test_nothing_of_the_test_rows_leaks(recording, result):
    u, y = (x.copy() for x in recording)
    y[-75:] = y[-75:] ** 2
    changed = fit_series(u, y, **FAST)
    assert changed.settings == result.settings
    torch.testing.assert_close(changed.model.regressor.layer.M_u, result.model.regressor.layer.M_u)
    np.testing.assert_array_equal(changed.rollout, result.rollout)
    np.testing.assert_array_equal(changed.model.output_scaler.std, y[:275].std(0))  # the rows before both blocks


def test_scaling_makes_units_irrelevant(recording, result):
    u, y = recording
    other = fit_series(1000 * u, y / 50 - 3, **FAST)
    assert other.errors[0].settings == result.errors[0].settings
    np.testing.assert_allclose(50 * (other.rollout + 3), result.rollout, rtol=1e-4)


def test_stored_and_loaded(recording, result, tmp_path):
    save_model(tmp_path / "m", result.model.regressor.layer, result.extra())
    model, settings = load_series_model(tmp_path / "m")
    u, y = recording
    np.testing.assert_array_equal(model.predict(u), result.model.predict(u))
    np.testing.assert_allclose(model.predict_next(u, y)[result.test_start :], result.one_step)
    assert (model.input_names, model.output_names) == (("a", "b"), ("y",))
    assert settings == json.loads(json.dumps(result.settings))


def test_another_kind_of_folder_is_refused(result, tmp_path):
    save_model(tmp_path / "m", result.model.regressor.layer)
    with pytest.raises(ValueError, match="no model of `torchstu fit`"):
        load_series_model(tmp_path / "m")


def test_facts_that_do_not_fit_are_refused(result, tmp_path):
    series = result.extra()["series"]
    bad = [
        result.extra() | {"settings": None},
        result.extra() | {"series": series | {"inputs": ["a"]}},
        result.extra() | {"series": series | {"outputs": [1]}},
        result.extra() | {"series": series | {"input_scaler": {"mean": [0.0], "std": [1.0]}}},
        result.extra() | {"series": series | {"output_scaler": []}},
        result.extra() | {"series": series | {"intercept": [0.0, 0.0]}},
        [],
    ]
    for i, extra in enumerate(bad):
        save_model(tmp_path / f"m{i}", result.model.regressor.layer, extra)
        with pytest.raises(ValueError, match=f"m{i}: holds no model of `torchstu fit`"):
            load_series_model(tmp_path / f"m{i}")


@pytest.mark.parametrize("term", ["none", "fixed", "learned"])
def test_the_y_term_can_be_chosen(recording, term):
    fitted = fit_series(*recording, autoregression=term, **FAST)
    chosen = fitted.model.regressor.layer.autoregression
    assert chosen == (None if term == "none" else term)
    assert fitted.errors[0].one_step < 0.1


def test_gradient_method(recording):
    fitted = fit_series(*recording, method="gradient", autoregression="fixed", steps=60, **FAST)
    again = fit_series(*recording, method="gradient", autoregression="fixed", steps=60, **FAST)
    assert fitted.settings["learning rate"] in (1e-3, 3e-3, 1e-2)
    assert fitted.errors[0].one_step < 1
    assert fitted.errors == again.errors


def test_further_models_join_the_table(recording):
    others = {"again": [Candidate({}, Persistence)]}
    fitted = fit_series(*recording, autoregression="none", others=others, **FAST)
    errors = {row.model: row for row in fitted.errors}
    assert errors["again"][1:] == errors["persistence"][1:]


def test_divergence_is_inf_and_null():
    target = np.arange(4.0)[:, None]
    assert error_about_mean(np.full((4, 1), np.nan), target) == np.inf
    assert error_about_mean(np.full((4, 1), 1e200), target) == np.inf
    assert error_about_mean(np.full((4, 1), 1.5), target) == 1
    assert error_about_mean(np.full((4, 1), 1.5e200), 1e200 * target) == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"length": 0}, "length: 0"),
        ({"num_filters": 0}, "num_filters: 0"),
        ({"num_filters": 65}, "num_filters: 65"),
        ({"length": 351}, "length: 351; it must be at most the 350 training rows"),
        ({"seed": -1}, "seed: -1"),
        ({"seed": 2**32}, "seed: 4294967296"),
        ({"num_filters": 300}, "500 rows; 300 filters need at least"),
        ({"method": "magic"}, "method: 'magic'"),
        ({"autoregression": "some"}, "autoregression: 'some'"),
        ({"test": 0.95}, "together at most 0.9"),
        ({"steps": 0}, "steps: 0"),
        ({"input_names": ("a",)}, "input_names: 1"),
    ],
)
def test_bad_options(recording, change, says):
    with pytest.raises(ValueError, match=says):
        fit_series(*recording, **(FAST | change))


def test_bad_data(recording):
    u, y = recording
    with pytest.raises(ValueError, match="outputs: 10 rows"):
        fit_series(u, y[:10], **FAST)
    for rows, says in [(slice(425, 500), "rows 426 to 500.* test"), (slice(350, 425), "rows 351 to 425.* validation")]:
        constant = np.hstack([y, y])
        constant[rows, 1] = 1
        with pytest.raises(ValueError, match=f"outputs: 'z' is constant over {says}"):
            fit_series(u, constant, output_names=("y", "z"), **FAST)


@pytest.mark.filterwarnings("error")
def test_values_that_float64_cannot_square(recording):
    u, y = recording
    late = u.copy()
    late[-1, 1] = 1e200
    for inputs, outputs, says in [(u, 1e200 * y, "outputs column 1"), (late, y, "inputs column 2")]:
        with pytest.raises(ValueError, match=f"{says}: values too large"):
            fit_series(inputs, outputs, **FAST)


@pytest.mark.parametrize("rows", [20, 25, 30])
def test_few_rows_do(recording, rows):
    u, y = recording
    fitted = fit_series(u[:rows], y[:rows], progress=False)
    assert np.isfinite(fitted.rollout).all()
    for few in (1, 12, 18):
        with pytest.raises(ValueError, match=f"data: {few} rows; there must be at least 20"):
            fit_series(u[:few], y[:few])
