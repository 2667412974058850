"""A recording as a data set: what is asked at each step, where the parts end, what is refused."""

import json

import numpy as np
import pytest
import torch

from torchstu.data.files import DataError
from torchstu.data.scaling import Scaler
from torchstu.data.series import series


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "plant.csv"
    rows = [f"{t},{np.sin(t):.6f},{10 + 2 * t}" for t in range(100)]
    path.write_text("\n".join(["when,u,y", *rows]) + "\n")
    return str(path)


def whole(part, side):
    """The steps that are asked, in a row: those of training, and the second half of each window of the other parts."""
    return torch.cat([part[i][side][part.context :] for i in range(len(part))])


def test_regression_tells_outputs_from_inputs(recording):
    data = series(file=recording, inputs=["u"], outputs=["y"], time="when", window=16)
    assert (data.task, data.inputs, data.d_in, data.d_out) == ("step regression", "reals", 1, 1)
    assert [len(whole(part, 0)) for part in (data.train, data.validation, data.test)] == [70, 15, 15]
    assert [len(data.train), len(data.train[4][0])] == [5, 6]
    y = torch.cat([whole(part, 1) for part in (data.train, data.validation, data.test)])[:, 0]
    torch.testing.assert_close(y.diff(), torch.full((99,), float(y[1] - y[0])))
    assert abs(float(y[:70].mean())) < 1e-6
    assert abs(float(y[:70].std(correction=0)) - 1) < 1e-6


def test_forecast_asks_for_the_coming_steps_and_never_across_a_part(recording):
    data = series(file=recording, inputs=["u"], outputs=["y"], horizon=3, window=20)
    assert (data.task, data.d_in, data.d_out) == ("forecast", 2, 3)
    for part in (data.train, data.validation, data.test):
        seen, asked = whole(part, 0), whole(part, 1)
        for ahead in (1, 2, 3):
            torch.testing.assert_close(asked[:-ahead, ahead - 1], seen[ahead:, 1])
            assert torch.isnan(asked[-ahead:, ahead - 1]).all()


def test_forecast_without_inputs_and_overlapping_windows(recording):
    data = series(file=recording, outputs=["y"], horizon=1, window=20, stride=5)
    assert data.d_in == 1
    assert len(data.train) == 11
    assert torch.equal(data.train[1][0][:5], data.train[0][0][5:10])
    with pytest.raises(IndexError, match="index: 11"):
        data.train[11]


@pytest.mark.parametrize(("window", "windows"), [(16, [2, 2]), (20, [2, 2]), (60, [1, 1]), (1, [15, 15])])
def test_each_row_held_out_is_asked_once_after_half_a_window_of_memory(recording, window, windows):
    data = series(file=recording, inputs=["u"], outputs=["y"], window=window)
    scaled = np.sin(np.arange(100)).round(6)
    scaled = torch.tensor((scaled - scaled[:70].mean()) / scaled[:70].std(), dtype=torch.float32)
    for part, start, count in zip((data.validation, data.test), (70, 85), windows, strict=True):
        assert len(part) == count
        for u, y in (part[i] for i in range(count)):
            assert len(u) == len(y) <= window
            assert torch.isnan(y[: window // 2]).all()
            assert not torch.isnan(y[window // 2 :]).any()
        torch.testing.assert_close(whole(part, 0)[:, 0], scaled[start : start + 15])
        torch.testing.assert_close(part[0][0][: window // 2, 0], scaled[start - window // 2 : start])


def test_missing_outputs_are_not_asked(tmp_path):
    path = tmp_path / "gaps.csv"
    cells = [f"{t % 7},{'' if t in (3, 80) else t}" for t in range(100)]
    path.write_text("\n".join(["u,y", *cells]))
    options = {"file": str(path), "inputs": ["u"], "outputs": ["y"], "window": 10}
    with pytest.raises(DataError, match="column 'y', row 4: a missing value"):
        series(**options)
    data = series(**options, missing=True)
    y = torch.cat([whole(part, 1) for part in (data.train, data.validation, data.test)])[:, 0]
    assert torch.isnan(y).nonzero().ravel().tolist() == [3, 80]
    there = [t for t in range(70) if t != 3]
    scaler = Scaler.from_dict(data.about["output_scaler"])
    assert scaler.mean[0] == pytest.approx(np.mean(there), rel=1e-12)
    assert scaler.std[0] == pytest.approx(np.std(there), rel=1e-12)
    path.write_text("\n".join(["u,y", *(",1" if t == 5 else f"1,{t}" for t in range(100))]))
    with pytest.raises(DataError, match="column 'u', row 6: a missing value"):
        series(**options, missing=True)
    path.write_text("\n".join(["u,y", *(f"1,{t if t < 85 else ''}" for t in range(100))]))
    with pytest.raises(DataError, match=r"outputs: column 'y' has no value in the test part, rows 86\.\.100"):
        series(**options, missing=True)


def test_what_a_user_has_to_know_comes_along(recording):
    about = series(file=recording, inputs=["u"], outputs=["y"], horizon=2, window=16).about
    assert json.loads(json.dumps(about)) == about
    assert about["columns"] == {"inputs": ["u", "y"], "outputs": ["y"]}
    y = 10 + 2 * np.arange(100.0)
    assert about["input_scaler"]["mean"][1] == about["output_scaler"]["mean"][0] == pytest.approx(y[:70].mean())
    scaled = (y - y[:70].mean()) / y[:70].std()
    targets = [(t, h) for t in range(85, 100) for h in (1, 2) if t + h < 100]
    missed = sum((scaled[t + h] - scaled[t]) ** 2 for t, h in targets)
    baselines = about["baselines"]
    assert baselines["the last value seen"] == pytest.approx(missed / sum(scaled[t + h] ** 2 for t, h in targets), rel=1e-12)
    assert baselines["the mean of the training part"] == pytest.approx(1)
    plain = series(file=recording, inputs=["u"], outputs=["y"], window=16).about
    assert list(plain["baselines"]) == ["the mean of the training part"]
    assert plain["input_scaler"]["mean"] == [pytest.approx(np.sin(np.arange(70)).mean(), abs=1e-6)]


def test_the_weather_ships_with_the_package():
    data = series(outputs=["temperature"], inputs=["global_irradiance"], horizon=24, window=512)
    assert data.d_out == 24
    assert "TMY3" in data.source


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"outputs": []}, ValueError, "outputs: no names"),
        ({"inputs": [], "horizon": 0}, ValueError, "inputs: none, with horizon 0"),
        ({"outputs": ["z"]}, DataError, "z"),
        ({"window": 71}, ValueError, "window: 71; the training part has 70 of 100 rows"),
        ({"horizon": 15}, ValueError, "horizon: 15; the parts have 70, 15, 15 rows"),
        ({"horizon": -1}, ValueError, "horizon: -1"),
        ({"validation": 0.0}, ValueError, "validation: 0.0"),
        ({"validation": 0.5, "test": 0.5}, ValueError, "they must leave rows"),
        ({"stride": 0}, ValueError, "stride: 0"),
        ({"stride": 17}, ValueError, "stride: 17; it must be at most window, 16"),
        ({"file": None, "time": "when"}, ValueError, "time: 'when'; without a file"),
        ({"missing": 1}, TypeError, "missing: 1; it must be True or False"),
        ({"missing": True, "horizon": 1}, ValueError, "missing: True, with horizon 1"),
    ],
)
def test_bad_arguments_are_refused(recording, change, error, says):
    with pytest.raises(error, match=says):
        series(**{"file": recording, "inputs": ["u"], "outputs": ["y"], "window": 16} | change)
