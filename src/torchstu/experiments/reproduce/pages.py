"""The report of a folder of results: one HTML page, its pictures as files, its tables as plain text."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from torchstu.experiments.reproduce.experiment import Row
from torchstu.experiments.reproduce.jsonlines import to_json
from torchstu.experiments.reproduce.progress import duration
from torchstu.experiments.reproduce.registry import MODULES, load
from torchstu.experiments.reproduce.store import Manifest, Store
from torchstu.report.figures import standalone
from torchstu.report.page import Section, Table, format_table, write_report, write_text

LEAD = """Each part below is an experiment: a question, what was done, what came out. STU is the spectral transform unit, \
a layer for sequences whose filters are fixed and known in advance, so that only linear weights are learned; the other names \
are layers that learn their filters or their states.

Where an experiment was repeated with several seeds, tables give the median and the range from smallest to largest, and \
pictures shade that range. "Diverged" stands for a number that is infinite or not a number. An error is relative: 0 is \
perfect, 1 is as bad as predicting zero, unless a part says otherwise."""


@dataclass(frozen=True)
class Chapter:
    """One experiment in the report."""

    manifest: Manifest
    question: str
    sections: list[Section]
    core_seconds: float


def write_pages(output: Path) -> Path:
    """Write ``report.html`` and ``pictures/`` from all experiments with results in a folder; returns the path of the report.

    Raises:
        ValueError: nothing there is finished, or it is damaged.
        OSError: it cannot be written.
        MissingExtraError: without the extra ``report``.
    """
    chapters = [read_chapter(store) for store in finished_stores(output)]
    if not chapters:
        raise ValueError(f"output: {output} has no finished experiment; it must have one")
    pictures = output / "pictures"
    pictures.mkdir(exist_ok=True)
    page = [_contents(chapters)]
    for number, chapter in enumerate(chapters, start=1):
        name = chapter.manifest.name
        for old in pictures.glob(f"{name}-[0-9]*.svg"):
            old.unlink()
        figures = [section.figure for section in chapter.sections if section.figure is not None]
        for i, figure in enumerate(figures, start=1):
            write_text(pictures / f"{name}-{i}.svg", standalone(figure))
        page += _numbered(number, chapter, output)
    return write_report(output / "report.html", "The argument for spectral filters, reproduced", LEAD, page)


def finished_stores(output: Path) -> list[Store]:
    """Folders with results, in the order of the registry, others after them."""
    stores = [Store(path.parent) for path in sorted(output.glob("*/results.jsonl"))]
    names = list(MODULES)
    return sorted(stores, key=lambda store: names.index(store.folder.name) if store.folder.name in names else len(names))


def tables_text(output: Path, names: Iterable[str]) -> str:
    """The tables of experiments of a folder as plain text.

    Raises:
        ValueError: one is not finished there.
    """
    parts = []
    for name in names:
        store = Store(output / name)
        if not store.finished:
            raise ValueError(f"name: {name!r} has no results in {output}; it must be run first")
        chapter = read_chapter(store)
        parts.append(f"{name}: {chapter.question}")
        tables = [(section.title, section.table) for section in chapter.sections if section.table is not None]
        parts += [f"{title}\n\n{format_table(table.header, table.rows)}" for title, table in tables]
    return "\n\n".join(parts)


def read_chapter(store: Store) -> Chapter:
    """The sections of an experiment from its results and the settings they were made with.

    Raises:
        ValueError: the files are damaged, or the experiment is not installed.
    """
    manifest, rows = store.manifest(), store.rows()
    if len(rows) != manifest.trials:
        raise ValueError(f"output: {store.results} has {len(rows)} lines; it must have {manifest.trials}")
    experiment = load(manifest.module)
    return Chapter(manifest, experiment.question, experiment.sections(rows, manifest.settings), _core_seconds(rows))


def command(manifest: Manifest, output: Path) -> str:
    """The command line that makes these results."""
    options = f"--seed {manifest.seed} --seeds {manifest.settings['seeds']} --output {shlex.quote(str(output))}"
    name = manifest.name if manifest.name in MODULES else manifest.module
    return f"torchstu reproduce {name} --{manifest.scale} {options}"


def _contents(chapters: list[Chapter]) -> Section:
    rows = [
        (number, chapter.manifest.name, chapter.question, chapter.manifest.scale, duration(chapter.core_seconds))
        for number, chapter in enumerate(chapters, start=1)
    ]
    total = duration(sum(chapter.core_seconds for chapter in chapters))
    text = f"Parts are numbered as here. All of it took {total} of one core."
    return Section("Contents", text, Table(("part", "experiment", "question", "size", "time of one core"), rows))


def _numbered(number: int, chapter: Chapter, output: Path) -> list[Section]:
    own = [replace(part, title=f"{number}.{i} {part.title}") for i, part in enumerate(chapter.sections, start=1)]
    opening = Section(f"{number} {chapter.manifest.name}", chapter.question)
    return [opening, *own, _provenance(f"{number}.{len(own) + 1}", chapter, output)]


def _provenance(number: str, chapter: Chapter, output: Path) -> Section:
    """How a chapter was made, and how to make it again."""
    made, seeds = chapter.manifest, chapter.manifest.settings["seeds"]
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    facts = [
        ("command", command(made, output)),
        ("trials", made.trials),
        ("seeds", f"{made.seed} … {made.seed + seeds - 1}" if seeds > 1 else str(made.seed)),
        ("time of one core", duration(chapter.core_seconds)),
        ("machine", "; ".join(made.machines)),
        ("versions", versions),
        ("code of torchstu", ", ".join(made.code)),
    ]
    settings = [(f"setting: {key}", to_json(value)) for key, value in made.settings.items()]
    note = None
    if len(made.code) > 1:
        note = f"The run was resumed after torchstu had changed: {len(made.code)} versions of its code took part."
    return Section(f"{number} How to regenerate {made.name}", table=Table(("", ""), [*facts, *settings]), note=note)


def _core_seconds(rows: list[Row]) -> float:
    return sum(row.measured["trial_seconds"] for row in rows)
