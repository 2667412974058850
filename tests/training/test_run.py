"""Training from a recipe: what it leaves behind, what it refuses, and that a batch is the same however it is cut."""

import csv
import json
import math
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_runs import plain_card, recipe, toy

from torchstu import load_model
from torchstu.data.sequences import collate
from torchstu.training.build import build_model, predict
from torchstu.training.history import History
from torchstu.training.loaders import StepBatches, collate_parts, evaluation_batches
from torchstu.training.losses import Tally
from torchstu.training.module import WATCHER_ENDED, learning_rate_factor, make_optimizer
from torchstu.training.recipe import DataConfig, OptimizerConfig
from torchstu.training.recipe_file import read_recipe
from torchstu.training.results import forget_peak_memory, peak_memory
from torchstu.training.run import train

CUT_ROUNDING = 1e-5  # relative, of losses after 12 steps in float32; measured 1e-7


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def losses(folder):
    return [value for row in rows(folder) for value in (row["train_loss"], row["validation_loss"])]


@pytest.fixture(autouse=True)
def _plain_card(monkeypatch):
    monkeypatch.setattr("torchstu.training.card.write_card", plain_card)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    torch.manual_seed(11)
    before, handler = torch.get_rng_state(), signal.getsignal(signal.SIGINT)
    result = train(recipe(validate_every=5), folder)
    assert torch.equal(torch.get_rng_state(), before), "the caller's generator was used"
    assert signal.getsignal(signal.SIGINT) is handler
    return folder, result


def test_what_a_run_leaves(finished):
    folder, result = finished
    found = {path.name for path in folder.iterdir()}
    assert found >= {"recipe.yaml", "checkpoints", "metrics.csv", "tensorboard", "model", "results.json", "card.md"}
    assert read_recipe(folder / "recipe.yaml") == recipe(validate_every=5)
    assert [row["step"] for row in rows(folder)] == [5, 10, 12], "every fifth, and the last"
    assert json.loads((folder / "results.json").read_text()) == result.results
    best = min(rows(folder), key=lambda row: (row["validation_error"], row["validation_loss"]))
    assert result.results["best_step"] == best["step"]
    assert result.validation_error == best["validation_error"]
    assert result.results["steps"] == 12
    assert not result.ended
    assert list((folder / "tensorboard").glob("events*"))


def test_the_model_saved_is_the_one_tested(finished):
    folder, result = finished
    model, _ = load_model(folder / "model")
    data, tally = toy(), Tally("classification", 2)
    batch = collate([data.test[i] for i in range(len(data.test))])
    with torch.no_grad():
        tally.add(predict(model.eval(), "classification", batch), batch.targets)
    assert tally.loss == pytest.approx(result.results["test"]["loss"], rel=1e-6)
    assert tally.error == result.test_error
    assert tally.confusion.tolist() == result.results["confusion"]
    best = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, best[f"predictor.model.{name}"]) for name, value in model.state_dict().items())


def test_a_run_is_not_overwritten(finished):
    folder, result = finished
    before = (folder / "results.json").stat().st_mtime_ns
    with pytest.raises(FileExistsError, match="--resume"):
        train(recipe(validate_every=5), folder)
    with pytest.raises(ValueError, match=r"^optimizer.learning_rate: 0.5; the run in .* has 0.01"):
        train(recipe(validate_every=5, optimizer={"learning_rate": 0.5}), folder, resume=True)
    text = (folder / "recipe.yaml").read_bytes()
    again = train(recipe(validate_every=5, workers=1), folder, resume=True)
    assert again.results == result.results
    assert (again.finished_before, result.finished_before) == (True, False)
    assert (folder / "results.json").stat().st_mtime_ns == before
    assert (folder / "recipe.yaml").read_bytes() == text, "the recipe is that of the run"


def test_the_first_loss_is_that_of_the_whole_batch(tmp_path):
    """Unequal lengths, ignored targets, parts: one mean over all targets of the batch."""
    chosen = recipe("step regression", steps=1, accumulate=4, optimizer={"warmup": 0.0})
    train(chosen, tmp_path / "run")
    data = toy(task="step regression")
    (indices,) = StepBatches(64, 8, seed=3, start=0, stop=1)
    torch.manual_seed(3)
    model = build_model(chosen.model, data)
    batch = collate([data.train[i] for i in indices])
    counts = ~batch.targets.isnan()
    expected = (predict(model, "step regression", batch) - batch.targets)[counts].square().mean()
    assert rows(tmp_path / "run")[0]["train_loss"] == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("task", ["step classification", "pair classification"])
