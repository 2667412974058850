"""The runner: resumable at any moment, never mixing runs, one file whatever ran it; and the recipes of all experiments."""

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from torchstu.experiments.reproduce import identity, runner
from torchstu.experiments.reproduce.engines import TrialError, execute, label
from torchstu.experiments.reproduce.jsonlines import from_json, to_json
from torchstu.experiments.reproduce.lock import locked
from torchstu.experiments.reproduce.pages import command, tables_text, write_pages
from torchstu.experiments.reproduce.recipes import make_trials, read_recipe
from torchstu.experiments.reproduce.registry import MODULES, load, resolve
from torchstu.experiments.reproduce.runner import make_plan, reproduce
from torchstu.experiments.reproduce.store import Store
from torchstu.extras import MissingExtraError

COUNTING = "toy_experiments.counting"
HERE = str(Path(__file__).parent)


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    monkeypatch.syspath_prepend(HERE)


@pytest.fixture
def inline(monkeypatch):
    """The engine without processes, trials in reverse order; counts what it ran."""
    ran = []

    def engine(module, todo):
        for index, trial in reversed(todo):
            try:
                outcome = execute(module, trial)
            except TrialError as error:
                raise TrialError(f"{label(index, trial)}: {error}") from error
            ran.append(index)
            yield index, *outcome

    monkeypatch.setattr(runner, "in_processes", lambda count: engine)
    return ran


def run(output, **options):
    reproduce(COUNTING, output=output, progress=False, **options)
    return (output / "counting" / "results.jsonl").read_bytes()


# --- every experiment ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_an_experiment_has_its_recipe_and_sound_trials(name):
    experiment, module = load(MODULES[name]), MODULES[name]
    assert experiment.name == name
    assert experiment.question.endswith("?")
    assert "\n" not in experiment.question
    recipe = read_recipe(module, name)
    settings = recipe["quick"] | {"seeds": 1}
    once = make_trials(experiment, settings, 0)  # unique and of JSON's values, or an error
    assert make_trials(experiment, settings, 0) == once
    assert make_trials(experiment, settings, 1) != once
    assert len(make_trials(experiment, recipe["full"] | {"seeds": 1}, 0)) >= len(once)


def test_names():
    assert resolve(["cost", "all"])[0] == MODULES["cost"]
    assert sorted(resolve(["all", "cost"])) == sorted(MODULES.values())
    with pytest.raises(ValueError, match=r"name: 'costs'; it must be one of paper-lds, .*, or all"):
        resolve(["costs"])
    with pytest.raises(ValueError, match=r"name: 'toy_experiments\.none' is no module"):
        load("toy_experiments.none")
    with pytest.raises(ValueError, match=r"'torchstu\.extras' has no EXPERIMENT"):
        load("torchstu.extras")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[quick]\nseeds = 1", "has quick; it must hold"),
        ("[quick\n", "is not TOML"),
        ("[quick]\nseeds = 1\n[full]\nseeds = 1.5", r"seeds of \[full\].*1.5; it must be an integer"),
        ("[quick]\n[full]\nseeds = 1", r"seeds of \[quick\].*None; it must be an integer"),
        ("[quick]\nseeds = 1\nday = 2020-01-01\n[full]\nseeds = 1", r"\['day'\]: a date"),
        (None, "there is no .*recipes/counting.toml"),
    ],
)
def test_a_bad_recipe_is_refused(tmp_path, monkeypatch, text, says):
    (tmp_path / "lone.py").write_text("")
    (tmp_path / "recipes").mkdir()
    if text is not None:
        (tmp_path / "recipes" / "counting.toml").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lone", raising=False)
    with pytest.raises((ValueError, TypeError), match=says):
        read_recipe("lone", "counting")


