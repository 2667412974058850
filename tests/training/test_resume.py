"""A run that is stopped at any moment goes on to the same weights, to the last bit."""

import json
import resource
import shutil
import subprocess
import sys
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


def test_resumed_in_the_same_process(tmp_path):
    """The tensors, the metrics and the TensorBoard entries of a run interrupted twice are those of one left alone."""
    chosen = recipe("step regression", model={"dropout": 0.2}, checkpoint_every=3)
    train(chosen, tmp_path / "whole")

    def stop_at(step):
        def watch(row):
            if row["step"] == step:
                raise InterruptedError
            return False

        return watch

    for step in (4, 8):
        with pytest.raises(InterruptedError):
            train(chosen, tmp_path / "cut", resume=True, watch=stop_at(step))
    assert read_checkpoint(tmp_path / "cut/checkpoints/last.ckpt")["global_step"] == 6
    train(chosen, tmp_path / "cut", resume=True)
    assert (tmp_path / "cut/metrics.csv").read_bytes() == (tmp_path / "whole/metrics.csv").read_bytes()
    one, other = (read_checkpoint(tmp_path / name / "checkpoints/last.ckpt") for name in ("whole", "cut"))
    assert all(torch.equal(one["state_dict"][name], other["state_dict"][name]) for name in one["state_dict"])
    assert entries(tmp_path / "cut") == entries(tmp_path / "whole")


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
    folder.prepare(recipe(), resume=False)
    for change, key in (
        ({"batch_size": 16}, "training.batch_size: 16"),
        ({"model": {"d_model": 8}}, "model.d_model: 8"),
        ({"model": {"mixer_options": {"num_filters": 5}}}, "model.mixer_options.num_filters: 5"),
        ({"data": {"size": 32}}, "data.options.size: 32"),
        ({"seed": 4}, "seed: 4"),
        ({"pooling": "last"}, "pooling: 'last'"),
    ):
        with pytest.raises(ValueError, match=rf"^{key}; the run in "):
            folder.prepare(recipe(**change), resume=True)
    folder.prepare(recipe(devices=2, strategy="fsdp2", accumulate=2, workers=1), resume=True)


def test_drafts_of_a_killed_process_are_cleared_away(tmp_path):
    folder = RunFolder(tmp_path)
    folder.prepare(recipe(), resume=False)
    drafts = [folder.last.with_name(".last.ckpt.abc.ckpt"), folder.metrics.with_name(".metrics.csv.abc.csv")]
    for draft in drafts:
        draft.write_bytes(b"half")
    folder.prepare(recipe(), resume=True)
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
