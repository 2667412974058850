"""The mixer contract, design section 4: every layer, ours and the baselines', is a `Mixer`."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from torchstu.spectral.priors import positive_int

State = Any
"""A NamedTuple of tensors (or of such tuples) with the batch as first dimension: an argument and a return value, never kept."""


class Mixer(nn.Module, ABC):
    """A causal map of sequences, with the conventions of ``torch.nn.GRU``, batch first.

    ``y, state = layer(u, state=None)`` with u (B, L, D_in) and y (B, L, D_out), any L of at least 1;
    ``y_t, state = layer.step(u_t, state)`` for one step, u_t (B, D_in); ``layer.initial_state(batch_size)``.
    Cutting a sequence anywhere and carrying the state gives the whole sequence's result.

    A layer implements `mix`, `initial_state` and, where a step can be cheaper, `mix_step`; `torchstu.testing.check_mixer` holds
    it to the contract.
    """

    d_in: int
    d_out: int
    optimizer_hints: ClassVar[dict[str, tuple[float, bool]]] = {}
    """Weights with a learning rate of their own, as published: name to (factor on the rate, whether weight decay acts)."""
    is_linear: ClassVar[bool] = False
    """Whether outputs and next state are linear in inputs and state together."""
    config: dict[str, Any]
    """The constructor's arguments that are not device or dtype: enough to build the layer again."""

    @abstractmethod
    def mix(self, u: Tensor, state: State | None) -> tuple[Tensor, State]:
        """The layer's work on checked input, without resets."""

    @abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """The state before the first step: all zero."""

    def mix_step(self, u_t: Tensor, state: State) -> tuple[Tensor, State]:
        """One step on checked input; u_t (B, D_in)."""
        y, state = self.mix(u_t[:, None], state)
        return y[:, 0], state

    def forward(self, u: Tensor, state: State | None = None, *, reset: Tensor | None = None) -> tuple[Tensor, State]:
        """Mix a sequence.

        Args:
            u: (B, L, D_in), real floating point, L at least 1.
            state: what an earlier call returned; None starts at zero.
            reset: (B, L) bool; True starts the state afresh before that step, inside a packed sequence.

        Returns:
            y (B, L, D_out) and the state after the last step.

        Raises:
            TypeError: ``u`` is not of real floating point, or ``reset`` not bool.
            ValueError: shapes that do not fit.
        """
        self.check_input("u", u, 3)
        _check_state(state, len(u))
        if reset is None:
            return self.mix(u, state)
        _check_reset(reset, u.shape[:2])
        return _mix_packed(self, u, state, reset)

    def step(self, u_t: Tensor, state: State | None = None, *, reset: Tensor | None = None) -> tuple[Tensor, State]:
        """One step: u_t (B, D_in) to y_t (B, D_out) and the next state; ``reset`` (B,) bool starts rows afresh.

        Raises:
            TypeError: ``u_t`` is not of real floating point.
            ValueError: shapes that do not fit.
        """
        self.check_input("u_t", u_t, 2)
        _check_state(state, len(u_t))
        if reset is not None:
            _check_reset(reset, u_t.shape[:1])
        if state is None:
            state = self.initial_state(len(u_t))
        elif reset is not None:
            fresh = self.initial_state(len(u_t))
            state = map_state(lambda old, new: torch.where(reset.view(-1, *[1] * (old.ndim - 1)), new, old), state, fresh)
        return self.mix_step(u_t, state)

    def check_input(self, name: str, u: Tensor, ndim: int) -> None:
        """Refuse what the layer cannot mix; ``ndim`` is 3 for sequences, 2 for single steps."""
        check_signal(name, u, self.d_in, ndim)

    def blank_input(self, batch: int, steps: int, like: Tensor) -> Tensor:
        """Zeros as inputs, (B, steps, D_in), of the kind of ``like``."""
        kind = like.real.dtype if like.is_complex() else like.dtype
        return torch.zeros(batch, steps, self.d_in, dtype=kind, device=like.device)

    def next_step(self, u: Tensor, y: Tensor, state: State | None = None) -> Tensor:
        """Predictions of y_t from inputs up to t and *true* outputs up to t-1; a layer without a y-term ignores ``y``.

        Args:
            u: (B, L, D_in).
            y: (B, L, D_out), the true outputs.
            state: as in `forward`.

        Raises:
            TypeError, ValueError: as in `forward`, for ``u`` and ``y``.
        """
        self._check_pair(u, y, state)
        return self.mix_next(u, y, state)

    def observe(self, u: Tensor, y: Tensor, state: State | None = None) -> State:
        """The state after a known past: inputs u (B, L, D_in) and true outputs y (B, L, D_out).

        Raises:
            TypeError, ValueError: as in `forward`, for ``u`` and ``y``.
        """
        self._check_pair(u, y, state)
        return self.mix_observed(u, y, state)

    def free_response(self, state: State, steps: int) -> tuple[Tensor, State]:
        """What a state still brings when only zeros come in: outputs (B, steps, D_out) and the state after them.

        For a linear layer, ``layer(u, state)`` is ``layer(u)`` plus this.

        Raises:
            TypeError: ``state`` is no state, or ``steps`` no integer. ValueError: ``steps`` below 1.
        """
        if not hasattr(state, "_fields"):
            raise TypeError(f"state: {type(state).__name__}; it must be what the layer returned")
        return self.mix_free(state, positive_int("steps", steps))

    def mix_free(self, state: State, steps: int) -> tuple[Tensor, State]:
        """`free_response` on checked input."""
        leaf = first_leaf(state)
        return self.mix(self.blank_input(len(leaf), steps, leaf), state)

    def mix_next(self, u: Tensor, y: Tensor, state: State | None) -> Tensor:
        """`next_step` on checked input."""
        return self.mix(u, state)[0]

    def mix_observed(self, u: Tensor, y: Tensor, state: State | None) -> State:
        """`observe` on checked input."""
        return self.mix(u, state)[1]

    def _check_pair(self, u: Tensor, y: Tensor, state: State | None) -> None:
        self.check_input("u", u, 3)
        check_signal("y", y, self.d_out, ndim=3)
        if y.shape[:2] != u.shape[:2]:
            raise ValueError(f"y: shape {tuple(y.shape)}; beside u {tuple(u.shape)} it must have as many sequences and steps")
        _check_state(state, len(u))

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return ", ".join(f"{name}={value!r}" for name, value in self.config.items())


