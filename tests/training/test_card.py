"""Cards of hand-made run folders."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import toy_runs
import yaml

from torchstu.extras import MissingExtraError
from torchstu.training import card
from torchstu.training.card import write_card
from torchstu.training.recipe import DataConfig
from torchstu.training.run import train
from torchstu.training.run_facts import read_metrics

RECIPE = """data:
  name: listops
  options: {length: 128}
model: {d_model: 32, num_layers: 2, mixer: [STU, Attention]}
training: {steps: 40}
seed: 3
"""
RESULTS = {
    "test": {"loss": 0.7, "error": 0.25},
    "validation": [{"step": 20, "loss": 0.9, "error": 0.5}, {"step": 25, "loss": 0.9, "error": 0.3},
                   {"step": 30, "loss": 0.8, "error": 0.3}, {"step": 40, "loss": 0.6, "error": 0.35}],
    "confusion": [[7, 1], [3, 5]],
    "classes": ["even | odd", "odd"],
    "parameters": 12345,
    "steps": 40,
    "seconds": 61.25,
    "sequences_per_second": 20.9,
    "peak_memory_bytes": 300 * 2**20,
    "environment": {"torch": "2.13.0", "threads": 2, "device": "cpu"},
    "data": {"name": "ListOps (small)", "source": "Generated, Apache-2.0.", "task": "classification",
             "train": 960, "validation": 96, "test": 16},
    "diverged": False,
    "stopped_early": False,
    "seed": 3,
}  # fmt: skip
METRICS = """step,sequences,train_loss,validation_loss,validation_error,learning_rate
10,80,1.5,,,0.01
20,160,1.1,0.9,0.5,0.01
30,240,,0.8,0.3,0.01
40,320,0.7,0.6,0.35,0.01
50,400,nan,inf,,0.01
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    (tmp_path / "metrics.csv").write_text(METRICS)
    (tmp_path / "model").mkdir()
    return tmp_path


def change(folder, **entries):
    (folder / "results.json").write_text(json.dumps(RESULTS | entries))


def regression(**entries):
    data = RESULTS["data"] | {"task": "step regression"}
    return {"data": data, "confusion": None, "classes": [], "test": {"loss": 2.0, "error": 1.5}} | entries


def parts(path):
    _, head, body = path.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), body


def rows(body):
    lines = [line.strip("| ").split(" | ") for line in body.splitlines() if line.startswith("|") and "---" not in line]
    return {line[0]: line[1:] for line in lines}


