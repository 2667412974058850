"""The mixer contract as a test suite: run `check_mixer` on a layer of your own, as the project does on its own."""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections.abc import Callable

import torch
from torch import Tensor

from torchstu.layers.base import Mixer, map_state
from torchstu.layers.spectral import SpectralMixer

TOLERANCES: dict[str, float] = {
    # Relative to the largest output, unless said otherwise. A change here is a commit of its own, with the measured error.
    "split float64": 1e-10,  # whole = cut = step; measured 4e-14
    "split float32": 2e-5,  # measured 2e-6
    "causality float64": 1e-13,  # transforms spread rounding over all times; measured 1e-15
    "causality by blocks float64": 1e-10,  # inside a block the future wraps around and cancels; measured 2e-11 at L = 64
    "linearity float64": 1e-12,
    "direct forecasts float64": 1e-10,  # features and sums against their definition; measured 3e-13
    "low precision float32": 1e-4,  # against float64
    "low precision bfloat16": 5e-2,
    "low precision float16": 5e-3,  # measured 5e-4
    "twin float64": 1e-12,  # fast operation against its naive loop, and their gradients
    "golden eigenvalues": 1e-5,  # where σ >= 1e-22; measured 6e-9
    "golden vectors": 1e-5,  # measured 2e-8
    "golden AR-STU": 1e-9,  # measured 5e-16
    "golden Flash STU": 2e-5,  # measured 2e-7
    "imported model": 1e-11,  # float64 logits of converted weights, through filters brought into our basis
    "golden baselines": 1e-12,  # measured 4e-15
    "state-space kernel": 1e-8,  # of S4, S4D, DSS and S5 against dense recurrences; measured 1.1e-13
    "orthonormality": 1e-12,
    "realization": 1e-11,  # σ^{1/4}-scaled impulse response against filters; measured 2e-13
    "realization float32": 1e-6,  # absolute: features of unit-variance noise, 100,000 steps of x + (A - I) x; measured 5e-7
    "modes float64": 1e-10,  # transforms = blocks = steps = cuts; measured 2e-11 at L = 4096, 5e-11 at L = 256
    "modes float32": 2e-6,  # against float64 with the same weights, 20,000 steps; measured 9e-7
    "modes float32, y-term": 1e-5,  # measured 2e-6 by steps, 8e-7 by blocks
    "system response": 1e-11,  # of a system made from a layer and not reduced, relative to its largest entry; measured 4e-12
    "exported stream float32": 1e-5,  # 10,000 steps; measured 6e-6 with a y-term, 3e-7 without
    "exported stream float64": 1e-10,  # measured 6e-12
    "exported step float32": 1e-5,  # 40 steps; measured 6e-7
}


def check_mixer(make: Callable[[torch.dtype], Mixer], linear: bool = True, seed: int = 0) -> None:
    """Hold a layer to the contract of `torchstu.Mixer`.

    Checked in float64: shapes at odd lengths and batches of one, causality, whole = any cut = steps, resets, linearity, the
    free response, gradients (also through the carried state), state_dict round trips, buffers after a change of dtype and on
    the meta device, and refusal of bad input; then float32, bfloat16 and float16 against float64.

    Args:
        make: builds the layer for a dtype.
        linear: whether the outputs are linear in the inputs.
        seed: of weights, inputs and cuts.

    Raises:
        AssertionError: a law does not hold; the message says which.
    """
    generator = torch.Generator().manual_seed(seed)
    layer = _shaken(make(torch.float64), generator).eval()
    check_shapes(layer, generator)
    check_causality(layer, generator)
    check_splits(layer, generator)
    check_resets(layer, generator)
    if linear:
        check_linearity(layer, generator)
    check_free_response(layer, linear, generator)
    check_gradients(layer, generator)
    check_storage(make, layer, generator)
    check_bad_input(layer)
    check_precision(make, layer, generator)


