"""STU language models as ordinary models of the `transformers` library, with layers from this one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_layers import GenericForSequenceClassification, GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRotaryEmbedding
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from torchstu.integrations.transformers.attention import STUAttention
from torchstu.integrations.transformers.cache import STUCache, check_cache
from torchstu.integrations.transformers.configuration import ATTENTION, STUConfig
from torchstu.integrations.transformers.mixing import STUMixing, real_steps, starts
from torchstu.layers.base import Mixer
from torchstu.layers.spectral import SpectralMixer


class STUDecoderLayer(GradientCheckpointingLayer):
    """z = x + dropout(mix(norm(x))); y = z + dropout(MLP(norm(z))), as in Flash STU (arXiv 2409.10489)."""

    def __init__(self, config: STUConfig, layer_idx: int) -> None:
        super().__init__()
        self.is_attention = config.layer_mixers[layer_idx] in ATTENTION
        if self.is_attention:
            self.self_attn = STUAttention(config, layer_idx)
        else:
            self.mixing = STUMixing(config, layer_idx)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_mixing_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Any = None,
        real: Tensor | None = None,
        reset: Tensor | None = None,
        past_key_values: STUCache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        normed = self.input_layernorm(hidden_states)
        if self.is_attention:
            mixed, _ = self.self_attn(
                hidden_states=normed, attention_mask=attention_mask, past_key_values=past_key_values, **kwargs
            )
        else:
            cache = None if past_key_values is None else past_key_values.layers[self.mixing.layer_idx]
            mixed = self.mixing(normed, real, reset, cache)
        hidden_states = hidden_states + self.dropout(mixed)
        return hidden_states + self.dropout(self.mlp(self.post_mixing_layernorm(hidden_states)))


class STUPreTrainedModel(PreTrainedModel):
    """What all STU models of the library share."""

    config: STUConfig
    config_class = STUConfig
    base_model_prefix = "model"
    model_tags = ["torchstu", "spectral-state-space-model"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _no_split_modules = ["STUDecoderLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _is_stateful = True
    _can_record_outputs = {"hidden_states": STUDecoderLayer, "attentions": STUAttention}  # noqa: RUF012

    def _init_weights(self, module: nn.Module) -> None:
        """The library's for its own parts; a mixer starts as it does anywhere, but for weights that were read from a file."""
        super()._init_weights(module)
        if not isinstance(module, Mixer):
            return
        read = {name: p.clone() for name, p in module.named_parameters() if getattr(p, "_is_hf_initialized", False)}
        if len(read) < len(dict(module.named_parameters())):
            module.reset_parameters()  # type: ignore[operator]
            for name, value in read.items():
                module.get_parameter(name).copy_(value)
        if isinstance(module, SpectralMixer):  # the library makes models without storage: filters are not in the file
            _make_buffers(module)

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """An `STUCache`, which knows how many tokens it has seen, where `generate` would make one of its own."""
        if generation_config.use_cache is not False and model_kwargs.get("past_key_values") is None:
            kind = generation_config.cache_implementation
            if kind not in (None, "dynamic"):
                raise ValueError(
                    f"cache_implementation: {kind!r}; an STU model has 'dynamic' alone, constant but for full attention"
                )
            model_kwargs["past_key_values"] = STUCache(self.config)
        return None


