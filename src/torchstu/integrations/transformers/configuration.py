"""The configuration of an STU language model, with the library's usual names."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from torchstu.layers.registry import MIXERS

ATTENTION = ("sliding_attention", "full_attention")
"""Layers of the library's own attention, by the library's words."""
CHOICES = tuple(name for name in MIXERS if name != "Attention") + ATTENTION
"""What a layer can be: a mixer by its registered name, or attention."""


COUNTS = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_filters", "filter_length", "sliding_window", "num_attention_heads",
)  # fmt: skip
"""Sizes that are integers of at least 1."""
OPTIONAL_COUNTS = ("intermediate_size", "num_key_value_heads", "head_dim")
"""The same, or None."""
KINDS: dict[str, tuple[Any, str]] = {
    "mixers": ((str, list, tuple), "a name or a list of names"), "mixer_options": (dict, "a table by mixer, or None"),
    "rope_parameters": (dict, "a table, or None"), "alibi_slopes": ((list, tuple), "a list of numbers, or None"),
    "hidden_act": (str, "a name"), "pad_token_id": (int, "a token, or None"), "bos_token_id": (int, "a token, or None"),
    "eos_token_id": ((int, list), "a token, a list of them, or None"),
}  # fmt: skip
"""What is no number, and in words."""
RANGES = {"attention_dropout": (0.0, 1.0), "hidden_dropout": (0.0, 1.0), "rms_norm_eps": (0.0, math.inf),
          "initializer_range": (0.0, math.inf), "attn_logit_softcapping": (0.0, math.inf)}  # fmt: skip
"""Numbers, and from where to below where they may be."""


def check_spelling(names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Refuse names that are almost known ones; others may be the library's.

    Raises:
        ValueError: such a name; the message has the known one.
    """
    known = set(known)
    for name in names:
        meant = difflib.get_close_matches(name, known, n=1, cutoff=0.9)
        if meant and name not in known and not hasattr(PreTrainedConfig, name):
            raise ValueError(f"{what}{name}: unknown; did you mean {meant[0]}?")


