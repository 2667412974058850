"""Engines: the same results wherever trials run, an error that names the trial, no process left behind."""

import os
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from torchstu.experiments.reproduce.engines import TrialError, execute, in_processes, label, on_ray
from torchstu.experiments.reproduce.runner import reproduce
from torchstu.extras import MissingExtraError

COUNTING = "toy_experiments.counting"
HERE = str(Path(__file__).parent)
TRIALS = [(i, {"seed": 7, "step": i, "nap": 0.0}) for i in range(2, 6)]
FAILING = (1, {"seed": 7, "step": 1, "nap": 0.0})


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    monkeypatch.syspath_prepend(HERE)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_two_processes_give_what_one_gives():
    found = {index: (result, measured) for index, result, measured in in_processes(2)(COUNTING, TRIALS)}
    assert sorted(found) == [2, 3, 4, 5]
    for index, trial in TRIALS:
        result, measured = found[index]
        assert repr(result) == repr(execute(COUNTING, trial)[0])  # NaN included
        assert measured["trial_seconds"] >= 0
        assert measured["threads"] == ["1", "1", "1"]
        assert measured["pid"] != os.getpid()
    assert len({measured["pid"] for _, measured in found.values()}) <= 2


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("raise", r"trial 1 \(seed=7, step=1, nap=0.0\): ArithmeticError: it is odd$"),
        ("kill", r"trial 1 \(seed=7, step=1, nap=0.0\): its process was ended from outside"),
        ("set", r"trial 1 .*: TypeError: result\['draw'\]: a set; it must be a value that JSON has"),
    ],
)
def test_a_failing_trial_is_named_after_what_was_finished(monkeypatch, fault, says):
    monkeypatch.setenv("TOY_FAULT", fault)
    found = []
    with pytest.raises(TrialError, match=says):
        found.extend(index for index, _, _ in in_processes(1)(COUNTING, [*TRIALS[:2], FAILING, *TRIALS[2:]]))
    assert found == [2, 3]


def test_workers_leave_with_the_run():
    slow = [(i, trial | {"nap": 60.0}) for i, trial in TRIALS[1:]]
    with closing(in_processes(1)(COUNTING, [TRIALS[0], *slow])) as outcomes:
        pid = next(outcomes)[2]["pid"]
        assert alive(pid)
        start = time.monotonic()
    assert not alive(pid)
    assert time.monotonic() - start < 20


def test_a_long_trial_has_a_short_label():
    assert len(label(3, {"name": "x" * 500, "values": [1.0] * 500})) < 200


def test_ray_needs_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"torchstu\[distributed\]"):
        on_ray("local")
    with pytest.raises(ValueError, match=r"processes: 2 on the cluster 'auto'"):
        on_ray("auto", 2)


def test_no_cluster_at_the_address(monkeypatch):
    pytest.importorskip("ray", reason="the extra distributed is not installed")
    with pytest.raises(ValueError, match=r"ray: no cluster at '127.0.0.1:1'"):
        next(on_ray("127.0.0.1:1")(COUNTING, TRIALS))


@pytest.mark.long
@pytest.mark.timeout(200)
def test_two_ray_workers_write_the_same_file(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="the extra distributed is not installed")
    assert not ray.is_initialized()
    reproduce(COUNTING, output=tmp_path / "ray", ray="local", processes=2, progress=False)
    reproduce(COUNTING, output=tmp_path / "processes", processes=2, progress=False)
    written = [(tmp_path / engine / "counting" / "results.jsonl").read_bytes() for engine in ("ray", "processes")]
    assert written[0] == written[1]
    assert not ray.is_initialized()
    monkeypatch.setenv("TOY_FAULT", "raise")
    with pytest.raises(TrialError, match=r"counting: trial 1 .*: ArithmeticError: it is odd"):
        reproduce(COUNTING, output=tmp_path / "fails", ray="local", processes=2, progress=False)
