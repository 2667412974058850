"""The processes of test_sequence_parallel.py: python sequence_ranks.py FOLDER starts three ranks.

All three are one mesh, and the last two another, whose ranks are not those of the world. Each compares its piece with the same
calculation in one process and writes the errors to FOLDER/RANK.json.
"""

import datetime
import json
import multiprocessing
import sys
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.utils.checkpoint import checkpoint

from torchstu import ARSTU, LRU, STU, FilterBank, Mixer, SpectralSSM, TensordotSTU, filter_bank
from torchstu.layers.base import map_state
from torchstu.layers.sequence_parallel import SequenceParallel, sequence_parallel, sum_gradients

SMALL = {"length": 32, "num_filters": 8, "dtype": torch.float64}
OWN = FilterBank(filter_bank(16, 4).eigenvalues, filter_bank(16, 4).filters)
RANKS, BATCH, PIECES = 3, 2, {2: (70, 37), 3: (40, 1, 66)}


class LeakState(NamedTuple):
    x: torch.Tensor


class Leak(Mixer):
    """x_t = a x_{t-1} + u_t: a user's own linear mixer."""

    is_linear = True

    def __init__(self):
        super().__init__()
        self.d_in = self.d_out = 3
        self.config = {}
        self.a = nn.Parameter(torch.full((3,), 0.9, dtype=torch.float64))

    def initial_state(self, batch_size):
        return LeakState(self.a.new_zeros(batch_size, 3))

    def mix(self, u, state):
        x, outputs = self.initial_state(len(u)).x if state is None else state.x, []
        for u_t in u.unbind(1):
            x = self.a * x + u_t
            outputs.append(x)
        return torch.stack(outputs, dim=1), LeakState(x)


class Stack(nn.Module):
    """Two layers, the second of two branches, and pointwise maps between; checkpointed if asked."""

    def __init__(self, again=False):
        super().__init__()
        self.again = again
        self.first, self.second, self.other = (
            STU(3, 4, **SMALL),
            LRU(4, 3, state_dim=5, dtype=torch.float64),
            ARSTU(4, 3, **SMALL),
        )

    def forward(self, u, state=None):
        return checkpoint(self.run, u, use_reentrant=False) if self.again else self.run(u)

    def run(self, u):
        x = torch.tanh(0.1 * self.first(u)[0])
        y, after = self.second(x)
        return u + y + 0.1 * self.other(x)[0], after


def deep(mixer, **options):
    return SpectralSSM(3, 2, d_model=4, num_layers=2, length=32, mixer=mixer, mixer_options=options, dtype=torch.float64)


LAYERS = {
    "STU": lambda: STU(3, 2, **SMALL),
    "STU without y-term": lambda: STU(3, 2, **SMALL, autoregression=None, input_lags=0),
    "STU with a bank of one's own": lambda: STU(3, 2, length=16, num_filters=4, prior=OWN, dtype=torch.float64),
    "ARSTU": lambda: ARSTU(3, 2, **SMALL),
    "TensordotSTU": lambda: TensordotSTU(3, **SMALL, banks="both"),
    "LRU": lambda: LRU(3, 2, state_dim=6, r_min=0.8, dtype=torch.float64),
    "a mixer of one's own": Leak,
    "SpectralSSM of AR-STU": lambda: deep("AR-STU", num_filters=8),
    "SpectralSSM of LRU": lambda: deep("LRU", state_dim=6),
    "stack": Stack,
    "stack, checkpointed": lambda: Stack(again=True),
}


def shaken(name):
    torch.manual_seed(0)
    model = LAYERS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter) / parameter.shape[-1])
    return model


def leaves(state):
    found = []
    map_state(lambda x: found.append(x) or x, state)
    return found


def shaken_state(model):
    """A random state to start from; None for a model that takes none."""
    if not isinstance(model, Mixer):
        return None
    return map_state(lambda x: torch.randn_like(x).requires_grad_(), model.initial_state(BATCH))


