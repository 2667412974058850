"""The pages: every snippet runs, every equation and every public name can be found, the site builds without the network."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
from mktestdocs import check_md_file

import torchstu

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
# | (3) | `torchstu.spectral.filters.filter_bank`, … | `tests/spectral/test_filters.py`, … |
ROWS = re.findall(r"^\| \((\d+)\) [^|]*\|([^|]*)\|([^|]*)\|$", DESIGN, flags=re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_snippet_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_md_file(page, memory=True)


def test_the_table_of_equations_is_complete():
    assert [int(number) for number, _, _ in ROWS] == list(range(1, 12))


@pytest.mark.parametrize(("number", "functions", "tests"), ROWS, ids=[f"({row[0]})" for row in ROWS])
def test_an_equation_leads_to_its_code_and_its_test(number, functions, tests):
    names, files = re.findall(r"`([\w.]+)`", functions), re.findall(r"`([\w./]+)`", tests)
    assert bool(names) == bool(files)
    assert names or functions.strip() == "not built yet"
    for name in names:
        module, _, attribute = name.rpartition(".")
        home = import_module(module)
        text = f"{home.__doc__} {inspect.getdoc(getattr(home, attribute))}"
        assert f"({number})" in text, f"{name}: neither its docstring nor its module's says ({number})"
    for file in files:
        assert (ROOT / file).is_file(), file


def test_every_public_name_is_in_the_reference():
    listed = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs" / "reference.md").read_text(encoding="utf-8"), re.MULTILINE)
    for name in torchstu.__all__:
        home = torchstu._HOME[name]
        assert f"{home}.{name}" in listed, f"{name} is not in docs/reference.md"


def test_the_site_builds_and_asks_the_network_for_nothing(tmp_path):
    build = pytest.importorskip("mkdocs.commands.build")
    load_config = import_module("mkdocs.config").load_config
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    build.build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path)))
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=\"?(https?:)?//", page.read_text(encoding="utf-8")
        )
        assert not loaded, page.name
