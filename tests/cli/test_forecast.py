"""``torchstu forecast``, as users run it."""

import numpy as np
import pandas as pd
import pytest

from torchstu.cli.main import main

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def load(tmp_path):
    """400 hours of a day with noise that follows an input known for 24 hours more; some hours left out, some empty."""
    rng = np.random.default_rng(0)
    time = pd.date_range("2026-01-01", periods=424, freq="h")
    heat = rng.normal(size=424)
    y = 20 + 9 * np.sin(2 * np.pi * np.arange(424) / 24) + 2 * heat + 0.1 * rng.normal(size=424)
    table = pd.DataFrame({"time": time, "load": y, "heat": heat, "words": "a"})
    table.loc[[50, 51, 300], "load"] = np.nan
    table.loc[400:, "load"] = np.nan
    table.drop(index=[120, 121]).to_csv(tmp_path / "load.csv", index=False)
    return tmp_path / "load.csv", y


def run(*words):
    return main(["forecast", *map(str, words)])


def test_forecast_with_inputs_gaps_and_a_peer(load, tmp_path, capsys):
    data, y = load
    done = run(data, "--target", "load", "--time", "time", "--inputs", "heat", "--horizon", 24, "--origins", 4,
               "--peer", "PolynomialTrendForecaster(degree=1)", "--output", tmp_path / "next")  # fmt: skip
    printed = capsys.readouterr()
    assert done == 0, printed.err
    assert "2 of 424 times are not in the file" in printed.err
    rows = {line.split("  ")[0]: line.split()[-3:] for line in printed.out.splitlines() if line.count(".") >= 2}
    assert set(rows) >= {"SpectralForecaster", "seasonal naive", "PolynomialTrendForecaster(degree=1)"}
    forecast = pd.read_csv(tmp_path / "next" / "forecast.csv", index_col="time", parse_dates=True)
    assert forecast.index[0] == pd.Timestamp("2026-01-17 16:00")
    assert np.abs(forecast["forecast"] - y[400:]).mean() < 0.4
    assert ((forecast["lower"] < y[400:]) & (y[400:] < forecast["upper"])).mean() > 0.6
    assert "<svg" in (tmp_path / "next" / "report.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in (tmp_path / "next").iterdir()) == ["forecast.csv", "report.html"]


def test_without_a_time_column(tmp_path, capsys):
    y = np.sin(np.arange(300) / 3) + np.random.default_rng(0).normal(size=300) / 10
    pd.DataFrame({"y": y}).to_parquet(tmp_path / "y.parquet")
    assert run(tmp_path / "y.parquet", "--target", "y", "--horizon", 5, "--output", tmp_path / "out") == 0
    forecast = pd.read_csv(tmp_path / "out" / "forecast.csv")
    assert forecast["time"].tolist() == [300, 301, 302, 303, 304]
    np.testing.assert_allclose(forecast["forecast"], np.sin(np.arange(300, 305) / 3), atol=0.4)
    assert "10 origins" in capsys.readouterr().out


def test_times_that_are_numbers_go_on(tmp_path):
    time = np.delete(10 + 0.5 * np.arange(200), [40, 41])
    y = np.sin(np.arange(200) / 3)
    pd.DataFrame({"s": time, "y": np.delete(y, [40, 41])}).to_csv(tmp_path / "y.csv", index=False)
    assert run(tmp_path / "y.csv", "--target", "y", "--time", "s", "--horizon", 3, "--output", tmp_path / "out") == 0
    assert pd.read_csv(tmp_path / "out" / "forecast.csv")["time"].tolist() == [110.0, 110.5, 111.0]


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda t: t.assign(time=t.time[::-1].to_numpy()), {}, "times must increase"),
        (lambda t: pd.concat([t[:5], t[4:]]), {}, "times must increase"),
        (lambda t: t.assign(time=t.time.where(t.index < 200, t.time + pd.Timedelta("20min"))), {}, "one frequency is needed"),
        (lambda t: t.assign(load=t.load.astype(object).where(t.index != 7, "high")), {}, "row 8: 'high'"),
        (lambda t: t.iloc[np.r_[0:3, 200:260]], {}, "at least half must be there"),
        (lambda t: t, {"--horizon": 300}, "horizon: 300 steps"),
        (lambda t: t, {"--horizon": 0}, "horizon: 0"),
        (lambda t: t, {"--horizon": 25, "--inputs": "heat"}, "inputs: 24 rows after the last load"),
        (
            lambda t: t.assign(heat=t.heat.where(t.index != 405)),
            {"--horizon": 20, "--inputs": "heat"},
            "inputs: heat is missing",
        ),
        (lambda t: t, {"--target": "heap"}, "no column 'heap'"),
        (lambda t: t, {"--peer": "NoForecaster()"}, "peers: 'NoForecaster()'"),
        (lambda t: t.assign(load=np.nan), {}, "no value at all"),
    ],
)
def test_what_cannot_be_forecast_is_refused_and_leaves_nothing(load, tmp_path, capsys, change, options, words):
    table = pd.read_csv(load[0], parse_dates=["time"])
    change(table).to_csv(tmp_path / "bad.csv", index=False)
    given = {"--target": "load", "--time": "time", "--horizon": 5, "--output": tmp_path / "out"} | options
    assert run(tmp_path / "bad.csv", *[word for pair in given.items() for word in pair]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_month_is_a_frequency(tmp_path):
    """Times of the calendar that are not equally far apart."""
    time = pd.date_range("2000-01-31", periods=120, freq="ME")
    y = np.arange(120) + 10 * np.sin(2 * np.pi * np.arange(120) / 12)
    pd.DataFrame({"time": time, "y": y}).to_csv(tmp_path / "y.csv", index=False)
    assert run(tmp_path / "y.csv", "--target", "y", "--time", "time", "--horizon", 12, "--output", tmp_path / "out") == 0
    forecast = pd.read_csv(tmp_path / "out" / "forecast.csv", index_col="time", parse_dates=True)
    assert forecast.index[0] == pd.Timestamp("2010-01-31")
    assert np.abs(forecast["forecast"] - (np.arange(120, 132) + 10 * np.sin(2 * np.pi * np.arange(12) / 12))).max() < 3
