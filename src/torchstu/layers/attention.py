"""Causal multi-head attention with rotary positions and a sliding window: a baseline."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, scaled_dot_product_attention

from torchstu.layers.base import Mixer, compute_dtype, without_autocast
from torchstu.layers.spectral import exact_dtype
from torchstu.spectral.priors import positive_int


class AttentionState(NamedTuple):
    """What attention remembers: constant in size, whatever the length."""

    keys: Tensor
    """(B, window - 1, heads, d_head) keys of the last steps, most recent last, before their rotation."""
    values: Tensor
    """(B, window - 1, heads, d_head) values of the same steps."""
    seen: Tensor
    """(B,) int64: how many of them, counted from the end, were seen; the others are masked. At most window - 1."""


class Attention(Mixer):
    """y_t = W_o · concat_h Σ_{s=t-w+1}^{t} softmax_s(⟨R_t q_t, R_s k_s⟩ / √d_head) v_s,  (q, k, v) = u W_qkv by heads.

    R_t turns the pair (x_{2i}, x_{2i+1}) by the angle t·θ^{-2i/d_head} (rotary positions). Scores depend on t - s only: keys
    are kept unturned and positions counted from the start of a window, so a stream of any length loses no precision.

    Sequences are worked on in blocks of w queries, each with the w - 1 steps before it: time and memory O(L w), never L × L.

    Weights: ``qkv`` (3·d_model, d_model) and ``output`` (d_model, d_model), `torch.nn.Linear` without bias.

    Args:
        d_model: channels in and out.
        num_heads: heads; d_head = d_model / num_heads must be an even integer.
        window: w, the steps that a query sees, itself included.
        theta: θ, the base of the angles.
        device, dtype: of the weights.

    Raises:
        ValueError: numbers out of range, or heads that do not divide the channels into even parts.

    Source: Vaswani et al., arXiv 1706.03762; Su et al., arXiv 2104.09864 (rotary); Beltagy et al., arXiv 2004.05150 (window).
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        window: int = 256,
        theta: float = 10000.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.d_in = self.d_out = positive_int("d_model", d_model)
        self.num_heads, self.window = positive_int("num_heads", num_heads), positive_int("window", window)
        if d_model % (2 * num_heads):
            raise ValueError(f"num_heads: {num_heads} for d_model {d_model}; it must divide d_model into even parts")
        if not 0 < theta < float("inf"):
            raise ValueError(f"theta: {theta}; it must be a finite number above 0")
        self.theta, self.d_head = float(theta), d_model // num_heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False, device=device, dtype=dtype)
        self.output = nn.Linear(d_model, d_model, bias=False, device=device, dtype=dtype)

    @property
    def config(self) -> dict[str, Any]:  # type: ignore[override]
        """The constructor's arguments."""
        return {"d_model": self.d_in, "num_heads": self.num_heads, "window": self.window, "theta": self.theta}

    def initial_state(self, batch_size: int) -> AttentionState:
        """Nothing seen."""
        weight = self.qkv.weight
        shape = (batch_size, self.window - 1, self.num_heads, self.d_head)
        keys, values = torch.zeros(2, *shape, dtype=compute_dtype(weight), device=weight.device)
        return AttentionState(keys, values, torch.zeros(batch_size, dtype=torch.int64, device=weight.device))

    @without_autocast
    def mix(self, u: Tensor, state: AttentionState | None) -> tuple[Tensor, AttentionState]:
        """Block after block of queries, all at once."""
        weight, past = self.qkv.weight, self.window - 1
        kind, u = torch.promote_types(u.dtype, weight.dtype), u.to(compute_dtype(u, weight))
        batch, steps, _ = u.shape
        queries, keys, values = linear(u, weight.to(u.dtype)).view(batch, steps, 3, self.num_heads, self.d_head).unbind(2)
        if state is None:
            count = torch.zeros(batch, dtype=torch.int64, device=u.device)
            keys, values = (pad(x, (0, 0, 0, 0, past, 0)) for x in (keys, values))
        else:
            count = state.seen
            keys, values = torch.cat([state.keys.to(u.dtype), keys], 1), torch.cat([state.values.to(u.dtype), values], 1)
        if state is None and steps <= self.window:
            heard = self._attend(queries, keys[:, past:], values[:, past:], None)
        else:
            heard = self._attend_blocks(queries, keys, values, None if state is None else count)
        y = linear(heard.flatten(2), self.output.weight.to(u.dtype))
        after = AttentionState(keys[:, steps:], values[:, steps:], (count + steps).clamp(max=past))
        return y.to(kind), after

    def _attend_blocks(self, queries: Tensor, keys: Tensor, values: Tensor, count: Tensor | None) -> Tensor:
        """Queries (B, L, h, d) on keys and values of w - 1 steps more; ``count`` (B,) of these are real, None means none."""
        batch, steps = queries.shape[:2]
        past, block = self.window - 1, min(self.window, steps)
        blocks = -(-steps // block)
        short = blocks * block - steps

        def cut(x: Tensor) -> Tensor:  # (B, blocks·C + w - 1, h, d) to (B·blocks, C + w - 1, h, d)
            return pad(x, (0, 0, 0, 0, 0, short)).unfold(1, block + past, block).movedim(-1, 2).flatten(0, 1)

        of_query = torch.arange(block, device=queries.device)[:, None]
        of_key = torch.arange(block + past, device=queries.device)
        mask = (of_key >= of_query) & (of_key <= of_query + past)  # (C, C + w - 1): the band of the window
        seen = torch.arange(past + blocks * block, device=queries.device) >= past  # the steps since the state
        if count is not None:
            seen = seen | (torch.arange(len(seen), device=queries.device) >= past - count[:, None])  # (B, blocks·C + w - 1)
        allowed = (
            mask & seen.expand(batch, -1).unfold(1, block + past, block).flatten(0, 1)[:, None]
        )  # (B·blocks, C, C + w - 1)
        padded = pad(queries, (0, 0, 0, 0, 0, short)).view(batch * blocks, block, self.num_heads, self.d_head)
        out = self._attend(padded, cut(keys), cut(values), allowed)
        return out.view(batch, blocks * block, self.num_heads, self.d_head)[:, :steps]

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None) -> Tensor:
        """Attention of the last queries: (N, C, h, d) on (N, M, h, d); ``allowed`` (N, C, M), None for all of the past."""
        rotation = self._rotation(keys.shape[1], keys)
        turned = _rotate(queries, rotation[keys.shape[1] - queries.shape[1] :]), _rotate(keys, rotation), values
        q, k, v = (x.transpose(1, 2) for x in turned)  # (N, h, steps, d)
        mask = None if allowed is None else allowed[:, None]
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None).transpose(1, 2)

    def _rotation(self, steps: int, like: Tensor) -> Tensor:
        """cos and sin of the angles of positions 0 .. steps-1, (steps, d_head / 2, 2), made in float64."""
        kind, device = exact_dtype(like), like.device
        rates = self.theta ** (-torch.arange(0, self.d_head, 2, dtype=kind, device=device) / self.d_head)
        angles = torch.arange(steps, dtype=kind, device=device)[:, None] * rates
        return torch.stack([angles.cos(), angles.sin()], dim=-1).to(like.dtype)


def _rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn neighbouring channels as pairs: x (N, T, h, d), rotation (T, d / 2, 2)."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = rotation[:, None, :, 0], rotation[:, None, :, 1]  # (T, 1, d / 2)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