def test_bad_arguments_are_refused_before_any_trial(tmp_path, inline):
    for options, says in [
        ({"scale": "slow"}, "scale: 'slow'"),
        ({"seed": -1}, "seed: -1; it must be at least 0"),
        ({"seeds": 0}, "seeds: 0; it must be at least 1"),
        ({"seeds": 2.0}, "seeds: 2.0; it must be an integer"),
        ({"processes": 0}, "processes: 0; it must be at least 1"),
        ({"processes": True}, "processes: True; it must be an integer"),
    ]:
        with pytest.raises((ValueError, TypeError), match=re.escape(says)):
            run(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("package", ["tqdm", "jinja2", "matplotlib", "pytorch_lightning"])
def test_missing_extras_are_told_before_any_trial(tmp_path, monkeypatch, inline, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=f"{package} is not installed: pip install"):
        run(tmp_path)
    assert inline == []


# --- JSON lines ------------------------------------------------------------------------------------------------------------


def test_json_restores_every_value():
    value = {"b": [1, 1.0, 0.1 + 0.2, -0.0, 5e-324, True, None, "ä\u2028"], "a": {"x": math.inf, "y": [-math.inf]}}
    line = to_json(value)
    assert line.index('"a"') < line.index('"b"')
    assert repr(from_json(line)["b"]) == repr(value["b"])
    assert from_json(line) == value
    assert math.isnan(from_json(to_json([math.nan]))[0])
    for wrong in ({1: 2}, [{1}], ["nan"]):
        with pytest.raises((TypeError, ValueError), match=r"^draw"):
            to_json(wrong, "draw")


# --- resuming --------------------------------------------------------------------------------------------------------------


def test_results_are_in_trial_order_and_run_once(tmp_path, inline):
    written = run(tmp_path)
    lines = [from_json(line) for line in written.decode().splitlines()]
    assert [line["trial"] for line in lines] == make_plan(COUNTING).trials
    assert math.isnan(lines[2]["result"]["worst"])
    assert len(inline) == 8
    assert run(tmp_path) == written
    assert len(inline) == 8
    assert not (tmp_path / "counting" / "partial.jsonl").exists()
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("kept", [0, 1])
def test_any_cut_of_the_partial_file_gives_the_same_results(tmp_path, monkeypatch, inline, kept):
    """A kill at any byte of a write: the torn line goes, whole lines stay."""
    whole = run(tmp_path / "whole")
    monkeypatch.setenv("TOY_FAULT", "raise")
    with pytest.raises(
        TrialError,
        match=r"^counting: trial 5 \(nap=0.0, seed=1, step=1\): ArithmeticError: it is odd\. What was finished is kept",
    ):
        run(tmp_path / "torn")
    partial = tmp_path / "torn" / "counting" / "partial.jsonl"
    line = partial.read_bytes().splitlines(keepends=True)[0]  # of trial 7
    assert len(partial.read_bytes().splitlines()) == 2
    monkeypatch.delenv("TOY_FAULT")
    for cut in range(0, len(line), 20):
        inline.clear()
        partial.write_bytes(line * kept + line[:cut])
        assert run(tmp_path / "torn") == whole
        assert len(inline) == 8 - kept
        (tmp_path / "torn" / "counting" / "results.jsonl").unlink()


def test_a_kill_before_the_last_files(tmp_path, inline, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    whole = run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Store, "finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut")
    inline.clear()
    (tmp_path / "cut" / "counting" / "measured.jsonl").write_text("")  # written before results.jsonl, which says all is done
    assert run(tmp_path / "cut") == whole
    assert inline == []
    assert len(Store(tmp_path / "cut" / "counting").rows()) == 8


def test_a_damaged_file_is_told(tmp_path, inline):
    run(tmp_path)
    results = tmp_path / "counting" / "results.jsonl"
    lines = results.read_text().splitlines(keepends=True)
    results.write_text("".join(lines[:3]))
    with pytest.raises(ValueError, match="not of one run"):
        write_pages(tmp_path)
    results.write_text("".join([lines[0], "{\n", *lines[2:]]))
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        write_pages(tmp_path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"seeds": 1}, "seeds is 2 there and 1 here; choose another folder"),
        ({"seed": 3}, "seed is 0 there and 3 here"),
        ({"scale": "full"}, "scale is quick there and full here, nap is 0.0 there and 0.1 here, seeds is 2 there and 3 here"),
    ],
)
def test_a_folder_of_another_run_is_refused(tmp_path, inline, options, says):
    written = run(tmp_path)
    with pytest.raises(ValueError, match=re.escape(says)):
        run(tmp_path, **options)
    assert (tmp_path / "counting" / "results.jsonl").read_bytes() == written


