"""A run that is stopped at any moment goes on to the same weights, to the last bit."""

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from toy_runs import plain_card, recipe

from torchstu.training.checkpoints import RunFolder, read_checkpoint, write_checkpoint
from torchstu.training.run import train

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _plain_card(monkeypatch):
    monkeypatch.setattr("torchstu.training.card.write_card", plain_card)


def killed_runs(folder, kills, seed, timeout):
    script = [sys.executable, str(HERE / "killed_runs.py"), str(folder), str(kills), str(seed)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "report.json").read_text())
    assert report["stopped early"]["ended"].startswith("stopped early"), report
    for name, found in report.items():
        assert len(found["resumed_at"]) == kills, f"{name}: {found}"
        assert not found["differences"], f"{name}: {found}"


def test_killed_and_resumed(tmp_path):
    killed_runs(tmp_path, kills=1, seed=2, timeout=120)


@pytest.mark.long
def test_killed_ten_times_and_resumed(tmp_path):
    killed_runs(tmp_path, kills=10, seed=1, timeout=290)


def stop_at(step):
    def watch(row):
        if row["step"] == step:
            raise InterruptedError
        return False

    return watch


def test_resumed_in_the_same_process(tmp_path):
    """The tensors, the metrics and the TensorBoard entries of a run interrupted twice are those of one left alone."""
    chosen = recipe("step regression", model={"dropout": 0.2}, checkpoint_every=3)
    train(chosen, tmp_path / "whole")
    for step in (4, 8):
        with pytest.raises(InterruptedError):
            train(chosen, tmp_path / "cut", resume=True, watch=stop_at(step))
    assert read_checkpoint(tmp_path / "cut/checkpoints/last.ckpt")["global_step"] == 6
    train(chosen, tmp_path / "cut", resume=True)
    assert (tmp_path / "cut/metrics.csv").read_bytes() == (tmp_path / "whole/metrics.csv").read_bytes()
    one, other = (read_checkpoint(tmp_path / name / "checkpoints/last.ckpt") for name in ("whole", "cut"))
    assert all(torch.equal(one["state_dict"][name], other["state_dict"][name]) for name in one["state_dict"])
    assert entries(tmp_path / "cut") == entries(tmp_path / "whole")


def test_two_parts_of_a_run_begin_in_two_seconds(tmp_path):
    """TensorBoard sorts the files of one second by the name of the machine, the process and a counter: "10" before "9"."""
    chosen, log = recipe(checkpoint_every=2), tmp_path / "run" / "tensorboard"
    with pytest.raises(InterruptedError):
        train(chosen, log.parent, watch=stop_at(4))
    before = [int(time.time()) + later for later in range(3)]
    for second in before:
        (log / f"events.out.tfevents.{second}.a.1.9").touch()
    names = set(log.iterdir())
    train(chosen, log.parent, resume=True)
    (new,) = set(log.iterdir()) - names
    assert int(new.name.split(".")[3]) > max(before)