def test_parts_of_a_batch_change_nothing(task, tmp_path):
    for parts in (1, 4):
        train(recipe(task, accumulate=parts), tmp_path / str(parts))
    np.testing.assert_allclose(losses(tmp_path / "4"), losses(tmp_path / "1"), rtol=CUT_ROUNDING)


def test_loading_processes_change_nothing(tmp_path):
    for workers in (0, 2):
        train(recipe("step regression", steps=4, workers=workers), tmp_path / str(workers))
    assert (tmp_path / "0/metrics.csv").read_bytes() == (tmp_path / "2/metrics.csv").read_bytes()


def test_training_learns(tmp_path):
    result = train(recipe(steps=60, batch_size=32, optimizer={"learning_rate": 0.03}, data={"size": 256}), tmp_path / "run")
    assert result.results["test"]["error"] < 0.2
    curve = [row["train_loss"] for row in rows(tmp_path / "run")]
    assert curve[-1] < 0.5 * curve[0]


@pytest.mark.parametrize(("precision", "tolerance"), [("64-true", 1e-4), ("bf16-mixed", 0.1), ("16-mixed", 0.02)])
def test_precision(precision, tolerance, tmp_path):
    train(recipe("forecast"), tmp_path / "single")
    train(recipe("forecast", precision=precision), tmp_path / "other")
    np.testing.assert_allclose(losses(tmp_path / "other"), losses(tmp_path / "single"), rtol=tolerance)
    model, _ = load_model(tmp_path / "other/model")
    assert next(model.parameters()).dtype == (torch.float64 if precision == "64-true" else torch.float32)
    assert losses(tmp_path / "other") != losses(tmp_path / "single")


def test_divergence_ends_the_run_with_the_weights_before(tmp_path):
    result = train(
        recipe("step regression", optimizer={"learning_rate": 1e30, "clip": None}, validate_every=1), tmp_path / "run"
    )
    assert result.results["diverged"]
    assert result.ended.startswith("diverged: the ")
    assert result.results["steps"] < 12
    assert result.results["test"]["error"] is None or math.isfinite(result.test_error)
    model, _ = load_model(tmp_path / "run/model")
    assert all(weight.isfinite().all() for weight in model.parameters())
    assert train(read_recipe(tmp_path / "run/recipe.yaml"), tmp_path / "run", resume=True).ended == result.ended


def test_a_watcher_sees_each_validation_and_can_end_the_run(tmp_path):
    seen = []

    def watch(row):
        seen.append(row)
        return row["step"] == 8

    result = train(recipe(), tmp_path / "run", watch=watch)
    assert [row["step"] for row in seen] == [4, 8]
    assert [row["validation_loss"] for row in seen] == [row["validation_loss"] for row in rows(tmp_path / "run")]
    assert result.ended == WATCHER_ENDED
    assert result.results["stopped_early"]


def test_ctrl_c_is_an_interrupt(tmp_path):
    def interrupt(row):
        os.kill(os.getpid(), signal.SIGINT)
        return False

    with pytest.raises(KeyboardInterrupt):
        train(recipe(), tmp_path / "run", watch=interrupt)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_learning_rate():
    config = OptimizerConfig(learning_rate=0.5, warmup=0.2, final_learning_rate=0.1)
    rates = [0.5 * learning_rate_factor(config, 21, step) for step in range(21)]
    assert rates[:5] == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5])
    assert rates[12] == pytest.approx(0.3)
    assert rates[20] == pytest.approx(0.1), "at the last step"
    assert learning_rate_factor(replace(config, warmup=0.9), 2, 1) == 1.0, "all but one step are warm-up"


def test_groups_of_weights():
    data = toy()
    config = replace(OptimizerConfig(), learning_rate=1e-2, slow_rate=3e-4, weight_decay=0.1)
    model = build_model(recipe(model={"mixer": "AR-STU"}).model, data)
    rates = {}
    for group in make_optimizer(model, config).param_groups:
        rates |= dict.fromkeys(group["params"], (group["lr"], group["weight_decay"]))
    named = {name: rates[weight] for name, weight in model.named_parameters()}
    assert len(named) == len(rates) == len(list(model.parameters()))
    for name, found in named.items():
        if name.endswith("M_y"):
            assert found == (3e-4, 0.0), name
        else:
            assert found == (1e-2, 0.0 if "norm" in name or name.endswith("bias") else 0.1), name


