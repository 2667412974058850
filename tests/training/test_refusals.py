"""What is refused before anything is trained or written, by the path of its key."""

import math
from dataclasses import replace

import pytest
import torch
from toy_runs import recipe

from torchstu.training.checks import check_recipe
from torchstu.training.recipe import DataConfig
from torchstu.training.run import train


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["results.json", "metrics.csv", "checkpoints/epoch=1.ckpt", "card.md", "model", "tensorboard"])
def test_files_of_another_origin_are_not_written_over(name, resume, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileExistsError, match=rf"{name}: is there, and no recipe.yaml of a run; give another folder"):
        train(recipe(), tmp_path, resume=resume)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": {"batch_size": 0}}, r"^training.batch_size: 0; it must be at least 1"),
        ({"training": {"accumulate": 3}}, r"^training.batch_size: 8; it must be a multiple of 3"),
        ({"training": {"devices": 3, "strategy": "ddp"}}, r"^training.batch_size: 8; it must be a multiple of 3, the 3 proc"),
        ({"training": {"steps": 0}}, r"^training.steps: 0; "),
        ({"training": {"workers": -1}}, r"^training.workers: -1; "),
        ({"training": {"strategy": "dp"}}, r"^training.strategy: 'dp'; .*fsdp2"),
        ({"training": {"precision": "8-true"}}, r"^training.precision: "),
        ({"training": {"patience": 0}}, r"^training.patience: 0; "),
        ({"optimizer": {"learning_rate": 0.0}}, r"^optimizer.learning_rate: 0.0; "),
        ({"optimizer": {"learning_rate": math.nan}}, r"^optimizer.learning_rate: nan; "),
        ({"optimizer": {"clip": -1.0}}, r"^optimizer.clip: -1.0; "),
        ({"optimizer": {"warmup": 1.0}}, r"^optimizer.warmup: 1.0; it must be a share of the steps, at least 0 and below 1"),
        ({"optimizer": {"final_learning_rate": 1.0}}, r"^optimizer.final_learning_rate: 1.0; "),
        ({"optimizer": {"slow_rate": 1e-4}}, r"^optimizer.slow_rate: 0.0001; it must be null: model.mixer STU has no weight"),
        ({"seed": -1}, r"^seed: -1; "),
        ({"seed": 2**63}, rf"^seed: {2**63}; it must be in 0..{2**63 - 1}"),
    ],
    ids=str,
)
def test_bad_recipes_fail_first(change, message, tmp_path):
    bad = recipe()
    for part, keys in change.items():
        bad = replace(bad, **{part: replace(getattr(bad, part), **keys) if isinstance(keys, dict) else keys})
    with pytest.raises(ValueError, match=message):
        train(bad, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_where_it_runs_is_checked(monkeypatch):
    if torch.cuda.device_count() < 99:
        with pytest.raises(ValueError, match=r"^training.accelerator: 'gpu' with training.devices 99; this machine has "):
            check_recipe(recipe(accelerator="gpu", devices=99, batch_size=99))
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"^training.devices: 1; torchrun started 2"):
        check_recipe(recipe())
    with pytest.raises(ValueError, match=r"^training.nodes: 1; torchrun started 2"):
        check_recipe(recipe(devices=2))
    check_recipe(recipe(devices=2, nodes=2))


@pytest.mark.parametrize(
    ("task", "model", "message"),
    [
        ("classification", {}, "data of task 'classification'"),
        ("step regression", {"bidirectional": True}, "model.bidirectional"),
        ("step regression", {"norm": "batch"}, "model.norm 'batch'"),
        ("step regression", {"mixer": "Attention", "mixer_options": {"num_heads": 1}}, "model.mixer 'Attention'; .* AR-STU"),
    ],
)
def test_what_cannot_be_divided_along_the_sequence(task, model, message, tmp_path):
    with pytest.raises(ValueError, match=rf"^training.strategy: 'sequence' with {message}"):
        train(recipe(task, model=model, strategy="sequence", devices=2), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_slow_rate_that_acts_is_allowed():
    for mixer in ("AR-STU", "LRU", ("STU", "S4D")):
        check_recipe(recipe(model={"mixer": mixer, "mixer_options": {}, "length": 64}, optimizer={"slow_rate": 1e-4}))


@pytest.mark.parametrize("task", ["step classification", "step regression", "forecast"])
def test_steps_are_not_pooled(task, tmp_path):
    with pytest.raises(ValueError, match=rf"^pooling: 'mean'; it must be null: data of task '{task}' have a target a step"):
        train(recipe(task, pooling="mean"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_missing_data(tmp_path):
    with pytest.raises(ValueError, match=r"^data.options.sise: "):
        train(recipe(data={"sise": 3}), tmp_path / "run")
    with pytest.raises(ValueError, match=r"^data.options: .* leave the validation part of toy empty"):
        train(recipe(data={"held_out": 0}), tmp_path / "run")
    folder = {"folder": str(tmp_path / "nowhere")}
    with pytest.raises(ValueError, match=r"^data.options.folder: .*nowhere"):
        train(replace(recipe(), data=DataConfig("lra_listops", folder)), tmp_path / "run")
    other = replace(recipe(), data=DataConfig("tox"))
    with pytest.raises(ValueError, match=r"^data.name: 'tox'; it must be one of "):
        train(other, tmp_path / "run")
