"""Layers that generate: one sequence, one step after another, from any position on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from registry import FILTERS, MEMORY, PLAIN, WIDTH

CHUNK = 16384
"""Steps of a piece on the way to a position."""


class Stepper(NamedTuple):
    reach: Callable[[int], None]
    """Go on to a position, by the cheapest honest way, on random inputs."""
    step: Callable[[], Any]
    carried: Callable[[], list[Any]]
    """The tensors that one step leaves to the next: the state, or what is filled of a cache."""
    read: Callable[[int], int]
    """Bytes that a step at a position must read or write: weights, filters and what is carried."""
    resume: Callable[[int], None] | None
    """Go back to a position that was reached, to time positions in turns."""
    check: Callable[[], float | None]
    """Where a cheap proof exists, how much a step differs from the layer that it stands for."""


def size(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def touch_libraries(ours: bool) -> None:
    """What imports and first calls allocate once, whatever layer comes after."""
    import torch

    torch.nn.GRU(2, 2)(torch.randn(4, 2) @ torch.randn(2, 2))
    if ours:
        import torchstu

        layer = torchstu.STU(2, 2, length=64, num_filters=4)
        layer.step(torch.randn(1, 2), layer(torch.randn(1, 128, 2))[1])


def difference(found: Any, truth: Any) -> float:
    """Relative, in the Euclidean norm."""
    import torch

    return float(torch.linalg.vector_norm(found - truth) / torch.linalg.vector_norm(truth))


def stu_layer(name: str, options: dict[str, Any]) -> Any:
    """One of our layers at the width that generates, its weights random and small."""
    import torch

    import torchstu

    torch.manual_seed(0)
    sizes = (WIDTH,) if name == "TensordotSTU" else (WIDTH, WIDTH)
    layer = getattr(torchstu, name)(*sizes, length=MEMORY, num_filters=FILTERS, **options)
    for weight in layer.parameters():
        torch.nn.init.normal_(weight, std=(FILTERS * WIDTH) ** -0.5)
    return layer


def streaming(name: str) -> Callable[..., Stepper]:
    """Our layers: `forward` in pieces up to the position, then `step`."""

    def build(compiled: bool = False, **options: Any) -> Stepper:
        import torch

        layer = stu_layer(name, options)
        step_of, u_t, state, at = layer.step, torch.randn(1, WIDTH), layer.initial_state(1), 0
        if compiled:
            step_of = torch.compile(layer.step)
            step_of(u_t, state)

        reached: dict[int, Any] = {}

        def reach(position: int) -> None:
            nonlocal state, at
            while at < position:
                piece = min(CHUNK, position - at)
                _, state = layer(torch.randn(1, piece, WIDTH), state)
                at += piece
            reached[position] = state

        def resume(position: int) -> None:
            nonlocal state
            state = reached[position]

        def step() -> Any:
            nonlocal state, at
            y, state = step_of(u_t, state)
            at += 1
            return y

        weights = size(layer.parameters())
        return Stepper(reach, step, lambda: list(state), lambda _: weights + 2 * size(state), resume, lambda: None)

    return build


def cached_stu(length: int) -> Stepper:
    """No recurrence: all inputs are kept, and the last output is computed anew at every step.

    The even and the odd lags give K features a channel each, which is half the products of two banks; then one read-out.
    """
    import torch

    layer = stu_layer("STU", PLAIN)
    plus, minus = layer.M_phi_plus.detach(), layer.M_phi_minus.detach()
    readout = torch.cat([plus + minus, plus - minus]).flatten(0, 1)  # (2 K D, D)
    taps = layer.taps(length).flip(0).contiguous()  # (length, K), the last row is lag 0
    cache, at, u_t = torch.empty(length, WIDTH), 0, torch.randn(1, WIDTH)

    def write(u: Any) -> None:
        nonlocal at
        cache[at : at + len(u)] = u
        at += len(u)

    def step(u: Any = u_t) -> Any:
        write(u)
        even = (at - 1) % 2  # where the even lags are in the cache
        parts = [taps[length - at + i :: 2].mT @ cache[i:at:2] for i in (even, 1 - even)]  # (K, D)
        return torch.cat(parts).view(1, -1) @ readout

    def check() -> float:
        nonlocal at
        inputs = torch.randn(101, WIDTH)
        write(inputs[:-1])
        found, at = step(inputs[-1:]), 0
        return difference(found, layer(inputs[None])[0][:, -1])

    read = lambda position: size([readout]) + 4 * position * (taps.shape[1] + WIDTH)  # noqa: E731
    return Stepper(lambda position: write(torch.randn(position - at, WIDTH)), step, lambda: [cache[:at]], read, None, check)


def cached_tensordot(length: int) -> Stepper:
    """As `cached_stu`; the kernel has one number a lag and channel, so a step is one weighted sum of the cache."""
    import torch

    layer = stu_layer("TensordotSTU", {})
    sign = 1 - 2 * (torch.arange(length) % 2)[:, None]
    half = layer.taps(length) @ layer.M_filters.detach()
    kernel = (half + sign * half).flip(0).mT.contiguous()[:, None]  # (D, 1, length)
    cache, at, u_t = torch.empty(WIDTH, length, 1), 0, torch.randn(1, WIDTH)
    weight = layer.M_inputs.detach()

    def write(u: Any) -> None:
        nonlocal at
        cache[:, at : at + len(u), 0] = (u @ weight).mT
        at += len(u)

    def step(u: Any = u_t) -> Any:
        write(u)
        return torch.bmm(kernel[..., length - at :], cache[:, :at]).view(1, -1)

    def check() -> float:
        nonlocal at
        inputs = torch.randn(101, WIDTH)
        write(inputs[:-1])
        found, at = step(inputs[-1:]), 0
        return difference(found, layer(inputs[None])[0][:, -1])

    read = lambda position: size([weight]) + 8 * position * WIDTH  # noqa: E731
    return Stepper(lambda position: write(torch.randn(position - at, WIDTH)), step, lambda: [cache[:, :at]], read, None, check)


def attention(length: int) -> Stepper:
    """Keys and values in a preallocated cache, 4 heads of 64."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    from other_layers import HEAD, attention_module

    torch.manual_seed(0)
    module, at = attention_module(WIDTH), 0
    keys, values = torch.empty(2, 1, WIDTH // HEAD, length, HEAD)
    u_t = torch.randn(1, 1, WIDTH)

    def write(x: Any) -> Any:
        nonlocal at
        q, k, v = module.split(x)
        keys[:, :, at : at + x.shape[1]], values[:, :, at : at + x.shape[1]] = k, v
        at += x.shape[1]
        return q

    def step(u: Any = u_t) -> Any:
        y = scaled_dot_product_attention(write(u), keys[:, :, :at], values[:, :, :at])
        return module.o(y.transpose(1, 2).flatten(-2))

    def check() -> float:
        nonlocal at
        inputs = torch.randn(1, 101, WIDTH)
        write(inputs[:, :-1])
        found, at = step(inputs[:, -1:]), 0
        return difference(found, module(inputs)[:, -1:])

    weights = size(module.parameters())
    reach = lambda position: write(torch.randn(1, position - at, WIDTH))  # noqa: E731
    filled = lambda: [keys[:, :, :at], values[:, :, :at]]  # noqa: E731
    return Stepper(reach, step, filled, lambda position: weights + 8 * position * WIDTH, None, check)


def gru() -> Stepper:
    import torch

    module = torch.nn.GRU(WIDTH, WIDTH, batch_first=True)
    state, at, u_t = torch.zeros(1, 1, WIDTH), 0, torch.randn(1, 1, WIDTH)

    def reach(position: int) -> None:
        nonlocal state, at
        _, state = module(torch.randn(1, position - at, WIDTH), state)
        at = position

    def step() -> Any:
        nonlocal state, at
        y, state = module(u_t, state)
        at += 1
        return y

    return Stepper(reach, step, lambda: [state], lambda _: size(module.parameters()) + 2 * size([state]), None, lambda: None)


STEPPERS: dict[str, Callable[..., Stepper]] = {
    "STU": streaming("STU"),
    "TensordotSTU": streaming("TensordotSTU"),
    "CachedSTU": cached_stu,
    "CachedTensordot": cached_tensordot,
    "attention": attention,
    "GRU": gru,
}