def close(actual: Tensor, expected: Tensor, tolerance: str, what: str) -> None:
    """Assert that a difference is within a tolerance of the table, relative to the largest expected value."""
    scale = expected.detach().abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    error = float((actual.detach() - expected.detach()).abs().max() / scale) if expected.numel() else 0.0
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    assert error <= TOLERANCES[tolerance], f"{what}: error {error:.2e} above {TOLERANCES[tolerance]:.0e} ({tolerance})"


def check_shapes(layer: Mixer, generator: torch.Generator) -> None:
    """(B, L, D_in) to (B, L, D_out) for any L and B; states have the batch first."""
    for batch, steps in ((1, 1), (2, 3), (1, 63), (3, 100)):
        y, state = layer(_signal(layer, batch, steps, generator))
        assert y.shape == (batch, steps, layer.d_out), f"forward: shape {tuple(y.shape)}"
        _same_shapes(state, layer.initial_state(batch), f"state after {steps} steps")
        y_t, state = layer.step(_signal(layer, batch, 1, generator)[:, 0])
        assert y_t.shape == (batch, layer.d_out), f"step: shape {tuple(y_t.shape)}"
        _same_shapes(state, layer.initial_state(batch), "state after a step")


def check_causality(layer: Mixer, generator: torch.Generator) -> None:
    """A change of the future leaves the past as it was."""
    for steps, known in ((50, 31), (150, 97)):
        u = _signal(layer, 2, steps, generator)
        changed = torch.cat([u[:, :known], _signal(layer, 2, steps - known, generator)], dim=1)
        blocks = any(isinstance(part, SpectralMixer) and part.block_tensors(u) is not None for part in layer.modules())
        tolerance = "causality by blocks float64" if blocks else "causality float64"
        close(layer(changed)[0][:, :known], layer(u)[0][:, :known], tolerance, f"causality, {steps} steps")


def check_splits(layer: Mixer, generator: torch.Generator, steps: int = 150) -> None:
    """The whole, cut anywhere, and step by step are the same."""
    u = _signal(layer, 2, steps, generator)
    whole, _ = layer(u)
    for pieces in (2, 5):
        cuts = sorted((torch.randperm(steps - 1, generator=generator)[: pieces - 1] + 1).tolist())
        outputs, state = [], None
        for part in u.tensor_split(cuts, dim=1):
            y, state = layer(part, state)
            outputs.append(y)
        close(torch.cat(outputs, dim=1), whole, "split float64", f"cut at {cuts}")
    close(run_steps(layer, u), whole, "split float64", "step by step")


def run_steps(layer: Mixer, u: Tensor, reset: Tensor | None = None) -> Tensor:
    """Outputs of a loop of `step`, (B, L, D_out)."""
    outputs, state = [], None
    for t in range(u.shape[1]):
        y, state = layer.step(u[:, t], state, reset=None if reset is None else reset[:, t])
        outputs.append(y)
    return torch.stack(outputs, dim=1)


def check_resets(layer: Mixer, generator: torch.Generator) -> None:
    """A reset inside a packed sequence is a new sequence, in `forward` and in `step`."""
    u = _signal(layer, 3, 40, generator)
    reset = torch.rand(3, 40, generator=generator) < 0.1
    reset[1] = False
    packed, state = layer(u, reset=reset)
    close(run_steps(layer, u, reset), packed, "split float64", "resets, step by step")
    for row in range(3):
        starts = sorted({0, *reset[row].nonzero()[:, 0].tolist()})
        parts = [layer(x)[0] for x in u[row : row + 1].tensor_split(starts[1:], dim=1)]
        close(torch.cat(parts, dim=1)[0], packed[row], "split float64", "resets, sequence by sequence")
    following = _signal(layer, 3, 7, generator)
    alone = layer(torch.cat([u[1:2], following[1:2]], dim=1))[0][:, 40:]
    close(layer(following, state)[0][1:2], alone, "split float64", "state after resets")


