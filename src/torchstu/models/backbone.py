"""Blocks one after the other: a mixer itself, from D channels to D."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchstu.layers.base import Mixer, State
from torchstu.models.blocks import Block, SequenceBatchNorm, make_norm, normed
from torchstu.models.config import BackboneConfig


class BackboneState(NamedTuple):
    """The states of the layers' mixers, first layer first."""

    layers: tuple[State, ...]


class Backbone(Mixer):
    """num_layers × `Block`; after "swiglu" blocks with norms before, one norm more.

    Args:
        config: of the stack.
        device, dtype: of the weights.
    """

    def __init__(
        self, config: BackboneConfig, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.settings = config
        self.d_in = self.d_out = config.d_model
        self.blocks = nn.ModuleList(Block(config, i, device, dtype) for i in range(config.num_layers))
        ends_normed = config.activation == "swiglu" and config.norm_position == "pre"
        self.norm = make_norm(config, device, dtype) if ends_normed else nn.Identity()

    @property
    def config(self) -> dict[str, Any]:  # type: ignore[override]
        """The configuration."""
        return self.settings.as_dict()

    @property
    def is_linear(self) -> bool:  # type: ignore[override]
        """Whether it has no activation and mixers that are linear."""
        return self.settings.activation is None and all(block.mixer.is_linear for block in self._blocks())

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def initial_state(self, batch_size: int) -> BackboneState:
        """All zero.

        Raises:
            ValueError: the model is bidirectional.
        """
        self._one_way("a state")
        return BackboneState(tuple(block.mixer.initial_state(batch_size) for block in self._blocks()))

    def mix(self, u: Tensor, state: BackboneState | None) -> tuple[Tensor, BackboneState]:
        """Layer after layer over the whole sequence."""
        self._one_way("a state")
        states, x = [], u
        for i, block in enumerate(self._blocks()):
            before = None if state is None else state.layers[i]
            x, after = block(x, lambda mixer, v, before=before: mixer.mix(v, before))
            states.append(after)
        return normed(self.norm, x, None), BackboneState(tuple(states))

    def mix_step(self, u_t: Tensor, state: BackboneState) -> tuple[Tensor, BackboneState]:
        """Layer after layer for one step."""
        self._one_way("a step")
        if self.training and any(isinstance(part, SequenceBatchNorm) for part in self.modules()):
            raise ValueError("norm: 'batch' in training has no step; call eval() first")
        states, x = [], u_t
        for block, before in zip(self._blocks(), state.layers, strict=True):
            x, after = block(x, lambda mixer, v, before=before: mixer.mix_step(v, before))
            states.append(after)
        return normed(self.norm, x, None), BackboneState(tuple(states))

    def mix_whole(self, u: Tensor, lengths: Tensor | None) -> Tensor:
        """Whole sequences from their start, padded to one length: (B, L, D) to (B, L, D); padding comes out as anything."""
        real = None if lengths is None else real_steps(u, lengths)
        x = u if real is None else u.masked_fill(~real[..., None], 0)  # whatever it was: a transform would spread its rounding
        for block in self._blocks():
            if self.settings.bidirectional:
                x = block.both_ways(x, lengths, real)
            else:
                x, _ = block(x, lambda mixer, v: mixer.mix(v, None), real)
        return normed(self.norm, x, real)

    def _one_way(self, what: str) -> None:
        if self.settings.bidirectional:
            raise ValueError(f"bidirectional: True; a model that reads the future has not {what}")


def real_steps(x: Tensor, lengths: Tensor) -> Tensor:
    """Which steps of x (B, L, ...) are no padding: (B, L) bool."""
    return torch.arange(x.shape[1], device=x.device) < lengths[:, None]
