"""The commands that need no data: help, filters, and how anything that goes wrong is told."""

import subprocess
import sys
import time

import pytest

from torchstu.cli.main import main

COMMANDS = ["fit", "identify", "predict", "filters", "demo", "reproduce", "train", "sweep", "lm"]


def test_filters_prints_and_draws(tmp_path, capsys):
    for name in ("bank.svg", "bank.html"):
        path = tmp_path / name
        assert main(["filters", "--length", "64", "--count", "4", "--output", str(path)]) == 0
        assert "<svg" in path.read_text()
    out = capsys.readouterr().out
    assert "reliable: " in out
    assert "eigenvalue" in out


def test_clear_cache(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TORCHSTU_CACHE", str(tmp_path))
    (tmp_path / "x.npz").write_bytes(b"1" * 2**20)
    assert main(["filters", "--clear-cache"]) == 0
    assert "1.0 MB" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError("Unable to allocate 9 TiB"), "not enough memory (Unable to allocate 9 TiB); take a smaller length"),
        (RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
        (RuntimeError("no such kernel\nstack trace"), "error: no such kernel\n"),
        (OverflowError("int too large"), "int too large"),
    ],
)
def test_what_python_and_torch_raise(capsys, monkeypatch, error, says):
    def fail(*_):
        raise error

    monkeypatch.setattr("torchstu.spectral.filters.filter_bank", fail)
    assert main(["filters"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("torchstu: error: ")
    assert told.count("\n") == 1
    assert says in told


def test_warnings_are_one_line(capsys, recwarn):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["filters", "--length", "64", "--count", "60"]) == 0
    error = capsys.readouterr().err
    assert error.startswith("torchstu: warning: count: 60 filters of length 64")
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_quick_and_useful(command):
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "torchstu.cli.main", *command.split(), "--help"], capture_output=True, text=True, check=True
    )
    assert time.perf_counter() - start < 2
    assert ("example:" if command else "demo") in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 130