def entries(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(folder / "tensorboard"))
    log.Reload()
    return {name: [(event.step, event.value) for event in log.Scalars(name)] for name in log.Tags()["scalars"]}


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    """No room for a checkpoint of 30 kB, from step 8 on; with room again the run goes on to what it would have been."""
    chosen, limits = recipe(model={"dropout": 0.2}), resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(row):
        if row["step"] == 8:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
        return False

    last = RunFolder(tmp_path / "full").last
    try:
        with pytest.raises(
            OSError, match=r"last.ckpt: the checkpoint could not be written \(File too large\); the one "
        ) as stop:
            train(chosen, tmp_path / "full", watch=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(stop.value)
    assert last.stat().st_size > 8192
    assert read_checkpoint(last)["global_step"] == 4
    assert not list(last.parent.glob(".*")), "a draft was left"
    train(chosen, tmp_path / "full", resume=True)
    train(chosen, tmp_path / "whole")
    weights = [(tmp_path / name / "model/model.safetensors").read_bytes() for name in ("full", "whole")]
    assert weights[0] == weights[1]


def test_another_recipe_is_refused_by_its_key(tmp_path):
    (tmp_path / "run").mkdir()
    folder = RunFolder(tmp_path / "run")
    folder.prepare(recipe())
    for change, key in (
        ({"batch_size": 16}, "training.batch_size: 16"),
        ({"model": {"d_model": 8}}, "model.d_model: 8"),
        ({"model": {"mixer_options": {"num_filters": 5}}}, "model.mixer_options.num_filters: 5"),
        ({"data": {"size": 32}}, "data.options.size: 32"),
        ({"seed": 4}, "seed: 4"),
        ({"pooling": "last"}, "pooling: 'last'"),
    ):
        with pytest.raises(ValueError, match=rf"^{key}; the run in "):
            folder.check(recipe(**change), resume=True)
    folder.check(recipe(devices=2, strategy="fsdp2", accumulate=2, workers=1, accelerator="auto"), resume=True)


@pytest.mark.parametrize(
    ("model", "changes", "kept"),
    [
        (
            {"dropout": 0.1},
            {"workers": 1},
            {"accumulate": 2, "devices": 2, "nodes": 2, "strategy": "ddp", "accelerator": "auto"},
        ),
        ({"norm": "batch"}, {"workers": 1, "devices": 2, "strategy": "ddp"}, {"accumulate": 2}),
    ],
    ids=["dropout", "batch norm"],
)
def test_what_depends_on_the_division_of_a_batch_keeps_it(model, changes, kept, tmp_path):
    folder = RunFolder(tmp_path)
    folder.prepare(recipe(model=model))
    folder.check(recipe(model=model, **changes), resume=True)
    for key, value in kept.items():
        with pytest.raises(ValueError, match=rf"^training.{key}: {value!r}; the run in .*depends on how a batch is divided"):
            folder.check(recipe(model=model, **{key: value}), resume=True)
    with pytest.raises(ValueError, match=r"^training.steps: 99; "):
        folder.check(recipe(model=model, accumulate=2, steps=99), resume=True)


def test_files_of_another_run_are_refused(tmp_path):
    for seed in (3, 4):
        train(recipe(steps=2, seed=seed), tmp_path / str(seed))
    for name in ("results.json", "checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        shutil.copytree(tmp_path / "3", tmp_path / "mixed")
        (tmp_path / "mixed/results.json").unlink()
        shutil.copy(tmp_path / "4" / name, tmp_path / "mixed" / name)
        with pytest.raises(ValueError, match=r"^seed: 3; the run in .*mixed.* has 4 and keeps its recipe"):
            train(recipe(steps=2), tmp_path / "mixed", resume=True)
        shutil.rmtree(tmp_path / "mixed")
    for text, said in (("{}", "does not say of which recipe"), ("[", "is no JSON"), ('{"recipe": "a: 1"}', "holds no recipe")):
        (tmp_path / "3/results.json").write_text(text)
        with pytest.raises(ValueError, match=rf"results.json: {said}"):
            train(recipe(steps=2), tmp_path / "3", resume=True)


def test_the_best_weights_are_missed(tmp_path):
    train(recipe(steps=2), tmp_path / "run")
    for name in ("results.json", "checkpoints/best.ckpt"):
        (tmp_path / "run" / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"best.ckpt: is missing"):
        train(recipe(steps=2), tmp_path / "run", resume=True)
    assert not (tmp_path / "run/results.json").exists()


def test_peak_memory_is_the_largest_of_all_parts_of_a_run(tmp_path):
    with pytest.raises(InterruptedError):
        train(recipe(), tmp_path / "run", watch=stop_at(8))
    last = tmp_path / "run/checkpoints/last.ckpt"
    checkpoint = read_checkpoint(last)
    assert checkpoint["history"]["peak_memory"] > 0
    checkpoint["history"]["peak_memory"] = 2**50
    write_checkpoint(last, checkpoint)
    assert train(recipe(), tmp_path / "run", resume=True).results["peak_memory_bytes"] == 2**50


def test_drafts_of_a_killed_process_are_cleared_away(tmp_path):
    folder = RunFolder(tmp_path)
    folder.prepare(recipe())
    files = [folder.recipe, folder.metrics, folder.results, folder.card, folder.last, folder.best]
    drafts = [Path(tempfile.mkstemp(path.suffix, f".{path.name}.", path.parent)[1]) for path in files]
    folder.check(recipe(), resume=True)
    folder.prepare(recipe())
    assert not any(draft.exists() for draft in drafts)


def test_a_checkpoint_is_read_without_executing_it(tmp_path):
    torch.save({"path": Path("/")}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last.ckpt: is no readable checkpoint \("):
        read_checkpoint(tmp_path / "last.ckpt")
    write_checkpoint(tmp_path / "last.ckpt", {"x": torch.ones(2), "n": [1, "a", (2.0, None)]})
    assert read_checkpoint(tmp_path / "last.ckpt")["n"] == [1, "a", (2.0, None)]
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "none.ckpt")


def test_a_damaged_checkpoint_is_named(tmp_path):
    chosen = recipe(steps=4)
    train(chosen, tmp_path / "run")
    (tmp_path / "run/results.json").unlink()
    last = tmp_path / "run/checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"last.ckpt: is no readable checkpoint"):
        train(chosen, tmp_path / "run", resume=True)


def test_what_is_missing_at_the_end_is_made_again(tmp_path):
    chosen = recipe(steps=4)
    first = train(chosen, tmp_path / "run").results
    for name in ("results.json", "card.md"):
        (tmp_path / "run" / name).unlink()
    shutil.rmtree(tmp_path / "run/model")
    again = train(chosen, tmp_path / "run", resume=True).results
    assert all(again[key] == first[key] for key in ("test", "validation", "confusion", "steps", "best_step"))
    assert {"results.json", "card.md", "model"} <= {path.name for path in (tmp_path / "run").iterdir()}
