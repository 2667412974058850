"""What the ranks of a split sequence tell their neighbours, forward and, inside autograd, backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class Chain:
    """The ranks of a one-dimensional mesh in a row, and what neighbours tell each other."""

    def __init__(self, mesh: DeviceMesh) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise ValueError("mesh: there is no process group; torch.distributed.init_process_group must come first")
        from torch.distributed.device_mesh import DeviceMesh

        if not isinstance(mesh, DeviceMesh):
            raise TypeError(f"mesh: {type(mesh).__name__}; it must be a DeviceMesh of torch.distributed.device_mesh")
        if mesh.ndim != 1:
            raise ValueError(f"mesh: {mesh.ndim} dimensions {mesh.mesh_dim_names}; it must have one, as mesh['sequence'] has")
        if mesh.get_coordinate() is None:
            raise ValueError("mesh: this process is not in it; build the layer on its ranks only")
        self.device_type = mesh.device_type
        self.group, self.rank, self.size = mesh.get_group(), mesh.get_local_rank(), mesh.size()
        ranks = dist.get_process_group_ranks(self.group)
        self.before = ranks[self.rank - 1] if self.rank else None
        self.after = ranks[self.rank + 1] if self.rank + 1 < self.size else None

    def __deepcopy__(self, memo: dict[int, Any]) -> Chain:
        return self  # a process group cannot be copied: copies of a model talk over the same one

    def send(self, tensors: Sequence[Tensor], rank: int | None) -> None:
        """All tensors as one message of bytes."""
        parts = [x.detach().resolve_conj().resolve_neg().contiguous().flatten().view(torch.uint8) for x in tensors]
        dist.send(torch.cat(parts), dst=rank, group=self.group)

    def receive(self, like: Sequence[Tensor], rank: int | None) -> list[Tensor]:
        """Tensors of the shapes and dtypes of ``like``."""
        sizes = [x.numel() * x.element_size() for x in like]
        message = torch.empty(sum(sizes), dtype=torch.uint8, device=like[0].device)
        dist.recv(message, src=rank, group=self.group)
        return [part.clone().view(x.dtype).view(x.shape) for part, x in zip(message.split(sizes), like, strict=True)]

    def agree(self, call: Call) -> tuple[bool, bool]:
        """Compare the call with that of the rank before; whether gradients flow on this rank and on that one.

        Raises:
            ValueError: the calls do not belong together.
        """
        tracked_before = False
        if self.before is not None:
            message = torch.empty(len(call), dtype=torch.int64, device=self.device_type)
            dist.recv(message, src=self.before, group=self.group)
            other = Call(*message.tolist())
            for name, ours, theirs in zip(Call._fields[:-1], call, other, strict=False):
                if ours != theirs:
                    what = name.replace("_", " ")
                    raise ValueError(f"u: {what} {ours} on rank {self.rank}, {theirs} on the rank before; they must be equal")
            tracked_before = bool(other.tracked)
        tracked = bool(call.tracked) or tracked_before
        if self.after is not None:
            message = torch.tensor(call._replace(tracked=int(tracked)), dtype=torch.int64, device=self.device_type)
            dist.send(message, dst=self.after, group=self.group)
        return tracked, tracked_before


class Call(NamedTuple):
    """What neighbours compare before they mix: all but ``tracked`` must be equal."""

    batch_size: int
    state_numbers: int
    bytes_per_number: int
    gradients_enabled: int
    tracked: int
    """Whether gradients flow through this rank's state."""


class Receive(torch.autograd.Function):
    """The state after the piece before; its gradient goes back to that rank.

    It takes the local output only to come *before* it in every backward: the state's gradient leaves as soon as it is known,
    and layers that lie below wait for it, so that all ranks exchange gradients in one order.
    """

    @staticmethod
    def forward(ctx: Any, chain: Chain, like: list[Tensor], anchor: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """Wait for the rank before; ``like`` has the shapes, and ``anchor`` makes gradients flow where ``y`` has none."""
        ctx.chain = chain
        return tuple(chain.receive(like, chain.before))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
        """Send the gradients back."""
        ctx.chain.send(grads, ctx.chain.before)
        return (None,) * 4


class Join(torch.autograd.Function):
    """Local plus free response; the sum's state goes to the rank after, and its gradient comes back from there.

    Outputs, states and what was received enter together, so that a backward through any of them passes every exchange.
    """

    @staticmethod
    def forward(ctx: Any, chain: Chain, count: int, anchor: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
        """Parts: y and state of the local response, ``count`` in all; then those of the free one; then what was received."""
        own, free = parts[:count], parts[count : 2 * count]
        ctx.chain, ctx.copies, ctx.carried = chain, 2 if free else 1, len(parts) - count - len(free)
        joined = [(x + z).to(x.dtype) for x, z in zip(own, free, strict=True)] if free else [x.clone() for x in own]
        if chain.after is not None:
            chain.send(joined[1:], chain.after)
        ctx.save_for_backward(joined[-1])
        return tuple(joined)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Fetch the gradient of the state from the rank after; both responses get the sum's gradient."""
        chain: Chain = ctx.chain
        _ = ctx.saved_tensors  # under activation checkpointing the forward runs again here, on all ranks before any gradient
        if chain.after is not None:
            received = chain.receive(grads[1:], chain.after)
            grads = (grads[0], *(own + other for own, other in zip(grads[1:], received, strict=True)))
        return (None, None, None, *grads * ctx.copies, *[None] * ctx.carried)
