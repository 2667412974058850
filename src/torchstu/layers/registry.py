"""Mixers by the name that configurations use."""

from __future__ import annotations

from typing import Any

from torchstu.layers.attention import Attention
from torchstu.layers.base import Mixer
from torchstu.layers.dss import DSS
from torchstu.layers.gru import GRU
from torchstu.layers.lru import LRU
from torchstu.layers.s4 import S4
from torchstu.layers.s4d import S4D
from torchstu.layers.s5 import S5
from torchstu.layers.stu import ARSTU, STU
from torchstu.layers.tensordot import TensordotSTU

MIXERS: dict[str, type[Mixer]] = {
    "STU": STU,
    "AR-STU": ARSTU,
    "TensordotSTU": TensordotSTU,
    "LRU": LRU,
    "S4": S4,
    "S4D": S4D,
    "DSS": DSS,
    "S5": S5,
    "Attention": Attention,
    "GRU": GRU,
}


def make_mixer(name: str, d_model: int, length: int, **options: Any) -> Mixer:
    """A mixer of width ``d_model`` by its name; ``length`` goes to those that have one.

    Raises:
        ValueError: the name is not in ``MIXERS``.
    """
    if name not in MIXERS:
        raise ValueError(f"mixer: {name!r}; it must be one of {list(MIXERS)}")
    widths = (d_model, d_model) if name in ("STU", "AR-STU", "LRU") else (d_model,)
    if name in ("STU", "AR-STU", "TensordotSTU") or (name == "DSS" and options.get("variant") == "softmax"):
        options["length"] = length
    return MIXERS[name](*widths, **options)