def test_every_epoch_is_a_permutation_and_shares_are_pieces_of_it():
    whole = list(StepBatches(10, 4, seed=7, start=0, stop=10))
    in_a_row = [i for batch in whole for i in batch]
    epochs = [in_a_row[first : first + 10] for first in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4
    assert list(StepBatches(10, 4, seed=7, start=6, stop=10)) == whole[6:]
    assert list(StepBatches(10, 4, seed=8, start=0, stop=10)) != whole
    shares = [list(StepBatches(10, 4, seed=7, start=0, stop=10, share=i, shares=2)) for i in range(2)]
    assert [a + b for a, b in zip(*shares, strict=True)] == whole
    assert [len(i) for i in StepBatches(3, 8, seed=0, start=0, stop=2)] == [8, 8], "a batch larger than the data"


def test_parts_and_shares_cover_the_batch():
    data = toy(task="step regression")
    examples = [data.train[i] for i in range(8)]
    assert [len(part.targets) for part in collate_parts(4, examples)] == [2, 2, 2, 2]
    counted = [
        [len(batch.targets) for batch, counts in evaluation_batches(data.test, 3, share, 2) if counts] for share in range(2)
    ]
    assert sum(map(sum, counted)) == 20
    turns = [len(list(evaluation_batches(data.test, 3, share, 2))) for share in range(2)]
    assert turns[0] == turns[1], "processes work in step"


def test_best_of_a_history():
    history = History()
    assert history.best is None
    for step, (loss, error) in enumerate([(math.inf, math.inf), (1.0, 0.3), (0.9, 0.3), (0.1, 0.4)]):
        history.add_validation(step, 2, loss, error, 0.1)
    assert history.best == 2
    assert history.without_improvement == 1


def test_classification_is_pooled_by_the_mean_by_default():
    assert build_model(recipe().model, toy()).pooling_name == "mean"
    assert build_model(recipe().model, toy(task="forecast")).pooling_name == "last"


def test_data_of_ones_own(tmp_path):
    """In place of the package's, under any name; the same data give the same run."""
    chosen = replace(recipe(steps=4), data=DataConfig("mine", {"version": 2}))
    result = train(chosen, tmp_path / "own", data=toy(size=64))
    train(recipe(steps=4), tmp_path / "toy")
    assert losses(tmp_path / "own") == losses(tmp_path / "toy")
    assert "name: mine" in (tmp_path / "own/recipe.yaml").read_text()
    (tmp_path / "own/results.json").unlink()
    again = train(chosen, tmp_path / "own", data=toy(size=64), resume=True)
    assert again.results["test"] == result.results["test"]
    with pytest.raises(ValueError, match=r"^data.name: 'mine'; it must be one of "):
        train(chosen, tmp_path / "named")
    with pytest.raises(ValueError, match=r"^data.options: .* leave the test part of mine empty"):
        train(chosen, tmp_path / "empty", data=replace(toy(), test=[]))
    assert not (tmp_path / "empty").exists()


def test_without_a_terminal_validations_are_lines(tmp_path, capsys):
    result = train(recipe(), tmp_path / "run")
    told = capsys.readouterr()
    row = rows(tmp_path / "run")[1]
    assert told.err.splitlines()[1] == (
        f"step 8 of 12: loss {row['train_loss']:.4g} in training, {row['validation_loss']:.4g} in validation, "
        f"error {row['validation_error']:.4g}"
    )
    assert (len(told.err.splitlines()), told.out) == (len(result.results["validation"]), "")
    train(recipe(), tmp_path / "silent", progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the system does not forget a peak")
def test_peak_memory_is_that_of_the_training(tmp_path):
    block = 2**28
    forget_peak_memory("cpu")
    held = peak_memory("cpu")
    bytearray(block)  # set to 0, then freed
    assert peak_memory("cpu") > held + 0.9 * block
    found = train(recipe(steps=2), tmp_path / "run").results["peak_memory_bytes"]
    assert 0.5 * held < found < held + 0.5 * block
