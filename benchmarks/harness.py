"""Processes that are measured, one an implementation, and how they take turns."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import ROOT
from registry import Implementation, Shape, layer

TOLERANCE = 1e-4
BUDGET_SECONDS = 10.0
"""Of timed repeats of one implementation at one shape, once it has `LEAST_REPEATS`."""
LEAST_REPEATS = 2


class Refused(RuntimeError):
    """An implementation that cannot run here, and why."""


class Worker:
    """The process of one implementation; it starts at once, and `ready` waits for it."""

    def __init__(self, operation: str, entry: Implementation, problem: str, options: argparse.Namespace) -> None:
        if entry.project not in ("torchstu", "torch") and entry.project not in options.peer | options.peer_python:
            raise Refused("not given")
        python, folder = options.peer_python.get(entry.project, sys.executable), options.peer.get(entry.project)
        command = [python, str(ROOT / "benchmarks" / "worker.py"), operation, entry.name, problem]
        command += ["--threads", str(options.threads), "--memory-limit", str(options.memory_limit)]
        command += ["--folder", str(folder)] if folder else []
        self.name, self.errors = entry.name, tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        self.about: Any = None

    def ready(self) -> Worker:
        """Wait until it is built."""
        self.about = self._answer()
        return self

    def ask(self, do: str, **details: Any) -> Any:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": do} | details) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # its last words are in the answer
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        if line := self.process.stdout.readline():
            return json.loads(line)
        self.process.communicate()
        self.errors.seek(0)
        said = [line for line in self.errors.read().strip().splitlines() if line.strip()]
        if self.process.returncode < 0:
            raise Refused(f"killed by signal {-self.process.returncode}, for memory most likely")
        raise Refused(reason(said[-1] if said else f"exit status {self.process.returncode}"))

    def close(self) -> None:
        self.process.communicate()


def reason(line: str) -> str:
    """The last line of a traceback, short and without folders of this machine."""
    if "allocate" in line or "MemoryError" in line or "RESOURCE_EXHAUSTED" in line:
        return "over the memory limit"
    return line.replace(str(Path.home()), "~").replace("|", "/")[:160]


def measure_layers(
    operation: str, shape: Shape, names: list[str], options: argparse.Namespace, folder: Path
) -> dict[str, dict[str, Any]]:
    """Everything about one shape: by implementation seconds, bytes, versions and differences, or why it did not run."""
    results: dict[str, dict[str, Any]] = {}
    workers: list[Worker] = []
    names = sorted(names, key=lambda name: layer(name).reference is not None)  # references first
    for name, worker in start(operation, names, str(folder / "problem.npz"), options, results).items():
        try:
            worker.ready()
            results[name] = {"peak_bytes": worker.ask("memory", save=str(folder / f"{name}.npz")), "seconds": []}
            results[name] |= worker.about | {"differences": compared(name, folder)}
            if layer(name).floor:
                results[name]["machine"] = worker.ask("calibrate")
            workers.append(worker)
        except Refused as why:
            if layer(name).project == "torchstu":
                raise SystemExit(f"{name} at {shape}: {why}") from why
            results[name] = {"skipped": str(why)}
    take_turns(workers, results, options.repeats)
    for worker in workers:
        worker.close()
    return results


def start(
    operation: str, names: list[str], problem: str, options: argparse.Namespace, results: dict[str, dict[str, Any]]
) -> dict[str, Worker]:
    """All processes at once: most of their time goes to imports."""
    workers: dict[str, Worker] = {}
    for name in names:
        try:
            workers[name] = Worker(operation, layer(name), problem, options)
        except Refused as why:
            results[name] = {"skipped": str(why)}
    return workers


def take_turns(workers: list[Worker], results: dict[str, dict[str, Any]], repeats: int) -> None:
    """One timed repeat each, again and again; who has used its budget stops."""
    for done in range(repeats):
        for worker in list(workers):
            seconds = results[worker.name]["seconds"]
            if done >= LEAST_REPEATS and sum(seconds) > BUDGET_SECONDS:
                continue
            try:
                seconds.append(worker.ask("time"))
            except Refused as why:
                results[worker.name] = {"skipped": str(why)}
                workers.remove(worker)


def compared(name: str, folder: Path) -> dict[str, float]:
    """Relative difference, in the Euclidean norm, of the output and of every gradient from ours; empty for other mathematics.

    Raises:
        Refused: another computation, or a wrong one.
    """
    import numpy as np

    ours = layer(name).reference
    if ours is None:
        return {}
    with np.load(folder / f"{ours}.npz") as a, np.load(folder / f"{name}.npz") as b:
        if set(a.files) != set(b.files):
            raise Refused(f"results {sorted(b.files)}; ours are {sorted(a.files)}")
        differences = {key: float(np.linalg.norm(a[key] - b[key]) / np.linalg.norm(a[key])) for key in a.files}
    if not max(differences.values()) <= TOLERANCE:
        raise Refused("differs from ours: " + ", ".join(f"{key} by {x:.0e}" for key, x in differences.items()))
    return differences


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
