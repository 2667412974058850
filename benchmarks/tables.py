"""Reports as Markdown."""

from __future__ import annotations

import math
import statistics
from typing import Any

from floor import floor
from machine import MEMORY_METHOD, MIB, environment_line, markdown_table
from registry import LAYER_CASES, LAYERS, Case, layer

TITLES = {
    "train": "One layer, forward and backward",
    "prefill": "One layer, forward only",
    "generate": "One step of one layer",
    "curves": "Cost curves of one STU layer",
}
PASSES = {"train": 3, "prefill": 1}
Result = dict[str, Any]


def head(operation: str, report: dict[str, Any], versions: dict[str, str]) -> str:
    peers = "; ".join(f"{name} at {commit[:12]}" for name, commit in report["peers"].items()) or "none given"
    return (
        f"## {TITLES[operation]}\n\n{environment_line(report['machine'], versions)} Peers: {peers}.\n\n"
        f"    {report['command']}\n\nFloat32, {report['threads']} thread(s); median (fastest-slowest) of at most "
        f"{report['repeats']} repeats in turns."
    )


def versions_of(results: list[Result]) -> dict[str, str]:
    found: dict[str, str] = {}
    for result in results:
        found |= result.get("versions", {})
    return found


def milliseconds(result: Result) -> str:
    low, middle, high = (1e3 * f(result["seconds"]) for f in (min, statistics.median, max))
    digits = 2 if middle < 10 else 1
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def mebibytes(result: Result) -> str:
    return f"{result['peak_bytes'] / MIB:.0f}"


def layers(operation: str, report: dict[str, Any]) -> str:
    """`train` and `prefill`."""
    found = {tuple(entry["shape"]): entry["results"] for entry in report["shapes"]}
    text = (
        f" Memory: {MEMORY_METHOD}; filters, weights and compilation come before. differ by: the largest relative difference "
        "of the output and of any gradient from ours. Floor: `benchmarks/floor.py`, at rates measured in the same processes."
    )
    first = head(operation, report, versions_of([result for results in found.values() for result in results.values()]))
    parts = [first + text]
    for case in LAYER_CASES[operation]:
        measured = {shape: results for shape, results in found.items() if report["quick"] or shape in case.shapes}
        parts.append(f"### {case.title}\n\n{case.text}")
        parts += pair_tables(measured) if case.title == "The same mathematics" else [beside_table(case, measured)]
    return "\n\n".join([*parts, floor_table(operation, found), skipped_list(found)])


def pair_tables(found: dict[Any, dict[str, Result]]) -> list[str]:
    """A table for each of ours and an implementation of the same mathematics, with geometric means below."""
    tables = []
    for entry in LAYERS:
        if entry.reference is None:
            continue
        rows, ratios = [], []
        for shape, results in found.items():
            ours, other = results[entry.reference], results[entry.name]
            if "skipped" in other:
                rows.append([str(shape), milliseconds(ours), "skipped", "-", mebibytes(ours), "-", "-", "-"])
                continue
            ratio = statistics.median(other["seconds"]) / statistics.median(ours["seconds"])
            memory = other["peak_bytes"] / max(1, ours["peak_bytes"])
            ratios.append((ratio, max(memory, 1e-9)))
            times = [milliseconds(ours), milliseconds(other), f"{ratio:.2f}", mebibytes(ours), mebibytes(other)]
            rows.append([str(shape), *times, f"{memory:.2f}", f"{max(other['differences'].values()):.0e}"])
        if ratios:
            means = [math.exp(statistics.fmean(map(math.log, column))) for column in zip(*ratios, strict=True)]
            rows.append(["geometric mean", "", "", f"{means[0]:.2f}", "", "", f"{means[1]:.2f}", ""])
        header = ["(B, L, D, K)", "ours, ms", "other, ms", "ratio", "ours, MiB", "other, MiB", "ratio", "differ by"]
        note = layer(entry.reference).note
        tables.append(
            f"#### {entry.reference} / {entry.name}\n\n{note[:1].upper()}{note[1:]}.\n\n{markdown_table(header, rows)}"
        )
    return tables


def beside_table(case: Case, found: dict[Any, dict[str, Result]]) -> str:
    """All implementations of a case at each of its shapes, beside its first."""
    rows = []
    for shape, results in found.items():
        base = statistics.median(results[case.names[0]]["seconds"])
        for name in case.names:
            result = results[name]
            if "skipped" in result:
                rows.append([f"{shape} {name}", "skipped", "-", "-", "-"])
                continue
            ratio = statistics.median(result["seconds"]) / base
            rows.append(
                [f"{shape} {name}", milliseconds(result), f"{ratio:.2f}", mebibytes(result), f"{result['parameters']:,}"]
            )
    notes = [f"{name}: {layer(name).note}." for name in case.names if layer(name).note]
    table = markdown_table(["(B, L, D, K)", "ms", f"/ {case.names[0]}", "MiB", "parameters"], rows)
    return table + "\n\n" + " ".join(notes)


