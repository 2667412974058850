"""Flash STU checkpoints: weights made in their format, their model written out, the same logits."""

import math

import pytest
import torch
from torch.nn.functional import gelu, rms_norm

from torchstu.testing import close

pytest.importorskip("transformers")

from torchstu.integrations.transformers import STUCache, from_flash_stu
from torchstu.spectral.filters import filter_bank

SIZES = {
    "n_embd": 16, "n_heads": 4, "n_layers": 3, "seq_len": 64, "window_size": 5, "vocab_size": 40, "mlp_scale": 2,
    "num_eigh": 6, "use_approx": True, "use_attn": True, "softcap": 3.0,
}  # fmt: skip


def checkpoint(config, seed=0):
    """Random weights by their names; ``phi`` ascending, with signs of its own, scaled, as theirs is kept."""
    torch.manual_seed(seed)
    width, filters = config["n_embd"], config["num_eigh"]
    bank = filter_bank(config["seq_len"], filters)
    signs = torch.tensor([1.0, -1.0] * filters)[:filters]
    phi = torch.from_numpy(bank.filters.copy() * bank.eigenvalues**0.25).flip(1) * signs
    shapes = {"tok_emb.weight": (config["vocab_size"], width), "norm.weight": (width,)}
    for i in range(config["n_layers"]):
        attention = i % 2 == 1 and config["use_attn"]
        shapes[f"layers.{i}.{'attn' if attention else 'stu'}_norm.weight"] = (width,)
        shapes[f"layers.{i}.mlp_norm.weight"] = (width,)
        inner = width * config["mlp_scale"]
        for name, shape in (("gate_proj", (inner, width)), ("up_proj", (inner, width)), ("down_proj", (width, inner))):
            shapes[f"layers.{i}.mlp.{name}.weight"] = shape
        if attention:
            shapes[f"layers.{i}.attn.c_attn.weight"] = (3 * width, width)
            shapes[f"layers.{i}.attn.c_proj.weight"] = (width, width)
        elif config["use_approx"]:
            shapes[f"layers.{i}.stu.M_inputs"], shapes[f"layers.{i}.stu.M_filters"] = (width, width), (filters, width)
        else:
            shapes[f"layers.{i}.stu.M_phi_plus"] = shapes[f"layers.{i}.stu.M_phi_minus"] = (filters, width, width)
    weights = {name: torch.randn(shape, dtype=torch.float64) / math.sqrt(shape[-1]) for name, shape in shapes.items()}
    return weights | {"phi": phi, "lm_head.weight": weights["tok_emb.weight"]}


def convolved(x, taps):
    """Σ_i x_{t-i} taps(i), channel by channel; a loop over lags."""
    return sum(torch.nn.functional.pad(x, (0, 0, i, 0))[:, : x.shape[1]] * taps[i] for i in range(x.shape[1]))


def spectral(x, weights, name, phi):
    sign = (-1.0) ** torch.arange(len(phi), dtype=x.dtype)[:, None]
    if f"{name}.M_inputs" in weights:
        taps = phi @ weights[f"{name}.M_filters"]
        x = x @ weights[f"{name}.M_inputs"]
        return convolved(x, taps) + convolved(x, sign * taps)
    total = torch.zeros_like(x)
    for k in range(phi.shape[1]):
        total = total + convolved(x, phi[:, k : k + 1]) @ weights[f"{name}.M_phi_plus"][k]
        total = total + convolved(x, sign * phi[:, k : k + 1]) @ weights[f"{name}.M_phi_minus"][k]
    return total


