"""Attention of hybrid models: the library's, and with linear biases and capped logits as Flash STU was trained with."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaAttention, apply_rotary_pos_emb, repeat_kv

from torchstu.integrations.transformers.configuration import STUConfig


class STUAttention(LlamaAttention):
    """Causal attention over all that came before, or over a window of it.

    With rotary positions it is the library's, through whatever ``attn_implementation`` is. With ``alibi_slopes`` or
    ``attn_logit_softcapping`` it is softmax(c tanh(s / c) - m_h (t - i)), s = q·k / √d, in this file, for "sdpa" and "eager".

    Args:
        config: of the model.
        layer_idx: of the layer, counted from 0.

    Source: arXiv 2108.12409 (linear biases m_h), arXiv 2408.00118 (capped logits c).
    """

    def __init__(self, config: STUConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.sliding_window = config.sliding_window if config.layer_types[layer_idx] == "sliding_attention" else None

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: Any = None,
        attention_mask: Any = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> Any:
        """As in the library; backends without masks are told the window."""
        if self.config.alibi_slopes is None and self.config.attn_logit_softcapping is None:
            return super().forward(
                hidden_states,
                position_embeddings,
                attention_mask,
                past_key_values,
                sliding_window=self.sliding_window,
                **kwargs,
            )
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        q, k, v = (part(hidden_states).view(heads).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj))
        if self.config.alibi_slopes is None:
            q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        k, v = repeat_kv(k, self.num_key_value_groups), repeat_kv(v, self.num_key_value_groups)
        scores = torch.matmul(q, k.mT) * self.scaling  # (B, H, T, S)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        cap = self.config.attn_logit_softcapping
        if cap is not None:
            scores = cap * torch.tanh(scores / cap)
        weights = (scores + self._biases(scores, attention_mask)).softmax(-1).to(v.dtype)
        weights = torch.nn.functional.dropout(weights, self.attention_dropout, self.training)
        y = torch.matmul(weights, v).transpose(1, 2).reshape(*hidden_states.shape[:-1], -1)
        return self.o_proj(y), weights

    def _biases(self, scores: Tensor, mask: Any) -> Tensor:
        """-m_h (t - i), and what may not be seen at the lowest number; keys end with the last query."""
        steps, seen = scores.shape[-2:]
        ago = torch.arange(seen - steps, seen, device=scores.device)[:, None] - torch.arange(seen, device=scores.device)
        lowest = torch.finfo(scores.dtype).min
        hidden = (ago < 0) | (ago >= (self.sliding_window or math.inf))
        biases = torch.zeros_like(scores[:1]).masked_fill(hidden, lowest)
        if self.config.alibi_slopes is not None:
            slopes = torch.tensor(self.config.alibi_slopes, dtype=scores.dtype, device=scores.device)
            biases = (biases - slopes[:, None, None] * ago.clamp(min=0)).clamp(min=lowest)
        if mask is None:
            return biases
        if not isinstance(mask, Tensor) or mask.ndim != 4:
            raise ValueError(
                f"attn_implementation: {self.config._attn_implementation!r}; alibi_slopes and attn_logit_softcapping need "
                "'sdpa' or 'eager'"
            )
        unseen = ~mask if mask.dtype == torch.bool else mask < 0
        return biases.masked_fill(unseen[..., -seen:], lowest)


def alibi_slopes(heads: int, scale: float = 1.0) -> list[float]:
    """m_h = scale · 2^{-8h/H}, h = 1..H; for H that is no power of two, every other one of the next power fills up.

    Source: arXiv 2108.12409; ``scale`` 1/4 as in arXiv 2310.13017 and Flash STU.
    """
    whole = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8 * h / whole) for h in range(1, whole + 1)]
    slopes += [2.0 ** (-4 * h / whole) for h in range(1, 2 * whole + 1, 2)][: heads - whole]
    return [scale * slope for slope in slopes]
