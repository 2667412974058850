"""One self-contained HTML page of words, tables and pictures, and the same tables as plain text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from torchstu.extras import require
from torchstu.whole_file import whole_file


@dataclass(frozen=True)
class Table:
    """A header and rows of cells: words or numbers; numbers are shown with three digits, inf and NaN as "diverged"."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Section:
    """A part of the page: whatever is not None is shown, in this order.

    Attributes:
        title: the heading.
        text: plain words; an empty line starts a new paragraph.
        table: a `Table`.
        figure: an inline ``<svg>``, as `torchstu.report.figures.curves` draws; shown as it is, so never a user's text.
        note: a smaller remark.
    """

    title: str
    text: str | None = None
    table: Table | None = None
    figure: str | None = None
    note: str | None = None


def format_cell(value: Any) -> str:
    """A cell as text: floats with three significant digits, "diverged" for inf and NaN, None as nothing."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if math.isfinite(value) else "diverged"
    return str(value)


def format_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table as aligned plain text, for a terminal; columns of numbers are right-aligned."""
    cells = [list(header), *([format_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    numeric = _numeric_columns(Table(header, rows))
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in cells
    )


def render_page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The page as HTML.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    jinja2 = require("report", "jinja2")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters.update(cell=format_cell, numeric=_numeric_columns, paragraphs=_paragraphs)
    source = resources.files("torchstu.report").joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(source).render(title=title, lead=lead, sections=sections)


def write_report(path: str | Path, title: str, lead: str, sections: Sequence[Section]) -> Path:
    """Write one HTML file that needs nothing else, whole or not at all; returns its path.

    Raises:
        OSError: it cannot be written.
        MissingExtraError: jinja2 is not installed.
    """
    return write_text(path, render_page(title, lead, sections))


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file in UTF-8, whole or not at all; returns its path.

    Raises:
        OSError: it cannot be written.
    """
    path = Path(path)
    with whole_file(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
    return path


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in text.split("\n\n") if part.strip()]


def _numeric_columns(table: Table) -> list[bool]:
    columns = range(len(table.header))
    return [bool(table.rows) and all(isinstance(row[i], (int, float)) for row in table.rows) for i in columns]
