"""Reports as one small picture each (SVG)."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from machine import MIB
from registry import CURVE_AXES, CURVE_BASE, LAYER_CASES


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "torchstu", "font.size": 8, "axes.spines.top": False,
                     "axes.spines.right": False, "legend.frameon": False}  # fmt: skip
    import matplotlib.pyplot as plt

    return plt


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def layers(operation: str, report: dict[str, Any], path: Path) -> None:
    """Milliseconds of every implementation at every shape of the first table."""
    plt = _pyplot()
    case = LAYER_CASES[operation][0]
    entries = [entry for entry in report["shapes"] if report["quick"] or tuple(entry["shape"]) in case.shapes]
    names = [name for name in case.names if any("seconds" in entry["results"].get(name, {}) for entry in entries)]
    figure, axes = plt.subplots(figsize=(7, 0.6 + 0.9 * len(entries)))
    for i, name in enumerate(names):
        rows = [(j, entry["results"][name]) for j, entry in enumerate(entries) if "seconds" in entry["results"].get(name, {})]
        places = [j + (i + 0.5) / (len(names) + 1) for j, _ in rows]
        times = [1e3 * statistics.median(result["seconds"]) for _, result in rows]
        axes.barh(places, times, height=0.9 / (len(names) + 1), label=name, color=plt.get_cmap("tab20")(i))
    axes.set(xscale="log", xlabel=f"ms, {operation} (shapes are (B, L, D, K))")
    axes.set_yticks([j + 0.5 for j in range(len(entries))], [str(tuple(entry["shape"])) for entry in entries])
    axes.invert_yaxis()
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, path)


def generate(report: dict[str, Any], path: Path) -> None:
    """Milliseconds a step against the position."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(6, 3.5))
    for name, result in report["results"].items():
        if at := result["positions"]:
            times = [1e3 * statistics.median(entry["seconds"]) for entry in at]
            axes.plot([entry["position"] for entry in at], times, "o-", ms=3, lw=1, label=name)
    axes.set(xscale="log", yscale="log", xlabel="position", ylabel="ms a step")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, path)


def curves(report: dict[str, Any], path: Path) -> None:
    """A column an axis, seconds above memory; a line an operation and mode."""
    plt = _pyplot()
    figure, panels = plt.subplots(2, len(CURVE_AXES), figsize=(9, 4), sharex="col", sharey="row", layout="constrained")
    for column, index in enumerate(index for index, _ in CURVE_AXES.values()):
        for name in dict.fromkeys(point["name"] for point in report["points"]):
            _curve(panels[:, column], index, [point for point in report["points"] if point["name"] == name])
        panels[1, column].set_xlabel(list(CURVE_AXES)[column])
        panels[1, column].set_xscale("log", base=2)
    if panels[0, 0].lines:
        for panel in panels.flat:
            panel.set_yscale("log")
            panel.minorticks_off()
    panels[0, 0].set_ylabel("seconds")
    panels[1, 0].set_ylabel("peak MiB")
    figure.suptitle(f"one STU layer around (B, L, D, K) = {CURVE_BASE}")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside right center")
    _save(figure, path)


def _curve(panels: Any, index: int, points: list[dict[str, Any]]) -> None:
    """The points on one axis through the base point."""
    others = [i for i in range(4) if i != index]
    measured = [point for point in points if "skipped" not in point]
    line = sorted(
        (point for point in measured if all(point["shape"][i] == CURVE_BASE[i] for i in others)),
        key=lambda point: point["shape"][index],
    )
    x = [point["shape"][index] for point in line]
    for do, style in (("prefill", "--"), ("train", "-")) if line else ():
        mode = line[0]["name"].rpartition(", ")[2]
        look = {"marker": "o", "ms": 2, "lw": 1, "color": "C0" if mode == "fft" else "C1", "label": f"{do}, {mode}"}
        panels[0].plot(x, [statistics.median(point[do]["seconds"]) for point in line], style, **look)
        panels[1].plot(x, [point[do]["peak_bytes"] / MIB for point in line], style, **look)
