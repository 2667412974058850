"""One model on one series of `forecasting.py`: fitted once, then forecasts from every origin; prints JSON."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from forecasting_data import TASKS, Task
from machine import limit_threads, peak_memory

LEVEL = 80
"""Per cent of the intervals."""
RIDGES = 10.0 ** np.arange(-6, 1)
LAGS = (3, 12, 24, 48, 96, 192, 336, 504)
Forecasts = tuple[np.ndarray, np.ndarray | None]
"""(origins, H) and, where there are intervals, (origins, H, 2)."""


def filled(y: np.ndarray) -> np.ndarray:
    """The last value in place of missing ones, for models that take none."""
    return pd.Series(y).ffill().bfill().to_numpy()


def naive(task: Task, train: int, origins: np.ndarray) -> Forecasts:
    """The values of the longest season before; without one the last value."""
    y, season = filled(task.y.to_numpy()), task.seasons[-1] if task.seasons else 1
    steps = np.arange(1, task.horizon + 1)
    back = -(-steps // season) * season
    return y[origins[:, None] + steps - back], None


def spectral(task: Task, train: int, origins: np.ndarray) -> Forecasts:
    """`SpectralForecaster` as it comes, told the seasons; new values are read without learning."""
    from torchstu.integrations.sktime import SpectralForecaster

    y, X = task.y, task.X
    given = {"X": X[:train]} if X is not None else {}
    model = SpectralForecaster(periods=task.seasons or "auto").fit(y[:train], fh=range(1, task.horizon + 1), **given)
    found, bounds, seen = [], [], train
    for origin in origins:
        if origin + 1 > seen:
            given = {"X": X[seen : origin + 1]} if X is not None else {}
            model.update(y[seen : origin + 1], update_params=False, **given)
            seen = origin + 1
        ahead = {"X": X[seen : seen + task.horizon]} if X is not None else {}
        found.append(model.predict(**ahead).to_numpy().ravel())
        bounds.append(model.predict_interval(coverage=LEVEL / 100, **ahead).to_numpy())
    return np.array(found), np.array(bounds)


def ridge(task: Task, train: int, origins: np.ndarray) -> Forecasts:
    """Direct ridge regression on lags (and inputs at the time of the forecast with two lags); the lags and the ridge that do
    best on the last fifth of the training part, then fitted to all of it."""
    y, H = filled(task.y.to_numpy()), task.horizon
    level, scale = y[:train].mean(), y[:train].std()
    z = (y - level) / scale
    X = None if task.X is None else ((task.X - task.X[:train].mean()) / task.X[:train].std()).to_numpy()
    steps = np.arange(1, H + 1)

    def rows(times: np.ndarray, lags: int, h: int) -> np.ndarray:
        parts = [z[times[:, None] - np.arange(lags)], np.ones((len(times), 1))]
        return np.concatenate(parts + ([] if X is None else [X[times + h - i] for i in range(3)]), axis=1)

    def forecasts(stop: int, at: np.ndarray, lags: int, ridges: np.ndarray) -> np.ndarray:
        times = np.arange(lags, stop - H)
        found = np.empty((len(ridges), len(at), H))
        for h in steps if X is not None else [0]:
            F, Y = rows(times, lags, h), z[times[:, None] + (steps if X is None else h)].reshape(len(times), -1)
            values, vectors = np.linalg.eigh(F.T @ F)
            for i, strength in enumerate(ridges):
                W = vectors @ ((vectors.T @ (F.T @ Y)) / (np.maximum(values, 0) + strength * len(times))[:, None])
                own = rows(at, lags, h) @ W
                found[i][:, (h - 1) if X is not None else slice(None)] = own[:, 0] if X is not None else own
        return found

    stop = train - train // 5
    inner = np.arange(stop - 1, train - H, max(1, H // 4))
    truth = z[inner[:, None] + steps]
    errors = {
        (lags, strength): np.abs(own - truth).mean()
        for lags in LAGS
        if lags <= train // 5
        for strength, own in zip(RIDGES, forecasts(stop, inner, lags, RIDGES), strict=True)
    }
    lags, strength = min(errors, key=errors.__getitem__)
    return forecasts(train, origins, lags, np.array([strength]))[0] * scale + level, None


def statsforecast(name: str) -> Callable[[Task, int, np.ndarray], Forecasts]:
    """A model of statsforecast, fitted once and moved forward; seasons above 24 steps are taken out by MSTL first."""

    def run(task: Task, train: int, origins: np.ndarray) -> Forecasts:
        from statsforecast import models

        season = task.seasons[0] if task.seasons else 1
        kind = getattr(models, name)
        if season > 24:
            trend = kind(model="ZZN") if name == "AutoETS" else kind()
            model = models.MSTL(season_length=list(task.seasons), trend_forecaster=trend)
        else:
            model = kind(season_length=season)
        y = filled(task.y.to_numpy())
        X = None if task.X is None or name != "AutoARIMA" else task.X.to_numpy()
        model.fit(y[:train], X=None if X is None else X[:train])
        found, bounds = [], []
        for origin in origins:
            given = {} if X is None else {"X": X[: origin + 1], "X_future": X[origin + 1 : origin + 1 + task.horizon]}
            own = model.forward(y[: origin + 1], h=task.horizon, level=[LEVEL], **given)
            found.append(own["mean"])
            bounds.append(np.stack([own[f"lo-{LEVEL}"], own[f"hi-{LEVEL}"]], axis=1))
        return np.array(found), np.array(bounds)

    return run


def components(task: Task, train: int, origins: np.ndarray) -> Forecasts:
    """Unobserved components of statsmodels: seasons by six harmonics each, an AR(1), of two trends that of the lower AIC."""
    from statsmodels.tsa.statespace.structural import UnobservedComponents

    y, X = task.y.to_numpy(), None if task.X is None else task.X.to_numpy()
    seasons = [{"period": p, "harmonics": min(6, p // 2 - 1)} for p in task.seasons]
    options = {"freq_seasonal": seasons or None, "autoregressive": 1, "exog": None if X is None else X[:train]}
    tried = [
        UnobservedComponents(y[:train], level=level, **options).fit(disp=False, maxiter=50)
        for level in ("local level", "local linear trend")
    ]
    fitted = min(tried, key=lambda own: own.aic)
    found, bounds = [], []
    for origin in origins:
        part = slice(max(0, origin + 1 - 2000), origin + 1)  # a filter from the last 2000 values
        own = fitted.apply(y[part], exog=None if X is None else X[part])
        ahead = None if X is None else X[origin + 1 : origin + 1 + task.horizon]
        forecast = own.get_forecast(task.horizon, exog=ahead)
        found.append(forecast.predicted_mean)
        bounds.append(forecast.conf_int(alpha=1 - LEVEL / 100))
    return np.array(found), np.array(bounds)


MODELS: dict[str, Callable[[Task, int, np.ndarray], Forecasts]] = {
    "SpectralForecaster": spectral, "ridge on lags": ridge, "seasonal naive": naive, "ETS": statsforecast("AutoETS"),
    "theta": statsforecast("AutoTheta"), "AutoARIMA": statsforecast("AutoARIMA"), "unobserved components": components,
}  # fmt: skip


def main() -> None:
    limit_threads(1)
    warnings.simplefilter("ignore")
    name, model = sys.argv[1:3]
    task: Task = TASKS[name]()
    train = len(task.y) - task.test
    origins = np.arange(train - 1, len(task.y) - task.horizon, task.every)
    if model == "SpectralForecaster":
        import torchstu.integrations.sktime  # noqa: F401  # imports are not timed
    kept: list[Forecasts] = []
    began = time.perf_counter()
    memory = peak_memory(lambda: kept.append(MODELS[model](task, train, origins)))
    seconds = time.perf_counter() - began
    (forecast, bounds) = kept[0]
    y = task.y.to_numpy()
    truth = y[origins[:, None] + np.arange(1, task.horizon + 1)]
    season = task.seasons[-1] if task.seasons else 1
    scale = np.nanmean(np.abs(y[season:train] - y[: train - season]))
    errors = np.abs(forecast - truth)
    found: dict[str, Any] = {
        "mae": float(np.nanmean(errors)), "mase": float(np.nanmean(errors) / scale), "seconds": seconds, "bytes": memory,
        "by_origin": (np.nanmean(errors, axis=1) / scale).tolist(),
    }  # fmt: skip
    if bounds is not None:
        known = ~np.isnan(truth)
        inside = (bounds[..., 0] <= truth) & (truth <= bounds[..., 1])
        found |= {
            "coverage": float(inside[known].mean()),
            "width": float((bounds[..., 1] - bounds[..., 0])[known].mean() / scale),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