def test_everything_is_on_the_card(folder):
    path = write_card(folder)
    assert path == folder / "card.md"
    head, body = parts(path)
    assert head["library_name"] == "torchstu"
    assert head["data_source"] == "Generated, Apache-2.0."
    assert {"stu", "attention", "classification"} <= set(head["tags"])
    (result,) = head["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "name": "Accuracy", "value": 0.75}]
    assert result["dataset"] == {"type": "listops-small", "name": "ListOps (small)", "split": "test"}
    assert "# STU / Attention on ListOps (small)\n" in body
    assert "12,345 parameters, seed 3" in body
    assert "share of wrong labels" in body
    assert "at_end(u, lengths)" in body
    found = rows(body)
    assert found["validation, best"] == ["30", "0.8", "0.3"]  # by error, then loss; the loss was best at step 40
    assert found["train"] == ["960"]
    assert found["peak memory, MiB"] == ["300"]
    assert found["sequences a second"] == ["20.9"]
    assert found["torch"] == ["2.13.0"]
    assert yaml.safe_load(body.split("```yaml\n")[1].split("```")[0]) == yaml.safe_load(RECIPE)


def test_confusion_matrix_has_the_truth_in_rows(folder):
    _, body = parts(write_card(folder))
    assert "| true \\ predicted | even \\| odd | odd |" in body
    assert "| **even \\| odd** | 7 | 1 |\n| **odd** | 3 | 5 |" in body
    change(folder, classes=[])
    assert "| **1** | 3 | 5 |" in write_card(folder).read_text()


def test_the_curve_has_finite_values_only(folder):
    _, body = parts(write_card(folder))
    assert "](curve.svg)" in body
    text = (folder / "curve.svg").read_text()
    ElementTree.fromstring(text)
    for name in ("train loss", "validation loss", "validation error"):
        assert name in text
    assert read_metrics(METRICS) == {
        "train_loss": [(10, 1.5), (20, 1.1), (40, 0.7)],
        "validation_loss": [(20, 0.9), (30, 0.8), (40, 0.6)],
        "validation_error": [(20, 0.5), (30, 0.3), (40, 0.35)],
    }


def test_regression_has_no_confusion_matrix(folder):
    change(folder, **regression())
    head, body = parts(write_card(folder))
    assert "Confusion" not in body
    assert "y, state = model(u)" in body
    assert head["metrics"] == ["relative-error"]
    assert head["model-index"][0]["results"][0]["metrics"][0]["value"] == 1.5


def test_a_diverged_run_has_a_card(folder):
    nothing = {"loss": float("nan"), "error": None}
    change(folder, **regression(diverged=True, test=nothing, validation=[{"step": 0} | nothing], peak_memory_bytes=None))
    (folder / "metrics.csv").write_text("step,loss\n1,nan\n")
    (folder / "model").rmdir()
    head, body = parts(write_card(folder))
    assert "model-index" not in head
    assert "**The training diverged** after step 40" in body
    assert "| test |  | nan | - |" in body
    assert "validation, best" not in body
    assert "No value was finite." in body
    assert "saved no model" in body
    assert rows(body)["peak memory, MiB"] == ["-"]


def test_an_early_stop_is_told(folder):
    assert "stopped early" not in write_card(folder).read_text()
    change(folder, stopped_early=True)
    assert "stopped early, at step 40" in write_card(folder).read_text()


def test_without_matplotlib_the_card_says_so(folder, monkeypatch):
    def missing(*_):
        raise MissingExtraError("matplotlib is not installed: pip install 'torchstu[report]'")

    monkeypatch.setattr(card, "draw", missing)
    assert "Not drawn: matplotlib is not installed" in write_card(folder).read_text()
    assert not (folder / "curve.svg").exists()


@pytest.mark.parametrize("name", ["recipe.yaml", "results.json", "metrics.csv"])
def test_missing_and_unreadable_files(folder, name):
    (folder / name).write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=f"^{name}: is no text in UTF-8"):
        write_card(folder)
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"^{name}: is not in .*; that must be the folder of a training run"):
        write_card(folder)
    assert not (folder / "card.md").exists()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"parameters": "many"}, "results.json, parameters: 'many'; it must be an integer"),
        ({"parameters": True}, "results.json, parameters: True; it must be an integer"),
        ({"seconds": "60"}, "results.json, seconds: '60'; it must be an integer or a number or null"),
        ({"test": {"loss": 1.0}}, "results.json, test: has no 'error'; it must have loss, error"),
        ({"validation": [3]}, "results.json, validation: 3; it must be a table of keys"),
        ({"data": RESULTS["data"] | {"task": "sorting"}}, "results.json, data, task: 'sorting'; it must be one of"),
        ({"confusion": [[1, 2], [3]]}, "results.json, confusion: "),
        ({"confusion": [[1, 0.5], [3, 4]]}, "results.json, confusion: "),
        ({"classes": ["a", "b", "c"]}, "results.json, classes: 3 names; beside confusion they must be 2, or none"),
    ],
)
def test_malformed_results(folder, entries, message):
    change(folder, **entries)
    with pytest.raises(ValueError) as caught:
        write_card(folder)
    assert str(caught.value).startswith(message)
    assert not (folder / "card.md").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("results.json", "{", "results.json: is no JSON"),
        ("results.json", "[]", "results.json: []; it must be a table of keys"),
        ("recipe.yaml", "a: [", "recipe.yaml: is no YAML"),
        ("recipe.yaml", "steps: 3", "recipe.yaml: has no 'model'; it must have model"),
        ("recipe.yaml", "model: {mixer: STU}", "recipe.yaml, model: has no 'd_model'; it must have"),
        ("metrics.csv", "", "metrics.csv: columns none; they must be 'step' and"),
        ("metrics.csv", "step,rate\n1,2\n", "metrics.csv: columns step, rate; they must be 'step' and"),
        ("metrics.csv", "step,loss\n1,2\n2,much\n", "metrics.csv, line 3: '2', 'much'; step and loss must be numbers"),
        ("metrics.csv", "step,loss\nfirst,2\n", "metrics.csv, line 2: 'first', '2'; step and loss must be numbers"),
    ],
)
def test_malformed_files(folder, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(ValueError) as caught:
        write_card(folder)
    assert str(caught.value).startswith(message)


def test_a_card_is_replaced_whole(folder):
    first = write_card(folder).read_text()
    change(folder, steps=50)
    assert write_card(folder).read_text() != first
    (folder / "results.json").write_text("{")
    kept = (folder / "card.md").read_text()
    with pytest.raises(ValueError):
        write_card(folder)
    assert (folder / "card.md").read_text() == kept
    names = {path.name for path in folder.iterdir()}
    assert names == {"recipe.yaml", "results.json", "metrics.csv", "model", "card.md", "curve.svg"}


def test_a_model_of_a_recording_is_used_as_its_card_says(tmp_path):
    """Train on a recording, run the snippet of the card on the test part, and find the error of results.json again."""
    steps = np.arange(300)
    u, noise = np.sin(steps / 7), np.random.default_rng(0).normal(size=300)
    y = 50 + 3 * np.convolve(u, [0.5, 0.3], "full")[:300] + 0.1 * noise
    rows_of_file = "\n".join(["valve,flow", *(f"{a},{b}" for a, b in zip(u, y, strict=True))])
    (tmp_path / "plant.csv").write_text(rows_of_file)
    options = {"file": str(tmp_path / "plant.csv"), "inputs": ["valve"], "outputs": ["flow"], "horizon": 2, "window": 100}
    small = {"d_model": 4, "num_layers": 1, "length": 100, "mixer": "STU", "mixer_options": {"num_filters": 4}}
    recipe = toy_runs.recipe(model=small, steps=4, validate_every=2, batch_size=2)
    result = train(replace(recipe, data=DataConfig("series", options)), tmp_path / "run", progress=False)
    head, body = parts(tmp_path / "run" / "card.md")
    assert head["data_license"] == "unknown"
    assert "Parts: by time, rows 1..210, 211..255, 256..300." in body
    assert "of targets in standard deviations of each output in the training part" in body
    baselines = rows(body)
    assert baselines["test, by the mean of the training part"][-1] == "1"
    assert float(baselines["test, by the last value seen"][-1]) < 1
    code = body.split("```python\n")[1].split("```")[0].replace('"model"', repr(str(tmp_path / "run" / "model")))
    names = {"rows": np.column_stack([u, y])[205:]}  # 50 rows before the test part, as a window of 100 has them
    exec(code, names)
    assert names["values"].shape == (1, 95, 2, 1)
    last = names["values"][0, 50:, :, 0]
    mean, std = y[:210].mean(), y[:210].std()
    targets = np.array([[y[256 + t], y[257 + t] if t < 43 else np.nan] for t in range(44)])
    missed, base = np.nansum((last[:44] - targets) ** 2), np.nansum((targets - mean) ** 2)
    assert abs(missed / base / result.test_error - 1) < 1e-4
    assert abs(float(np.ravel(names["about"]["output_scaler"]["std"])[0]) / std - 1) < 1e-9
