"""Back-tests by rolling origin: seven series, `SpectralForecaster` as it comes against classical forecasters and ridge on lags.

    python benchmarks/forecasting.py --python PYTHON [--tasks NAME,NAME] [--models NAME,NAME] [--limit SECONDS]

Every model is fitted once to the training part and moved forward without a new fit. Each is a process of one thread; one that
takes longer than the limit counts as failed. PYTHON has what requirements-forecasting.txt lists.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from machine import ROOT, describe, environment_line, markdown_table, save

TASKS = ["electricity", "temperature", "weather", "CO2", "sunspots", "ECG", "accelerometer"]
MODELS = ["SpectralForecaster", "ridge on lags", "seasonal naive", "ETS", "theta", "AutoARIMA", "unobserved components"]
WORKER = ROOT / "benchmarks" / "forecasting_worker.py"


def run(python: str, task: str, model: str, limit: int) -> dict[str, Any]:
    """One model on one series; {"failed": why} where it did."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    try:
        done = subprocess.run(
            [python, str(WORKER), task, model], env=environment, capture_output=True, text=True, check=False, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"over {limit} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["killed"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{task}, {model}: MASE {found['mase']:.3f}, {found['seconds']:.1f} s", flush=True)
    return found


def error_of_mean(by_origin: list[float]) -> float:
    """Standard error of the mean over origins, blocks of a tenth of them taken as independent."""
    blocks = [np.nanmean(part) for part in np.array_split(np.array(by_origin), min(10, len(by_origin)))]
    return statistics.stdev(blocks) / len(blocks) ** 0.5


def cell(found: dict[str, Any]) -> str:
    """MASE ± its standard error."""
    return "-" if "failed" in found else f"{found['mase']:.3f} ± {error_of_mean(found['by_origin']):.3f}"


def table(rows: dict[str, dict[str, dict[str, Any]]], models: list[str], tasks: list[str]) -> str:
    """MASE of every model; the last column is the geometric mean of its ratio to the first model's, over what it finished."""
    lines = []
    for model in models:
        ratios = [
            rows[task][model]["mase"] / rows[task][models[0]]["mase"]
            for task in tasks
            if "failed" not in rows[task][model] and "failed" not in rows[task][models[0]]
        ]
        mean = (
            f"{statistics.geometric_mean(ratios):.3f}{'' if len(ratios) == len(tasks) else f' ({len(ratios)})'}"
            if ratios
            else "-"
        )
        lines.append([model, *(cell(rows[task][model]) for task in tasks), mean])
    return markdown_table(["MASE", *tasks, f"/ {models[0]}"], lines)


def other(rows: dict[str, dict[str, dict[str, Any]]], models: list[str], tasks: list[str], name: str, form: str) -> str:
    """A figure of every model."""
    lines = [
        [model, *(form.format(rows[task][model][name]) if name in rows[task][model] else "-" for task in tasks)]
        for model in models
    ]
    return markdown_table([name, *tasks], lines)


def report(rows: dict[str, Any], machine: dict[str, Any], models: list[str], tasks: list[str], versions: dict[str, str]) -> str:
    """The page."""
    failed = [
        f"{model} on {task}: {rows[task][model]['failed']}"
        for task in tasks
        for model in models
        if "failed" in rows[task][model]
    ]
    parts = [
        "## Back-tests\n\n    python benchmarks/forecasting.py --python PYTHON",
        "Mean absolute error over origins and horizons, in units of the training part's seasonal naive one-step error (MASE), "
        "± the standard error over ten blocks of origins. Horizons, test parts, origins and the seasons every model is told "
        "are in benchmarks/forecasting_data.py. Fitted once, moved forward without a new fit. Seasons above 24 steps are taken "
        "out by MSTL for ETS, theta and AutoARIMA. Inputs of the weather are known ahead, for the models that take them "
        f"(SpectralForecaster, ridge, AutoARIMA, unobserved components). {environment_line(machine, versions)}",
        table(rows, models, tasks),
        "Seconds, fit and all forecasts, one thread:",
        other(rows, models, tasks, "seconds", "{:.1f}"),
        "Share of the truth inside 80 % intervals:",
        other(rows, models, tasks, "coverage", "{:.2f}"),
        "Memory above what was there before, bytes:",
        other(rows, models, tasks, "bytes", "{:,}"),
        *(["Failed: " + "; ".join(failed) + "."] if failed else []),
    ]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", required=True, help="interpreter of the environment")
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=TASKS)
    parser.add_argument("--models", type=lambda text: text.split(","), default=MODELS)
    parser.add_argument("--limit", type=int, default=600, help="seconds of a model on a series")
    options = parser.parse_args()
    for name, allowed in (("tasks", TASKS), ("models", MODELS)):
        if set(getattr(options, name)) - set(allowed):
            parser.error(f"--{name} {getattr(options, name)}; it must be some of {allowed}")
    machine = describe()
    rows = {task: {m: run(options.python, task, m, options.limit) for m in options.models} for task in options.tasks}
    listed = subprocess.run([options.python, "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True)
    wanted = {"torch", "sktime", "statsforecast", "statsmodels", "pandas"}
    versions = {entry["name"]: entry["version"] for entry in json.loads(listed.stdout) if entry["name"] in wanted}
    whole = options.tasks == TASKS and options.models == MODELS
    path = (ROOT / "benchmarks" / "results" if whole else ROOT / "build") / "forecasting.json"
    save(
        Path(path),
        {"machine": machine, "versions": versions, "rows": rows},
        report(rows, machine, options.models, options.tasks, versions),
    )


if __name__ == "__main__":
    main()
