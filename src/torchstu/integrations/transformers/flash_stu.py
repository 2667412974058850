"""Weights of Flash STU checkpoints as models of this library.

Their layer: x + STU(norm(x)) or x + attention(norm(x)), then z + MLP(norm(z)), in turns (arXiv 2409.10489).

==============================================  ===========================================================
theirs                                          ours
==============================================  ===========================================================
``tok_emb.weight``                              ``model.embed_tokens.weight``, the head too
``layers.i.stu_norm``, ``attn_norm``            ``model.layers.i.input_layernorm``
``layers.i.stu.M_inputs``, ``M_filters``        ``….mixing.mixer``, of a `TensordotSTU`; with K first, filters matched
``layers.i.stu.M_phi_plus``, ``M_phi_minus``    the same, of an `STU` without y-term, lags or delay
``layers.i.attn.c_attn``, ``c_proj``            ``….self_attn.q_proj``, ``k_proj``, ``v_proj``, ``o_proj``
``layers.i.mlp_norm``, ``mlp``                  ``….post_mixing_layernorm``, ``mlp``
``norm``                                        ``model.norm``
``phi``                                         not kept: filters are made, and weights brought into their basis
==============================================  ===========================================================
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchstu.integrations.transformers.attention import alibi_slopes
from torchstu.integrations.transformers.configuration import STUConfig, check_spelling
from torchstu.integrations.transformers.modeling import STUForCausalLM
from torchstu.spectral.filters import filter_bank

UNSUPPORTED = {
    "use_hankel_L": False, "stu_enable_mlp_sandwich": False, "bias": False, "d_in_tile": None, "d_out_tile": None,
    "tie_word_embeddings": True,
}  # fmt: skip
"""Options of theirs that change the model, and the value that can be converted."""
CONVERTED = ("n_embd", "n_heads", "n_layers", "seq_len", "window_size", "vocab_size", "mlp_scale", "dropout", "num_eigh",
             "use_approx", "use_attn", "softcap", "rms_norm_eps")  # fmt: skip
"""Options of theirs that are taken over; others say how theirs runs."""


def from_flash_stu(
    weights: dict[str, Tensor], config: dict[str, Any], *, hidden_act: str = "gelu_pytorch_tanh", tolerance: float = 2e-2
) -> STUForCausalLM:
    """A Flash STU checkpoint as an `STUForCausalLM`, which streams.

    Their filters, ``phi`` in the checkpoint, are dense eigenvectors, in the order, with the signs and with the rounding they
    came out with. Weights are brought into the basis of ours by least squares, M' = (Φ⁺ Φ_theirs) M; where a filter of theirs
    is not in that space (their last ones are noise for short lengths) something is lost, and ``tolerance`` says how much may
    be. Without ``phi`` theirs are taken to be exact, ascending, and with our signs.

    Args:
        weights: their ``state_dict``, read from safetensors or by ``torch.load(…, weights_only=True)``.
        config: their ``config.json`` as a table; ``n_embd``, ``n_heads``, ``n_layers``, ``seq_len`` and so on.
        hidden_act: the gate of the MLPs; "silu" for models trained with the Liger kernel in place of their plain code.
        tolerance: the largest distance of one of their unit-norm filters from the span of ours.

    Raises:
        ValueError: an option that is misspelled or not supported, a weight that is missing, left over or of another shape, a
            head that is not the embedding, or filters farther than ``tolerance`` from ours.
    """
    for option, supported in UNSUPPORTED.items():
        if config.get(option, supported) not in (supported, None):
            raise ValueError(f"config: {option}={config[option]!r}; only {supported!r} can be converted")
    check_spelling(config, (*UNSUPPORTED, *CONVERTED), "config: ")
    if "n_embd" not in config:
        raise ValueError("config: n_embd is missing; it must be the width of the layers")
    head, embedding = weights.get("lm_head.weight"), weights.get("tok_emb.weight")
    if head is not None and embedding is not None and not torch.equal(head, embedding):
        raise ValueError("weights: 'lm_head.weight' differs from 'tok_emb.weight'; only tied embeddings can be converted")
    ours = _config(config, hidden_act)
    model = STUForCausalLM(ours).to(weights["tok_emb.weight"].dtype if "tok_emb.weight" in weights else torch.float32)
    basis = _basis(weights.get("phi"), ours, tolerance)
    left = {name: value for name, value in weights.items() if name not in ("phi", "lm_head.weight") and ".phi" not in name}
    left = {name: value for name, value in left.items() if not name.endswith((".sgn", ".flash_sgn", ".alibi_slopes"))}
    state = _renamed(left, ours, basis)
    if left:
        raise ValueError(f"weights: {sorted(left)[0]!r} is of no layer of this configuration ({len(left)} such)")
    missing = {name for name in model.state_dict() if name != "lm_head.weight"} - set(state)
    if missing:
        raise ValueError(f"weights: nothing for {sorted(missing)[0]!r} ({len(missing)} such)")
    for name, value in state.items():
        if value.shape != model.state_dict()[name].shape:
            wanted = tuple(model.state_dict()[name].shape)
            raise ValueError(f"weights: shape {tuple(value.shape)} for {name!r}; the configuration says {wanted}")
    model.load_state_dict(state, strict=False)
    model.tie_weights()
    return model.eval()


def _config(config: dict[str, Any], hidden_act: str) -> STUConfig:
    width, heads, window = config["n_embd"], config.get("n_heads", 8), config.get("window_size", 1024)
    window = window[0] if isinstance(window, (tuple, list)) else window
    approximate = config.get("use_approx", True)
    name = "TensordotSTU" if approximate else "STU"
    options = {"banks": "tied"} if approximate else {"input_lags": 0}
    return STUConfig(
        vocab_size=config.get("vocab_size", 200_064),
        hidden_size=width,
        intermediate_size=width * config.get("mlp_scale", 12),
        num_hidden_layers=config.get("n_layers", 26),
        mixers=[name, "sliding_attention"] if config.get("use_attn", True) and config.get("n_layers", 26) > 1 else name,
        mixer_options={name: options},
        num_filters=config.get("num_eigh", 24),
        filter_length=config.get("seq_len", 8192),
        sliding_window=window + 1,  # theirs sees as many steps before its own
        num_attention_heads=heads,
        alibi_slopes=alibi_slopes(heads, 0.25),
        attn_logit_softcapping=config.get("softcap", 50.0) or None,
        hidden_act=hidden_act,
        hidden_dropout=config.get("dropout", 0.0),
        attention_dropout=config.get("dropout", 0.0),
        rms_norm_eps=config.get("rms_norm_eps", 1e-6),
    )


def _basis(phi: Tensor | None, config: STUConfig, tolerance: float) -> Tensor:
    """(K, K) float64, C with Φ_theirs = Φ C, of filters scaled by σ^{1/4}."""
    count = config.num_filters
    if phi is None:
        return torch.eye(count, dtype=torch.float64).flip(0)
    if phi.shape != (config.filter_length, count):
        raise ValueError(
            f"weights: phi has the shape {tuple(phi.shape)}; the configuration says {(config.filter_length, count)}"
        )
    own, theirs = filter_bank(config.filter_length, count), phi.double().cpu().numpy()
    basis = own.filters.T @ theirs  # ours are orthonormal
    away = np.linalg.norm(theirs - own.filters @ basis, axis=0) / np.linalg.norm(theirs, axis=0)
    if away.max() > tolerance:
        raise ValueError(
            f"weights: filter {int(away.argmax())} of phi is {away.max():.2g} away from the exact filters of "
            f"length {config.filter_length}; tolerance is {tolerance:g}"
        )
    return torch.from_numpy(basis / own.eigenvalues[:, None] ** 0.25)


def _renamed(left: dict[str, Tensor], config: STUConfig, basis: Tensor) -> dict[str, Tensor]:
    """Weights under our names, taken out of ``left``."""

    def take(name: str) -> dict[str, Tensor]:
        return {name: left.pop(name)} if name in left else {}

    def in_basis(M: Tensor) -> Tensor:
        if M.shape[0] != len(basis):
            raise ValueError(f"weights: {M.shape[0]} filters in a weight of shape {tuple(M.shape)}; num_eigh is {len(basis)}")
        return torch.tensordot(basis, M.double(), dims=1).to(M.dtype)

    state: dict[str, Tensor] = {}

    def put(name: str, found: dict[str, Tensor]) -> None:
        state.update(zip([name], found.values(), strict=False))

    put("model.embed_tokens.weight", take("tok_emb.weight"))
    put("model.norm.weight", take("norm.weight"))
    for i in range(config.num_hidden_layers):
        theirs, own = f"layers.{i}.", f"model.layers.{i}."
        for norm in ("stu_norm", "attn_norm"):
            put(own + "input_layernorm.weight", take(f"{theirs}{norm}.weight"))
        put(own + "post_mixing_layernorm.weight", take(theirs + "mlp_norm.weight"))
        for name in ("gate_proj", "up_proj", "down_proj"):
            put(f"{own}mlp.{name}.weight", take(f"{theirs}mlp.{name}.weight"))
        put(own + "mixing.mixer.M_inputs", take(theirs + "stu.M_inputs"))
        for name in ("M_filters", "M_phi_plus", "M_phi_minus"):
            put(f"{own}mixing.mixer.{name}", {k: in_basis(M) for k, M in take(f"{theirs}stu.{name}").items()})
        if f"{own}mixing.mixer.M_phi_plus" in state:
            state[own + "mixing.mixer.M_u"] = torch.zeros(0, config.hidden_size, config.hidden_size)
        for fused in take(theirs + "attn.c_attn.weight").values():
            for name, part in zip(("q_proj", "k_proj", "v_proj"), fused.chunk(3), strict=True):
                state[f"{own}self_attn.{name}.weight"] = part
        put(own + "self_attn.o_proj.weight", take(theirs + "attn.c_proj.weight"))
    return state
