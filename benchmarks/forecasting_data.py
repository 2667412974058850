"""Seven series of the back-tests, from packages: what is forecast, how far, how often, and which inputs are known ahead."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Task:
    """A series with its test part at the end.

    Attributes:
        y: pandas series on a regular index, NaN where missing.
        horizon, test, every: steps ahead, steps of the test part, steps between origins.
        seasons: the periods that every model is told, longest last; none for ().
        X: inputs that are known ahead.
    """

    y: pd.Series
    horizon: int
    test: int
    every: int
    seasons: tuple[int, ...]
    X: pd.DataFrame | None = None


def folder(package: str) -> Path:
    """Of an installed package, which is not imported."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package}: install what requirements-forecasting.txt lists")
    return Path(spec.origin).parent


def taylor() -> Task:
    """Electricity demand of England and Wales, half-hours, June to August 2000 (pmdarima)."""
    from pmdarima.datasets import load_taylor

    y = pd.Series(load_taylor(), index=pd.date_range("2000-06-05", periods=4032, freq="30min"))
    return Task(y, 48, 14 * 48, 12, (48, 336))


def temperature() -> Task:
    """Hourly temperature of Seattle, 2010 (vega_datasets)."""
    table = pd.read_csv(folder("vega_datasets") / "_data" / "seattle-temps.csv")
    y = pd.Series(table.iloc[:, 1].to_numpy(float), index=pd.date_range("2010-01-01", periods=len(table), freq="h"))
    return Task(y, 24, 1000, 12, (24,))


def weather() -> Task:
    """Hourly temperature of Greensboro from what is known of the sun, the wind and the pressure (ships with torchstu)."""
    from torchstu.data.files import weather as year

    table = year()
    index = pd.date_range("1990-01-01", periods=8760, freq="h")
    inputs = ["global_irradiance", "direct_irradiance", "wind_speed", "pressure"]
    X = pd.DataFrame(table.select(inputs), columns=inputs, index=index)
    return Task(pd.Series(table.select(["temperature"])[:, 0], index=index), 24, 1500, 12, (24,), X)


def co2() -> Task:
    """Weekly carbon dioxide at Mauna Loa, 1958 to 2001, with gaps (statsmodels)."""
    from statsmodels.datasets import co2 as data

    return Task(data.load_pandas().data["co2"].asfreq("W-SAT"), 52, 300, 13, (52,))


def sunspots() -> Task:
    """Monthly sunspots, 1749 to 1983 (pmdarima)."""
    with gzip.open(folder("pmdarima") / "datasets" / "data" / "sunspots.txt.gz") as file:
        y = np.loadtxt(file).ravel().astype(float)
    return Task(pd.Series(y, index=pd.period_range("1749-01", periods=len(y), freq="M")), 24, 400, 6, ())


def ecg() -> Task:
    """An electrocardiogram at 360 Hz, a quarter of a second ahead (sktime's mitdb)."""
    table = pd.read_csv(folder("sktime") / "datasets" / "data" / "mitdb" / "mitdb.csv")
    return Task(table["data"].astype(float), 90, 1500, 22, ())


def accelerometer() -> Task:
    """The wrist of someone who does exercises, 50 Hz, one second ahead (seglearn, first recording, first axis)."""
    stored = np.load(folder("seglearn") / "data" / "watch_dataset.npy", allow_pickle=True).item()
    return Task(pd.Series(np.asarray(stored["X"][0], float)[:, 0]), 50, 400, 12, ())


TASKS = {
    "electricity": taylor, "temperature": temperature, "weather": weather, "CO2": co2, "sunspots": sunspots, "ECG": ecg,
    "accelerometer": accelerometer,
}  # fmt: skip
