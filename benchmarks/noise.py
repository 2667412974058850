"""What noise does to each way of learning: process and observation noise at 0, 1, 10 and 30 % of the output's scale.

    python benchmarks/noise.py

Random symmetric systems, recordings of white input. Roll-out: from inputs alone, against the output without any noise. One
step: from inputs and past outputs, against the output as it was observed; the floor is the Kalman filter that knows the system
and both noises.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from machine import ROOT, describe, environment_line, limit_threads, markdown_table, save

STATES, CHANNELS, SEQUENCES, LENGTH, FILTERS = 16, 1, 8, 512, 16
LEVELS = (0.0, 0.01, 0.1, 0.3)
METHODS = ("roll-out fit", "next fit", "learned AR", "refined", "refined, colored", "Kalman, truth")


def errors(predicted: Any, target: Any, power: float) -> float:
    return float((predicted - target).square().mean()) / power


def measure(process: float, observation: float, seed: int) -> dict[str, dict[str, float]]:
    """Errors of every method on one random system."""
    import torch

    from torchstu import SpectralRegressor, Uniform, random_lds
    from torchstu.learn.output_error import refine
    from torchstu.systems.kalman import KalmanFilter

    generator = torch.Generator().manual_seed(seed)
    lds = random_lds(STATES, CHANNELS, CHANNELS, Uniform(0.0, 1 - 1e-3), generator)
    inputs = torch.randn(2 * SEQUENCES, LENGTH, CHANNELS, generator=generator, dtype=torch.float64)
    clean = lds.simulate(inputs)
    power = float(clean.square().mean())
    unit = lds.simulate(torch.zeros_like(inputs), process_noise=1.0, generator=generator).std()
    q, r = process * math.sqrt(power) / float(unit), observation * math.sqrt(power)
    noisy = lds.simulate(inputs, process_noise=q, observation_noise=r, generator=generator)
    U, Y, V, W, exact = inputs[:SEQUENCES], noisy[:SEQUENCES], inputs[SEQUENCES:], noisy[SEQUENCES:], clean[SEQUENCES:]
    found: dict[str, dict[str, float]] = {}
    options: dict[str, Any] = {"ridge": "auto", "length": LENGTH}
    for name, extra in {
        "roll-out fit": {},
        "next fit": {"objective": "next"},
        "learned AR": {"objective": "next", "autoregression": "learned"},
    }.items():
        began = time.perf_counter()
        model = SpectralRegressor(FILTERS, **options, **extra).fit(U, Y)
        seconds = time.perf_counter() - began
        if name == "roll-out fit":
            start = model
        step = errors(model.predict_next(V, W), W, power)
        found[name] = {"rollout": errors(model.predict(V), exact, power), "next": step, "seconds": seconds}
    for name, kind in (("refined", "white"), ("refined, colored", "colored")):
        began = time.perf_counter()
        result = refine(U, Y, start, noise=kind, max_order=16)
        seconds = time.perf_counter() - began
        rolled = torch.as_tensor(start.predict(V)) if result.kept_start else result.system.simulate(V)
        step = errors(result.predict_next(V, W), W, power)
        found[name] = {"rollout": errors(rolled, exact, power), "next": step, "seconds": seconds, "order": float(result.order)}
    told = KalmanFilter(lds, q, r).predict_next(V, W)
    found["Kalman, truth"] = {"rollout": 0.0, "next": errors(told, W, power)}
    return found


def render(report: dict[str, Any]) -> str:
    tables = []
    for quantity, title in (("rollout", "Roll-out against the clean output"), ("next", "One step against the observed output")):
        rows = []
        for cell in report["cells"]:
            middle = {m: statistics.median(run[m][quantity] for run in cell["runs"]) for m in METHODS if m in cell["runs"][0]}
            if quantity == "rollout":
                orders = sorted(int(run["refined"]["order"]) for run in cell["runs"])
                tail = ["-".join(map(str, dict.fromkeys((orders[0], orders[-1]))))]
            else:
                tail = [f"{middle['Kalman, truth']:.1e}"]
            shown = [f"{middle[m]:.1e}" for m in METHODS if m in middle and m != "Kalman, truth"]
            rows.append([f"{cell['process']:.0%}", f"{cell['observation']:.0%}", *shown, *tail])
        names = [m for m in METHODS if m in report["cells"][0]["runs"][0] and m != "Kalman, truth"]
        last = "order refined" if quantity == "rollout" else "Kalman, truth"
        tables.append(f"### {title}\n\n" + markdown_table(["process", "observation", *names, last], rows))
    seconds = {m: statistics.median(r[m]["seconds"] for c in report["cells"] for r in c["runs"]) for m in METHODS[:5]}
    used = ", ".join(f"{name} {value:.2g} s" for name, value in seconds.items())
    return (
        f"## Noise\n\n{environment_line(report['machine'], report['versions'])}\n\n"
        f"Symmetric systems of {STATES} states uniform in ±(1 - 1e-3), one input and output; {SEQUENCES} sequences of "
        f'{LENGTH} steps from rest to learn from and as many fresh ones; {FILTERS} filters, ridge "auto". Noises in shares of '
        f"the standard deviation of the clean output. Squared error over the mean square of the clean output, median of "
        f"{len(report['cells'][0]['runs'])} systems. Median time of a fit, one thread: {used}.\n\n" + "\n\n".join(tables)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", type=int, default=3, help="random systems of each cell (default 3)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "noise.json")
    options = parser.parse_args()
    limit_threads(1)
    import numpy
    import torch

    report: dict[str, Any] = {
        "command": f"python benchmarks/noise.py --systems {options.systems}", "machine": describe(),
        "versions": {"torch": torch.__version__, "numpy": numpy.__version__}, "cells": [],
    }  # fmt: skip
    for process in LEVELS:
        for observation in LEVELS:
            print(f"process {process:.0%}, observation {observation:.0%} ...", file=sys.stderr, flush=True)
            runs = [measure(process, observation, seed) for seed in range(options.systems)]
            report["cells"].append({"process": process, "observation": observation, "runs": runs})
    text = render(report)
    print(text)
    save(options.output, report, text)


if __name__ == "__main__":
    main()