def check_linearity(layer: Mixer, generator: torch.Generator) -> None:
    """f(a u + b v) = a f(u) + b f(v)."""
    u, v = _signal(layer, 2, 45, generator), _signal(layer, 2, 45, generator)
    close(layer(2.5 * u - 0.7 * v)[0], 2.5 * layer(u)[0] - 0.7 * layer(v)[0], "linearity float64", "linearity")


def check_free_response(layer: Mixer, linear: bool, generator: torch.Generator) -> None:
    """`free_response` is `forward` of zeros, in outputs and state; in a linear layer it adds to what the inputs bring."""
    _, state = layer(_signal(layer, 2, 37, generator))
    for steps in (1, 2, 70):
        u = _signal(layer, 2, steps, generator)
        free, after = layer.free_response(state, steps)
        close(free, layer(torch.zeros_like(u), state)[0], "split float64", f"free response of {steps} steps")
        _same_shapes(after, layer.initial_state(2), "state after a free response")
        following = _signal(layer, 2, 20, generator)
        expected = layer(torch.cat([torch.zeros_like(u), following], dim=1), state)[0][:, steps:]
        close(layer(following, after)[0], expected, "split float64", "after a free response")
        if linear:
            close(layer(u)[0] + free, layer(u, state)[0], "split float64", "inputs and free response apart")


def check_gradients(layer: Mixer, generator: torch.Generator) -> None:
    """Analytic gradients of output and state, for input, carried state and weights, against finite differences."""
    names = [name for name, _ in layer.named_parameters()]
    u, head = _signal(layer, 1, 5, generator).requires_grad_(), _signal(layer, 1, 4, generator)

    def run(u: Tensor, head: Tensor, *weights: Tensor) -> Tensor:
        parameters = dict(zip(names, weights, strict=True))
        _, state = torch.func.functional_call(layer, parameters, (head,))
        return torch.func.functional_call(layer, parameters, (u, state))[0]

    weights = [p.detach().clone().requires_grad_() for _, p in layer.named_parameters()]
    assert torch.autograd.gradcheck(run, (u, head.requires_grad_(), *weights), fast_mode=True), "gradcheck"


def check_storage(make: Callable[[torch.dtype], Mixer], layer: Mixer, generator: torch.Generator) -> None:
    """Weights go through state_dict; buffers survive changes of dtype and the meta device to the last digit."""
    u = _signal(layer, 2, 33, generator)
    expected = layer(u)[0]
    other = make(torch.float64).eval()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(u)[0], expected), "state_dict round trip"
    twins = {"deepcopy": copy.deepcopy(layer)}
    with contextlib.suppress(pickle.PicklingError):  # a class that cannot be imported, as one made in a function
        twins["pickle"] = pickle.loads(pickle.dumps(layer))
    for how, twin in twins.items():
        assert torch.equal(twin(u)[0], expected), how
        assert repr(twin) == repr(layer), f"{how}: repr"
    there_and_back = make(torch.float64).to(torch.float32).to(torch.float64).eval()
    there_and_back.load_state_dict(layer.state_dict())
    assert torch.equal(there_and_back(u)[0], expected), "float64 → float32 → float64: buffers were rounded"
    from_meta = make(torch.float64).to("meta").to_empty(device="cpu").eval()
    from_meta.load_state_dict(layer.state_dict())
    assert torch.equal(from_meta(u)[0], expected), "meta device: buffers were not made again"
    assigned = make(torch.float64).to("meta").eval()
    assigned.load_state_dict(copy.deepcopy(layer.state_dict()), assign=True)
    assert torch.equal(assigned(u)[0], expected), "meta device, assign=True: buffers were not made again"


