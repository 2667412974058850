"""What a training step costs: floating-point operations, memory kept for the backward pass, seconds and peak memory."""

from __future__ import annotations

import ctypes
import gc
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from torchstu.layers.base import Mixer


class OperationCounter(TorchDispatchMode):
    """Counts floating-point operations of what runs inside, an estimate that does not depend on the machine.

    Matrix products and attention as `torch.utils.flop_counter` counts them (a complex product is four real ones); a transform
    of n numbers 5 n log2 n, half of that if one side is real; everything else that computes one for each real number written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count it."""
        out = func(*args, **(kwargs or {}))
        written = [x for x in (out if isinstance(out, (tuple, list)) else (out,)) if isinstance(x, Tensor)]
        packet, name = func._overloadpacket, func._overloadpacket.__name__
        if packet in flop_registry:
            self.total += flop_registry[packet](*args, **(kwargs or {}), out_val=out) * (4 if written[0].is_complex() else 1)
        elif name.startswith("_fft_"):
            numbers, transformed = max(args[0].numel(), written[0].numel()), args[1]
            points = math.prod(max(args[0].shape[d], written[0].shape[d]) for d in transformed)
            self.total += round((5 if name == "_fft_c2c" else 2.5) * numbers * math.log2(max(points, 2)))
        elif not (func.is_view or name.startswith(("empty", "new_empty", "detach"))):
            self.total += sum(x.numel() * (2 if x.is_complex() else 1) for x in written)
        return out


def one_step(mixer: Mixer, u: Tensor, y: Tensor) -> None:
    """Forward and backward of the next-step loss; gradients of before are dropped."""
    mixer.zero_grad(set_to_none=True)
    (mixer.next_step(u, y) - y).square().mean().backward()


def operations(mixer: Mixer, u: Tensor, y: Tensor) -> int:
    """Floating-point operations of `one_step`, see `OperationCounter`."""
    one_step(mixer, u, y)  # buffers are made at the first
    with OperationCounter() as counter:
        one_step(mixer, u, y)
    return counter.total


def kept_bytes(mixer: Mixer, u: Tensor, y: Tensor) -> int:
    """Bytes that the forward pass keeps for the backward pass, weights and data not counted."""
    known = {x.untyped_storage().data_ptr() for x in (u, y, *mixer.parameters(), *mixer.buffers())}
    kept: dict[int, Tensor] = {}

    def pack(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in known:
            kept[x.untyped_storage().data_ptr()] = x  # held, so that its address is not used again
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = (mixer.next_step(u, y) - y).square().mean()
    total = sum(x.untyped_storage().nbytes() for x in kept.values())
    loss.backward()
    mixer.zero_grad(set_to_none=True)
    return total


def step_seconds(mixer: Mixer, u: Tensor, y: Tensor, repeats: int) -> float:
    """The median wall-clock time of `one_step`."""
    one_step(mixer, u, y)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        one_step(mixer, u, y)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def peak_bytes(mixer: Mixer, u: Tensor, y: Tensor) -> int | None:
    """How far the process's memory rises above its level during `one_step`, to a page; None where Linux does not say."""
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    mixer.zero_grad(set_to_none=True)
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # memory that is free, but still the process's, would hide the rise
        reset.write_text("5")
        before = _kilobytes(status, "VmRSS")
        one_step(mixer, u, y)
        return 1024 * max(0, _kilobytes(status, "VmHWM") - before)
    except (OSError, AttributeError, StopIteration):
        return None


def _kilobytes(status: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name + ":"))
