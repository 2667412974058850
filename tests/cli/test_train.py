"""torchstu train and torchstu sweep, from the outside."""

import os
import subprocess
import sys

import pytest

from torchstu.cli.main import main
from torchstu.cli.train import join_overrides
from torchstu.training.loaders import load_data
from torchstu.training.recipe_file import read_recipe

SIZES = {"data.options.train": 32, "data.options.validation": 8, "data.options.test": 8, "data.options.max_length": 20,
         "model.d_model": 8, "model.num_layers": 1, "training.steps": 4, "training.batch_size": 4,
         "training.validate_every": 2, "training.accelerator": "cpu"}  # fmt: skip
TINY = [word for key, value in SIZES.items() for word in (f"--{key}", str(value))]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_overrides_become_one_word():
    words = ["train", "a.yaml", "--model.d_model", "64", "--a.learning_rate=1e-3", "--seed", "1", "--set", "x=2", "--a.b"]
    joined = [
        "train",
        "a.yaml",
        "--set=model.d_model=64",
        "--set=a.learning_rate=1e-3",
        "--seed",
        "1",
        "--set",
        "x=2",
        "--set=a.b",
    ]
    assert join_overrides(words) == joined
    assert join_overrides(["sweep", "--a.b", "-1", "--c", "1.5"]) == ["sweep", "--set=a.b=-1", "--c", "1.5"]
    assert join_overrides(["train", "--a.b", "--resume"]) == ["train", "--set=a.b", "--resume"], "an option is no value"


def test_other_commands_have_their_words_as_they_are():
    words = ["predict", "model", "--a.b", "1"]
    assert join_overrides(words) == words
    assert join_overrides([]) == []


def test_train_and_resume(tmp_path, capsys):
    command = ["train", "listops-small", "mixers/lru-small", "--output", "out", "--seed", "5", "--pooling", "last", *TINY]
    assert main([*command, "--dry-run"]) == 0
    told = capsys.readouterr()
    assert [line.split()[0] for line in told.out.splitlines()] == ["parameters", "memory", "time"]
    assert not (tmp_path / "out").exists()
    assert main(command) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["parameters", "memory", "time"]
    assert lines[-2].startswith("test error  0.")
    assert lines[-1] == os.path.join("out", "card.md")
    assert (tmp_path / lines[-1]).exists()
    recipe = read_recipe("out/recipe.yaml")
    assert (recipe.seed, recipe.model.mixer, recipe.model.d_model, recipe.training.steps) == (5, "LRU", 8, 4)
    assert recipe.pooling == "last"
    assert main(command) == 2
    assert "out: has a run already; go on with it by --resume" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert capsys.readouterr().out.splitlines() == ["finished already", *lines[-2:]]
    assert main([*command, "--resume", "--model.dropout", "0.1"]) == 2
    assert capsys.readouterr().err.startswith("torchstu: error: model.dropout: 0.1; the run in out has 0.0")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train"], "recipe: none; it must be one YAML file or more"),
        (["train", "nothing"], "recipe: 'nothing'; it must be a YAML file or one of "),
        (["train", "listops-small", "--model.d_modle", "3"], "model.d_modle: unknown; it must be one of d_model, "),
        (
            ["train", "listops-small", "--model.d_model"],
            "model.d_model: no value; it must be given one, as --model.d_model VALUE",
        ),
        (["train", "listops-small", "--model.d_model", "x"], "model.d_model: 'x'; it must be an integer"),
        (["train", "listops-small", "--model.d_model", "3", "--model.d_model", "4"], "model.d_model: is given twice"),
        (["train", "listops-small", "--model.norm", "[1"], "model.norm, line 1: "),
        (["train", "listops-small", "--training.steps", "0"], "training.steps: 0; it must be at least 1"),
        (["train", "listops-small", "--data.options.min_length", "99999"], "min_length: 99999"),
        (["train", "text-small"], "data.options.folder: missing; it must be a text"),
        (["train", "text-small", "--data.options.folder", "/none"], "data.options.folder: /none/train/neg: no *.txt in it"),
        (["train", "listops-small", "--output", ""], "--output: '' is no name"),
        (["train", "listops-small", "--seed", "x"], "seed: 'x'; it must be an integer"),
        (["train", "listops-small", "--seed", "9" * 23], f"seed: {'9' * 23}; it must be in 0..{2**63 - 1}"),
        (["train", "listops-small", "--seed", "3", "--set", "seed=4"], "seed: is given twice"),
        (["train", "listops-small", "--pooling", "max"], "pooling: 'max'; it must be one of 'mean', 'last', 'attention'"),
        (["train", "listops-small", "--model.bidirectional", "--resume"], "model.bidirectional: no value; it must be given"),
        (
            ["train", "weather-small", "--data.options.outputs", "[nope]"],
            "data.options.outputs: column 'nope': not read; there",
        ),
        (["train", "weather-small", "--data.options.file", "nope.csv"], "data.options.file: nope.csv: no such file"),
        (["sweep", "listops-small"], "--search: missing; it must be a YAML file"),
        (["sweep", "listops-small", "--search", "none.yaml"], "none.yaml: No such file"),
    ],
)
def test_errors_are_one_line(tmp_path, capsys, words, says):
    assert main(words) == 2
    told = capsys.readouterr().err
    assert told.startswith("torchstu: error: ")
    assert says in told
    assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("count", "loads"), [(32, 1), (10_001, 2)])
