"""Line pictures as inline SVG that read well on light and dark pages."""

from __future__ import annotations

import hashlib
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from torchstu.extras import MissingExtraError, require

COLOURS = ("#0a78bf", "#d5620b", "#009e73", "#bf5f96", "#8a63d2", "#a07a12")
"""Series colours: distinct without red-green vision, contrast of at least 3 on white and on near-black."""
_INK = "#010203"
"""Drawn, then replaced by currentColor: text, axes and grid take the page's colour."""
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "torchstu",
    "font.size": 11,
    "font.family": "sans-serif",
    "axes.titlesize": 12,
}

Line = tuple[Any, Any]


@dataclass(frozen=True)
class Panel:
    """One set of axes.

    Attributes:
        series: name to (x, y), each (T,); at most 30 points are marked, more are a plain line. x may be datetime64.
        xlabel, ylabel, title: words; an empty one is left out.
        logx, logy: logarithmic axes.
        bands: name of a series to (x, low, high), shaded in its colour.
        references: name to (x, y), dashed and without colour: bounds and slopes.
    """

    series: Mapping[str, Line]
    xlabel: str = ""
    ylabel: str = ""
    title: str = ""
    logx: bool = False
    logy: bool = False
    bands: Mapping[str, tuple[Any, Any, Any]] = field(default_factory=dict)
    references: Mapping[str, Line] = field(default_factory=dict)


def curves(
    series: Mapping[str, Line],
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    logx: bool = False,
    logy: bool = False,
    bands: Mapping[str, tuple[Any, Any, Any]] | None = None,
    references: Mapping[str, Line] | None = None,
    alternative: str | None = None,
) -> str:
    """One `Panel` as an inline ``<svg>``; ``alternative`` is the text for who cannot see it, None says what is drawn.

    Raises:
        MissingExtraError: without the extra ``report``.
    """
    panel = Panel(series, xlabel, ylabel, title, logx, logy, bands or {}, references or {})
    return draw([panel], alternative)


def draw(panels: Sequence[Panel], alternative: str | None = None) -> str:
    """Panels below each other as one inline ``<svg>``; see `curves`.

    Raises:
        MissingExtraError: without the extra ``report``.
    """
    matplotlib = require("report", "matplotlib")
    require("report", "matplotlib.dates")  # registers datetime64
    figure_module = require("report", "matplotlib.figure")
    with matplotlib.rc_context(_STYLE):
        figure = figure_module.Figure(figsize=(8.4, 3.9 * len(panels)), layout="constrained")
        for axes, panel in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
            _draw_panel(axes, panel)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue(), alternative or " ".join(_describe(panel) for panel in panels))


def figure_or_note(**options: Any) -> dict[str, Any]:
    """`curves` as keyword arguments of a `Section`: a figure, or without matplotlib a note that says what to install."""
    try:
        return {"figure": curves(**options)}
    except MissingExtraError:
        return {"note": "pictures need pip install 'torchstu[report]'"}


def standalone(svg: str) -> str:
    """An inline ``<svg>`` as a file of its own, dark on light or light on dark as the viewer prefers."""
    style = (
        "<style>svg{color:#1c2126;background:#fff}"
        "@media (prefers-color-scheme:dark){svg{color:#e4e7ea;background:#14171a}}</style>"
    )
    head, tail = svg.split(">", 1)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head}>{style}{tail}\n'


def _draw_panel(axes: Any, panel: Panel) -> None:
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(panel.series)}
    for index, (name, (x, y)) in enumerate(panel.series.items()):
        marks: dict[str, Any] = {"marker": "os^DvxP*"[index % 8], "markersize": 5} if len(np.atleast_1d(x)) <= 30 else {}
        style = ("-", "--")[index // len(COLOURS) % 2]  # colours come back, dashed and with other marks
        axes.plot(x, y, color=colours[name], linewidth=1.6, linestyle=style, label=name, **marks)
    for name, (x, low, high) in panel.bands.items():
        axes.fill_between(x, low, high, color=colours[name], alpha=0.22, linewidth=0)
    for index, (name, (x, y)) in enumerate(panel.references.items()):
        axes.plot(x, y, color=_INK, linewidth=1.2, linestyle=("--", ":", "-.")[index % 3], label=name)
    dates = require("report", "matplotlib.dates")
    if isinstance(axes.xaxis.get_major_locator(), dates.AutoDateLocator):
        axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(axes.xaxis.get_major_locator()))
    if panel.logx:
        axes.set_xscale("log")
    if panel.logy:
        axes.set_yscale("log")
    axes.set(xlabel=panel.xlabel, ylabel=panel.ylabel)
    if panel.title:
        axes.set_title(panel.title, color=_INK, loc="left")
    axes.grid(True, color=_INK, alpha=0.15, linewidth=0.6)
    axes.tick_params(which="both", colors=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    for part in (*axes.spines.values(), axes.xaxis.label, axes.yaxis.label):
        part.set_color(_INK)
    axes.xaxis.get_offset_text().set_color(_INK)
    axes.yaxis.get_offset_text().set_color(_INK)
    if len(panel.series) + len(panel.references) > 1:
        longest = max(len(name) for name in (*panel.series, *panel.references))
        columns = min(4, max(1, 90 // (longest + 8)))
        axes.legend(  # below the axes, where no data can be
            loc="upper left",
            bbox_to_anchor=(0, -0.2 if panel.xlabel else -0.12),
            ncols=columns,
            frameon=False,
            labelcolor=_INK,
            borderaxespad=0,
        )


def _describe(panel: Panel) -> str:
    what = panel.title or panel.ylabel or "lines"
    axes = " against ".join(label for label in (panel.ylabel, panel.xlabel) if label)
    lines = ", ".join((*panel.series, *panel.references))
    return f"{what}: {axes + '; ' if axes else ''}{lines}."


def _inline(svg: str, alternative: str) -> str:
    """Matplotlib's document as an element: page colours, fluid width, ids of its own, a text alternative."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL).replace(_INK, "currentColor")
    salt = "f" + hashlib.sha256(svg.encode()).hexdigest()[:10]
    svg = re.sub(r'(\sid=")', rf"\g<1>{salt}-", svg)
    svg = re.sub(r'((?:url\(|href=")#)', rf"\g<1>{salt}-", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px; font-family: system-ui, sans-serif", svg)
    attributes = re.search(r'viewBox="[^"]*"', svg)
    assert attributes is not None
    words = html.escape(alternative, quote=True)
    body = svg.split(">", 1)[1].strip()
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {attributes[0]} '
        f'role="img" aria-label="{words}"><title>{words}</title>{body}'
    )
