"""Deep stacks side by side, training and streaming: tokens a second and peak memory.

    python benchmarks/deep_stack.py --peer-python PYTHON [--quick] [--only NAME,NAME] [--again NAME,NAME]

Every measurement is a process of its own; the stacks take turns, round after round, so that a drift of the machine hits all
alike. Measurements are kept line by line in the work folder, so a run that was stopped goes on where it was; ``--again NAME``
measures a stack anew. PYTHON has what requirements-peers-torch.txt lists; without it the peer is left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from deep_stack_worker import CHANNELS, ENTRIES, WARM_UP
from harness import Refused, reason, say
from machine import MIB, ROOT, available_memory, describe, environment_line, markdown_table, save

NAMES = [entry.name for entry in ENTRIES]
FULL = {"width": 128, "layers": 6, "batch": {1024: 4, 4096: 1}, "timed_seconds": 2.0}
QUICK = {"width": 32, "layers": 2, "batch": {128: 2}, "timed_seconds": 0.2}
TASKS = ("train", "train memory", "stream")


def launch(request: dict[str, Any], python: str) -> dict[str, Any]:
    """Start a process for one measurement and wait.

    Raises:
        Refused: it failed, and why.
    """
    command = [python, str(ROOT / "benchmarks" / "deep_stack_worker.py"), json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode < 0:
        raise Refused(f"killed by signal {-done.returncode}, for memory most likely")
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        raise Refused(reason(lines[-1] if lines else f"exit status {done.returncode}"))
    return json.loads(done.stdout.splitlines()[-1])


class Kept:
    """Measurements on disk, one a line."""

    def __init__(self, path: Path, again: list[str]) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.is_file() else []
        self.lines = [
            line for line in map(json.loads, filter(lambda text: text.endswith("}"), lines)) if line["name"] not in again
        ]
        draft = path.with_suffix(".partial")
        draft.write_text("".join(json.dumps(line) + "\n" for line in self.lines))
        draft.replace(path)

    def has(self, key: dict[str, Any]) -> bool:
        return any(key.items() <= line.items() for line in self.lines)

    def add(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def measure(options: argparse.Namespace, sizes: dict[str, Any], kept: Kept, revision: str) -> dict[str, str]:
    """All rounds; returns what could not be measured, and why. A failure is not kept: the next run tries again."""
    failed: dict[str, str] = {}
    if not options.peer_python and not kept.has({"name": "mambapy"}):
        failed["mambapy"] = "not given"
    limits = {"memory_limit": options.memory_limit, "timed_seconds": sizes["timed_seconds"]}
    common = {"threads": options.threads, "width": sizes["width"], "layers": sizes["layers"]}
    for turn in range(options.repeats):
        for length, batch in sizes["batch"].items():
            for task in TASKS if turn == 0 else ("train", "stream"):
                for name in options.only or NAMES:
                    key = {"name": name, "length": length, "batch": batch, "task": task, "round": turn} | common
                    where = f"{name}, {task} at {length}"
                    if name in failed or where in failed or kept.has(key) or (name == "mambapy" and not options.peer_python):
                        continue
                    python = options.peer_python if name == "mambapy" else sys.executable
                    try:
                        found = launch(key | limits, python)
                        kept.add(key | {"revision": revision} | found)
                        say(f"{turn + 1}/{options.repeats} {where}: {shown(found)}")
                    except Refused as why:
                        failed[where] = str(why)
                        say(f"{where}: {why}")
    return failed


def shown(found: dict[str, Any]) -> str:
    if "tokens_a_second" in found:
        return f"{found['tokens_a_second']:,.0f} tokens/s"
    return f"{found['peak_bytes'] / MIB:,.0f} MiB"


def collect(lines: list[dict[str, Any]], length: int, task: str) -> dict[str, dict[str, Any]]:
    """By name: the tokens a second of all rounds, and the rest of the first; the first name is the yardstick."""
    found: dict[str, dict[str, Any]] = {}
    for name in NAMES:
        mine = [line for line in lines if (line["name"], line["length"], line["task"]) == (name, length, task)]
        if mine:
            found[name] = mine[0] | {"rates": [line.get("tokens_a_second", 0.0) for line in mine]}
    return found


def rate_cells(found: dict[str, dict[str, Any]], name: str) -> list[str]:
    """Median, slowest and fastest, and the median beside TensordotSTU's."""
    rates = found[name]["rates"]
    own, first = statistics.median(rates), found.get(NAMES[0])
    ratio = f"{own / statistics.median(first['rates']):.2f}" if first else "-"
    return [f"{own:,.0f} ({min(rates):,.0f}-{max(rates):,.0f})", ratio]


