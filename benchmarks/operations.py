"""The four operations: what each measures, as a report that `tables` and `pictures` render."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from harness import Refused, Worker, measure_layers, say
from registry import (
    CURVE_AXES,
    GENERATE,
    LAYER_CASES,
    LONGEST_FFT,
    MODES,
    QUICK_AXES,
    QUICK_POSITIONS,
    QUICK_SHAPES,
    Implementation,
    Shape,
    curve_points,
    layer,
)

SPARE = 4096
"""Steps that caches have room for beyond the last position."""
ROUNDS = 15
"""Turns that the positions of one layer take."""
STEPS = 50


def layers(operation: str, options: argparse.Namespace) -> dict[str, Any]:
    """`train` and `prefill`: every implementation at a shape in one round of turns, whatever tables it is in."""
    import numpy as np

    from problem import make_problem

    wanted: dict[Shape, list[str]] = {}
    for case in LAYER_CASES[operation]:
        for shape in QUICK_SHAPES[:1] if options.quick else case.shapes:
            known = wanted.setdefault(shape, [])
            known += [name for name in case.names if name not in known]
    entries = []
    for shape, names in wanted.items():
        say(f"{operation} {shape} ...")
        with tempfile.TemporaryDirectory() as scratch:
            np.savez(Path(scratch) / "problem.npz", **make_problem(shape))
            entries.append({"shape": shape, "results": measure_layers(operation, shape, names, options, Path(scratch))})
    return {"shapes": entries}


def generate(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds a step at every position; the implementations that reach a position take turns there."""
    plan = [(entry, QUICK_POSITIONS if options.quick else positions) for entry, positions in GENERATE]
    results: dict[str, dict[str, Any]] = {entry.name: {"positions": []} for entry, _ in plan}
    workers: dict[str, Worker] = {}
    for entry, positions in plan:
        say(f"generate {entry.name} ...")
        try:
            workers[entry.name] = Worker("generate", entry, str(positions[-1] + SPARE), options).ready()
            results[entry.name] |= workers[entry.name].about
        except Refused as why:
            results[entry.name]["skipped"] = str(why)
    calibration = workers["torchstu STU"].ask("calibrate")
    for position in sorted({position for _, positions in plan for position in positions}):
        here = {entry.name for entry, positions in plan if position in positions}
        _generate_at(position, {name: worker for name, worker in workers.items() if name in here}, results, options)
    for entry, positions in plan:
        if entry.builder in ("STU", "TensordotSTU") and len(positions) > 1 and entry.name in workers:
            say(f"generate {entry.name}, positions in turns ...")
            rounds = workers[entry.name].ask("turns", positions=positions, rounds=ROUNDS, count=STEPS)
            results[entry.name]["turns"] = [statistics.median(column) for column in zip(*rounds, strict=True)]
    for worker in workers.values():
        worker.close()
    return {"machine_rates": calibration, "results": results}


def _generate_at(
    position: int, workers: dict[str, Worker], results: dict[str, dict[str, Any]], options: argparse.Namespace
) -> None:
    say(f"generate at {position} ...")
    for name, worker in list(workers.items()):
        try:
            at = {"position": position, "reached_in": worker.ask("reach", position=position), "seconds": []}
            results[name]["positions"].append(at | worker.ask("memory", position=position))
        except Refused as why:
            results[name]["skipped"] = f"at {position}: {why}"
            del workers[name]
    for _ in range(options.repeats):
        for name, worker in workers.items():
            results[name]["positions"][-1]["seconds"].append(statistics.median(worker.ask("steps", count=STEPS)))


def curves(options: argparse.Namespace) -> dict[str, Any]:
    """One process a point and mode, one after the other: seconds and peak memory of a forward pass and of a training step."""
    points = []
    axes = {name: axis for name, axis in (QUICK_AXES if options.quick else CURVE_AXES).items() if name in options.axes}
    for shape in curve_points(axes):
        say(f"curves {shape} ...")
        names = [name for name in MODES if shape[1] <= LONGEST_FFT or not name.endswith("fft")]
        points += [{"shape": shape, "name": name} | _curve_point(layer(name), shape, options) for name in names]
    return {"points": points}


def _curve_point(entry: Implementation, shape: Shape, options: argparse.Namespace) -> dict[str, Any]:
    try:
        worker = Worker("curves", entry, json.dumps(shape), options).ready()
        measured = {"versions": worker.about["versions"]} | {do: worker.ask(do) for do in ("prefill", "train")}
    except Refused as why:
        return {"skipped": str(why)}
    worker.close()
    return measured