def loss_of(y, target, state, last):
    return (y * target).sum() + (sum(x.abs().square().sum() for x in leaves(state)) if last else 0 * y.sum())


def error(actual, expected):
    """The largest difference over the largest expected value."""
    assert actual.shape == expected.shape
    if not expected.numel():
        return 0.0
    return float((actual - expected).detach().abs().max() / expected.detach().abs().max().clamp(min=1e-300))


class Case:
    """One model, whole and in pieces."""

    def __init__(self, name, mesh, seed):
        self.mesh, self.name = mesh, name
        self.rank, self.size = mesh.get_local_rank(), mesh.size()
        self.pieces = PIECES[self.size]
        self.piece = slice(sum(self.pieces[: self.rank]), sum(self.pieces[: self.rank + 1]))
        self.whole = shaken(name)
        self.parallel = sequence_parallel(shaken(name), mesh)
        torch.manual_seed(seed)
        self.u = torch.randn(BATCH, sum(self.pieces), 3, dtype=torch.float64, requires_grad=True)
        self.state = shaken_state(self.whole)
        self.target = torch.randn_like(self.whole(self.u)[0])
        self.own_u = self.u.detach()[:, self.piece].clone().requires_grad_()
        self.own_state = None
        if self.state is not None and self.rank == 0:
            self.own_state = map_state(lambda x: x.detach().clone().requires_grad_(), self.state)

    def run(self, target=None):
        """Errors of outputs, states and gradients."""
        target = self.target if target is None else target
        y, after = self.whole(self.u, self.state)
        loss_of(y, target, after, True).backward()
        own_y, own_after = self.parallel(self.own_u, self.own_state)
        loss = loss_of(own_y, target[:, self.piece], own_after, self.rank == self.size - 1)
        loss.backward()
        sum_gradients(self.parallel, self.mesh)
        total = loss.detach().clone()
        dist.all_reduce(total, group=self.mesh.get_group())
        errors = {
            "loss": error(total, loss_of(y, target, after, True).detach()),
            "output": error(own_y, y[:, self.piece]),
            "gradient of u": error(self.own_u.grad, self.u.grad[:, self.piece]),
        }
        if self.state is not None or self.rank == self.size - 1:
            ends = self.whole(self.u[:, : self.piece.stop], self.state)[1]
            errors |= {f"state {i}": error(a, b) for i, (a, b) in enumerate(zip(leaves(own_after), leaves(ends), strict=True))}
        if self.own_state is not None:
            pairs = zip(leaves(self.own_state), leaves(self.state), strict=True)
            errors |= {f"gradient of state {i}": error(a.grad, b.grad) for i, (a, b) in enumerate(pairs) if b.grad is not None}
        for (weight, b), a in zip(self.whole.named_parameters(), self.parallel.parameters(), strict=True):
            errors[f"gradient of {weight}"] = error(a.grad, torch.zeros_like(b) if b.grad is None else b.grad)
        return errors


def only_the_last_piece_counts(mesh):
    """The loss of the last rank reaches the inputs of the others."""
    case = Case("ARSTU", mesh, 2)
    target = case.target.clone()
    target[:, : -case.pieces[-1]] = 0
    return case.run(target)


def only_the_first_needs_gradients(mesh):
    """Weights frozen, and gradients asked by torch.autograd.grad for the first inputs; the others pass them on."""
    case = Case("LRU", mesh, 3)
    case.parallel.requires_grad_(False)
    first = case.rank == 0
    own_y, _ = case.parallel(case.own_u if first else case.own_u.detach())
    loss = (own_y * case.target[:, case.piece]).sum()
    expected = torch.autograd.grad((case.whole(case.u)[0] * case.target).sum(), case.u)[0][:, case.piece]
    if first:
        return {"gradient": error(torch.autograd.grad(loss, case.own_u)[0], expected)}
    loss.backward()
    return {"gradients that none asked for": float(case.own_u.grad is not None)}


