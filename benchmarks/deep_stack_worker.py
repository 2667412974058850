"""One measurement of a deep stack, in a process of its own; `deep_stack.py` starts it with a request in JSON.

It answers with one line of JSON. Memory counts from before the stack is built, after a tiny one ran.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from machine import ROOT, limit_threads, peak_memory, resident_memory


class Entry(NamedTuple):
    """A stack: torchstu's `SpectralSSM` on one mixer, or the peer."""

    name: str
    mixer: str | None
    options: dict[str, Any]
    note: str


LENGTH_OF_DATA = "L"
"""An option of this value is the length that is measured."""
ENTRIES = [
    Entry("TensordotSTU", "TensordotSTU", {}, "24 filters, one filter a channel and bank"),
    Entry("STU", "STU", {"autoregression": None}, "24 filters, both banks, a matrix a filter; no y-term"),
    Entry("STU, 8 heads", "STU", {"autoregression": None, "num_heads": 8}, "as STU, the matrices in 8 blocks"),
    Entry("AR-STU", "AR-STU", {"initial_feedback": "zero"}, "as STU, with a learned y-term"),
    Entry("S4D", "S4D", {"state_dim": 64}, "64 states a channel"),
    Entry("LRU", "LRU", {"state_dim": 128}, "128 complex states; its stack is ours, not its paper's"),
    Entry("S4", "S4", {"state_dim": 64}, "64 states a channel"),
    Entry("S5", "S5", {"state_dim": 64}, "64 states"),
    Entry("GRU", "GRU", {}, ""),
    Entry("Attention", "Attention", {"window": LENGTH_OF_DATA}, "4 heads, a window of L steps"),
    Entry("Attention, window 256", "Attention", {"window": 256}, "4 heads"),
    Entry("mambapy", None, {}, "its `Mamba`, defaults: inner width 2 d, 16 states a channel, `pscan`, its RMS norms; no GLU"),
]  # fmt: skip
CHANNELS = 16
"""Of inputs and outputs; a linear layer leads to and from the stack."""
WARM_UP = 64
LEAST_STEPS = {"train": 3, "stream": 64}
CHECKED = 33
TOLERANCE = 1e-4
ZERO_AT_START = ("M_u", "M_phi_plus", "M_phi_minus")


class Stack(NamedTuple):
    module: Any
    forward: Callable[[Any], Any]
    """(B, L, C) to (B, L, C)."""
    reach: Callable[[Any], Any]
    """The state after inputs (1, L, C)."""
    step: Callable[[Any, Any], tuple[Any, Any]]
    """Input (1, C) and state to output and state."""
    versions: dict[str, str]


def build(entry: Entry, length: int, width: int, layers: int) -> Stack:
    import torch

    torch.manual_seed(0)
    if entry.mixer is None:
        return mamba_stack(width, layers)
    import torchstu

    options = {key: length if value == LENGTH_OF_DATA else value for key, value in entry.options.items()}
    sizes = {"d_model": width, "num_layers": layers, "length": length}
    model = torchstu.SpectralSSM(CHANNELS, CHANNELS, mixer=entry.mixer, mixer_options=options, **sizes)
    for name, weight in model.named_parameters():
        if name.split(".")[-1] in ZERO_AT_START:
            torch.nn.init.normal_(weight, std=0.02 / width)
    return Stack(model, lambda u: model(u)[0], lambda u: model(u)[1], model.step, {"torch": torch.__version__})


def mamba_stack(width: int, layers: int) -> Stack:
    """mambapy's stack between the same two linear layers; it steps all the way, for its forward pass leaves no cache."""
    from importlib.metadata import version

    import torch
    from mambapy.mamba import Mamba, MambaConfig
    from torch import nn

    config = MambaConfig(d_model=width, n_layers=layers)
    module = nn.Sequential(nn.Linear(CHANNELS, width), Mamba(config), nn.Linear(width, CHANNELS))
    embedding, mamba, readout = module

    def step(u_t: Any, caches: Any) -> tuple[Any, Any]:
        x, caches = mamba.step(embedding(u_t), caches)
        return readout(x), caches

    def reach(u: Any) -> Any:
        caches = [(None, torch.zeros(1, config.d_inner, config.d_conv - 1)) for _ in range(layers)]
        for u_t in u.unbind(1):
            _, caches = step(u_t, caches)
        return caches

    return Stack(module, module, reach, step, {"torch": torch.__version__, "mambapy": version("mambapy")})


