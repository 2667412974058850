"""Bits per byte of a language model, at every position of the context, and text from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import TextStreamer

from torchstu.integrations.transformers.text import TokenFile, Windows

LOGITS = 2**22
"""So many at once, unless a single stretch has more."""


def bits_per_byte(model: Any, tokens: TokenFile, part: str, context: int) -> float:
    """-Σ log2 p(token) over the bytes of a part, in stretches of ``context`` tokens, each read from a state of rest.

    Args:
        model: a causal language model.
        tokens: of the text.
        part: "train", "validation", "test" or "all".
        context: tokens that are read at once; the last stretch may be shorter.
    """
    nats, counts = _nats(model, tokens.part(part), context)
    return float(nats.sum() / counts.sum() / math.log(2) * tokens.tokens[part] / tokens.bytes[part])


def bits_by_position(model: Any, tokens: TokenFile, part: str, context: int) -> np.ndarray:
    """Mean bits per byte by position in stretches of ``context`` tokens, (context,); the first is that after one token."""
    nats, counts = _nats(model, tokens.part(part), context)
    return nats / counts / math.log(2) * tokens.tokens[part] / tokens.bytes[part]


@torch.no_grad()
def _nats(model: Any, ids: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of nats by position in stretches, and of how many, (context,) each."""
    stretches, training = Windows(ids, context), model.training
    at_once = max(1, LOGITS // (context * model.config.vocab_size))
    batches = [range(start, min(start + at_once, len(stretches))) for start in range(0, len(stretches), at_once)]
    nats, counts = np.zeros(context), np.zeros(context)

    def read(rows: list[dict[str, torch.Tensor]]) -> None:
        inputs, after = (torch.stack([row[name] for row in rows]).to(model.device) for name in ("input_ids", "labels"))
        logits = model(input_ids=inputs, use_cache=False).logits.float()
        losses = cross_entropy(logits.flatten(0, 1), after.flatten(), reduction="none").view(after.shape)
        nats[: after.shape[1]] += losses.double().sum(0).cpu().numpy()
        counts[: after.shape[1]] += len(rows)

    model.eval()
    try:
        for batch in batches:
            read([stretches[i] for i in batch])
        if rest := len(ids) - 1 - len(stretches) * context:
            read([Windows(ids, rest, offset=len(stretches) * context)[0]])
    finally:
        model.train(training)
    return nats, counts


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
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature: {temperature}; it must be at least 0, and finite")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k: {top_k}; it must be at least 1, or None for all")
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids.to(model.device)
    if not ids.numel():
        raise ValueError(f"prompt: {prompt!r}; it must have at least one token")
    streamer = None if write is None else _Streamer(tokenizer, write)
    options: dict[str, Any] = {"do_sample": temperature > 0, "max_new_tokens": tokens, "streamer": streamer}
    if temperature > 0:
        options |= {"temperature": temperature, "top_k": top_k or 0}
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        found = model.generate(ids.long(), attention_mask=torch.ones_like(ids), **options)
    return tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True)


class _Streamer(TextStreamer):
    """Text to a function instead of to the terminal."""

    def __init__(self, tokenizer: Any, write: Callable[[str], Any]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.write = write

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.write(text)