def check_bad_input(layer: Mixer) -> None:
    """Wrong input is refused with an error that names the argument."""
    width = layer.d_in
    bad: list[tuple[type[Exception], Callable[[], object]]] = [
        (ValueError, lambda: layer(torch.zeros(2, 5, width + 1, dtype=torch.float64))),
        (ValueError, lambda: layer(torch.zeros(2, width, dtype=torch.float64))),
        (ValueError, lambda: layer(torch.zeros(2, 0, width, dtype=torch.float64))),
        (TypeError, lambda: layer(torch.zeros(2, 5, width, dtype=torch.int64))),
        (TypeError, lambda: layer.step(torch.zeros(2, width, dtype=torch.int64))),
        (ValueError, lambda: layer.step(torch.zeros(2, width + 1, dtype=torch.float64))),
        (TypeError, lambda: layer(torch.zeros(2, 5, width, dtype=torch.float64), reset=torch.zeros(2, 5))),
        (ValueError, lambda: layer(torch.zeros(0, 5, width, dtype=torch.float64))),
        (ValueError, lambda: layer(torch.zeros(2, 5, width, dtype=torch.float64), layer.initial_state(3))),
        (TypeError, lambda: layer(torch.zeros(2, 5, width, dtype=torch.float64), torch.zeros(2))),
        (TypeError, lambda: layer.next_step(torch.zeros(2, 5, width).double(), torch.zeros(2, 5, layer.d_out).long())),
        (ValueError, lambda: layer.observe(torch.zeros(2, 5, width).double(), torch.zeros(2, 4, layer.d_out).double())),
        (TypeError, lambda: layer.free_response(torch.zeros(2), 3)),
        (TypeError, lambda: layer.free_response(layer.initial_state(2), 3.0)),  # type: ignore[arg-type]
        (ValueError, lambda: layer.free_response(layer.initial_state(2), 0)),
    ]
    for kind, call in bad:
        try:
            call()
        except kind as error:
            assert str(error).split(":")[0] in ("u", "u_t", "y", "reset", "state", "steps"), (
                f"message names no argument: {error}"
            )
        else:
            raise AssertionError(f"bad input was not refused with {kind.__name__}")


def check_precision(make: Callable[[torch.dtype], Mixer], layer: Mixer, generator: torch.Generator) -> None:
    """float32, bfloat16 and float16 follow float64, whole and by steps."""
    u = _signal(layer, 2, 70, generator)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        low = make(dtype).eval()
        low.load_state_dict(layer.state_dict())
        rounded = copy.deepcopy(layer)  # the same rounded weights and inputs, exact arithmetic
        rounded.load_state_dict({key: value.double() for key, value in low.state_dict().items()})
        exact, y = rounded(u.to(dtype).double())[0], low(u.to(dtype))[0]
        assert y.dtype == dtype, f"{name}: output is {y.dtype}"
        close(y.double(), exact, f"low precision {name}", f"forward in {name}")
        close(run_steps(low, u.to(dtype)).double(), exact, f"low precision {name}", f"steps in {name}")
    single = make(torch.float32).eval()
    single.load_state_dict(layer.state_dict())
    whole, state = single(u)  # float64 in, float32 weights
    close(single(u[:, 30:], single(u[:, :30])[1])[0].double(), whole[:, 30:].double(), "low precision float32", "mixed dtypes")
    single.step(u[:, 0], state)


def _signal(layer: Mixer, batch: int, steps: int, generator: torch.Generator) -> Tensor:
    return torch.randn(batch, steps, layer.d_in, generator=generator, dtype=torch.float64)


def _shaken(layer: Mixer, generator: torch.Generator) -> Mixer:
    """Weights moved off their start, where some are zero and many laws trivial."""
    with torch.no_grad():
        for parameter in layer.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.1 * noise / parameter.shape[-1])
    return layer


def _same_shapes(state: object, expected: object, what: str) -> None:
    def compare(a: Tensor, b: Tensor) -> Tensor:
        assert a.shape == b.shape, f"{what}: shape {tuple(a.shape)}, initial_state has {tuple(b.shape)}"
        assert a.dtype == b.dtype, f"{what}: {a.dtype}, initial_state has {b.dtype}"
        return a

    map_state(compare, state, expected)