def attention(x, weights, name, config):
    batch, steps, width = x.shape
    heads = config["n_heads"]
    q, k, v = (x @ weights[f"{name}.c_attn.weight"].T).view(batch, steps, 3, heads, -1).permute(2, 0, 3, 1, 4)
    scores = config["softcap"] * torch.tanh(q @ k.mT / math.sqrt(width // heads) / config["softcap"])
    ago = torch.arange(steps)[:, None] - torch.arange(steps)
    slopes = torch.tensor([0.25 * 2 ** (-8 * (h + 1) / heads) for h in range(heads)], dtype=x.dtype)
    scores = scores - slopes[:, None, None] * ago
    scores = scores.masked_fill((ago < 0) | (ago > config["window_size"]), -math.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape) @ weights[f"{name}.c_proj.weight"].T


def flash_stu(ids, weights, config):
    """Their forward pass, by its equations."""
    x = weights["tok_emb.weight"][ids]
    for i in range(config["n_layers"]):
        name = f"layers.{i}"
        if f"{name}.attn_norm.weight" in weights:
            normed = rms_norm(x, x.shape[-1:], weights[f"{name}.attn_norm.weight"], 1e-6)
            x = x + attention(normed, weights, f"{name}.attn", config)
        else:
            normed = rms_norm(x, x.shape[-1:], weights[f"{name}.stu_norm.weight"], 1e-6)
            x = x + spectral(normed, weights, f"{name}.stu", weights["phi"])
        normed = rms_norm(x, x.shape[-1:], weights[f"{name}.mlp_norm.weight"], 1e-6)
        gate = gelu(normed @ weights[f"{name}.mlp.gate_proj.weight"].T, approximate="tanh")
        x = x + (gate * (normed @ weights[f"{name}.mlp.up_proj.weight"].T)) @ weights[f"{name}.mlp.down_proj.weight"].T
    return rms_norm(x, x.shape[-1:], weights["norm.weight"], 1e-6) @ weights["tok_emb.weight"].T


@pytest.mark.parametrize("options", [{}, {"use_approx": False}, {"use_attn": False}, {"n_heads": 4, "softcap": 50.0}], ids=str)
@torch.no_grad()
def test_the_logits_are_theirs(options):
    config = SIZES | options
    weights, ids = checkpoint(config), torch.randint(0, 40, (2, 50))
    model = from_flash_stu(weights, config)
    close(model(ids).logits, flash_stu(ids, weights, config), "imported model", "logits")
    whole, cache = model(ids).logits, STUCache(model.config)
    parts = [model(part, past_key_values=cache).logits for part in ids.split([20, 1, 7, 22], dim=1)]
    close(torch.cat(parts, dim=1), whole, "split float64", "streamed")


@torch.no_grad()
def test_padded_prompts_keep_their_distances():
    config = SIZES
    model = from_flash_stu(checkpoint(config), config)
    row = torch.randint(1, 40, (1, 9))
    ids = torch.cat([torch.zeros(1, 4, dtype=torch.long), row], dim=1)
    mask = (torch.arange(13) >= 4).long()[None]
    close(model(ids, attention_mask=mask).logits[:, 4:], model(row).logits, "split float64", "padded")


def bad(config=None, weights=None, drop=None, **options):
    config = SIZES | (config or {})
    state = checkpoint(SIZES) | (weights or {})
    if drop:
        del state[drop]
    return lambda: from_flash_stu(state, config, **options)


BAD = {
    "config: stu_enable_mlp_sandwich=True": bad({"stu_enable_mlp_sandwich": True}),
    "config: use_hankel_L=True": bad({"use_hankel_L": True}),
    "config: n_layer: unknown; did you mean n_layers?": bad({"n_layer": 3}),
    "config: tie_word_embeddings=False": bad({"tie_word_embeddings": False}),
    "weights: 'lm_head.weight' differs from 'tok_emb.weight'": bad(weights={"lm_head.weight": torch.zeros(40, 16)}),
    r"weights: nothing for 'model.norm.weight' \(1 such\)": bad(drop="norm.weight"),
    r"weights: 'layers.7.x' is of no layer of this configuration": bad(weights={"layers.7.x": torch.zeros(1)}),
    r"weights: shape \(40, 16\) for 'model.embed_tokens.weight'": bad({"vocab_size": 41}),
    r"weights: phi has the shape \(64, 6\); the configuration says \(64, 7\)": bad({"num_eigh": 7}),
}


def test_what_does_not_fit_is_refused():
    noise = checkpoint(SIZES)["phi"].clone()
    noise[:, 2] = torch.randn(64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    far = r"weights: filter 2 of phi is 0\.\d+ away from the exact filters of length 64; tolerance is 0.02"
    for message, call in (BAD | {far: bad(weights={"phi": noise})}).items():
        with pytest.raises(ValueError, match=message):
            call()