def tables(report: dict[str, Any], length: int) -> str:
    train, memory, stream = (collect(report["measured"], length, task) for task in TASKS)
    header = ["training", "parameters", "tokens/s", f"/ {NAMES[0]}", "peak, MiB"]
    rows = [
        [name, f"{train[name]['parameters']:,}", *rate_cells(train, name),
         f"{memory[name]['peak_bytes'] / MIB:,.0f}" if name in memory else "-"]
        for name in train
    ]  # fmt: skip
    streaming = [
        [name, *rate_cells(stream, name), f"{found['state_bytes'] / 1024:,.0f}", f"{found['peak_bytes'] / MIB:,.0f}"]
        for name, found in stream.items()
    ]
    return (
        f"### L = {length}\n\nTraining, batch {report['sizes']['batch'][length]}. {verdict(train)}\n\n"
        f"{markdown_table(header, rows)}\n\nStreaming, batch 1.\n\n"
        + markdown_table(["streaming", "tokens/s", f"/ {NAMES[0]}", "state, KiB", "peak, MiB"], streaming)
    )


def verdict(train: dict[str, dict[str, Any]]) -> str:
    """The claim that TensordotSTU is not slower than S4D and LRU, in figures."""
    if NAMES[0] not in train:
        return ""
    own = statistics.median(train[NAMES[0]]["rates"])
    others = {name: own / statistics.median(train[name]["rates"]) for name in ("S4D", "LRU", "STU") if name in train}
    said = ", ".join(f"{ratio:.2f} times those of {name}" for name, ratio in others.items())
    return f"{NAMES[0]} does {said} in tokens a second." if said else ""


def render(report: dict[str, Any]) -> str:
    sizes, lines = report["sizes"], report["measured"]
    versions: dict[str, str] = {}
    for line in lines:
        versions |= line["versions"]
    revisions = sorted({line["revision"][:12] + "+changes" * ("+" in line["revision"]) for line in lines})
    notes = "; ".join(f"{entry.name}: {entry.note}" for entry in ENTRIES if entry.note)
    differs = max((line["differs"] for line in lines if "differs" in line), default=0.0)
    failed = "\n".join(f"- {where}: {why}" for where, why in report["failed"].items())
    text = (
        f"## Deep stacks\n\n{environment_line(report['machine'], versions)} Measured at {', '.join(revisions) or 'none'}.\n\n"
        f"    {report['command']}\n\n"
        f"{sizes['layers']} layers of width {sizes['width']}, float32, {report['threads']} thread(s), {CHANNELS} channels in "
        "and out. Ours: the same `SpectralSSM` (pre-norm, GELU and GLU) on each mixer, equal in width and depth, not in "
        f"parameters. {notes}.\n\n"
        "Training: forward, backward and a step of AdamW; tokens a second of the median step after one untimed. Streaming: one "
        f"step after another from position L on, after {WARM_UP} steps of warm-up. Median (slowest-fastest) of the rounds, a "
        "process each. Peak: resident memory at its highest, less what the process held before the stack was built (a tiny one "
        "ran first); weights, gradients and the optimizer's moments count. A step differs from the forward pass by at most "
        f"{differs:.0e} (relative)."
    )
    parts = [text, *(tables(report, length) for length in sizes["batch"])]
    return "\n\n".join(parts + (["Not measured:\n\n" + failed] if failed else []))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, names = parser.add_argument, lambda text: text.split(";")
    add("--peer-python", help="interpreter that has mambapy; without it the peer is left out")
    add("--only", type=names, default=[], help=f"stacks, separated by ';': {'; '.join(NAMES)}")
    add("--again", type=names, default=[], help="stacks whose kept measurements are dropped")
    add("--repeats", type=int, default=5, help="rounds (default 5; 1 with --quick)")
    add("--threads", type=int, default=2, help="cores of each process (default 2)")
    add("--memory-limit", type=float, help="GiB that one process may take (default 0.8 of what is free)")
    add("--quick", action="store_true", help="tiny stacks: to see that everything runs")
    add("--work", type=Path, default=ROOT / "build" / "deep_stack", help="where measurements are kept")
    add("--output", type=Path, help="default benchmarks/results/deep_stack.json; with --quick in the work folder")
    options = parser.parse_args()
    for name in [*options.only, *options.again]:
        if name not in NAMES:
            parser.error(f"{name!r}; stacks are {'; '.join(NAMES)}")
    results = options.work / "quick.json" if options.quick else ROOT / "benchmarks" / "results" / "deep_stack.json"
    options.output = options.output or results
    options.repeats = 1 if options.quick else options.repeats
    options.memory_limit = int(0.8 * available_memory() if options.memory_limit is None else options.memory_limit * 2**30)
    return options


def main() -> None:
    options = parse()
    sizes, machine = QUICK if options.quick else FULL, describe()
    kept = Kept(options.work / ("quick.jsonl" if options.quick else "measured.jsonl"), options.again)
    failed = measure(options, sizes, kept, machine["revision"])
    words = ["--peer-python PYTHON"] * bool(options.peer_python) + ["--quick"] * options.quick
    report = {
        "command": " ".join(["python benchmarks/deep_stack.py", *words, f"--threads {options.threads}"]),
        "machine": machine, "sizes": sizes, "threads": options.threads, "quick": options.quick, "failed": failed,
        "measured": [line for line in kept.lines if line["threads"] == options.threads],
    }  # fmt: skip
    text = render(report)
    print(text)
    save(options.output, report, text)


if __name__ == "__main__":
    main()
