"""A sequence over several processes gives what one process gives; see sequence_ranks.py for what each rank does."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from torchstu import LRU, STU, Mixer, SpectralSSM, load_model, save_model
from torchstu.layers.sequence_parallel import SequenceParallel, sequence_parallel, sum_gradients
from torchstu.testing import TOLERANCES

SMALL = {"length": 32, "num_filters": 8, "dtype": torch.float64}


def stu():
    layer = STU(3, 2, **SMALL)
    for weight in layer.parameters():
        nn.init.normal_(weight)
    return layer


def deep(mixer, **options):
    return SpectralSSM(3, 2, d_model=4, num_layers=2, length=32, mixer=mixer, mixer_options=options, dtype=torch.float64)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What every rank wrote: errors of all tensors of all cases, and what was said to bad calls."""
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).with_name("sequence_ranks.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(folder)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(3)]


def test_pieces_on_two_and_three_ranks_give_the_whole_with_all_gradients(ranks):
    """Outputs, states, loss, gradients of inputs, of the state before and of weights, in float64; measured 6e-12."""
    seen = {f"rank {rank}: {case}: {what}": error for rank, result in enumerate(ranks)
            for case, errors in result["errors"].items() for what, error in errors.items()}  # fmt: skip
    assert len(seen) > 200
    wrong = {name: error for name, error in seen.items() if not error <= TOLERANCES["split float64"]}
    assert not wrong


def test_bad_calls_are_refused_by_name(ranks):
    first, second, last = (result["said"] for result in ranks)
    assert first["outside"].startswith("mesh: this process is not in it")
    for said in (second, last):
        for name in ("reset", "step", "next_step", "observe", "free_response"):
            assert said[name].startswith(f"{name}: not for a sequence split over 2 ranks")
        assert said["u"] == "u: on meta; it must be on cpu, as the mesh is"
        assert said["two dimensions"].startswith("mesh: 2 dimensions")
    assert last["state"].startswith("state: given on rank 1 of the mesh; only the first takes one")


def test_ranks_whose_calls_differ_do_not_wait_for_ever(ranks):
    assert ranks[2]["said"]["batch"] == "ValueError: u: batch size 3 on rank 1, 2 on the rank before; they must be equal"
    assert ranks[1]["said"]["batch"].startswith("RuntimeError")


@pytest.fixture
def mesh(tmp_path):
    """A world of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,), mesh_dim_names=("sequence",))
    dist.destroy_process_group()


def test_one_rank_is_the_layer_itself(mesh, monkeypatch):
    layer = stu()
    parallel = SequenceParallel(layer, mesh)
    for name in ("send", "recv", "all_reduce"):
        monkeypatch.setattr(dist, name, lambda *_, **__: pytest.fail("there is nobody to talk to"))
    u, y = torch.randn(2, 20, 3, dtype=torch.float64), torch.randn(2, 20, 2, dtype=torch.float64)
    reset = torch.rand(2, 20) < 0.2
    _, state = layer(u)
    assert torch.equal(parallel(u, state)[0], layer(u, state)[0])
    assert torch.equal(parallel(u, reset=reset)[0], layer(u, reset=reset)[0])
    assert torch.equal(parallel.step(u[:, 0], state)[0], layer.step(u[:, 0], state)[0])
    assert torch.equal(parallel.free_response(state, 9)[0], layer.free_response(state, 9)[0])
    assert torch.equal(parallel.next_step(u, y), layer.next_step(u, y))
    assert torch.equal(parallel.observe(u, y).outputs, layer.observe(u, y).outputs)
    assert torch.equal(copy.deepcopy(parallel)(u)[0], layer(u)[0]), "a copy, as averages of weights make"
    parallel(u)[0].sum().backward()
    before = layer.M_u.grad.clone()
    sum_gradients(parallel, mesh)
    assert torch.equal(layer.M_u.grad, before)


def test_weights_keep_their_names(mesh, tmp_path):
    plain, model = deep("AR-STU", num_filters=8), sequence_parallel(deep("AR-STU", num_filters=8), mesh)
    assert [type(block.mixer) for block in model.backbone.blocks] == [SequenceParallel] * 2
    assert list(model.state_dict()) == list(plain.state_dict())
    model.load_state_dict(plain.state_dict())
    u = torch.randn(1, 12, 3, dtype=torch.float64)
    assert torch.equal(model(u)[0], plain(u)[0])
    save_model(tmp_path / "model", model)
    loaded, _ = load_model(tmp_path / "model")
    assert torch.equal(loaded.double()(u)[0], plain(u)[0])


def test_a_mixer_in_two_places_stays_one(mesh):
    layer = LRU(3, 3, state_dim=4)
    model = sequence_parallel(nn.ModuleDict({"here": layer, "there": layer, "linear": nn.Linear(3, 3)}), mesh)
    assert model["here"] is model["there"]
    assert isinstance(sequence_parallel(layer, mesh), SequenceParallel)


class Rectified(Mixer):
    """A mixer that is not linear, and has no memory."""

    d_in = d_out = 3

    def initial_state(self, batch_size):
        return ()

    def mix(self, u, state):
        return u.relu(), ()


def test_what_cannot_be_split_is_refused(mesh):
    model = deep("LRU", state_dim=4)
    with pytest.raises(TypeError, match="layer: SpectralSSM; it must be a linear mixer"):
        SequenceParallel(model, mesh)
    with pytest.raises(TypeError, match="layer: GRU; it must be a linear mixer"):
        SequenceParallel(nn.GRU(3, 3), mesh)
    with pytest.raises(TypeError, match="layer: SequenceParallel"):
        SequenceParallel(SequenceParallel(stu(), mesh), mesh)
    with pytest.raises(ValueError, match="parallel already"):
        sequence_parallel(sequence_parallel(model, mesh), mesh)
    with pytest.raises(ValueError, match="model: Linear has no linear mixer"):
        sequence_parallel(nn.Linear(3, 3), mesh)
    mixed = nn.ModuleList([stu(), Rectified()])
    with pytest.raises(TypeError, match="model: Rectified is a mixer that is not linear"):
        sequence_parallel(mixed, mesh)
    assert isinstance(mixed[0], STU), "a refusal leaves the model as it was"


def test_a_mesh_of_a_process_group_is_needed(mesh):
    layer = stu()
    with pytest.raises(TypeError, match="mesh: str; it must be a DeviceMesh"):
        SequenceParallel(layer, "sequence")
    grid = init_device_mesh("cpu", (1, 1), mesh_dim_names=("data", "sequence"))
    with pytest.raises(ValueError, match=r"mesh: 2 dimensions \('data', 'sequence'\)"):
        sum_gradients(layer, grid)
    assert SequenceParallel(layer, grid["sequence"]).chain.size == 1


def test_without_a_process_group_the_message_says_so():
    with pytest.raises(ValueError, match="mesh: there is no process group"):
        SequenceParallel(stu(), "sequence")
