"""Two processes come to the losses of one, on the same batches of all."""

import csv
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_runs import command, free_port, plain_card, recipe

from torchstu.training.checkpoints import read_checkpoint
from torchstu.training.run import train
from torchstu.training.strategies import is_first_process

ROUNDING = 1e-5  # relative, of losses after 12 steps in float32; measured 1e-7
TWO = {"devices": 2}
CASES = {
    "ddp": ("step classification", {}, {"strategy": "ddp", "accumulate": 2}),
    "ddp, batch norm": ("step regression", {"norm": "batch"}, {"strategy": "auto"}),
    "fsdp2": ("step classification", {"mixer": "TensordotSTU"}, {"strategy": "fsdp2"}),
    "fsdp2, parts": ("pair classification", {"bidirectional": True}, {"strategy": "fsdp2", "accumulate": 2}),
    "sequence": ("step classification", {"mixer": "AR-STU"}, {"strategy": "sequence", "accumulate": 2}),
}


def case(name, **changes):
    task, model, training = CASES[name]
    return recipe(task, model=model, **{**training, **TWO, **changes})


def alone(chosen):
    return replace(chosen, training=replace(chosen.training, devices=1, strategy="auto", accumulate=1))


def losses(folder):
    with (folder / "metrics.csv").open() as file:
        return [float(row[key]) for row in csv.DictReader(file) for key in ("train_loss", "validation_loss")]


@pytest.fixture(autouse=True)
def _plain_card(monkeypatch):
    monkeypatch.setattr("torchstu.training.card.write_card", plain_card)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """All cases in two processes, one after the other; then "fsdp2" from step 4 on, begun by itself and by one process."""
    folder = tmp_path_factory.mktemp("together")

    def end(row):
        if row["step"] == 8:
            raise InterruptedError
        return False

    with pytest.raises(InterruptedError):
        train(alone(case("fsdp2")), folder / "from one", watch=end)
    runs = [*[(folder / name, case(name)) for name in CASES],
            *[(folder / name, case("fsdp2")) for name in ("fsdp2 killed", "from one")]]  # fmt: skip
    run = [*command(*runs), "--two-ranks", "--resume", "--copy-at", "8"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_one(name, together, tmp_path):
    train(alone(case(name)), tmp_path / "alone")
    np.testing.assert_allclose(losses(together / name), losses(tmp_path / "alone"), rtol=ROUNDING)
    one, two = (read_checkpoint(path / "checkpoints/last.ckpt")["state_dict"] for path in (tmp_path / "alone", together / name))
    assert one.keys() == two.keys(), "checkpoints of all strategies are alike"
    assert all(torch.allclose(one[key], two[key], rtol=1e-3, atol=1e-4) for key in one)
    assert {"results.json", "card.md", "model"} <= {path.name for path in (together / name).iterdir()}


def test_fsdp2_resumes_to_the_last_bit_and_goes_on_elsewhere(together, tmp_path):
    """From step 4: by FSDP2 as before, what one process began by FSDP2, and what FSDP2 began in one process."""
    copy = together / "fsdp2 killed killed"  # made at step 8 of the resumed run, of its checkpoint of step 4
    assert read_checkpoint(copy / "checkpoints/last.ckpt")["global_step"] == 4
    train(alone(case("fsdp2")), copy, resume=True)
    whole, from_two, from_one, to_one = (
        read_checkpoint(together / name / "checkpoints/last.ckpt")["state_dict"]
        for name in ("fsdp2", "fsdp2 killed", "from one", "fsdp2 killed killed")
    )
    assert all(torch.equal(whole[key], from_two[key]) for key in whole)
    for other in (from_one, to_one):
        assert all(torch.allclose(whole[key], other[key], rtol=1e-3, atol=1e-4) for key in whole)


def test_the_first_process(monkeypatch):
    """As SLURM numbers them, and where Lightning will start those of a second machine."""
    code = "from torchstu.training.strategies import is_first_process; print(is_first_process())"
    names = ("RANK", "LOCAL_RANK", "NODE_RANK")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"SLURM_PROCID": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["False"]
    assert is_first_process()
    monkeypatch.setenv("NODE_RANK", "1")
    assert not is_first_process()


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["lightning", "torchrun"])
def test_launchers(launcher, tmp_path):
    """Lightning starts the second process by running the script again; torchrun starts both."""
    chosen = case("ddp")
    ranks = (
        ["-m", "torch.distributed.run", "--nproc-per-node", 2, "--master-port", free_port()] if launcher == "torchrun" else []
    )
    done = subprocess.run(
        command((tmp_path / "two", chosen), ranks=ranks), capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr
    train(alone(chosen), tmp_path / "one")
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=ROUNDING)
