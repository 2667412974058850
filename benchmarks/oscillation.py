"""Priors and y-terms on systems that oscillate, are defective or are not normal, design (9).

    python benchmarks/oscillation.py

Every method is fitted in closed form to the same noiseless sequences and rolled out on fresh ones, of L and of 16 L steps.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

from machine import ROOT, describe, environment_line, limit_threads, markdown_table, save

LENGTH, TRAINING, FRESH, FACTOR = 1024, 12, 2, 16
DIVERGED = 10.0  # relative error at 16 L above which a roll-out has diverged


def systems(generator: Any) -> dict[str, tuple[Any, float]]:
    """Systems by name, each with the largest angle of its modes."""
    from torchstu.systems.physical import mass_spring_chain
    from torchstu.systems.random import JordanBlocks, NonNormal, Rotations, random_lds

    def rotations(low: float, high: float, radius: tuple[float, float] = (0.999, 1.0), skew: float = 4.0) -> Any:
        return random_lds(32, 2, 2, Rotations(radius=radius, angle=(low, high), skew=skew), generator)

    return {
        "random asymmetric, 0.9-0.99, all angles": (rotations(0.0, math.pi, (0.9, 0.99), 10.0), math.pi),
        "rotations, 0.999-1, angle 0-0.05": (rotations(0.0, 0.05), 0.05),
        "rotations, 0.999-1, angle 0-0.2": (rotations(0.0, 0.2), 0.2),
        "rotations, 0.999-1, angle 1.0-1.1": (rotations(1.0, 1.1), 1.1),
        "Jordan blocks of 3, 0.9-0.99": (random_lds(12, 2, 2, JordanBlocks(), generator), 0.0),
        "non-normal, 0.9-0.99, departure 0.3": (random_lds(12, 2, 2, NonNormal(departure=0.3), generator), 0.0),
        "non-normal, 0.9-0.99, departure 0.7": (random_lds(12, 2, 2, NonNormal(departure=0.7), generator), 0.0),
        "chain of 8 masses": (mass_spring_chain(8, observed=(0, 7)), 0.4),
    }


def methods(angle: float) -> dict[str, dict[str, Any]]:
    """Options of `SpectralRegressor` by method; the sector is told the largest angle."""
    from torchstu.spectral.decomposition import decompose
    from torchstu.spectral.priors import POSITIVE
    from torchstu.spectral.sector import Harmonics, Sector

    sector: Any = POSITIVE if not angle else Sector(angle) if angle < 2 else POSITIVE + Sector(1.0)
    if 1 < angle < 2:
        sector = Harmonics([2 * math.pi / 1.05], width=0.05)
    reliable = min(100 if angle > 2 else 200, decompose(sector, LENGTH).reliable) if angle else 40
    learned = {"num_filters": 24, "autoregression": "learned", "objective": "next"}
    return {
        "STU, positive": {"num_filters": 40},
        "STU, sector": {"num_filters": reliable, "prior": sector, "autoregression": None if angle else "fixed"},
        "AR-STU, k_y = 2": learned | {"output_lags": 2, "input_lags": 3},
        "AR-STU, k_y = 4": learned | {"output_lags": 4, "input_lags": 5},
        "AR-STU, k_y = 8": learned | {"output_lags": 8, "input_lags": 9},
        "STU, Chebyshev 5": {"num_filters": 40, "preconditioning": 5, "output_lags": 5},
    }


def measure(options: dict[str, Any], data: tuple[Any, ...]) -> dict[str, Any]:
    """Errors at L and 16 L and seconds of the fit, with the tail penalty as it comes and without."""
    import torch

    from torchstu import SpectralRegressor, relative_error

    U, Y, u, y, long_u, long_y = data
    result: dict[str, Any] = {"options": {key: str(value) for key, value in options.items()}}
    for tail in ("auto", 0.0):
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            layer = SpectralRegressor(**options, tail_penalty=tail).fit(U, Y).layer
        seconds = time.perf_counter() - start
        layer.mode = "fft"
        with torch.no_grad():
            errors = [relative_error(layer(inputs)[0], outputs) for inputs, outputs in ((u, y), (long_u, long_y))]
        finite = [error if math.isfinite(error) else math.inf for error in errors]
        result["auto" if tail else "none"] = {
            "error": finite[0], "error_16L": finite[1], "diverged": not finite[1] < DIVERGED, "seconds": seconds
        }  # fmt: skip
    return result


def data_of(lds: Any, generator: Any) -> tuple[Any, ...]:
    """Training sequences, fresh ones, and one of 16 L."""
    import torch

    inputs = [
        torch.randn(count, steps, lds.d_in, generator=generator, dtype=torch.float64)
        for count, steps in ((TRAINING, LENGTH), (FRESH, LENGTH), (1, FACTOR * LENGTH))
    ]
    return tuple(part for u in inputs for part in (u, lds.simulate(u)))


def run(show: Callable[[str], None]) -> dict[str, Any]:
    import torch

    from torchstu.learn.prior_suggestion import suggest_prior
    from torchstu.systems.random import departure_from_normality

    generator = torch.Generator().manual_seed(0)
    report: dict[str, Any] = {}
    for name, (lds, angle) in systems(generator).items():
        data = data_of(lds, generator)
        entry: dict[str, Any] = {"departure": departure_from_normality(lds.A), "states": lds.state_dim, "methods": {}}
        for method, options in methods(angle).items():
            entry["methods"][method] = measure(options, data)
        start = time.perf_counter()
        suggestion = suggest_prior(data[0][:8], data[1][:8])
        entry["suggested"] = str(suggestion.prior) if isinstance(suggestion.prior, str) else suggestion.prior.name
        entry["suggested"] += f", K = {suggestion.num_filters}"
        if suggestion.preconditioning is not None:
            entry["suggested"] += f", degree {suggestion.preconditioning}"
        entry["suggestion_seconds"] = time.perf_counter() - start
        entry["methods"]["suggested"] = measure(suggestion.options, data)
        report[name] = entry
        show(f"{name}: " + ", ".join(f"{key} {value['auto']['error']:.0e}" for key, value in entry["methods"].items()))
    return report


def render(report: dict[str, Any]) -> str:
    found = report["systems"]
    names = list(next(iter(found.values()))["methods"])
    parts = []
    for tail, title in (("none", "No tail penalty"), ("auto", "Tail penalty as it comes")):
        rows = []
        for name, entry in found.items():
            cells = [entry["methods"][method][tail] for method in names]
            shown = [f"{cell['error']:.0e}{' ✗' if cell['diverged'] else ''}" for cell in cells]
            rows.append([name, str(entry["states"]), f"{entry['departure']:.2f}", *shown])
        parts.append(f"### {title}\n\n" + markdown_table(["", "states", "departure", *names], rows))
    suggested = [[name, entry["suggested"], f"{entry['suggestion_seconds']:.0f} s"] for name, entry in found.items()]
    parts.append("### What was suggested\n\n" + markdown_table(["", "prior", "time"], suggested))
    return (
        f"## Systems that oscillate, are defective or are not normal\n\n"
        f"{environment_line(report['machine'], report['versions'])}\n\n"
        f"Relative roll-out error (squared) on fresh noiseless sequences of L = {LENGTH} steps, after a fit to {TRAINING}; "
        f"✗: the error over {FACTOR} L is above {DIVERGED:g}. Departure: Henrici's, a share of ‖A‖_F. The sector is told the "
        'largest angle (1.0-1.1: that arc; all angles: "positive" + Sector(1)); where the poles are real it is "positive" '
        'itself. "Suggested" is '
        "`suggest_prior`, which is told nothing and sees 8 of the sequences.\n\n" + "\n\n".join(parts)
    )


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    limit_threads(1)
    sys.path.insert(0, str(ROOT / "src"))
    import numpy as np
    import torch

    torch.set_num_threads(1)
    start = time.perf_counter()
    found = run(lambda line: print(line, file=sys.stderr, flush=True))
    report = {
        "command": "python benchmarks/oscillation.py", "machine": describe(), "length": LENGTH, "training": TRAINING,
        "versions": {"torch": torch.__version__, "numpy": np.__version__}, "seconds": time.perf_counter() - start,
        "systems": found,
    }  # fmt: skip
    text = render(report)
    print(text)
    save(ROOT / "benchmarks" / "results" / "oscillation.json", report, text)


if __name__ == "__main__":
    main()
