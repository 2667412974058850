"""The demo, small: every section is there, and what is not installed is left out and said so."""

import re
import subprocess
import sys

import numpy as np
import pytest

from torchstu.data.files import Table, weather
from torchstu.experiments import demo
from torchstu.experiments.candidates import Candidate


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(demo, "COUNTS", (4, 8, 12, 16, 20, 24))
    monkeypatch.setattr(demo, "SAMPLES", 4)
    year = weather()
    short = Table(year.names, year.values[:600], year.time[:600])
    monkeypatch.setattr(demo, "weather", lambda: short)
    original = demo.deep_candidates
    monkeypatch.setattr(demo, "deep_candidates", lambda steps: original(2)[:1])


def test_the_report_has_every_part(small, tmp_path, capsys):
    path = demo.run(tmp_path / "new" / "folder", progress=False)
    page = path.read_text(encoding="utf-8")
    assert path == (tmp_path / "new" / "folder" / "report.html").resolve()
    assert len(re.findall("<svg ", page)) == 3
    for words in ("Error against the number of filters", "256 states", "LRU", "SpectralSSM", "plain autoregression", "°C"):
        assert words in page
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    printed = capsys.readouterr().out
    assert "persistence" in printed
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_error_falls_with_the_filters_in_the_demo(small):
    row = demo.filters_section("", False).table.rows[1]
    assert row[-1] < 1e-12 < 1e-6 < row[1]
    assert (np.diff(row[1:]) < 0).all()


def test_without_extras_the_demo_still_ends_with_a_report(tmp_path):
    code = f"""
import sys
for name in "matplotlib pandas pyarrow pytorch_lightning tqdm".split():
    sys.modules[name] = None
from torchstu.experiments import demo
from torchstu.data.files import Table, weather
year = weather()
demo.weather = lambda: Table(year.names, year.values[:600], year.time[:600])
from torchstu.cli.main import main
sys.exit(main(["demo", "--output", {str(tmp_path / "demo")!r}]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == str((tmp_path / "demo" / "report.html").resolve())
    assert "Left out: pytorch_lightning is not installed: pip install 'torchstu[train]'" in result.stdout
    assert "SpectralSSM was left out" in result.stdout.replace("two-layer ", "")
    assert "pictures need" in (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")


def test_candidates_say_what_they_are():
    assert Candidate({"autoregression": None, "ridge": 10.0}, dict).label == "autoregression none, ridge 10"