def check_signal(name: str, x: Tensor, channels: int, ndim: int) -> None:
    """Refuse what is no sequence of the right width.

    Raises:
        TypeError: not a tensor of real floating point.
        ValueError: wrong number of dimensions, wrong last dimension, no steps.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name}: {kind}; it must be a tensor of real floating point")
    expected = f"(B, L, {channels})" if ndim == 3 else f"(B, {channels})"
    if x.ndim != ndim or x.shape[-1] != channels:
        raise ValueError(f"{name}: shape {tuple(x.shape)}; it must be {expected}")
    if 0 in x.shape[:-1]:
        raise ValueError(f"{name}: shape {tuple(x.shape)}; it must have at least one sequence and one step")


def _check_state(state: State | None, batch: int) -> None:
    """Refuse what is no state, or one of another batch.

    Raises:
        TypeError: not a named tuple. ValueError: another batch size.
    """
    if state is None:
        return
    if not hasattr(state, "_fields"):
        raise TypeError(f"state: {type(state).__name__}; it must be what the layer returned, or None")
    if len(first_leaf(state)) != batch:
        raise ValueError(f"state: of {len(first_leaf(state))} sequences; the input has {batch}")


def _check_reset(reset: Tensor, shape: torch.Size) -> None:
    if reset.dtype != torch.bool:
        raise TypeError(f"reset: dtype {reset.dtype}; it must be torch.bool")
    if reset.shape != shape:
        raise ValueError(f"reset: shape {tuple(reset.shape)}; it must be {tuple(shape)}")


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype to calculate in: what the tensors promote to, at least float32."""
    result = torch.float32
    for tensor in tensors:
        result = torch.promote_types(result, tensor.dtype)
    return result


def without_autocast(method: Callable[..., Any]) -> Callable[..., Any]:
    """Run a method of a layer at the precision of its weights: a recurrence in bfloat16 would forget its digits."""

    @functools.wraps(method)
    def run(self: Mixer, first: Tensor | State, *others: Any) -> Any:
        leaf = first_leaf(first)
        if leaf.is_meta or not torch.is_autocast_enabled(leaf.device.type):
            return method(self, first, *others)
        with torch.autocast(leaf.device.type, enabled=False):
            return method(self, first, *others)

    return run


def first_leaf(state: State) -> Tensor:
    """The first tensor of a state, for its batch size, dtype and device."""
    while not isinstance(state, Tensor):
        state = state[0]
    return state


def map_state(function: Callable[..., Tensor], state: State, *others: State) -> State:
    """Apply a function to every tensor of a state (and the matching ones of others)."""
    if isinstance(state, Tensor):
        return function(state, *others)
    parts = [map_state(function, *items) for items in zip(state, *others, strict=True)]
    return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)


def _mix_packed(layer: Mixer, u: Tensor, state: State | None, reset: Tensor) -> tuple[Tensor, State]:
    """Segments between resets are sequences of their own: those of one length run as one batch."""
    batch, steps = u.shape[:2]
    groups: dict[tuple[int, bool], list[tuple[int, int]]] = {}
    for row in range(batch):
        starts = sorted({0, *reset[row].nonzero()[:, 0].tolist()})
        for start, stop in zip(starts, [*starts[1:], steps], strict=True):
            carried = start == 0 and state is not None and not bool(reset[row, 0])
            groups.setdefault((stop - start, carried), []).append((row, start))
    times, outputs, rows, finals = [], [], [], []
    for (length, carried), members in groups.items():
        index = torch.tensor(members, device=u.device)
        span = index[:, 1:] + torch.arange(length, device=u.device)  # (G, length)
        before = map_state(lambda x, at=index[:, 0]: x[at], state) if carried else None
        y, after = layer.mix(u[index[:, :1], span], before)
        times.append((index[:, :1] * steps + span).flatten())
        outputs.append(y.flatten(0, 1))
        last = (index[:, 1] + length == steps).nonzero()[:, 0]
        rows.append(index[last, 0])
        finals.append(map_state(lambda x, at=last: x[at], after))
    order, back = torch.cat(times).argsort(), torch.cat(rows).argsort()
    y = torch.cat(outputs)[order].view(batch, steps, -1)
    return y, map_state(lambda *parts: torch.cat(parts)[back], *finals)
