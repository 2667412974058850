"""The paper's experiment over a grid: STU and LRU, 2,000 sequences, batch 1, float32, five seeds, six settings each.

    python benchmarks/paper_lds.py [--seeds 5] [--samples 2000] [--output benchmarks/results/paper_lds.json]

Every cell is one process on one thread, two at a time. The best setting of each mixer is the one of the smallest median over
the seeds of the roll-out error on fresh sequences, so the choice favours both alike.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch

from machine import describe, environment_line, markdown_table, save
from torchstu.experiments.paper import GRIDS, Setting, learning_curve


def run_cell(setting: Setting, seed: int, samples: int) -> dict:
    """One training run."""
    torch.set_num_threads(1)
    history = learning_curve(setting, seed, samples)
    cell = {"mixer": setting.mixer, "learning_rate": setting.learning_rate, "weight_decay": setting.weight_decay, "seed": seed}
    return cell | {
        "error": history.errors[-1],
        "diverged": history.diverged,
        "seconds": round(history.seconds, 1),
        "samples": history.samples,
        "errors": history.errors,
    }


def summarize(cells: list[dict]) -> list[dict]:
    """Median, least and largest error over the seeds for each setting, best first within a mixer."""
    groups: dict[tuple, list[dict]] = {}
    for cell in cells:
        groups.setdefault((cell["mixer"], cell["learning_rate"], cell["weight_decay"]), []).append(cell)
    rows = []
    for (mixer, rate, decay), group in groups.items():
        errors = [cell["error"] for cell in group]
        rows.append(
            {"mixer": mixer, "learning rate": rate, "weight decay": decay, "median": median(errors), "least": min(errors),
             "largest": max(errors), "diverged": sum(cell["diverged"] for cell in group),
             "seconds": median(cell["seconds"] for cell in group)}
        )  # fmt: skip
    return sorted(rows, key=lambda row: (row["mixer"], row["median"]))


def main() -> None:
    """Run the grid and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "paper_lds.json")
    options = parser.parse_args()
    jobs = [(setting, seed) for seed in range(options.seeds) for grid in GRIDS.values() for setting in grid]
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(run_cell, setting, seed, options.samples) for setting, seed in jobs]
        cells = []
        for future in futures:
            cells.append(future.result())
            cell = cells[-1]
            print(*(cell[key] for key in ("mixer", "learning_rate", "weight_decay", "seed", "error", "seconds")), flush=True)
    rows = summarize(cells)
    best = {mixer: next(row for row in rows if row["mixer"] == mixer) for mixer in GRIDS}
    ratio = best["LRU"]["median"] / best["STU"]["median"]
    title = f"Paper's system, {options.samples} sequences, {options.seeds} seeds: best LRU over best STU {ratio:.3g}"
    machine, versions = describe(), {"torch": torch.__version__}
    cells_of = [[f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows]
    table = markdown_table(list(rows[0]), cells_of)
    text = f"{title}. Errors: median, least and largest over the seeds.\n\n{table}\n\n{environment_line(machine, versions)}"
    save(options.output, {"machine": machine, "versions": versions, "summary": rows, "cells": cells}, text)
    print(text)


if __name__ == "__main__":
    main()
