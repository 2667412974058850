"""Byte-level language models trained alike on the text that ships with the package: bits per byte of held-out text.

    python benchmarks/language_models.py --peer-python PYTHON [--only NAME,NAME] [--seeds N] [--processes N] [--quick]

Each run is a process: `train_language_model` with the shipped defaults, the width at which a model comes closest to the
default's number of parameters, a learning rate, and a seed. The rate is the one of three with the fewest bits on the
validation part after a third of the steps, with a seed that is not used again: alike for every model. Runs are kept in the work
folder: one that was stopped goes on, a finished one is not repeated. Nothing is chosen on the test part. PYTHON has what
requirements-peers-language.txt lists.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from machine import ROOT, describe, environment_line, markdown_table, save

HYBRID = {"mixers": ["TensordotSTU", "sliding_attention"]}
MODELS: dict[str, dict[str, Any]] = {
    "TensordotSTU + window of 64": HYBRID,
    "TensordotSTU": {"mixers": "TensordotSTU"},
    "STU, 6 heads": {"mixers": "STU", "mixer_options": {"STU": {"num_heads": 6}}},
    "full attention": {"mixers": "full_attention"},
    "S4D": {"mixers": "S4D", "mixer_options": {"S4D": {"init": "legs"}}},
    "GRU": {"mixers": "GRU"},
    "Mamba (mambapy)": {"mixers": "GRU"},  # made by the worker
}
RATES = (1e-3, 3e-3, 1e-2)
CHOOSING_SEED = 100
CONTEXTS = 16
"""Times the context of training, for bits by position."""
WORKER = ROOT / "benchmarks" / "language_models_worker.py"


class Runs:
    """Runs of the worker in a folder, some at once."""

    def __init__(self, folder: Path, processes: int, quick: bool, peer_python: str | None) -> None:
        self.folder, self.quick, self.peer_python = folder, quick, peer_python
        self.pool = ThreadPoolExecutor(processes)

    def submit(self, name: str, rate: float, seed: int, share: int = 1) -> Future[dict[str, Any]]:
        """A run, or its results if it was there; ``share`` divides the steps."""
        steps = 6 if self.quick else 1500 // share
        every = 3 if self.quick else 250 if share == 1 else 100
        run = {"steps": steps, "validate_every": every, "learning_rate": rate, "seed": seed, "model": MODELS[name]}
        request = {
            "run": run, "mamba": name.startswith("Mamba"), "output": str(self.folder / f"{name}, rate {rate}, seed {seed}"),
            "contexts": CONTEXTS if share == 1 and not self.quick else 2,
        }  # fmt: skip
        return self.pool.submit(self._run, name, request)

    def _run(self, name: str, request: dict[str, Any]) -> dict[str, Any]:
        python = self.peer_python if request["mamba"] else sys.executable
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
        command = [str(python), str(WORKER), json.dumps(request)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{request['output']}: {done.stderr.strip().splitlines()[-1:]}")
        results = json.loads(done.stdout.splitlines()[-1])
        bits = results["bits_per_byte"]
        print(f"{Path(request['output']).name}: {bits['validation']:.3f}, test {bits['test']:.3f}", flush=True)
        return results


def measure(runs: Runs, names: list[str], seeds: int) -> dict[str, dict[str, Any]]:
    """First the rate of each model, then all seeds with it."""
    tried = {(name, rate): runs.submit(name, rate, CHOOSING_SEED, 3) for name in names for rate in RATES}
    bits = {key: run.result()["bits_per_byte"]["validation"] for key, run in tried.items()}
    rates = {name: min(RATES, key=lambda rate, name=name: bits[name, rate]) for name in names}
    started = {name: [runs.submit(name, rates[name], seed) for seed in range(seeds)] for name in names}
    return {name: row([run.result() for run in own], rates[name]) for name, own in started.items()}


def row(results: list[dict[str, Any]], rate: float) -> dict[str, Any]:
    """Runs of all seeds as one row."""
    return {
        "learning_rate": rate,
        "parameters": results[0]["parameters"],
        "width": results[0]["width"],
        "validation": [result["bits_per_byte"]["validation"] for result in results],
        "test": [result["bits_per_byte"]["test"] for result in results],
        "seconds": [result["seconds"] for result in results],
        "by_position": results[0]["by_position"],
        "curve": results[0]["curve"],
        "sample": results[0]["sample"],
        "environment": results[0]["environment"],
        "revisions": sorted({result["revision"] for result in results}),
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Best first."""
    best = min(statistics.fmean(entry["test"]) for entry in rows.values())
    lines = []
    for name, entry in sorted(rows.items(), key=lambda item: statistics.fmean(item[1]["test"])):
        bits = sorted(entry["test"])
        mean = statistics.fmean(bits)
        lines.append([
            name, f"{entry['parameters']:,}", str(entry["width"]),
            f"{entry['learning_rate']:g}{'*' * (entry['learning_rate'] in (min(RATES), max(RATES)))}", f"{mean:.3f}",
            f"{bits[0]:.3f}-{bits[-1]:.3f}", f"{100 * (mean / best - 1):.1f} %",
            f"{statistics.median(entry['seconds']) / 60:.1f}",
        ])  # fmt: skip
    return markdown_table(
        ["model", "parameters", "width", "rate", "bits per byte", "range", "above the best", "minutes"], lines
    )


