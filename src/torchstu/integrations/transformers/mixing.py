"""A mixer of the library inside a decoder layer: padding, packed sequences and the state in the cache."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchstu.integrations.transformers.cache import MixerState
from torchstu.integrations.transformers.configuration import STUConfig
from torchstu.layers.base import Mixer, State, map_state
from torchstu.layers.registry import make_mixer


class STUMixing(nn.Module):
    """y = mixer(x) over the real steps of every sequence; what is padding neither counts nor changes a state.

    Args:
        config: of the model.
        layer_idx: of the layer, counted from 0.

    Raises:
        ValueError, TypeError: of the mixer, for its options.
    """

    mixer: Mixer

    def __init__(self, config: STUConfig, layer_idx: int) -> None:
        super().__init__()
        name, options = config.mixer(layer_idx)
        self.layer_idx = layer_idx
        self.mixer = make_mixer(name, config.hidden_size, config.filter_length, **options)

    def forward(
        self, x: Tensor, real: Tensor | None = None, reset: Tensor | None = None, cache: MixerState | None = None
    ) -> Tensor:
        """x (B, T, D); ``real`` (B, T) bool says which steps are none of the padding, ``reset`` where a sequence starts."""
        state = None if cache is None else cache.state
        if x.shape[1] == 1 and state is not None and self._is_bare:
            y_t, after = self.mixer.step(x[:, 0], state)
            y, state = y_t[:, None], after if real is None else _where(real[:, 0], after, state)
        elif real is not None:
            y, state = self._padded(x, real, state)
        else:
            y, state = self.mixer(x, state, reset=reset)
        if cache is not None:
            cache.state = state
        return y

    @property
    def _is_bare(self) -> bool:
        """Whether nothing is wrapped around the mixer, or hooked onto it, that only sees calls: adapters, weights offloaded."""
        return isinstance(self.mixer, Mixer) and not hasattr(self.mixer, "_hf_hook")

    @property
    def _own(self) -> Mixer:
        """The mixer without adapters around it."""
        return self.mixer if isinstance(self.mixer, Mixer) else next(m for m in self.mixer.modules() if isinstance(m, Mixer))

    def _padded(self, x: Tensor, real: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Real steps moved to the end of every row, in order: a linear mixer at rest does not notice zeros before them."""
        padding = (~real).cumsum(1)
        place = torch.where(real, padding[:, -1:] + real.cumsum(1), padding)[..., None].expand_as(x) - 1
        moved = torch.zeros_like(x).scatter(1, place, x * real[..., None].to(x.dtype))
        if state is None and self._own.is_linear:
            y, after = self.mixer(moved, None)
        else:
            y, after = self._by_count(moved, real.sum(1), state)
        return y.gather(1, place) * real[..., None].to(y.dtype), after

    def _by_count(self, moved: Tensor, counts: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Rows with as many real steps as one batch; a row without any keeps its state."""
        batch, steps, _ = moved.shape
        before = state
        if before is None:  # all zero, and where the input is: weights may be elsewhere
            before = map_state(lambda s: torch.zeros_like(s, device=moved.device), self._own.initial_state(batch))
        y, after = moved.new_zeros(batch, steps, self._own.d_out), before
        for count in counts.unique().tolist():
            if count:
                rows = (counts == count).nonzero()[:, 0]
                part, ended = self.mixer(moved[rows, steps - count :], map_state(lambda s, at=rows: s[at], before))
                y = y.index_put((rows[:, None], torch.arange(steps - count, steps, device=y.device)), part.to(y.dtype))
                after = map_state(lambda s, e, at=rows: s.index_copy(0, at, e.to(s.dtype)), after, ended)
        return y, after


def _where(rows: Tensor, after: State, before: State) -> State:
    """One state in the rows (B,) that are true, the other elsewhere."""
    chosen = (torch.where(rows.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in zip(after, before, strict=True))
    return type(after)(*chosen)


def real_steps(attention_mask: Tensor | None, steps: int) -> Tensor | None:
    """(B, T) bool of the last ``steps`` columns of a padding mask; None where nothing is padding, or in a graph no mask."""
    if attention_mask is None:
        return None
    real = attention_mask[:, -steps:].bool()
    return real if torch.compiler.is_compiling() or not bool(real.all()) else None


def starts(position_ids: Tensor | None, real: Tensor | None = None) -> Tensor | None:
    """(B, T) bool, True where positions of a packed batch do not go on between real steps; None for one sequence a row."""
    if position_ids is None or position_ids.shape[1] < 2:
        return None
    if real is not None and torch.compiler.is_compiling():  # a graph is of one kind: padding, and so no packed rows
        return None
    reset = torch.zeros_like(position_ids, dtype=torch.bool)
    reset[:, 1:] = position_ids.diff(dim=1) != 1
    if real is not None:
        reset[:, 1:] &= real[:, 1:] & real[:, :-1]
    return reset if bool(reset.any()) else None
