"""Time of `torchstu.filter_bank`, computed and from the cache, beside `scipy.linalg.eigh` of the dense matrix.

    python benchmarks/filters.py

Every measurement is one call in a fresh process; computing starts from an empty cache folder. The time of building the dense
matrix is not counted against scipy.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import (
    MEMORY_METHOD,
    MIB,
    ROOT,
    describe,
    environment_line,
    highest_memory,
    limit_threads,
    markdown_table,
    peak_memory,
    save,
)

COUNT = 24
LENGTHS = (512, 1024, 2048, 4096)
LONG = 1_048_576
METHODS = ("computed", "cached", "eigh, top 24", "eigh, full")


def worker(method: str, length: int, threads: int) -> dict[str, Any]:
    """One call of one method in this process: seconds, memory, and how orthonormal the filters are."""
    limit_threads(threads)
    sys.path.insert(0, str(ROOT / "src"))
    import numpy as np
    import scipy.linalg

    import torchstu

    prepared = highest_memory()
    call: Callable[[], np.ndarray]
    if method in ("computed", "cached"):
        call = lambda: torchstu.filter_bank(length, COUNT).filters  # noqa: E731
    else:
        matrix, subset = torchstu.hankel_matrix(length), [length - COUNT, length - 1] if "top" in method else None
        call = lambda: scipy.linalg.eigh(matrix, subset_by_index=subset)[1][:, -COUNT:]  # noqa: E731
    done: dict[str, Any] = {}

    def timed() -> None:
        start = time.perf_counter()
        done["filters"] = call()
        done["seconds"] = time.perf_counter() - start

    peak = peak_memory(timed)
    filters = done["filters"]
    return {
        "seconds": done["seconds"], "peak_bytes": peak, "before_bytes": prepared,
        "orthonormal_to": float(np.abs(filters.T @ filters - np.eye(COUNT)).max()),
        "versions": {"numpy": np.__version__, "scipy": scipy.__version__},
    }  # fmt: skip


def fresh(method: str, length: int, cache: str, threads: int) -> dict[str, Any]:
    """`worker` in a new process with its own cache folder."""
    command = [sys.executable, __file__, "--worker", method, str(length), "--threads", str(threads)]
    environment = os.environ | {"TORCHSTU_CACHE": cache}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def measure(methods: tuple[str, ...], length: int, repeats: int, threads: int) -> dict[str, Any]:
    """All methods at one length, in turns."""
    runs: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:  # "computed" comes first and fills it for "cached"
            for method in methods:
                runs[method].append(fresh(method, length, cache, threads))
    return {
        method: {
            "seconds": [run["seconds"] for run in found],
            "peak_bytes": max(run["peak_bytes"] for run in found),
            "before_bytes": max(run["before_bytes"] for run in found),
            "orthonormal_to": max(run["orthonormal_to"] for run in found),
            "versions": found[0]["versions"],
        }
        for method, found in runs.items()
    }


def seconds(result: dict[str, Any]) -> str:
    low, middle, high = (f(result["seconds"]) for f in (min, statistics.median, max))
    return f"{middle:.3g} ({low:.3g}-{high:.3g})"


def render(report: dict[str, Any]) -> str:
    rows = []
    for entry in report["lengths"]:
        results = entry["results"]
        middle = {method: statistics.median(result["seconds"]) for method, result in results.items()}
        cells = [seconds(results[method]) if method in results else "-" for method in METHODS]
        times = [f"{middle[m] / middle['computed']:.1f}" if m in results else "-" for m in METHODS[2:]]
        memory = f"{results['computed']['peak_bytes'] / MIB:.0f}"
        rows.append([f"{entry['length']:,}", *cells, *times, memory, f"{results['computed']['orthonormal_to']:.0e}"])
    header = ["L", *(f"{method}, s" for method in METHODS), "top 24 / computed", "full / computed", "MiB", "orthonormal to"]
    versions = report["lengths"][0]["results"]["computed"]["versions"]
    long = report["lengths"][-1]["results"]["computed"]
    return (
        f"## filter_bank(L, {COUNT})\n\n{environment_line(report['machine'], versions)}\n\n"
        f"{report['threads']} threads; median (fastest-slowest) of {report['repeats']} fresh processes; eigh without the "
        f"time to build its matrix. MiB: {MEMORY_METHOD}. At L = {LONG:,} the process with everything imported held "
        f"{(long['before_bytes'] + long['peak_bytes']) / MIB:.0f} MiB at most. "
        "Orthonormal to: the largest entry of ΦᵀΦ - I.\n\n" + markdown_table(header, rows)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="fresh processes of each (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="cores of each process (default 2)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "filters.json")
    parser.add_argument("--worker", nargs=2, metavar=("METHOD", "LENGTH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(options.worker[0], int(options.worker[1]), options.threads)))
        return
    report: dict[str, Any] = {
        "command": f"python benchmarks/filters.py --repeats {options.repeats} --threads {options.threads}",
        "machine": describe(), "threads": options.threads, "repeats": options.repeats, "memory": MEMORY_METHOD,
        "lengths": [],
    }  # fmt: skip
    for length in (*LENGTHS, LONG):
        print(f"L = {length:,} ...", file=sys.stderr, flush=True)
        methods = METHODS if length != LONG else METHODS[:2]
        report["lengths"].append({"length": length, "results": measure(methods, length, options.repeats, options.threads)})
    text = render(report)
    print(text)
    save(options.output, report, text)


if __name__ == "__main__":
    main()