def positions(rows: dict[str, dict[str, Any]]) -> str:
    """Bits per byte by position in the context, in multiples of the length in training."""
    marks = list(next(iter(rows.values()))["by_position"])
    lines = [[name, *(f"{entry['by_position'][mark]:.3f}" for mark in marks)] for name, entry in rows.items()]
    return markdown_table(["model", *marks], lines)


def picture(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Bits per byte against the position in the context."""
    from torchstu.report.figures import Panel, draw, standalone

    series = {name: tuple(zip(*entry["curve"], strict=True)) for name, entry in rows.items()}
    panel = Panel(series, "position in the context, bytes", "bits per byte", "Trained on stretches of 256 bytes", logx=True)
    path.write_text(standalone(draw([panel])), encoding="utf-8")


def report(rows: dict[str, dict[str, Any]], machine: dict[str, Any], seeds: int, processes: int) -> str:
    """The page."""
    environment = next(iter(rows.values()))["environment"]
    samples = "\n\n".join(f"**{name}**\n\n```text\n{entry['sample']}\n```" for name, entry in rows.items())
    versions = {key: environment[key] for key in ("torch", "transformers")}
    parts = [
        "## Language models trained alike\n\n    python benchmarks/language_models.py --peer-python PYTHON",
        f"Bytes of the text that ships (1.9 MB to learn from), 1500 steps of 8 stretches of 256, {seeds} seeds, one thread "
        f"each, {processes} at a time. {environment_line(machine, versions)}",
        f"Measured at {', '.join(sorted({revision for entry in rows.values() for revision in entry['revisions']}))}.",
        table(rows),
        f"Rates are the best of {', '.join(f'{rate:g}' for rate in RATES)} on the validation part after a third of the steps; "
        "* at the edge of these. S4D is its kernel and skip alone, as everywhere here: without the activation and the linear "
        "layer that its published block has after it. Models start as this library and mambapy start them.",
        "### Bits per byte by position in the context",
        f"Stretches of {CONTEXTS} times the context of training, test part, first seed; mean over the positions named.",
        positions(rows),
        "![Bits per byte by position](language_models.svg)",
        '### Samples\n\nFirst seed, temperature 0.8, after "And the LORD said unto".',
        samples,
    ]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="models, with semicolons between")
    parser.add_argument("--peer-python", help="interpreter of the peer's environment; without it Mamba is left out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2, help="runs at once")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "language_models", help="folder of the runs")
    parser.add_argument("--quick", action="store_true", help="a few steps each, into the work folder: does everything run?")
    options = parser.parse_args()
    names = options.only.split(";") if options.only else list(MODELS)
    names = [name for name in names if options.peer_python or not name.startswith("Mamba")]
    if not names or set(names) - set(MODELS):
        parser.error(f"--only {options.only!r}; models are {'; '.join(MODELS)}, and Mamba needs --peer-python")
    work = options.work / "quick" if options.quick else options.work
    machine = describe()
    rows = measure(Runs(work, options.processes, options.quick, options.peer_python), names, options.seeds)
    whole = len(names) == len(MODELS) and not options.quick
    path = (ROOT / "benchmarks" / "results" if whole else work) / "language_models.json"
    found = {"machine": machine, "seeds": options.seeds, "models": rows}
    save(path, found, report(rows, machine, options.seeds, options.processes))
    picture(rows, path.with_suffix(".svg"))


if __name__ == "__main__":
    main()
