"""One long sequence over several processes: each mixes its piece, and the states pass from piece to piece, design (8).

A linear layer's response to inputs and state is the sum of its responses to each, so with the pieces u_0 … u_{P-1}

    y_r, s_{r+1} = layer(u_r) + layer.free_response(s_r, T_r).

All ranks compute the first term at once. What waits for the rank before is the second, and what travels is one state a layer;
in the backward its gradient travels the other way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from torchstu.layers.base import Mixer, State, map_state, without_autocast
from torchstu.layers.chain import Call, Chain, Join, Receive

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class SequenceParallel(Mixer):
    """A linear mixer whose sequence is split over the ranks of a mesh, with the results of one process, gradients included.

    ``y, state = parallel(u, state=None)``: rank r gives and gets the r-th piece of the sequence, (B, T_r, D_in) and
    (B, T_r, D_out); B is the same everywhere, T_r at least 1. The state given counts on the first rank, where it is the state
    before the whole sequence; the state returned is the one after the rank's own piece, on the last rank the end of it all.

    Every rank makes the same calls in the same order, forward and backward. The backward of a rank waits for that of the next
    one: also a rank whose piece adds nothing to the loss calls it, on ``0 * y.sum()``. The gradients of weights are each
    rank's share; `sum_gradients` adds them up. Steps, resets and `next_step` need the whole sequence in one process.

    ``state_dict`` is that of the layer inside: weights go from one process to many and back.

    Args:
        layer: a linear mixer, the same weights on every rank: of torchstu, or one whose class says ``is_linear = True``.
        mesh: one-dimensional, the ranks in the order of the pieces.

    Raises:
        TypeError: a layer that is no linear mixer, a mesh that is none.
        ValueError: a mesh of more dimensions, a rank outside it, no process group.
    """

    layer: Mixer

    def __init__(self, layer: Mixer, mesh: DeviceMesh) -> None:
        super().__init__()
        if not isinstance(layer, Mixer) or not _is_linear(layer):
            raise TypeError(
                f"layer: {type(layer).__name__}; it must be a linear mixer (sequence_parallel() finds those of a model)"
            )
        self.chain = Chain(mesh)
        self.layer = layer
        self.d_in, self.d_out, self.config = layer.d_in, layer.d_out, layer.config
        self.register_state_dict_post_hook(_leave_out_prefix)
        self.register_load_state_dict_pre_hook(_put_in_prefix)

    def initial_state(self, batch_size: int) -> State:
        """The layer's."""
        return self.layer.initial_state(batch_size)

    def forward(self, u: Tensor, state: State | None = None, *, reset: Tensor | None = None) -> tuple[Tensor, State]:
        """Mix this rank's piece.

        Args:
            u: (B, T_r, D_in).
            state: before the whole sequence; None on all ranks but the first.
            reset: None, unless there is one rank only.

        Returns:
            y (B, T_r, D_out) and the state after the piece.

        Raises:
            TypeError: ``u`` is not of real floating point.
            ValueError: shapes that do not fit, on this rank or beside the rank before; a state on a rank that is not the first.
        """
        if reset is not None:
            self._alone("reset")
        return super().forward(u, state, reset=reset)

    @without_autocast
    def mix(self, u: Tensor, state: State | None) -> tuple[Tensor, State]:
        """The local response, and with what comes from the rank before the free response."""
        chain = self.chain
        if chain.size == 1:
            return self.layer.mix(u, state)
        if chain.before is not None and state is not None:
            raise ValueError(
                f"state: given on rank {chain.rank} of the mesh; only the first takes one, the others must pass None"
            )
        tracked, tracked_before = chain.agree(self._call(u, state))
        anchor = torch.zeros((), device=u.device, requires_grad=tracked)
        y, after = self.layer.mix(u, state)
        own = [y, *_leaves(after)]
        free: list[Tensor] = []
        carry: list[Tensor] = []
        if chain.before is not None:
            if tracked_before:
                carry = list(Receive.apply(chain, own[1:], anchor, y))
            else:
                carry = chain.receive(own[1:], chain.before)
            free_y, free_state = self.layer.free_response(_like(after, carry), u.shape[1])
            free = [free_y, *_leaves(free_state)]
        y, *leaves = Join.apply(chain, len(own), anchor, *own, *free, *carry)
        return y, _like(after, leaves)

    def _call(self, u: Tensor, state: State | None) -> Call:
        if u.device.type != self.chain.device_type:
            raise ValueError(f"u: on {u.device}; it must be on {self.chain.device_type}, as the mesh is")
        differentiated = [u, *self.layer.parameters(), *([] if state is None else _leaves(state))]
        enabled = torch.is_grad_enabled()
        tracked = enabled and any(x.requires_grad for x in differentiated)
        numbers = sum(x.numel() for x in _leaves(self.layer.initial_state(1)))
        return Call(len(u), numbers, u.element_size(), int(enabled), int(tracked))

    def mix_step(self, u_t: Tensor, state: State) -> tuple[Tensor, State]:
        """One step, with one rank only."""
        return self._alone("step").mix_step(u_t, state)

    def mix_free(self, state: State, steps: int) -> tuple[Tensor, State]:
        """The free response, with one rank only."""
        return self._alone("free_response").mix_free(state, steps)

    def mix_next(self, u: Tensor, y: Tensor, state: State | None) -> Tensor:
        """Predictions from true outputs, with one rank only."""
        return self._alone("next_step").mix_next(u, y, state)

    def mix_observed(self, u: Tensor, y: Tensor, state: State | None) -> State:
        """The state after a known past, with one rank only."""
        return self._alone("observe").mix_observed(u, y, state)

    def _alone(self, what: str) -> Mixer:
        if self.chain.size > 1:
            raise ValueError(f"{what}: not for a sequence split over {self.chain.size} ranks; use the layer inside, `.layer`")
        return self.layer

    def extra_repr(self) -> str:
        """The place in the mesh."""
        return f"rank={self.chain.rank}, size={self.chain.size}"


