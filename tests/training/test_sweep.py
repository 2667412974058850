"""Searches over recipes: what is tried, what is pruned, what goes on after a kill."""

import json
import math
from types import SimpleNamespace

import pytest

from torchstu.training import sweep as module
from torchstu.training.recipe_file import read_recipe
from torchstu.training.sweep import Choice, Range, read_search, sweep

BASE = """
data: {name: toy, options: {size: 16, held_out: 8}}
model: {d_model: 4, num_layers: 1, length: 16, mixer: LRU, mixer_options: {state_dim: 4}}
training: {steps: 8, batch_size: 8, validate_every: 1, accelerator: cpu}
optimizer: {learning_rate: 1e-2}
"""
SEARCH = {"optimizer.learning_rate": Range(1e-4, 1e-1, log=True), "model.mixer_options.state_dim": Range(2, 8)}


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path


def pretend(errors_of, calls=None):
    """A training whose validation errors are a function of the recipe."""

    def train(recipe, output, *, resume, progress, watch):
        assert resume
        assert not progress
        if calls is not None:
            calls.append((output.name, recipe))
        seen = []
        for step, error in enumerate(errors_of(recipe), 1):
            seen.append(error)
            if watch({"step": step, "validation_error": error}):
                return SimpleNamespace(validation_error=min(seen), ended=module.WATCHER_ENDED)
        return SimpleNamespace(
            validation_error=min(filter(math.isfinite, seen), default=None), ended="" if seen else "diverged: early"
        )

    return train


def test_search_finds_the_best_and_writes_its_recipe(base, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(module, "train", pretend(lambda recipe: [abs(recipe.optimizer.learning_rate - 1e-2)], calls))
    lines = []
    results = sweep(base, SEARCH, tmp_path / "out", trials=12, overrides={"seed": 4}, progress=lines.append)
    assert [name for name, _ in calls] == [f"trial-{n:04d}" for n in range(12)]
    assert all(1e-4 <= recipe.optimizer.learning_rate <= 1e-1 for _, recipe in calls)
    assert {type(recipe.model.mixer_options["state_dim"]) for _, recipe in calls} == {int}
    assert [r.error for r in results] == sorted(r.error for r in results)
    best = read_recipe(tmp_path / "out" / "best.yaml")
    assert best == next(recipe for name, recipe in calls if name == f"trial-{results[0].number:04d}")
    assert best.seed == 4
    assert len(lines) == 12
    assert lines[0].startswith("trial 0: validation error ")


def test_the_same_seed_tries_the_same(base, tmp_path, monkeypatch):
    tried = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        monkeypatch.setattr(module, "train", pretend(lambda recipe: [recipe.optimizer.learning_rate]))
        results = sweep(base, SEARCH, tmp_path / name, trials=3, seed=seed, progress=str)
        tried.append([r.values for r in results])
    assert tried[0] == tried[1] != tried[2]


def test_hopeless_trials_are_pruned(base, tmp_path, monkeypatch):
    """Four start-up trials get better; then all that stay at 2 are ended at the first look after a quarter of the steps."""
    steps_seen = []

    def errors_of(recipe):
        bad = len(steps_seen) >= 4
        steps_seen.append(0)
        for step in range(8):
            steps_seen[-1] = step + 1
            yield 2.0 if bad else 1.0 / (step + 1)

    monkeypatch.setattr(module, "train", pretend(errors_of))
    results = sweep(base, SEARCH, tmp_path / "out", trials=6, progress=str)
    assert [r.state for r in results] == ["complete"] * 4 + ["pruned"] * 2
    assert steps_seen == [8] * 4 + [2] * 2


def test_a_killed_trial_goes_on_where_it_was(base, tmp_path, monkeypatch):
    calls = []

    def killed(recipe):
        if len(calls) == 2:
            raise KeyboardInterrupt
        return [1.0]

    monkeypatch.setattr(module, "train", pretend(killed, calls))
    with pytest.raises(KeyboardInterrupt):
        sweep(base, SEARCH, tmp_path / "out", trials=3, progress=str)
    assert [name for name, _ in calls] == ["trial-0000", "trial-0001"]
    results = sweep(base, SEARCH, tmp_path / "out", trials=3, progress=str)
    assert [name for name, _ in calls] == ["trial-0000", "trial-0001", "trial-0001", "trial-0002"]
    assert calls[1] == calls[2]
    assert [r.state for r in results] == ["complete"] * 3
    sweep(base, SEARCH, tmp_path / "out", trials=3, progress=str)
    assert len(calls) == 4, "the study had enough"


def test_trials_that_fail_leave_the_others(base, tmp_path, monkeypatch):
    fates = iter([ValueError("model.d_model: 3; it must be even"), None, "fine"])

    def errors_of(recipe):
        fate = next(fates)
        if isinstance(fate, Exception):
            raise fate
        return [float("nan"), 0.5] if fate else []

    lines = []
    monkeypatch.setattr(module, "train", pretend(errors_of))
    results = sweep(base, SEARCH, tmp_path / "out", trials=3, progress=lines.append)
    assert [(r.number, r.state, r.error) for r in results] == [(2, "complete", 0.5), (0, "fail", None), (1, "fail", None)]
    assert lines[0] == "trial 0: failed, model.d_model: 3; it must be even"
    assert lines[1] == "trial 1: failed, diverged: early"


def test_trials_of_living_processes_are_left_alone(base, tmp_path, monkeypatch):
    calls = []

    def killed(recipe):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train", pretend(killed, calls))
    with pytest.raises(KeyboardInterrupt):
        sweep(base, SEARCH, tmp_path / "out", trials=2, progress=str)
    elsewhere = module._take(SimpleNamespace(number=0), tmp_path / "out")
    assert elsewhere is not None
    assert module._take(SimpleNamespace(number=0), tmp_path / "out") is None
    monkeypatch.setattr(module, "train", pretend(lambda recipe: [1.0], calls))
    results = sweep(base, SEARCH, tmp_path / "out", trials=2, progress=str)
    elsewhere.lock.close()
    assert [name for name, _ in calls] == ["trial-0000", "trial-0001"]
    assert [(r.number, r.state) for r in results] == [(1, "complete"), (0, "running")]


def test_real_training(base, tmp_path):
    results = sweep(base, {"model.mixer": Choice(("S4D", "LRU")), "training.steps": Choice((3,))}, tmp_path / "out", trials=2,
                    progress=str)  # fmt: skip
    for result in results:
        home = tmp_path / "out" / f"trial-{result.number:04d}"
        found = json.loads((home / "results.json").read_text())
        assert result.error == min(row["error"] for row in found["validation"])
        assert read_recipe(home / "recipe.yaml").model.mixer == result.values["model.mixer"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it must hold a mapping"),
        ("[1]", "it must hold a mapping"),
        ("a.b: 3", r"a\.b: 3; it must be a list of values, or low, high and perhaps log"),
        ("a.b: []", r"a\.b: \[\]; it must be a list of values"),
        ("a.b: {low: 1}", r"a\.b\.high: None; it must be a finite number"),
        ("a.b: {low: x, high: 2}", r"a\.b\.low: 'x'; it must be a finite number"),
        ("a.b: {low: 2, high: 1}", r"a\.b: 2 to 1; low must be below high"),
        ("a.b: {low: 0, high: 1, log: true}", r"a\.b: 0 to 1; low must be below high, and above 0 with log"),
        ("a.b: {low: 1, high: 2, log: 1}", r"a\.b\.log: 1; it must be true or false"),
        ("a.b: {low: 1, high: 2, lgo: true}", r"a\.b\.lgo: unknown; it must be one of low, high, log"),
    ],
)
def test_searches_that_are_none(tmp_path, text, says):
    (tmp_path / "search.yaml").write_text(text)
    with pytest.raises(ValueError, match=says):
        read_search(tmp_path / "search.yaml")


