"""Bits per byte of a language model, at every position of the context, and text from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import TextStreamer, set_seed

from torchstu.integrations.transformers.text import TokenFile, Windows


@torch.no_grad()
def bits_per_byte(model: Any, tokens: TokenFile, part: str, context: int, batch_size: int = 16) -> float:
    """-Σ log2 p(token) over the bytes of a part, in stretches of ``context`` tokens, each read from a state of rest.

    Args:
        model: a causal language model.
        tokens: of the text.
        part: "train", "validation" or "test".
        context: tokens that are read at once.
        batch_size: stretches at once.
    """
    losses = _losses(model, Windows(tokens.part(part), context), batch_size)
    share = losses.size / tokens.tokens[part]
    return float(losses.sum() / math.log(2) / (tokens.bytes[part] * share))


@torch.no_grad()
def bits_by_position(model: Any, tokens: TokenFile, part: str, context: int, batch_size: int = 2) -> np.ndarray:
    """Mean bits per byte by position in stretches of ``context`` tokens, (context,); the first is that after one token."""
    losses = _losses(model, Windows(tokens.part(part), context), batch_size)
    return losses.mean(0) / math.log(2) * tokens.tokens[part] / tokens.bytes[part]


def _losses(model: Any, windows: Windows, batch_size: int) -> np.ndarray:
    """Nats of every token, (stretches, context)."""
    training, rows = model.training, []
    model.eval()
    try:
        for start in range(0, len(windows), batch_size):
            stop = min(start + batch_size, len(windows))
            rows_of = [windows[i] for i in range(start, stop)]
            ids, after = (torch.stack([row[name] for row in rows_of]).to(model.device) for name in ("input_ids", "labels"))
            logits = model(input_ids=ids, use_cache=False).logits.float()
            rows.append(cross_entropy(logits.mT, after, reduction="none").double().cpu().numpy())
    finally:
        model.train(training)
    return np.concatenate(rows)


def generate_text(
    model: Any, tokenizer: Any, prompt: str, tokens: int, *, temperature: float = 0.8, top_k: int | None = None,
    seed: int = 0, write: Callable[[str], Any] | None = None,
) -> str:  # fmt: skip
    """Text that goes on from a prompt, in constant memory.

    Args:
        model: a causal language model.
        tokenizer: its own.
        prompt: at least one token.
        tokens: how many to add.
        temperature: 0 takes the likeliest token always.
        top_k: only so many likeliest tokens are drawn from; None: all.
        seed: of the draw.
        write: gets the text piece by piece while it is made.

    Raises:
        ValueError: an empty prompt, a negative temperature, or fewer than one token.
    """
    if tokens < 1:
        raise ValueError(f"tokens: {tokens}; it must be at least 1")
    if temperature < 0:
        raise ValueError(f"temperature: {temperature}; it must be at least 0")
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids.to(model.device)
    if not ids.numel():
        raise ValueError(f"prompt: {prompt!r}; it must have at least one token")
    set_seed(seed)
    streamer = None if write is None else _Streamer(tokenizer, write)
    options: dict[str, Any] = {"do_sample": temperature > 0, "max_new_tokens": tokens, "streamer": streamer}
    if temperature > 0:
        options |= {"temperature": temperature, "top_k": top_k or 0}
    found = model.generate(ids.long(), attention_mask=torch.ones_like(ids), **options)
    return tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True)


class _Streamer(TextStreamer):
    """Text to a function instead of to the terminal."""

    def __init__(self, tokenizer: Any, write: Callable[[str], Any]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.write = write

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.write(text)
