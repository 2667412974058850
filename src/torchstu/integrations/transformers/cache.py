"""What a model remembers: the states of its STU layers, constant in size, and a window of keys and values for attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import LinearAttentionLayer

from torchstu.integrations.transformers.configuration import STUConfig
from torchstu.layers.base import State, map_state

STRUCTURE = (
    "layer_mixers", "hidden_size", "num_filters", "filter_length", "mixer_options", "sliding_window", "num_key_value_heads",
    "head_dim",
)  # fmt: skip
"""What a cache and its model must agree on."""


class MixerState(LinearAttentionLayer):
    """The state of one mixer, as the contract has it: a named tuple of tensors, the batch first.

    Kept as its type and a list of its tensors: exporters rebuild lists, but no named tuples.
    """

    def __init__(self) -> None:
        super().__init__(number_of_states=0)
        self.kind: type | None = None
        self.parts: list[Tensor] | None = None

    @property
    def state(self) -> State | None:
        """The state after the last step; None before the first."""
        return None if self.parts is None or self.kind is None else self.kind(*self.parts)

    @state.setter
    def state(self, state: State | None) -> None:
        self.kind, self.parts = (None, None) if state is None else (type(state), list(state))

    def reset(self) -> None:
        """Forget."""
        self.state = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the rows that a beam search goes on with."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        if self.state is not None:
            self.state = map_state(lambda x: x.index_select(0, indices.to(x.device)), self.state)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row several times."""
        if self.state is not None:
            self.state = map_state(lambda x: x.repeat_interleave(repeats, dim=0), self.state)

    def offload(self) -> None:
        """To the CPU."""
        if self.state is not None:
            self.device = next(iter(_leaves(self.state))).device
            self.state = map_state(lambda x: x.to("cpu", non_blocking=True), self.state)

    def prefetch(self) -> None:
        """Back to where the model is."""
        if self.state is not None and self.device is not None:
            self.state = map_state(lambda x: x.to(self.device, non_blocking=True), self.state)

    @property
    def is_croppable(self) -> bool:
        """A state cannot go back."""
        return False


class STUCache(DynamicCache):
    """The cache of an STU model: a state for every mixer, the library's windows for attention, and the number of tokens seen.

    Its size does not depend on that number but for "full_attention".

    Args:
        config: of the model.

    Raises:
        TypeError: ``config`` is none of an STU model.
    """

    def __init__(self, config: STUConfig) -> None:
        if not isinstance(config, STUConfig):
            raise TypeError(f"config: {type(config).__name__}; it must be an STUConfig")
        super().__init__(config=config)
        layers: list[Any] = list(self.layers)  # type: ignore[has-type]
        self.layers = [
            MixerState() if kind == "linear_attention" else layer
            for kind, layer in zip(config.layer_types, layers, strict=True)
        ]
        self.structure = {name: getattr(config, name) for name in STRUCTURE}
        self.seen_tokens = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens seen."""
        return self.seen_tokens

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.seen_tokens = 0

    def trim(self) -> None:
        """Let go of what keys and values of a window are views of, where that is more than they are."""
        for layer in self.layers:
            for name in ("keys", "values"):
                kept = getattr(layer, name, None)
                if isinstance(kept, Tensor) and kept.untyped_storage().nbytes() > 2 * kept.numel() * kept.element_size():
                    setattr(layer, name, kept.clone())

    def memory_bytes(self) -> int:
        """Bytes that are held for all tensors."""
        total = 0
        for layer in self.layers:
            tensors: list[Any] = [getattr(layer, "keys", None), getattr(layer, "values", None)]
            state = getattr(layer, "state", None)
            tensors += [] if state is None else list(_leaves(state))
            total += sum(x.untyped_storage().nbytes() for x in tensors if isinstance(x, Tensor))
        return total


def _leaves(state: State) -> list[Tensor]:
    found: list[Tensor] = []
    map_state(lambda x: found.append(x) or x, state)  # type: ignore[func-returns-value]
    return found


def check_cache(cache: Any, config: STUConfig, batch: int) -> None:
    """Refuse the cache of another model.

    Raises:
        TypeError: not an `STUCache`. ValueError: of a model with other layers, or of another number of sequences.
    """
    if not isinstance(cache, STUCache):
        raise TypeError(f"past_key_values: {type(cache).__name__}; it must be an STUCache(config) or None")
    for name, value in cache.structure.items():
        if value != getattr(config, name):
            raise ValueError(f"past_key_values: of a model whose {name} is {value!r}; this one has {getattr(config, name)!r}")
    for layer in cache.layers:
        state, keys = getattr(layer, "state", None), getattr(layer, "keys", None)
        rows = len(_leaves(state)[0]) if state is not None else len(keys) if isinstance(keys, torch.Tensor) else batch
        if keys is not None and not keys.numel():
            rows = batch
        if rows != batch:
            raise ValueError(f"past_key_values: of {rows} sequences; the input has {batch}")