class STUModel(STUPreTrainedModel):
    """Embedding, layers and the last norm: hidden states of tokens.

    Args:
        config: sizes and layers.
    """

    def __init__(self, config: STUConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList([STUDecoderLayer(config, index) for index in range(config.num_hidden_layers)])
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config) if config.has_attention and config.alibi_slopes is None else None
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: STUCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states.

        Args:
            input_ids: (B, T) tokens, or ``inputs_embeds`` (B, T, D) in their place.
            attention_mask: (B, seen + T), 0 where padding is, on any side; its last T columns are those of the input. Or what
                the library makes of it, by layer type.
            position_ids: (B, T); without padding and an earlier state, a jump starts another sequence of a packed row, and
                no state is returned.
            past_key_values: the state after earlier tokens, an `STUCache`, which is brought up to date in place.
            use_cache: whether to return one.

        Raises:
            ValueError: both or none of the inputs, no tokens, tokens out of range, a mask of another shape, the cache of
                another model or batch. TypeError: a cache of another kind.
        """
        x = self._embedded(input_ids, inputs_embeds)
        batch, steps, _ = x.shape
        if past_key_values is not None:
            check_cache(past_key_values, self.config, batch)
        seen = 0 if past_key_values is None else past_key_values.seen_tokens
        attention_mask = self._checked_mask(attention_mask, batch, seen, steps)
        flat = attention_mask.get("linear_attention") if isinstance(attention_mask, dict) else attention_mask
        real = real_steps(None if flat is None or flat.ndim != 2 else flat, steps)
        reset = None if seen or isinstance(attention_mask, dict) else starts(position_ids, real)
        if reset is not None and real is not None:
            raise ValueError("position_ids: packed sequences beside padding in attention_mask; a row has one or the other")
        if position_ids is None and kwargs.get("cu_seq_lens_q") is not None:
            raise ValueError(
                "cu_seq_lens_q: without position_ids; packed sequences are told apart by positions that start again"
            )
        if self.gradient_checkpointing and self.training and past_key_values is not None:
            raise ValueError("past_key_values: with gradient checkpointing, which computes layers twice; give one or the other")
        if reset is not None and past_key_values is not None:
            raise ValueError("position_ids: packed sequences beside past_key_values; a cache is for one sequence a row")
        if reset is not None:
            attention_mask = None  # all real: so the library sees that they are packed
        elif use_cache and past_key_values is None:
            past_key_values = STUCache(self.config)
        if position_ids is None:
            position_ids = torch.arange(seen, seen + steps, device=x.device)[None]
        masks = self._attention_masks(x, attention_mask, past_key_values, position_ids)
        shared = {"real": real, "reset": reset, "past_key_values": past_key_values}
        if self.rotary_emb is not None:
            shared["position_embeddings"] = self.rotary_emb(x, position_ids=position_ids)
        for layer, kind in zip(self.layers, self.config.layer_types, strict=True):
            x = layer(x, attention_mask=masks.get(kind), position_ids=position_ids, **shared, **kwargs)
        if past_key_values is not None:
            past_key_values.seen_tokens += steps
            if steps > 1 and not torch.compiler.is_compiling():
                past_key_values.trim()
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x), past_key_values=past_key_values)

    def _embedded(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("input_ids, inputs_embeds: exactly one of them must be given")
        if input_ids is None:
            return _checked("inputs_embeds", inputs_embeds, "(B, T, D)")
        _checked("input_ids", input_ids, "(B, T)")
        if input_ids.device.type == "cpu" and not torch.compiler.is_compiling():  # elsewhere it would wait, or be no graph
            low, high = int(input_ids.min()), int(input_ids.max())
            if low < 0 or high >= self.config.vocab_size:
                raise ValueError(f"input_ids: from {low} to {high}; tokens must be from 0 to {self.config.vocab_size - 1}")
        return self.embed_tokens(input_ids)

    def _checked_mask(self, mask: Any, batch: int, seen: int, steps: int) -> Any:
        """A mask of the new steps alone gets ones for those seen."""
        if not isinstance(mask, Tensor) or (mask.ndim > 2 and "linear_attention" not in self.config.layer_types):
            return mask
        if tuple(mask.shape) not in ((batch, seen + steps), (batch, steps)):
            raise ValueError(
                f"attention_mask: shape {tuple(mask.shape)}; it must be {(batch, seen + steps)}"
                + ", a state knows no masks of pairs" * (mask.ndim > 2)
            )
        return torch.cat([mask.new_ones(batch, seen), mask], dim=1) if mask.shape[1] < seen + steps else mask

    def _attention_masks(self, x: Tensor, mask: Any, cache: STUCache | None, position_ids: Tensor) -> dict[str, Any]:
        if isinstance(mask, dict):
            return mask
        makers = {"full_attention": create_causal_mask, "sliding_attention": create_sliding_window_causal_mask}
        return {
            kind: make(
                config=self.config, inputs_embeds=x, attention_mask=mask, past_key_values=cache, position_ids=position_ids
            )
            for kind, make in makers.items()
            if kind in self.config.layer_types
        }


class STUForCausalLM(STUPreTrainedModel, GenerationMixin):
    """An STU model with a head over tokens: train it with the library's Trainer, generate with `generate`.

    Args:
        config: sizes and layers.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: STUConfig) -> None:
        super().__init__(config)
        self.model = STUModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: STUCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits of the next tokens, and with ``labels`` (B, T) their mean loss in nats; arguments as in `STUModel`.

        ``logits_to_keep`` is how many logits, from the end, are wanted; 0: all. Labels of -100 do not count.
        ``shift_labels`` (B, T) are labels in place, those of the next tokens.
        """
        shift_labels = kwargs.pop("shift_labels", None)  # in the signature the Trainer would take it for a column of all data
        outputs = self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, past_key_values=past_key_values,
            inputs_embeds=inputs_embeds, use_cache=use_cache, **kwargs,
        )  # fmt: skip
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None or shift_labels is not None:
            targets = {"labels": labels, "shift_labels": shift_labels}
            loss = self.loss_function(logits=logits, vocab_size=self.config.vocab_size, **targets, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states, attentions=outputs.attentions,
        )  # fmt: skip


class STUForSequenceClassification(GenericForSequenceClassification, STUPreTrainedModel):
    """An STU model with a class a sequence, read at its last token that is no padding."""


def _make_buffers(mixer: SpectralMixer) -> None:
    """The filters of a mixer where its buffers are: its weights may have stayed on a disk."""
    device, weight = mixer.get_buffer("filters").device, next(mixer.parameters())
    if device.type == "meta" or not weight.is_meta:
        mixer.make_buffers()
        return
    twin = type(mixer)(**mixer.config).to(device=device, dtype=weight.dtype)
    for name, buffer in twin.named_buffers(recurse=False):
        mixer.register_buffer(name, buffer, persistent=name not in twin._non_persistent_buffers_set)


def _checked(name: str, x: Any, shape: str) -> Tensor:
    if x.ndim != shape.count(",") + 1 or 0 in x.shape[:2]:
        raise ValueError(f"{name}: shape {tuple(x.shape)}; it must be {shape} with at least one token")
    return x