def test_data_are_loaded_once_if_the_cost_takes_all(monkeypatch, count, loads):
    seen = []

    def loading(recipe):
        seen.append(recipe.data.options["train"])
        return load_data(recipe)

    monkeypatch.setattr("torchstu.training.loaders.load_data", loading)
    monkeypatch.setattr("torchstu.training.run.load_data", loading)
    words = ["train", "listops-small", "mixers/lru-small", "--output", "out", *TINY]
    words[words.index("--data.options.train") + 1] = str(count)
    assert main(words) == 0
    assert seen == ([count] if loads == 1 else [4, count])


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_list(capsys, command):
    assert main([command, "--list"]) == 0
    told = capsys.readouterr().out
    assert "pathx-small" in told
    assert "mixers/tensordot-stu" in told


def test_sweep(tmp_path, capsys):
    (tmp_path / "search.yaml").write_text(
        "model.mixer: [LRU, S4D]\noptimizer.learning_rate: {low: 1e-3, high: 1e-1, log: true}"
    )
    command = ["sweep", "listops-small", "mixers/lru-small", "--search", "search.yaml", "--output", "out", "--seed", "7", *TINY]
    assert main([*command, "--trials", "2"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("trial 0: validation error ")
    assert told[-1] == os.path.join("out", "best.yaml")
    assert told[3].split() == ["trial", "state", "validation", "error", "model.mixer", "optimizer.learning_rate"]
    best = read_recipe("out/best.yaml")
    assert best.model.mixer == told[5].split()[3]
    assert best.seed == 7
    tried = {}
    for words in (["--seed", "8"], ["--sampler-seed", "1"]):
        assert main([*command[:5], "--output", f"out{words[0]}", *TINY, "--trials", "1", *words]) == 0
        tried[words[0]] = capsys.readouterr().out.splitlines()[4].split()[3:]
    first = next(line for line in told if line.startswith("trial-0000")).split()[3:]
    assert tried["--seed"] == first
    assert tried["--sampler-seed"] != first


@pytest.mark.long
def test_only_the_first_process_prints(tmp_path):
    """Under torchrun, two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "torchstu.cli.main", "train",
               "listops-small", "mixers/lru-small", "--output", "out", "--training.devices", "2", *TINY]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("parameters") == 1
    assert done.stdout.count("test error") == 1
    assert (tmp_path / "out" / "card.md").exists()
