"""A table of shares as a picture, inline SVG like the lines of `torchstu.report.figures`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from torchstu.extras import MissingExtraError, require
from torchstu.report.figures import _INK, _STYLE, _inline


def heatmap(
    values: Any,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    texts: Sequence[Sequence[str]],
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    alternative: str | None = None,
) -> str:
    """Shares as coloured cells with words in them, first row on top, as an inline ``<svg>``.

    Colours go from dark blue (0) to yellow (1) in even steps of lightness, so they read without red-green vision and in grey;
    words are light on dark cells and dark on light ones. A cell of NaN stays empty.

    Args:
        values: (R, C), 0 to 1 or NaN.
        rows, columns: R and C names.
        texts: R × C words, short; a line break starts a second line.
        xlabel, ylabel, title: words; an empty one is left out.
        alternative: the text for who cannot see it; None names the title, and rows and columns.

    Raises:
        ValueError: values outside 0..1, or of another shape than names and texts.
        MissingExtraError: without the extra ``report``.
    """
    values = np.asarray(values, dtype=float)
    if values.shape != (len(rows), len(columns)) or [len(line) for line in texts] != [len(columns)] * len(rows):
        raise ValueError(f"values: shape {values.shape}; it and texts must be ({len(rows)}, {len(columns)})")
    known = values[~np.isnan(values)]
    if ((known < 0) | (known > 1)).any():
        raise ValueError(f"values: {known.min():g} to {known.max():g}; they must be 0 to 1")
    matplotlib = require("report", "matplotlib")
    figure_module = require("report", "matplotlib.figure")
    with matplotlib.rc_context(_STYLE):
        figure = figure_module.Figure(figsize=(8.4, 1.1 + 0.5 * len(rows)), layout="constrained")
        _draw(figure.subplots(), matplotlib.colormaps["cividis"], values, rows, columns, texts)
        figure.axes[0].set(xlabel=xlabel, ylabel=ylabel)
        if title:
            figure.axes[0].set_title(title, color=_INK, loc="left")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    words = f"{title or 'shares'}: {', '.join(rows)} against {xlabel or 'columns'} {', '.join(columns)}."
    return _inline(buffer.getvalue(), alternative or words)


def heatmap_or_note(values: Any, rows: Sequence[str], columns: Sequence[str], **options: Any) -> dict[str, Any]:
    """`heatmap` as keyword arguments of a `Section`: a figure, or without matplotlib a note that says what to install."""
    try:
        return {"figure": heatmap(values, rows, columns, **options)}
    except MissingExtraError:
        return {"note": "pictures need pip install 'torchstu[report]'"}


def _draw(
    axes: Any, colours: Any, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], texts: Sequence[Sequence[str]]
) -> None:
    axes.pcolormesh(np.ma.masked_invalid(values), cmap=colours, vmin=0, vmax=1, edgecolors="none")
    for (i, j), value in np.ndenumerate(values):
        if not np.isnan(value):
            red, green, blue, _ = colours(value)
            light = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.45
            colour = "#ffffff" if light else "#000000"
            axes.text(j + 0.5, i + 0.5, texts[i][j], ha="center", va="center", fontsize=9, color=colour)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.invert_yaxis()
    axes.tick_params(which="both", colors=_INK, length=0)
    axes.spines[:].set_visible(False)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(_INK)
