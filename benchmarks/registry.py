"""What is measured: every operation as a list of implementations and shapes. Standard library only: peers import it too."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

Shape = tuple[int, int, int, int]
"""(B, L, D, K)."""


class Implementation(NamedTuple):
    """One layer of one project."""

    name: str
    project: str
    """Whose code and interpreter: "torchstu", "torch", "flash-stu-2", "spectral_ssm" or "pip"."""
    builder: str
    """The key of a function in `spectral_layers.LAYERS`, `other_layers.LAYERS` or `steppers.STEPPERS`."""
    options: Mapping[str, Any] = MappingProxyType({})
    reference: str | None = None
    """The implementation of ours that has the same mathematics: results are compared before anything is timed."""
    floor: dict[str, Any] | None = None
    """Keywords of `floor.floor`: what this mathematics must at least cost; None where it is not known."""
    note: str = ""


PLAIN = {"autoregression": None, "input_lags": 0}
BOTH, ONE = {"banks": 2}, {"banks": 1, "output_lags": 2}

LAYERS = [
    Implementation("torchstu STU", "torchstu", "STU", PLAIN, floor=BOTH, note="both banks, neither y-term nor input lags"),
    Implementation("torchstu STU, fft", "torchstu", "STU", PLAIN | {"mode": "fft"}, "torchstu STU", BOTH),
    Implementation("torchstu STU, block", "torchstu", "STU", PLAIN | {"mode": "block"}, "torchstu STU", BOTH),
    Implementation("torchstu STU, default", "torchstu", "STU", floor=BOTH, note="Eq. 4: fixed y-term, 3 input lags, delay 2"),
    Implementation("torchstu AR-STU", "torchstu", "ARSTU", floor=BOTH | {"output_lags": 2}, note="Eq. 5, both banks"),
    Implementation(
        "torchstu AR-STU, + bank", "torchstu", "ARSTU", {"banks": "positive"}, floor=ONE,
        note="+ bank, learned y-term of 2 lags, 3 input lags, delay 2",
    ),
    Implementation(
        "torchstu TensordotSTU", "torchstu", "TensordotSTU", floor={"tensordot": True}, note="one filter a channel, tied banks"
    ),
    Implementation("flash-stu-2 MiniSTU", "flash-stu-2", "MiniSTU", reference="torchstu STU"),
    Implementation("flash-stu-2 STU", "flash-stu-2", "FlashSTU", {"use_approx": False}, "torchstu STU"),
    Implementation("flash-stu-2 STU, tensordot", "flash-stu-2", "FlashSTU", {"use_approx": True}, "torchstu TensordotSTU"),
    Implementation("spectral_ssm STU", "spectral_ssm", "SpectralSSM", reference="torchstu AR-STU, + bank"),
    Implementation("torch GRU", "torch", "GRU"),
    Implementation("torch attention", "torch", "attention", note="causal, heads of 64, with q, k, v and o projections"),
    Implementation("s5-pytorch", "pip", "S5", note="as many states as channels"),
    Implementation("lru-pytorch", "pip", "LRU", note="as many states as channels; a Python loop over steps"),
    Implementation("mambapy", "pip", "Mamba", note="MambaBlock, its defaults: inner width 2 D, 16 states a channel"),
]  # fmt: skip

SAME = [entry.name for entry in LAYERS if entry.reference or any(other.reference == entry.name for other in LAYERS)]
OTHERS = ["torch GRU", "torch attention", "s5-pytorch", "lru-pytorch", "mambapy"]
OURS_64 = ["torchstu STU", "torchstu STU, default", "torchstu TensordotSTU"]
ATTENTION = ["torchstu STU", "torch attention"]
MODES = ["torchstu STU, fft", "torchstu STU, block"]


class Case(NamedTuple):
    """A table: these implementations at these shapes, each beside the first."""

    title: str
    shapes: list[Shape]
    names: list[str]
    text: str


EQUAL_SHAPES: list[Shape] = [
    (4, 1024, 64, 24), (8, 2048, 32, 24), (2, 4096, 64, 24), (8, 512, 128, 16), (16, 1024, 256, 24), (1, 16384, 64, 24)
]  # fmt: skip
LAYER_CASES = {
    "train": [
        Case("The same mathematics", EQUAL_SHAPES, SAME, "Outputs and all gradients were compared first."),
        Case("The same width", [(8, 1024, 64, 24), (2, 4096, 64, 24)], [*OURS_64, *OTHERS], "Not the same mathematics."),
        Case(
            "A learned y-term", [(8, 2048, 64, 24)],
            ["torchstu STU", "torchstu STU, default", "torchstu AR-STU", "torchstu AR-STU, + bank"], "What Eq. 5 costs.",
        ),
        Case(
            "Full STU and attention", [(1, 4096, 64, 24), (2, 4096, 64, 24), (1, 4096, 256, 24), (2, 4096, 256, 24)], ATTENTION,
            "Not the same mathematics: a full STU mixes channels at every lag.",
        ),
    ],
    "prefill": [
        Case("The same mathematics", [EQUAL_SHAPES[i] for i in (0, 2, 4, 5)], SAME, "Outputs were compared first."),
        Case("The same width", [(8, 1024, 64, 24), (2, 4096, 64, 24)], [*OURS_64, *OTHERS], "Not the same mathematics."),
        Case("Full STU and attention", [(1, 4096, 64, 24), (1, 4096, 256, 24)], ATTENTION, "Not the same mathematics."),
    ],
}  # fmt: skip
QUICK_SHAPES: list[Shape] = [(2, 256, 64, 16), (1, 512, 64, 16)]

WIDTH, MEMORY, FILTERS = 256, 4096, 24
"""Of the layers that generate: channels, the length that the filters are made for, and how many."""
SHORT, LONG = (1_000, 10_000), (131_072, 1_000_000)
GENERATE: list[tuple[Implementation, tuple[int, ...]]] = [
    (Implementation("torchstu STU", "torchstu", "STU", PLAIN), SHORT + LONG),
    (Implementation("torchstu STU, default", "torchstu", "STU"), SHORT + LONG),
    (Implementation("torchstu TensordotSTU", "torchstu", "TensordotSTU"), SHORT + LONG),
    (Implementation("torchstu STU, compiled", "torchstu", "STU", PLAIN | {"compiled": True}), SHORT[:1]),
    (
        Implementation(
            "cached convolution, STU", "torchstu", "CachedSTU",
            note="all inputs kept, the last output computed anew: features of even and odd lags, then the read-out",
        ),
        (*SHORT, 131_072),
    ),
    (
        Implementation("cached convolution, TensordotSTU", "torchstu", "CachedTensordot", note="one kernel a channel"),
        (*SHORT, 131_072),
    ),
    (Implementation("torch attention", "torch", "attention", note="4 heads, preallocated cache"), (2_048, 16_384, 131_072)),
    (Implementation("torch GRU", "torch", "GRU"), SHORT),
]  # fmt: skip
QUICK_POSITIONS = (1_000, 2_048)

LONGEST_FFT = 2**18
"""Steps beyond which `curves` leaves out the transforms of a whole sequence: minutes a step."""
CURVE_BASE: Shape = (1, 4096, 64, 24)
CURVE_AXES: dict[str, tuple[int, list[int]]] = {
    "L": (1, [2**i for i in range(8, 21)]),
    "D": (2, [16, 32, 64, 128, 256]),
    "K": (3, [8, 16, 24, 32, 40]),
    "B": (0, [1, 2, 4, 8, 16, 32]),
}
QUICK_AXES = {axis: (index, values[:2]) for axis, (index, values) in CURVE_AXES.items()}


def layer(name: str) -> Implementation:
    return next(entry for entry in LAYERS if entry.name == name)


def curve_points(axes: dict[str, tuple[int, list[int]]]) -> list[Shape]:
    """Every shape on some axis through the base point, once."""
    points = []
    for index, values in axes.values():
        points += [(*CURVE_BASE[:index], value, *CURVE_BASE[index + 1 :]) for value in values]
    return list(dict.fromkeys(points))  # type: ignore[arg-type]