def sequence_parallel(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Replace every linear mixer of a model, in place, by its `SequenceParallel`; a mixer itself is returned wrapped.

    What else the model does must treat every step by itself, as linear layers, gates and norms over channels do. Whatever
    looks along time (a norm or a pooling over steps, attention, another recurrence) would see one rank's piece only.

    Args:
        model: with at least one linear mixer.
        mesh: as in `SequenceParallel`.

    Raises:
        TypeError: a mixer that is not linear. ValueError: no mixer, or one that is parallel already; a mesh that does not fit.
    """
    if any(isinstance(module, SequenceParallel) for module in model.modules()):
        raise ValueError("model: its mixers are parallel already; it must be one that is not")
    if isinstance(model, Mixer) and _is_linear(model):
        return SequenceParallel(model, mesh)
    places = _mixers_inside(model)
    if not places:
        raise ValueError(f"model: {type(model).__name__} has no linear mixer")
    wrapped = {id(layer): SequenceParallel(layer, mesh) for _, _, layer in places}
    for parent, name, layer in places:
        parent.add_module(name, wrapped[id(layer)])
    return model


def sum_gradients(model: nn.Module, mesh: DeviceMesh) -> None:
    """Add up the gradients of all weights over the ranks of a mesh, after the backward and before the optimizer's step.

    Where the loss of the whole sequence is the *sum* of the ranks' losses the result is the gradient of one process. A weight
    without a gradient on this rank counts as zero.

    Raises:
        TypeError, ValueError: as in `SequenceParallel`, for ``mesh``.
    """
    chain = Chain(mesh)
    if chain.size == 1:
        return
    for parameter in model.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad, group=chain.group)


def _is_linear(layer: Mixer) -> bool:
    return layer.is_linear and not isinstance(layer, SequenceParallel)


def _mixers_inside(module: nn.Module) -> list[tuple[nn.Module, str, Mixer]]:
    """The linear mixers below a module, with the parent and the name of each place."""
    places: list[tuple[nn.Module, str, Mixer]] = []
    for name, child in module._modules.items():
        if isinstance(child, Mixer) and _is_linear(child):
            places.append((module, name, child))
        elif child is not None:
            places += _mixers_inside(child)
    if isinstance(module, Mixer) and not places:
        raise TypeError(f"model: {type(module).__name__} is a mixer that is not linear; a sum of responses is not its response")
    return places


def _leaves(state: State) -> list[Tensor]:
    leaves: list[Tensor] = []
    map_state(lambda x: leaves.append(x) or x, state)  # type: ignore[func-returns-value]
    return leaves


def _like(state: State, leaves: Sequence[Tensor]) -> State:
    """The leaves in the form of a state."""
    rest = iter(leaves)
    return map_state(lambda _: next(rest), state)


def _leave_out_prefix(module: nn.Module, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
    for name in [name for name in state_dict if name.startswith(f"{prefix}layer.")]:
        state_dict[prefix + name.removeprefix(f"{prefix}layer.")] = state_dict.pop(name)


def _put_in_prefix(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in [name for name in state_dict if name.startswith(prefix)]:
        state_dict[f"{prefix}layer.{name.removeprefix(prefix)}"] = state_dict.pop(name)