def floor_table(operation: str, found: dict[Any, dict[str, Result]]) -> str:
    """How far each of ours is from what its mathematics costs at least, at the best rates that any of the processes saw."""
    everything = [(shape, name, result) for shape, results in found.items() for name, result in results.items()]
    timed = [entry for entry in everything if "machine" in entry[2]]
    rates = {key: max(result["machine"][key] for _, _, result in timed) for key in ("gflops", "gigabytes")}
    rows = []
    for shape, name, result in timed:
        least = floor(shape, PASSES[operation], **(layer(name).floor or {}))
        bound, median = least.seconds(**rates), statistics.median(result["seconds"])
        cells = [f"{least.flops / 1e9:.2f}", f"{least.bytes / MIB:.1f}", f"{1e3 * bound:.2f}", f"{1e3 * median:.2f}"]
        rows.append([f"{shape} {name}", *cells, f"{median / bound:.1f}"])
    header = ["(B, L, D, K)", "least GFLOP", "least MiB", "floor, ms", "ours, ms", "ratio"]
    text = f"Rates: {rates['gflops']:.0f} GFLOP/s, {rates['gigabytes']:.1f} GB/s."
    return f"### Distance from the floor\n\n{text}\n\n{markdown_table(header, rows)}"


def skipped_list(found: dict[Any, dict[str, Result]]) -> str:
    """What did not run, and why: one line an implementation and reason."""
    why: dict[tuple[str, str], list[str]] = {}
    for shape, results in found.items():
        for name, result in results.items():
            if "skipped" in result:
                why.setdefault((name, result["skipped"]), []).append(str(shape))
    lines = [f"- {name}: {text} (at {', '.join(shapes)})" for (name, text), shapes in why.items()]
    return "Skipped: none." if not lines else "Skipped:\n\n" + "\n".join(lines)


def generate(report: dict[str, Any]) -> str:
    results, rates = report["results"], report["machine_rates"]
    rows = []
    for name, result in results.items():
        for at in result["positions"]:
            bound = at["read"] / rates["gigabytes"] / 1e9
            rows.append(
                [f"{name}, {at['position']:,}", milliseconds(at), f"{at['carried'] / MIB:.2f}", f"{at['resident'] / MIB:.0f}",
                 f"{1e3 * bound:.3f}", f"{statistics.median(at['seconds']) / bound:.1f}"]
            )  # fmt: skip
    header = ["layer, position", "ms a step", "carried, MiB", "resident, MiB", "floor, ms", "ratio"]
    text = (
        " A repeat is the median of 50 steps. Width 256, batch 1, 24 filters made for 4,096 steps. carried: the state, or what "
        "is filled of a cache; resident: of the process, less what it had after imports. floor: weights, filters and what is "
        f"carried, moved once at {rates['gigabytes']:.1f} GB/s; what stays in the processor's cache can be faster."
    )
    checks = [f"{name}: {result['differs']:.0e}" for name, result in results.items() if result.get("differs") is not None]
    proof = "Step 101 differs from the layer's own forward pass by (relative): " + "; ".join(checks) + "."
    skipped = [f"- {name}: {result['skipped']}" for name, result in results.items() if "skipped" in result]
    tail = ["Skipped:\n\n" + "\n".join(skipped)] if skipped else []
    first = head("generate", report, versions_of(list(results.values()))) + text
    return "\n\n".join([first, markdown_table(header, rows), proof, ratio_table(results), *tail])


def ratio_table(results: dict[str, Result]) -> str:
    """Each of ours at its last position against itself at the first, and every other layer against ours of the same kind."""
    visits = [(name, at) for name, result in results.items() for at in result["positions"]]
    median = {(name, at["position"]): statistics.median(at["seconds"]) for name, at in visits}
    positions = {name: [at["position"] for at in result["positions"]] for name, result in results.items()}
    rows = []
    for name, found in positions.items():
        if len(found) > 1:
            times = results[name].get("turns") or [median[name, position] for position in found]
            in_turns = ", positions in turns" if "turns" in results[name] else ""
            rows.append([f"{name}: {found[-1]:,} / {found[0]:,}{in_turns}", f"{times[-1] / times[0]:.2f}"])
    for ours in ("torchstu STU", "torchstu TensordotSTU"):
        for name, found in positions.items():
            other_kind = name.startswith("cached") and not ours.endswith(name.rpartition(" ")[2])
            if name.startswith("torchstu") or other_kind or not positions[ours]:
                continue
            for position in found:
                nearest = min(positions[ours], key=lambda known, at=position: abs(known - at))
                ratio = median[name, position] / median[ours, nearest]
                rows.append([f"{name} at {position:,} / {ours} at {nearest:,}", f"{ratio:.2f}"])
    return markdown_table(["time a step", "ratio"], rows)


def curves(report: dict[str, Any]) -> str:
    rows = []
    for point in report["points"]:
        label = f"{tuple(point['shape'])} {point['name'].rpartition(', ')[2]}"
        if "skipped" in point:
            rows.append([label, point["skipped"], "-", "-", "-"])
        else:
            cells = [f(point[do]) for do in ("prefill", "train") for f in (milliseconds, mebibytes)]
            rows.append([label, *cells])
    header = ["(B, L, D, K) mode", "prefill, ms", "MiB", "train, ms", "MiB"]
    text = f" One process a row, alone. Filters are made for L. Memory: {MEMORY_METHOD}."
    return head("curves", report, versions_of(report["points"])) + text + "\n\n" + markdown_table(header, rows)
