"""Time and memory of one STU layer, forward and backward, beside other implementations of the same mathematics.

    python benchmarks/layer.py --peer flash-stu-2=DIR --peer spectral_ssm=DIR --peer-python spectral_ssm=PYTHON

Every implementation at every shape runs in a process of its own; the processes take turns, one timed repeat each, so
that a drift of the machine hits all alike. Before anything is timed, outputs and gradients are compared, with the same
weights.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from machine import MEMORY_METHOD, MIB, ROOT, describe, environment_line, markdown_table, revision, save

SHAPES = [(4, 1024, 64, 24), (8, 2048, 32, 24), (2, 4096, 64, 24), (8, 512, 128, 16)]
"""(B, L, D, K)."""
TOLERANCE = 1e-4
OURS = ("torchstu STU", "torchstu AR-STU", "torchstu STU, default")


class Pair(NamedTuple):
    """Two implementations of the same mathematics."""

    ours: str
    peer: str
    note: str

    @property
    def project(self) -> str:
        return self.peer.split()[0]


PAIRS = [
    Pair("torchstu STU", "flash-stu-2 MiniSTU", "both banks, neither y-term nor input lags"),
    Pair("torchstu STU", "flash-stu-2 STU", "both banks, neither y-term nor input lags; not its approximation"),
    Pair("torchstu AR-STU", "spectral_ssm STU", "+ bank, learned y-term of 2 lags, 3 input lags, delay 2"),
]


class Refused(RuntimeError):
    """An implementation that cannot run here, and why."""


class Worker:
    """The process of one implementation at one shape."""

    def __init__(self, name: str, problem: Path, python: str, folder: Path | None, threads: int) -> None:
        command = [python, str(ROOT / "benchmarks" / "layer_worker.py"), name, str(problem), "--threads", str(threads)]
        command += ["--folder", str(folder)] if folder else []
        self.name, self.errors = name, tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        self.versions = self._answer()

    def ask(self, request: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        if line := self.process.stdout.readline():
            return json.loads(line)
        self.close()
        self.errors.seek(0)
        last = self.errors.read().strip().splitlines()[-1:] or [f"exit status {self.process.returncode}"]
        raise Refused(last[0].replace(str(Path.home()), "~"))

    def close(self) -> None:
        self.process.communicate()


def write_problem(path: Path, shape: tuple[int, int, int, int]) -> None:
    """The arrays all implementations get: float32, weights in torchstu's layout."""
    import numpy as np

    import torchstu

    batch, length, channels, count = shape
    bank, random = torchstu.filter_bank(length, count), np.random.default_rng(0)

    def normal(*size: int, scale: float = 1.0) -> Any:
        return (scale * random.standard_normal(size)).astype(np.float32)

    feedback = [0.3 * np.linalg.qr(normal(channels, channels))[0] for _ in range(2)]  # stable: 0.3 + 0.3 < 1
    np.savez(
        path,
        u=normal(batch, length, channels), grad=normal(batch, length, channels),
        filters=bank.scaled_filters.astype(np.float32),
        eigenvalues=bank.eigenvalues.astype(np.float32), eigenvectors=bank.filters.astype(np.float32),
        M_phi_plus=normal(count, channels, channels, scale=(count * channels) ** -0.5),
        M_phi_minus=normal(count, channels, channels, scale=(count * channels) ** -0.5),
        M_u=normal(3, channels, channels, scale=channels**-0.5), M_y=np.stack(feedback).astype(np.float32),
    )  # fmt: skip


