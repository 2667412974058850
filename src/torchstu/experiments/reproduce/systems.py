"""Shared by the experiments on linear systems: systems, data and mixers from the values of a trial, and sums of rows."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchstu.experiments.reproduce.experiment import Row
from torchstu.layers.base import Mixer
from torchstu.layers.lru import LRU
from torchstu.layers.stu import ARSTU, STU
from torchstu.learn.gradient import TrainingHistory, fit_gradient
from torchstu.models.ssm import SpectralSSM
from torchstu.spectral.filters import ReliabilityWarning
from torchstu.systems.lds import LDS
from torchstu.systems.random import Signs, Spectrum, Uniform, random_lds

CHANNELS = 3
"""Inputs and outputs of every system here, as in the paper."""
DIRECT: dict[str, str] = {"STU": "num_filters", "AR-STU": "num_filters", "LRU": "state_dim"}
"""Mixers of any width, used as they are, and the option that is their size; others sit between an embedding and a readout."""
_LARGEST = 512


def spectrum(system: Mapping[str, Any]) -> Spectrum:
    """The eigenvalues that a trial asks for: {"radius": r} for ±r, {"low": a, "high": b} for ±[a, b], {"gap": δ} for
    magnitudes uniform in [1 - 10δ, 1 - δ].

    Raises:
        ValueError: none of the three.
    """
    if "radius" in system:
        return Signs(float(system["radius"]))
    if "gap" in system:
        return Uniform(max(0.0, 1 - 10 * float(system["gap"])), 1 - float(system["gap"]))
    if "low" in system and "high" in system:
        return Uniform(float(system["low"]), float(system["high"]))
    raise ValueError(f"system: {dict(system)}; it must have a radius, a gap, or low and high")


def draw_system(system: Mapping[str, Any], seed: int) -> tuple[LDS, torch.Generator]:
    """The system of a seed, ``system["states"]`` large, and the generator that goes on to draw its data."""
    generator = torch.Generator().manual_seed(seed)
    return random_lds(int(system["states"]), CHANNELS, CHANNELS, spectrum(system), generator), generator


def sequences(lds: LDS, count: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """White unit-variance inputs and noiseless outputs, (count, length, 3) each, float64."""
    u = torch.randn(count, length, lds.d_in, generator=generator, dtype=torch.float64)
    return u, lds.simulate(u)


def make(
    mixer: str, size: int, length: int, options: Mapping[str, Any] | None = None, seed: int = 0, device: str | None = None
) -> Mixer:
    """A mixer of 3 inputs and 3 outputs in float32, its weights drawn from the seed; the caller's generators stay as they were.

    STU, AR-STU and LRU are used as they are, with ``size`` filters or states. Others become a stack of one linear block of
    width ``size``: embedding, x + W mixer(x), readout, without any activation.

    Args:
        mixer: a name of `torchstu.layers.registry.MIXERS`.
        size: filters, states or width.
        length: L, for those that have one.
        options: further arguments of the mixer.
        seed: of the weights.
        device: "meta" to count parameters only.
    """
    given: dict[str, Any] = dict(options or {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if mixer in ("STU", "AR-STU"):
            kind = STU if mixer == "STU" else ARSTU
            return kind(CHANNELS, CHANNELS, length=length, num_filters=size, device=device, **given)
        if mixer == "LRU":
            return LRU(CHANNELS, CHANNELS, state_dim=size, device=device, **given)
        return SpectralSSM(
            CHANNELS, CHANNELS, d_model=size, num_layers=1, length=length, mixer=mixer,
            activation=None, norm=None, mixer_options=given, device=device,
        )  # fmt: skip


def parameters(mixer: Mixer) -> int:
    """How many numbers are learned; a complex one is two."""
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in mixer.parameters())


def nearest_size(count: Callable[[int], int], target: int, largest: int = _LARGEST) -> tuple[int, int]:
    """The size from 1 to ``largest`` at which a count that grows with it is closest to the target, and the count there.

    Sizes at which it raises ValueError, such as widths that heads do not divide, are left out.
    """

    def nearest(sizes: range) -> tuple[int, int] | None:
        for size in sizes:
            with contextlib.suppress(ValueError), warnings.catch_warnings():
                warnings.simplefilter("ignore", ReliabilityWarning)
                return size, count(size)
        return None

    low, high = 1, largest
    while low < high:  # the smallest size with more than the target
        middle = (low + high) // 2
        found = nearest(range(middle, largest + 1))
        low, high = (low, middle) if found is None or found[1] > target else (middle + 1, high)
    candidates = [found for found in (nearest(range(low - 1, 0, -1)), nearest(range(low, largest + 1))) if found is not None]
    return min(candidates, key=lambda found: abs(found[1] - target))


def matched_size(mixer: str, target: int, length: int, options: Mapping[str, Any] | None = None, share: float = 0.1) -> int:
    """The size at which a mixer has closest to ``target`` parameters.

    Raises:
        ValueError: no size comes within ``share`` of the target.
    """
    largest = min(_LARGEST, length) if mixer in ("STU", "AR-STU") else _LARGEST
    size, count = nearest_size(lambda size: parameters(make(mixer, size, length, options, device="meta")), target, largest)
    distance = abs(count - target)
    if distance > share * target:
        raise ValueError(f"target: {target} parameters; {mixer} with {dict(options or {})} comes no closer than {distance:g}")
    return size


def train(trial: Mapping[str, Any]) -> tuple[TrainingHistory, Mixer]:
    """Gradient descent as a trial says, on the next-step loss, with the roll-out error on fresh data.

    The trial has ``system``, ``seed``, ``length``, ``samples``, ``validation`` (sequences), ``mixer``, ``size``, ``options``,
    ``rate``, ``decay`` and ``batch``; where the data are seen more often, ``steps``; instead of the default, ``optimizer``.
    """
    lds, generator = draw_system(trial["system"], trial["seed"])
    fresh = sequences(lds, trial["validation"], trial["length"], generator)
    data = sequences(lds, trial["samples"], trial["length"], generator)
    mixer = make(trial["mixer"], trial["size"], trial["length"], trial["options"], trial["seed"])
    extra = {"optimizer": trial["optimizer"]} if "optimizer" in trial else {}
    steps = trial.get("steps", trial["samples"] // trial["batch"])
    history = fit_gradient(
        mixer, *data, steps=steps, batch_size=trial["batch"], learning_rate=trial["rate"], weight_decay=trial["decay"],
        validation=fresh, validate_every=measuring_points(steps), seed=trial["seed"], progress=False, **extra,
    )  # fmt: skip
    return history, mixer


def measuring_points(steps: int) -> list[int]:
    """Steps after which an error is measured: 1, 2, 3, 4, 6, 8, 12, 16, … and the last, half an octave apart."""
    points = {steps, 1, *(base * 2**i // 2 for i in range(steps.bit_length() + 1) for base in (2, 3))}
    return sorted(point for point in points if 1 <= point <= steps)


def rate_words(settings: Mapping[str, Any]) -> str:
    """At which learning rates the mixers of a recipe were trained."""
    several = any(len(mixer["rates"]) > 1 for mixer in settings["mixers"])
    rates = sorted({rate for mixer in settings["mixers"] for rate in mixer["rates"]})
    if len(rates) == 1:
        return f"the rate {rates[0]:g}"
    return "the best of the recipe's rates for it" if several else f"the recipe's rate for it ({rates[0]:g} to {rates[-1]:g})"


def first_below(samples: Sequence[float], errors: Sequence[float], target: float) -> float | None:
    """The first of the samples at which an error is at most the target; None if it never is."""
    return next((count for count, error in zip(samples, errors, strict=True) if error <= target), None)


def number(value: Any) -> float:
    """A stored number: the runner writes inf and nan as words."""
    return float(value)


def median(values: Sequence[Any]) -> float:
    """The median of numbers of which some may be inf; None counts as inf, never reached."""
    ordered = sorted(math.inf if v is None or math.isnan(number(v)) else number(v) for v in values)
    if not ordered:
        return math.nan
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    low, high = ordered[middle - 1 : middle + 1]
    return high if math.isinf(high) else (low + high) / 2


def spread(values: Sequence[Any], form: Callable[[float], str] = lambda v: f"{v:.2g}") -> str:
    """ "median (smallest … largest)", with "never" for what was not reached and the median alone for one value."""
    given = [math.inf if v is None else number(v) for v in values]

    def word(value: float) -> str:
        return "never" if not math.isfinite(value) else form(value)

    if not given:
        return ""
    if len(given) == 1:
        return word(given[0])
    return f"{word(median(given))} ({word(min(given))} … {word(max(given))})"


def chosen(rows: Sequence[Row], keep: Callable[[Row], bool]) -> list[Row]:
    """The rows of which something holds."""
    return [row for row in rows if keep(row)]


def grouped(rows: Sequence[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by the values of a trial's entries, in the order in which they first come."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.trial[name] for name in names), []).append(row)
    return groups


def envelope(curves: Sequence[tuple[Sequence[float], Sequence[Any]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Every point of the curves, and median, smallest and largest value there; inf where a curve has ended or diverged."""
    points = sorted(set().union(*(set(x) for x, _ in curves)))
    known = [dict(zip(x, y, strict=True)) for x, y in curves]
    values = [[number(curve.get(at, math.inf)) for curve in known] for at in points]
    columns = [[math.inf if math.isnan(value) else value for value in row] for row in values]
    middle, low, high = (np.array([f(row) for row in columns]) for f in (median, min, max))
    return np.asarray(points, dtype=float), middle, low, high
