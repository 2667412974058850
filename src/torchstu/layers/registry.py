"""Mixers by the name that configurations use."""

from __future__ import annotations

from torchstu.layers.base import Mixer
from torchstu.layers.lru import LRU
from torchstu.layers.stu import ARSTU, STU
from torchstu.layers.tensordot import TensordotSTU

MIXERS: dict[str, type[Mixer]] = {"STU": STU, "AR-STU": ARSTU, "TensordotSTU": TensordotSTU, "LRU": LRU}


def make_mixer(name: str, d_model: int, length: int, **options: object) -> Mixer:
    """A mixer of width ``d_model`` by its name; ``length`` goes to those that have one.

    Raises:
        ValueError: the name is not in ``MIXERS``.
    """
    if name not in MIXERS:
        raise ValueError(f"mixer: {name!r}; it must be one of {list(MIXERS)}")
    if name == "LRU":
        return LRU(d_model, d_model, **options)  # type: ignore[arg-type]
    if name == "TensordotSTU":
        return TensordotSTU(d_model, length=length, **options)  # type: ignore[arg-type]
    return MIXERS[name](d_model, d_model, length=length, **options)