def measure(shape: tuple[int, int, int, int], names: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one shape: by implementation seconds, bytes and versions, or why it did not run."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_problem(folder / "problem.npz", shape)
        workers = []
        for name in names:
            try:
                worker = start(name, folder, options)
                results[name] = {"peak_bytes": worker.ask("memory"), "seconds": [], "versions": worker.versions}
                worker.ask(str(folder / f"{name}.npz"))
                results[name] |= compared(name, folder)
                workers.append(worker)
            except Refused as reason:
                if name in OURS:
                    raise SystemExit(f"{name} at {shape}: {reason}") from reason
                results[name] = {"skipped": str(reason)}
        for _ in range(options.repeats):
            for worker in workers:
                results[worker.name]["seconds"].append(worker.ask("time"))
        for worker in workers:
            worker.close()
    return results


def start(name: str, folder: Path, options: argparse.Namespace) -> Worker:
    project = name.split()[0]
    python = options.peer_python.get(project, sys.executable)
    return Worker(name, folder / "problem.npz", python, options.peer.get(project), options.threads)


def compared(name: str, folder: Path) -> dict[str, Any]:
    """Relative difference, in the Euclidean norm, of the output and of every gradient from ours.

    Raises:
        Refused: another computation, or a wrong one.
    """
    import numpy as np

    ours = next((pair.ours for pair in PAIRS if pair.peer == name), name)
    a, b = np.load(folder / f"{ours}.npz"), np.load(folder / f"{name}.npz")
    if set(a.files) != set(b.files):
        raise Refused(f"results {sorted(b.files)}; ours are {sorted(a.files)}")
    differences = {key: float(np.linalg.norm(a[key] - b[key]) / np.linalg.norm(a[key])) for key in a.files}
    if not max(differences.values()) <= TOLERANCE:
        raise Refused("differs from ours: " + ", ".join(f"{key} by {x:.0e}" for key, x in differences.items()))
    return {"differences": differences}


def pair_table(pair: Pair, report: dict[str, Any]) -> str:
    """A row a shape: times, memory, ratios; geometric means below."""
    header = ["(B, L, D, K)", "ours, ms", "peer, ms", "ratio", "ours, MiB", "peer, MiB", "ratio", "differ by"]
    rows, ratios = [], []
    for entry in report["shapes"]:
        ours, peer = (entry["results"].get(name, {"skipped": "not given"}) for name in (pair.ours, pair.peer))
        shape = str(tuple(entry["shape"]))
        if "skipped" in peer:
            rows.append([shape, milliseconds(ours), "skipped", "-", mebibytes(ours), "-", "-", peer["skipped"]])
            continue
        time_ratio = statistics.median(peer["seconds"]) / statistics.median(ours["seconds"])
        memory_ratio = peer["peak_bytes"] / ours["peak_bytes"]
        ratios.append((time_ratio, memory_ratio))
        numbers = [milliseconds(ours), milliseconds(peer), f"{time_ratio:.1f}", mebibytes(ours), mebibytes(peer)]
        rows.append([shape, *numbers, f"{memory_ratio:.1f}", f"{max(peer['differences'].values()):.0e}"])
    if ratios:
        means = [math.exp(statistics.fmean(map(math.log, column))) for column in zip(*ratios, strict=True)]
        rows.append(["geometric mean", "", "", f"{means[0]:.1f}", "", "", f"{means[1]:.1f}", ""])
    return f"### {pair.ours} / {pair.peer}\n\nThe same mathematics: {pair.note}.\n\n{markdown_table(header, rows)}"


def default_table(report: dict[str, Any]) -> str:
    """Our layer with its defaults, which no peer has."""
    name = "torchstu STU, default"
    entries = [(str(tuple(entry["shape"])), entry["results"][name]) for entry in report["shapes"]]
    rows = [[shape, milliseconds(result), mebibytes(result)] for shape, result in entries]
    table = markdown_table(["(B, L, D, K)", "ms", "MiB"], rows)
    return f"### {name}\n\nEq. 4: both banks, fixed y-term, 3 input lags, delay 2; no peer has it.\n\n{table}"


def milliseconds(result: dict[str, Any]) -> str:
    low, middle, high = (1e3 * f(result["seconds"]) for f in (min, statistics.median, max))
    return f"{middle:.1f} ({low:.1f}-{high:.1f})"


def mebibytes(result: dict[str, Any]) -> str:
    return f"{result['peak_bytes'] / MIB:.0f}"


def render(report: dict[str, Any]) -> str:
    versions: dict[str, str] = {}
    for entry in report["shapes"]:
        for result in entry["results"].values():
            versions |= result.get("versions", {})
    peers = "; ".join(f"{name} at {commit[:12]}" for name, commit in report["peers"].items()) or "none given"
    head = (
        f"## One layer, forward and backward\n\n{environment_line(report['machine'], versions)} Peers: {peers}.\n\n"
        f"Float32, {report['threads']} threads; gradients of the input and of all weights; median (fastest-slowest) of "
        f"{report['repeats']} repeats in turns. Memory: {MEMORY_METHOD}; filters, weights and compilation come before. "
        "differ by: the largest relative difference of the output and of any gradient."
    )
    return "\n\n".join([head, *(pair_table(pair, report) for pair in PAIRS), default_table(report)])


def parse() -> argparse.Namespace:
    def assignment(text: str) -> tuple[str, str]:
        name, _, value = text.partition("=")
        if name not in {pair.project for pair in PAIRS} or not value:
            raise argparse.ArgumentTypeError(f"{text!r}; it must be one of flash-stu-2=PATH, spectral_ssm=PATH")
        return name, value

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", default=[], type=assignment, help="NAME=checkout of a peer")
    parser.add_argument("--peer-python", action="append", default=[], type=assignment, help="NAME=its interpreter")
    parser.add_argument("--repeats", type=int, default=7, help="timed repeats of each (default 7)")
    parser.add_argument("--threads", type=int, default=2, help="cores of each process (default 2)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "layer.json")
    options = parser.parse_args()
    options.peer = {name: Path(value).resolve() for name, value in options.peer}
    options.peer_python = dict(options.peer_python)
    return options


def main() -> None:
    options = parse()
    sys.path.insert(0, str(ROOT / "src"))
    names = [*OURS, *(pair.peer for pair in PAIRS if pair.project in options.peer)]
    given = [f"--peer {name}=DIR" for name in options.peer]
    given += [f"--peer-python {name}=PYTHON" for name in options.peer_python]
    given += [f"--repeats {options.repeats}", f"--threads {options.threads}"]
    report: dict[str, Any] = {
        "command": " ".join(["python benchmarks/layer.py", *given]),
        "machine": describe(),
        "peers": {name: revision(folder) for name, folder in options.peer.items()},
        "threads": options.threads, "repeats": options.repeats, "memory": MEMORY_METHOD, "shapes": [],
    }  # fmt: skip
    for shape in SHAPES:
        print(f"{shape} ...", file=sys.stderr, flush=True)
        report["shapes"].append({"shape": shape, "results": measure(shape, names, options)})
    text = render(report)
    print(text)
    save(options.output, report, text)


if __name__ == "__main__":
    main()
