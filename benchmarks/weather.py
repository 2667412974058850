"""A year of hourly weather: temperature rolled out over the last 30 % from irradiance, wind and pressure alone.

    python benchmarks/weather.py

Everything, scalers and settings included, is chosen on the first 70 % by `fit_series` (`torchstu fit`): once among layers
without a y-term, which is what a roll-out over months asks for, and once with a learned one, which one step ahead wants.
"""

from __future__ import annotations

import sys
import time
from importlib.metadata import version
from typing import Any

from machine import ROOT, describe, environment_line, limit_threads, markdown_table, save

INPUTS = ["global_irradiance", "direct_irradiance", "wind_speed", "pressure"]
KINDS = {"no y-term": "none", "learned y-term": "learned"}


def measure(kind: str) -> dict[str, Any]:
    """Fit, and the errors of the model and its baselines on the last 30 %."""
    from torchstu.data.files import weather
    from torchstu.experiments.fitting import fit_series

    table, began = weather(), time.perf_counter()
    found = fit_series(table.select(INPUTS), table.select(["temperature"]), test=0.3, autoregression=KINDS[kind])
    return {
        "seconds": time.perf_counter() - began,
        "settings": found.settings,
        "errors": [row._asdict() for row in found.errors],
    }


def main() -> None:
    limit_threads(1)
    sys.path.insert(0, str(ROOT / "src"))
    machine = describe()
    found = {kind: measure(kind) for kind in KINDS}
    rows = [
        [
            f"STU, {kind}",
            f"{own['errors'][0]['rollout']:.3f}",
            f"{own['errors'][0]['one_step']:.4f}",
            own["errors"][0]["settings"],
        ]
        for kind, own in found.items()
    ]
    rows += [
        [row["model"], f"{row['rollout']:.3f}", f"{row['one_step']:.4f}", row["settings"]]
        for row in found["no y-term"]["errors"][1:]
    ]
    seconds = " and ".join(f"{own['seconds']:.0f}" for own in found.values())
    text = (
        "## A year of weather\n\n    python benchmarks/weather.py\n\nTemperature from irradiance, wind and pressure, 8760 "
        "hours; squared error over the variance on the last 30 %; the roll-out sees no temperature there. "
        f"{environment_line(machine, {'torch': version('torch')})}\n\n"
        f"{markdown_table(['model', 'roll-out', 'one step ahead', 'chosen on the first 70 %'], rows)}\n\n"
        f"Choosing and fitting took {seconds} s."
    )
    print(text)
    save(ROOT / "benchmarks" / "results" / "weather.json", {"machine": machine} | found, text)


if __name__ == "__main__":
    main()
