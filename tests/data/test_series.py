"""A recording as a data set: what is asked at each step, where the parts end, what is refused."""

import numpy as np
import pytest
import torch

from torchstu.data.files import DataError
from torchstu.data.series import series


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "plant.csv"
    rows = [f"{t},{np.sin(t):.6f},{10 + 2 * t}" for t in range(100)]
    path.write_text("\n".join(["when,u,y", *rows]) + "\n")
    return str(path)


def whole(part, side):
    return torch.cat([part[i][side] for i in range(len(part))])


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
    ],
)
def test_bad_arguments_are_refused(recording, change, error, says):
    with pytest.raises(error, match=says):
        series(**{"file": recording, "inputs": ["u"], "outputs": ["y"], "window": 16} | change)