class STUConfig(PreTrainedConfig):
    """Sizes and layers of an STU language model.

    Args:
        vocab_size: tokens.
        hidden_size: D, the width of the layers.
        intermediate_size: inner width of the gated MLPs; None: 8/3 D, rounded up to a multiple of 8.
        num_hidden_layers: layers, each a mixer and an MLP.
        mixers: what the layers mix with, taken in turns from the first on: one or several of "TensordotSTU", "STU", "AR-STU",
            "sliding_attention", "full_attention" (and the other mixers of `torchstu.layers.registry.MIXERS`, for comparison).
        num_filters: K of the STU layers.
        filter_length: L, the steps that their filters are made for; generation runs on beyond it.
        mixer_options: further arguments of the mixers, under their names: ``{"STU": {"num_heads": 8}}``.
        sliding_window: steps that "sliding_attention" sees.
        num_attention_heads, num_key_value_heads, head_dim: of attention; None: as many as heads, D / heads.
        max_position_embeddings: the positions that attention is meant for; STU layers know none.
        rope_parameters: of attention's rotary embedding, as in the library.
        alibi_slopes: a number a head in place of the rotary embedding: how fast its attention falls with distance.
        attn_logit_softcapping: c of c tanh(s / c) on the logits of attention; None: no cap.
        attention_dropout, attention_bias: of attention.
        hidden_act, mlp_bias: of the MLPs.
        hidden_dropout: of what every part adds to the residual sum.
        rms_norm_eps: ε of the norms.
        initializer_range: standard deviation of the first weights of embedding, MLPs and attention.
        use_cache: whether `forward` returns a state.
        tie_word_embeddings: whether the head is the embedding, transposed.
        pad_token_id, bos_token_id, eos_token_id: as in the library.

    Attributes:
        layer_mixers: the mixer of every layer.
        layer_types: the library's words for them, by which it makes caches: "linear_attention" for all that carry a state.

    Raises:
        ValueError: an unknown mixer, no mixer, more mixers than layers, numbers out of range, or options that a mixer refuses
            (when the model is made).
    """

    model_type = "stu"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012
    default_theta = 10_000.0

    vocab_size: int = 32_000
    hidden_size: int = 768
    intermediate_size: int | None = None
    num_hidden_layers: int = 12
    mixers: str | list[str] = "TensordotSTU"
    num_filters: int = 24
    filter_length: int = 8192
    mixer_options: dict[str, Any] | None = None
    sliding_window: int = 1024
    num_attention_heads: int = 12
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 131_072
    rope_parameters: dict[str, Any] | None = None
    alibi_slopes: list[float] | None = None
    attn_logit_softcapping: float | None = None
    attention_dropout: float = 0.0
    attention_bias: bool = False
    hidden_act: str = "silu"
    mlp_bias: bool = False
    hidden_dropout: float = 0.0
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    use_cache: bool = True
    tie_word_embeddings: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    layer_types: list[str] = None  # type: ignore[assignment]

    def __post_init__(self, **kwargs: Any) -> None:
        for name in (*COUNTS, *OPTIONAL_COUNTS):
            value = getattr(self, name)
            if value is None and name in OPTIONAL_COUNTS:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: {value!r}; it must be an integer of at least 1")
        for name, (kinds, words) in KINDS.items():
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
                raise ValueError(f"{name}: {value!r}; it must be {words}")
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act: {self.hidden_act!r}; it must be one of {', '.join(sorted(ACT2FN))}")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if name == "attn_logit_softcapping" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value < high:
                raise ValueError(f"{name}: {value!r}; it must be a number from {low:g} to below {high:g}")
        check_spelling(kwargs, STUConfig.__annotations__, "")
        self.mixers = [self.mixers] if isinstance(self.mixers, str) else list(self.mixers)
        self._check_layers()
        if self.intermediate_size is None:
            self.intermediate_size = -(-8 * self.hidden_size // 24) * 8
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:  # without attention nothing has it, and the library's checks of it must not matter
            self.head_dim = self.hidden_size // self.num_attention_heads if self.has_attention else 2
        if self.has_attention:
            self._check_heads()
        if self.alibi_slopes is not None and len(self.alibi_slopes) != self.num_attention_heads:
            raise ValueError(f"alibi_slopes: {len(self.alibi_slopes)} of them; there are {self.num_attention_heads} heads")
        self.layer_types = [name if name in ATTENTION else "linear_attention" for name in self.layer_mixers]
        super().__post_init__(**kwargs)

    def _check_layers(self) -> None:
        for name in self.mixers:
            if name not in CHOICES:
                raise ValueError(f"mixers: {name!r}; each must be one of {', '.join(map(repr, CHOICES))}")
        if not 1 <= len(self.mixers) <= self.num_hidden_layers:
            raise ValueError(
                f"mixers: {len(self.mixers)} of them; there must be from 1 to num_hidden_layers, {self.num_hidden_layers}"
            )
        for name, options in (self.mixer_options or {}).items():
            if name not in self.mixers or name in ATTENTION or not isinstance(options, dict):
                raise ValueError(f"mixer_options: {name!r}; it must have tables of options under the names of mixers in use")
        heads, width = self.num_attention_heads, self.hidden_size
        if self.has_attention and self.head_dim is None and width % heads:
            raise ValueError(f"num_attention_heads: {heads}; it must divide hidden_size, {width}, or head_dim must be given")

    def _check_heads(self) -> None:
        heads, shared = self.num_attention_heads, self.num_key_value_heads
        if heads % shared:  # type: ignore[operator]
            raise ValueError(f"num_key_value_heads: {shared}; it must divide num_attention_heads, {heads}")
        if self.head_dim % 2 and self.alibi_slopes is None:  # type: ignore[operator]
            raise ValueError(f"head_dim: {self.head_dim}; rotary positions turn pairs, it must be even")
        if "sliding_attention" in self.mixers and self.sliding_window < 2:
            raise ValueError(f"sliding_window: {self.sliding_window}; it must be at least 2, a token and one before it")

    def validate_rope(self) -> None:
        """The library's check, where positions are rotary."""
        if self.has_attention and self.alibi_slopes is None:
            super().validate_rope()

    @property
    def layer_mixers(self) -> list[str]:
        """The mixer of every layer."""
        return [self.mixers[index % len(self.mixers)] for index in range(self.num_hidden_layers)]

    @property
    def has_attention(self) -> bool:
        """Whether any layer is attention."""
        return any(name in ATTENTION for name in self.mixers)

    def mixer(self, index: int) -> tuple[str, dict[str, Any]]:
        """Name and arguments of the mixer of a layer that carries a state."""
        name = self.layer_mixers[index]
        options = dict((self.mixer_options or {}).get(name, {}))
        if name.endswith("STU"):
            options = {"num_filters": self.num_filters} | options
        if name == "STU":
            options.setdefault("autoregression", None)
        elif name == "AR-STU":
            options.setdefault("initial_feedback", "zero")
        return name, options