def test_versions_and_code(tmp_path, monkeypatch, inline):
    """Half a run of another torch is refused; other code is let in, and told in the report."""
    monkeypatch.setenv("TOY_FAULT", "raise")
    with pytest.raises(TrialError):
        run(tmp_path)
    monkeypatch.delenv("TOY_FAULT")
    own = identity.versions()
    with monkeypatch.context() as patch:
        patch.setattr(identity, "versions", lambda: own | {"torch": "0.1"})
        with pytest.raises(ValueError, match=rf"torch is {re.escape(own['torch'])} there and 0.1 here"):
            run(tmp_path)
    monkeypatch.setattr(identity, "code", lambda: "0123456789ab")
    run(tmp_path)
    assert len(Store(tmp_path / "counting").manifest().code) == 2
    assert "2 versions of its code took part" in (tmp_path / "report.html").read_text()
    (tmp_path / "counting" / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"has results without manifest.json; choose another folder"):
        run(tmp_path)


def test_one_run_at_a_time(tmp_path, inline):
    with locked(tmp_path), pytest.raises(ValueError, match=f"process {os.getpid()} works in .*; wait for it"):
        run(tmp_path)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    lock = tmp_path / ".lock"
    host = json.dumps(os.uname().nodename)
    for stale in (f'{{"pid": "{ended.pid}", "started": "1", "host": {host}}}',
                  f'{{"pid": "{os.getpid()}", "started": "1", "host": {host}}}', ""):  # fmt: skip
        lock.write_text(stale)
        run(tmp_path)
        assert [path.name for path in tmp_path.glob(".*")] == []
    lock.write_text('{"pid": "1", "started": "1", "host": "elsewhere"}')
    with pytest.raises(ValueError, match="process 1 on elsewhere"):
        run(tmp_path)


def start(output):
    code = "from torchstu.experiments.reproduce.runner import reproduce\nif __name__ == '__main__':\n    "
    call = f"reproduce({COUNTING!r}, output={str(output)!r}, scale='full', processes=1)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([HERE, *filter(None, sys.path)])}
    return subprocess.Popen([sys.executable, "-c", code + call], env=environment, stderr=subprocess.PIPE, text=True)


def test_kill_at_random_moments(tmp_path, inline):
    whole = run(tmp_path / "whole", scale="full")
    partial = tmp_path / "killed" / "counting" / "partial.jsonl"
    kills = 0
    for extra in (1, 6):  # lines more than the last time: in the middle of a run
        before = partial.read_bytes().count(b"\n") if partial.exists() else 0
        process = start(tmp_path / "killed")
        while process.poll() is None and not (partial.exists() and partial.read_bytes().count(b"\n") >= before + extra):
            time.sleep(0.003)
        time.sleep(random.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.stderr.close()
    assert kills == 2
    assert 7 <= partial.read_bytes().count(b"\n") < 24
    last = start(tmp_path / "killed")
    _, told = last.communicate()
    assert last.returncode == 0, told
    assert "trials done by an earlier run" in told
    assert (tmp_path / "killed" / "counting" / "results.jsonl").read_bytes() == whole


# --- the report ------------------------------------------------------------------------------------------------------------


def test_report_pictures_and_tables(tmp_path, inline):
    run(tmp_path, seeds=1, seed=4)
    page = (tmp_path / "report.html").read_text()
    for words in ("Contents", "What does a &lt;draw&gt; give?", "4 of 1 seeds.", "<svg", "How to regenerate counting",
                  f"torchstu reproduce {COUNTING} --quick --seed 4 --seeds 1 --output {tmp_path}", "setting: nap"):  # fmt: skip
        assert words in page, words
    picture = (tmp_path / "pictures" / "counting-1.svg").read_text()
    assert picture.startswith("<?xml")
    tables = tables_text(tmp_path, ["counting"])
    assert "step" in tables
    assert "diverged" in tables
    before = page
    assert write_pages(tmp_path) == tmp_path / "report.html"
    assert (tmp_path / "report.html").read_text() == before
    with pytest.raises(ValueError, match="name: 'cost' has no results"):
        tables_text(tmp_path, ["cost"])
    with pytest.raises(ValueError, match="has no finished experiment"):
        write_pages(tmp_path / "pictures")
    assert command(Store(tmp_path / "counting").manifest(), Path("a b")).endswith("--output 'a b'")


def test_progress_is_a_line_a_trial(tmp_path, inline, capsys):
    reproduce([COUNTING], output=tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 8
    assert re.fullmatch(r"counting: 1/8, about \d+ s left: trial 7 \(nap=0.0, seed=1, step=3\) took 0.0 s", lines[0])
    assert lines[-1].startswith("counting: 8/8, done")