def without_gradients(mesh):
    case = Case("STU", mesh, 4)
    with torch.no_grad():
        own_y, _ = case.parallel(case.own_u)
        return {"output": error(own_y, case.whole(case.u)[0][:, case.piece])}


def in_half_precision(mesh):
    """bfloat16 weights: the carry stays in float32, so pieces differ from the whole by the rounding of outputs alone."""
    torch.manual_seed(5)
    layer = TensordotSTU(3, length=32, num_filters=8, dtype=torch.bfloat16)
    u, rank = torch.randn(2, sum(PIECES[mesh.size()]), 3, dtype=torch.bfloat16), mesh.get_local_rank()
    pieces = list(u.split(PIECES[mesh.size()], dim=1))
    start = sum(PIECES[mesh.size()][:rank])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = SequenceParallel(layer, mesh)(pieces[rank])
    expected = layer.float()(u.float())[0][:, start : start + y.shape[1]]
    return {"output": 0.0 if error(y.float(), expected) < 1e-2 and y.dtype == torch.bfloat16 else 1.0}


def refusals(mesh):
    """Messages of what must be refused without any exchange."""
    layer = SequenceParallel(STU(3, 2, **SMALL), mesh)
    u = torch.zeros(2, 5, 3, dtype=torch.float64)
    calls = {
        "reset": lambda: layer(u, reset=torch.zeros(2, 5, dtype=torch.bool)),
        "step": lambda: layer.step(u[:, 0]),
        "next_step": lambda: layer.next_step(u, u[..., :2]),
        "observe": lambda: layer.observe(u, u[..., :2]),
        "free_response": lambda: layer.free_response(layer.initial_state(2), 3),
        "u": lambda: layer(u.to("meta")),
    }
    if mesh.get_local_rank():
        calls["state"] = lambda: layer(u, layer.initial_state(2))
    return {name: message(call) for name, call in calls.items()}


def message(call):
    try:
        call()
    except ValueError as problem:
        return str(problem)
    return "not refused"


def calls_that_differ(mesh):
    """The second rank refuses another batch size and leaves; the first learns it from the broken connection."""
    layer = SequenceParallel(STU(3, 2, **SMALL), mesh)
    u = torch.zeros(2 + mesh.get_local_rank(), 5, 3, dtype=torch.float64)
    try:
        layer(u)
    except (ValueError, RuntimeError) as problem:
        return f"{type(problem).__name__}: {problem}"
    return "not refused"


def run_rank(rank, folder):
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # with NaN
    torch.set_num_threads(1)
    store, patience = f"file://{folder}/store", datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS, timeout=patience)
    grid = init_device_mesh("cpu", (3, 1), mesh_dim_names=("sequence", "data"))
    three, pair = grid["sequence"], DeviceMesh("cpu", [1, 2])
    errors = {f"{name}, 3 ranks": Case(name, three, 0).run() for name in ("STU", "ARSTU", "TensordotSTU", "LRU", "stack")}
    said = {"two dimensions": message(lambda: SequenceParallel(STU(3, 2, **SMALL), grid))}
    if rank:
        errors |= {f"{name}, 2 ranks": Case(name, pair, 1).run() for name in LAYERS}
        for check in (only_the_last_piece_counts, only_the_first_needs_gradients, without_gradients, in_half_precision):
            errors[check.__name__] = check(pair)
        said |= refusals(pair)
        said["batch"] = calls_that_differ(pair)
    else:
        said["outside"] = message(lambda: SequenceParallel(STU(3, 2, **SMALL), pair))
    (folder / f"{rank}.json").write_text(json.dumps({"errors": errors, "said": said}))


def main():
    """Fork where that exists: packages are imported once."""
    ranks = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else None)
    processes = [ranks.Process(target=run_rank, args=(rank, Path(sys.argv[1]))) for rank in range(RANKS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(max(abs(process.exitcode) for process in processes))


if __name__ == "__main__":
    main()