def test_read_search(tmp_path):
    (tmp_path / "search.yaml").write_text("a.b: {low: 1e-4, high: 1, log: true}\nc: [2, [3, x]]\nd: {low: 2, high: 4}")
    found = read_search(tmp_path / "search.yaml")
    assert found == {"a.b": Range(1e-4, 1, True), "c": Choice((2, [3, "x"])), "d": Range(2, 4)}


@pytest.mark.parametrize(
    ("search", "says"),
    [
        ({"model.d_modle": Range(1, 2)}, r"model\.d_modle: unknown"),
        ({"model.mixer": Choice(("LRU", "none"))}, r"model\.mixer: 'none'; it must be one of"),
        ({"model.mixer_options.state_dim": Range(1, 2.5)}, r"model\.mixer_options\.state_dim: 2\.5; it must be an integer"),
        ({"model.dropout": Range(0, 1)}, r"model\.dropout: 1\.0; it must be in"),
        ({"training.devices": Choice((2,))}, r"training\.devices: 2 on 1 machines; it must be 1 on 1 in a sweep"),
    ],
)
def test_searches_that_leave_the_recipe(base, tmp_path, search, says):
    with pytest.raises(ValueError, match=says):
        sweep(base, search, tmp_path / "out", trials=1)
    assert not (tmp_path / "out").exists()


def test_a_study_keeps_to_its_recipe_and_search(base, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "train", pretend(lambda recipe: [1.0]))
    sweep(base, SEARCH, tmp_path / "out", trials=1, progress=str)
    with pytest.raises(ValueError, match=r"study: .* was begun with another search"):
        sweep(base, {"model.d_model": Range(4, 8)}, tmp_path / "out", trials=2)
    with pytest.raises(ValueError, match=r"study: .* was begun with another recipe"):
        sweep(base, SEARCH, tmp_path / "out", trials=2, overrides={"seed": 1})
    with pytest.raises(ValueError, match="trials: 0; it must be at least 1"):
        sweep(base, SEARCH, tmp_path / "out", trials=0)
    with pytest.raises(ValueError, match="seed: -1; it must be at least 0"):
        sweep(base, SEARCH, tmp_path / "out", trials=1, seed=-1)
