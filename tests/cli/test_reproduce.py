"""torchstu reproduce, from the outside."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from torchstu.cli.main import main

COUNTING = "toy_experiments.counting"
HERE = str(Path(__file__).parents[1] / "experiments" / "reproduce")


@pytest.fixture(autouse=True)
def toys(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.chdir(tmp_path)


def test_run_report_and_refusals(tmp_path, capsys):
    assert main(["reproduce", COUNTING, "--seeds", "1", "--processes", "1"]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[-1] == "torchstu-reproduce-quick/report.html"
    assert "step" in told.out
    assert len(told.err.splitlines()) == 4
    (tmp_path / "torchstu-reproduce-quick" / "report.html").unlink()
    for names in ([], [COUNTING]):
        assert main(["reproduce", *names, "--report-only"]) == 0
        assert capsys.readouterr().out == told.out
        assert (tmp_path / "torchstu-reproduce-quick" / "report.html").exists()
    assert main(["reproduce", COUNTING, "--seeds", "2"]) == 2
    assert "seeds is 1 there and 2 here; choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "name: none; it must be one of paper-lds, "),
        (["paper"], "name: 'paper'; it must be one of paper-lds, "),
        ([COUNTING, "--seeds", "0"], "seeds: 0; it must be at least 1"),
        ([COUNTING, "--processes", "0"], "processes: 0; it must be at least 1"),
        ([COUNTING, "--ray", "auto", "--processes", "2"], "processes: 2 on the cluster 'auto'"),
        ([COUNTING, "--output", ""], "--output: '' is no name"),
        ([COUNTING, "--quick", "--full"], "not allowed with argument"),
        (["--list", "--seed", "0"], "--list: given with --seed; it must be given without"),
        (["--report-only", "--ray", "auto"], "--report-only: given with --ray"),
        (["--report-only", "--output", "x", "--full"], "--report-only with --output: given with --quick or --full"),
        (["--report-only"], "torchstu-reproduce-quick has no finished experiment"),
        (["--report-only", "--output", "x", COUNTING], "name: 'counting' has no results in x"),
    ],
)
def test_errors_are_one_line(tmp_path, capsys, options, says):
    assert main(["reproduce", *options]) == 2
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_list(capsys, monkeypatch):
    monkeypatch.setattr("torchstu.experiments.reproduce.registry.MODULES", {"counting": COUNTING})
    assert main(["reproduce", "--list"]) == 0
    words = capsys.readouterr().out.splitlines()[-1].split()
    assert " ".join(words) == "counting What does a <draw> give? 2 3"


def gone(group):
    """Whether no process of the group is left; waits a tenth of a second where one is."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    time.sleep(0.1)
    return False


def test_control_c_ends_workers_and_the_run_goes_on_later(tmp_path, capsys):
    command = [sys.executable, "-m", "torchstu.cli.main", "reproduce", COUNTING, "--full", "--processes", "1", "--seeds", "2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([HERE, *filter(None, sys.path)])}
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background ignores it
    )  # fmt: skip
    first = process.stderr.readline()
    assert first.startswith("counting: 1/16, ")
    time.sleep(0.15)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    told = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 130
    assert told[-1] == "torchstu: interrupted"
    assert all(line.startswith("counting: ") for line in told[:-1])
    assert any(gone(process.pid) for _ in range(100))
    assert main([*command[3:]]) == 0
    assert "of 16 trials done by an earlier run" in capsys.readouterr().err
    assert len((tmp_path / "torchstu-reproduce-full" / "counting" / "results.jsonl").read_text().splitlines()) == 16