def training_step(stack: Stack, batch: int, length: int) -> Callable[[], None]:
    """Forward, backward and a step of AdamW on the mean square error of all outputs."""
    import torch

    u, y = torch.randn(2, batch, length, CHANNELS)
    optimizer = torch.optim.AdamW(stack.module.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss = (stack.forward(u) - y).square().mean()
        loss.backward()
        optimizer.step()
        if not torch.isfinite(loss):
            raise RuntimeError(f"the loss is {float(loss)}")

    return step


def times(step: Callable[[], Any], least: int, enough: float) -> list[float]:
    """Seconds of each of as many steps as fit ``enough`` seconds, at least ``least``."""
    found: list[float] = []
    while len(found) < least or sum(found) < enough:
        start = time.perf_counter()
        step()
        found.append(time.perf_counter() - start)
    return found


def tensors_of(state: Any) -> list[Any]:
    """The tensors of a state, which is made of tuples and lists."""
    return [x for part in state for x in tensors_of(part)] if isinstance(state, (tuple, list)) else [state]


def measure_training(stack: Stack, request: dict[str, Any], base: int) -> dict[str, Any]:
    batch, length = request["batch"], request["length"]
    step = training_step(stack, batch, length)
    if request["task"] == "train memory":  # the second step has the optimizer's moments too
        return {"peak_bytes": resident_memory() - base + peak_memory(lambda: (step(), step()))}
    step()
    seconds = times(step, LEAST_STEPS["train"], request["timed_seconds"])
    return {"steps": len(seconds), "tokens_a_second": batch * length / statistics.median(seconds)}


def measure_streaming(stack: Stack, request: dict[str, Any], base: int) -> dict[str, Any]:
    """Go to position L, warm up, then one step after another; the first steps are compared with the forward pass."""
    import torch

    from steppers import difference, size

    torch.set_grad_enabled(False)
    stack.module.eval()
    known = torch.randn(1, CHECKED, CHANNELS)
    differs = difference(stack.step(known[:, -1], stack.reach(known[:, :-1]))[0], stack.forward(known)[:, -1])
    if not differs <= TOLERANCE:
        raise RuntimeError(f"step {CHECKED} differs from the forward pass by {differs:.0e}")
    state, u_t = stack.reach(torch.randn(1, request["length"], CHANNELS)), torch.randn(1, CHANNELS)

    def step() -> None:
        nonlocal state
        _, state = stack.step(u_t, state)

    used = resident_memory() - base + peak_memory(lambda: [step() for _ in range(WARM_UP)])
    seconds = times(step, LEAST_STEPS["stream"], request["timed_seconds"])
    found = {"steps": len(seconds), "tokens_a_second": 1 / statistics.median(seconds), "differs": differs}
    return found | {"peak_bytes": used, "state_bytes": size(tensors_of(state))}


def work(request: dict[str, Any]) -> dict[str, Any]:
    entry = next(entry for entry in ENTRIES if entry.name == request["name"])
    training_step(build(entry, 64, 32, 1), 1, 64)()  # what libraries allocate once
    base = resident_memory()
    stack = build(entry, request["length"], request["width"], request["layers"])
    about = {"parameters": sum(weight.numel() for weight in stack.module.parameters()), "versions": stack.versions}
    measure = measure_streaming if request["task"] == "stream" else measure_training
    return about | measure(stack, request, base)


def main() -> None:
    request = json.loads(sys.argv[1])
    limit_threads(request["threads"])
    resource.setrlimit(resource.RLIMIT_DATA, (request["memory_limit"],) * 2)
    sys.path.insert(0, str(ROOT / "src"))
    print(json.dumps(work(request)))


if __name__ == "__main__":
    main()
