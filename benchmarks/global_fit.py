"""One fit to a thousand series of a thousand values: seconds and memory on one thread, and what sharing weights is worth.

    python benchmarks/global_fit.py

The series are autoregressions of one kind with a season of 24 steps of random phase, each in units of its own. Beside the
global fit, twenty of the series are fitted alone.
"""

from __future__ import annotations

import sys
import time
import warnings
from importlib.metadata import version

import numpy as np

from machine import ROOT, describe, environment_line, limit_threads, markdown_table, peak_memory, save

COUNT, STEPS, HORIZON, ALONE = 1000, 1000, 24, 20


def simulated(seed: int) -> np.ndarray:
    """(COUNT, STEPS + HORIZON)."""
    rng = np.random.default_rng(seed)
    y = np.zeros((COUNT, STEPS + HORIZON))
    for t in range(2, y.shape[1]):
        y[:, t] = 1.5 * y[:, t - 1] - 0.6 * y[:, t - 2] + rng.normal(size=COUNT)
    y += 5 * np.sin(2 * np.pi * (np.arange(y.shape[1]) / 24 + rng.random((COUNT, 1))))
    return y * 10 ** rng.uniform(-2, 2, (COUNT, 1))


def main() -> None:
    limit_threads(1)
    sys.path.insert(0, str(ROOT / "src"))
    warnings.simplefilter("ignore")
    import pandas as pd

    from torchstu.integrations.sktime import SpectralForecaster

    machine, y = describe(), simulated(0)
    past, future = y[:, :STEPS], y[:, STEPS:]
    index = pd.MultiIndex.from_product([range(COUNT), range(STEPS)])
    frame = pd.DataFrame({"y": past.ravel()}, index=index)
    fh, forecaster, seconds = range(1, HORIZON + 1), SpectralForecaster(), {}

    def fit() -> None:
        began = time.perf_counter()
        forecaster.fit(frame, fh=fh)
        seconds["fit"] = time.perf_counter() - began

    memory = peak_memory(fit)
    began = time.perf_counter()
    forecast = forecaster.predict().to_numpy().reshape(COUNT, HORIZON)
    seconds["forecasts"] = time.perf_counter() - began
    alone = np.stack([SpectralForecaster().fit(pd.Series(one), fh=fh).predict().to_numpy() for one in past[:ALONE]])
    scale = np.abs(np.diff(past, axis=1)).mean(axis=1, keepdims=True)
    errors = {
        "one fit": (np.abs(forecast - future) / scale)[:ALONE].mean(),
        "each alone": (np.abs(alone - future[:ALONE]) / scale[:ALONE]).mean(),
    }
    rows = [[name, f"{value:.3f}"] for name, value in errors.items()]
    versions = {name: version(name) for name in ("torch", "sktime", "pandas")}
    text = (
        f"## A global fit\n\n    python benchmarks/global_fit.py\n\n{COUNT} series of {STEPS} values, {HORIZON} horizons: "
        f"fit {seconds['fit']:.1f} s, forecasts {seconds['forecasts']:.1f} s, {memory / 2**20:.0f} MiB above what was there "
        f"before. {environment_line(machine, versions)}\n\nMean absolute error of the first {ALONE} series over that of the "
        f"value before:\n\n{markdown_table(['weights', 'error'], rows)}"
    )
    print(text)
    save(ROOT / "benchmarks" / "results" / "global_fit.json",
         {"machine": machine, "seconds": seconds, "bytes": memory, "errors": errors}, text)  # fmt: skip


if __name__ == "__main__":
    main()
