"""System identification side by side: torchstu and installable peers over a grid of systems.

    python benchmarks/identify.py --peer-python PYTHON [--quick] [--only METHOD,METHOD] [--again METHOD]

Every fit is a process of its own on one core, two at a time. Results are kept line by line in the work folder, so a run that
was stopped goes on where it was; ``--again torchstu`` measures a method anew.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from identification import cells, registry
from identification.tables import render
from machine import ROOT, describe, save

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


class Worker:
    """A process of `identification.worker` for one interpreter on one core."""

    def __init__(self, kind: str, python: str, core: int) -> None:
        here = ROOT / "benchmarks"
        environment = os.environ | dict.fromkeys(THREADS, "1") | {"PYTHONPATH": f"{ROOT / 'src'}:{here}", "MPLBACKEND": "agg"}
        self.process = subprocess.Popen(
            [python, "-m", "identification.worker", kind, str(core)], cwd=here, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.about = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"worker stopped with exit status {self.process.wait()}")
        return json.loads(line)

    def fit(self, method: str, file: Path) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"method": method, "file": str(file)}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self.process.communicate()


class Results:
    """Lines of results on disk, one a cell and method."""

    def __init__(self, path: Path, again: list[str]) -> None:
        self.path, self.lock = path, threading.Lock()
        lines = path.read_text().splitlines() if path.is_file() else []
        found = [json.loads(line) for line in lines if line.endswith("}")]
        self.found = {(line["cell"], line["method"]): line for line in found if line["method"] not in again}
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in self.found.values()))
        partial.rename(path)

    def add(self, line: dict[str, Any]) -> None:
        with self.lock, self.path.open("a") as file:
            self.found[line["cell"], line["method"]] = line
            file.write(json.dumps(line) + "\n")


def lane(core: int, tasks: queue.Queue, results: Results, options: argparse.Namespace, versions: dict[str, str]) -> None:
    """One of the processes side by side: takes tasks until there are none."""
    pythons = {"torchstu": sys.executable, "peers": options.peer_python}
    workers: dict[str, Worker] = {}
    while True:
        try:
            cell, method = tasks.get_nowait()
        except queue.Empty:
            break
        if method.python not in workers:
            workers[method.python] = Worker(method.python, pythons[method.python], core)
            versions |= workers[method.python].about["versions"]
        found = workers[method.python].fit(method.name, cells.stored(cell, options.work / "data"))
        results.add({"cell": cell.name, "method": method.name} | found)
        said = (
            found.get("failure") or f"{found['short']:.1e} {found['long']:.1e} {found['one_step']:.1e} {found['seconds']:.1f} s"
        )
        print(f"{tasks.qsize():5d} left  {cell.name:48s} {method.name:20s} {said}", file=sys.stderr, flush=True)
    for worker in workers.values():
        worker.close()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="interpreter with requirements-identification.txt; without it peers are left out")
    parser.add_argument("--quick", action="store_true", help="a few cells and methods, to see that everything runs")
    parser.add_argument("--only", type=lambda text: text.split(","), help="methods, by name, divided by commas")
    parser.add_argument("--again", type=lambda text: text.split(","), default=[], help="methods whose kept results are dropped")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "identification", help="data and kept results")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "identification.json")
    options = parser.parse_args()
    names = [method.name for method in registry.METHODS]
    for name in [*(options.only or []), *options.again]:
        if name not in names:
            parser.error(f"{name!r}; methods are {', '.join(names)}")
    return options


def main() -> None:
    options = parse()
    (options.work / "data").mkdir(parents=True, exist_ok=True)
    results = Results(options.work / "results.jsonl", options.again)
    grid = cells.quick() if options.quick else cells.grid()
    chosen = options.only or (registry.QUICK if options.quick else [method.name for method in registry.METHODS])
    methods = [m for m in registry.METHODS if m.name in chosen and (m.python == "torchstu" or options.peer_python)]
    tasks: queue.Queue = queue.Queue()
    files = {cell: cells.stored(cell, options.work / "data") for cell in grid}
    for cell in grid:
        for method in methods:
            if (cell.name, method.name) not in results.found:
                tasks.put((cell, method))
    versions, start = {}, time.perf_counter()
    lanes = [threading.Thread(target=lane, args=(core, tasks, results, options, versions)) for core in range(options.processes)]
    for thread in lanes:
        thread.start()
    for thread in lanes:
        thread.join()
    report = {
        "command": "python benchmarks/identify.py --peer-python PYTHON" + " --quick" * options.quick,
        "machine": describe(), "versions": remembered(options.work / "versions.json", versions),
        "minutes": round((time.perf_counter() - start) / 60, 1), "quick": options.quick,
        "cells": [cell._asdict() | {"name": cell.name, "floor": cells.floor(files[cell])} for cell in grid],
        "results": [line for cell in grid for (name, _), line in results.found.items() if name == cell.name],
    }  # fmt: skip
    text = render(report)
    print(text)
    save(options.output, report, text)


def remembered(path: Path, versions: dict[str, str]) -> dict[str, str]:
    """Versions of this run and, for results kept from earlier ones, of those."""
    merged = (json.loads(path.read_text()) if path.is_file() else {}) | versions
    path.write_text(json.dumps(merged))
    return merged


if __name__ == "__main__":
    main()
