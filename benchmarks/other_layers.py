"""Layers of other mathematics but equal width, as steps; their weights are their own initialization."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from spectral_layers import Layer, torch_layer

HEAD = 64


def attention_module(channels: int) -> Any:
    """Causal self-attention of heads of 64, with q, k, v and o projections without bias."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    class Attention(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = torch.nn.Linear(channels, 3 * channels, bias=False)
            self.o = torch.nn.Linear(channels, channels, bias=False)

        def split(self, x: Any) -> tuple[Any, Any, Any]:
            """q, k and v, each (B, heads, L, 64)."""
            return tuple(part.unflatten(-1, (-1, HEAD)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))

        def forward(self, x: Any) -> Any:
            y = scaled_dot_product_attention(*self.split(x), is_causal=True)
            return self.o(y.transpose(1, 2).flatten(-2))

    return Attention()


def attention(problem: dict[str, Any], train: bool, folder: Path | None) -> Layer:
    module = attention_module(int(problem["shape"][2]))
    return torch_layer(module, problem, train, module)


def gru(problem: dict[str, Any], train: bool, folder: Path | None) -> Layer:
    import torch

    channels = int(problem["shape"][2])
    module = torch.nn.GRU(channels, channels, batch_first=True)
    return torch_layer(module, problem, train, lambda u: module(u)[0])


def s5(problem: dict[str, Any], train: bool, folder: Path | None) -> Layer:
    from s5 import S5

    channels = int(problem["shape"][2])
    module = S5(channels, channels)
    return _named(torch_layer(module, problem, train, module), "s5-pytorch")


def lru(problem: dict[str, Any], train: bool, folder: Path | None) -> Layer:
    from LRU_pytorch import LRU

    channels = int(problem["shape"][2])
    module = LRU(channels, channels, channels)
    return _named(torch_layer(module, problem, train, module), "lru-pytorch")


def mamba(problem: dict[str, Any], train: bool, folder: Path | None) -> Layer:
    from mambapy.mamba import MambaBlock, MambaConfig

    module = MambaBlock(MambaConfig(d_model=int(problem["shape"][2]), n_layers=1))
    return _named(torch_layer(module, problem, train, module), "mambapy")


def _named(layer: Layer, package: str) -> Layer:
    return layer._replace(versions=layer.versions | {package: version(package)})


LAYERS: dict[str, Callable[..., Layer]] = {"attention": attention, "GRU": gru, "S5": s5, "LRU": lru, "Mamba": mamba}
