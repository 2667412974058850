"""Systems that are not symmetric: which learners hold rotations, Jordan blocks and non-normal dynamics?"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torchstu.experiments.reproduce.asymmetric_sections import (
    CHANNELS,
    CHEBYSHEV,
    LEARNED,
    LRU,
    REAL,
    STU,
    SUGGESTED,
    TOLD,
    sections,
)
from torchstu.experiments.reproduce.experiment import Experiment, Measured, Result, Settings, Trial

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from torchstu.learn.closed_form import SpectralRegressor
    from torchstu.spectral.priors import Prior
    from torchstu.systems.lds import LDS


def trials(settings: Settings, seed: int) -> list[Trial]:
    """One fit for each system, learner, learning rate of the LRU, and seed; no told angle where no pole turns."""
    common = {name: settings[name] for name in ("length", "training", "fresh", "filters")}
    learners: list[dict[str, Any]] = [{"learner": name} for name in (STU, TOLD, SUGGESTED, CHEBYSHEV)]
    learners += [{"learner": LEARNED.format(lags), "lags": lags} for lags in settings["output_lags"]]
    learners += [{"learner": LRU, "rate": rate, "lru": dict(settings["lru"])} for rate in settings["lru_rates"]]
    return [
        common | {"system": dict(system), "seed": seed + i} | learner
        for system in settings["systems"]
        for learner in learners
        for i in range(settings["seeds"])
        if learner["learner"] != TOLD or max(system["angle"]) > REAL
    ]


def run(trial: Trial) -> tuple[Result, Measured]:
    """Relative roll-out error on fresh sequences, against the output without noise."""
    import torch

    from torchstu.learn.diagnostics import relative_error
    from torchstu.systems.random import departure_from_normality

    generator = torch.Generator().manual_seed(trial["seed"])
    lds = draw(trial["system"], generator)
    U, u = (
        torch.randn(count, trial["length"], lds.d_in, generator=generator, dtype=torch.float64)
        for count in (trial["training"], trial["fresh"])
    )
    Y = lds.simulate(U)
    Y = Y + trial["system"].get("noise", 0.0) * Y.std() * torch.randn(Y.shape, generator=generator, dtype=torch.float64)
    start = time.perf_counter()
    predict, notes = _learn(trial, U, Y)
    seconds = time.perf_counter() - start
    error = relative_error(predict(u), lds.simulate(u))
    return {"error": error, "departure": departure_from_normality(lds.A)} | notes, {"seconds": seconds}


def draw(system: Mapping[str, Any], generator: Generator) -> LDS:
    """A system of 2 inputs and 2 outputs by its ``kind``.

    "rotations": poles of radii ``radius``, angles ``angle``, in a basis of condition 4; "gaussian": a Gaussian matrix
    scaled to the spectral radius ``radius[1]``; "jordan" and "non-normal" (``departure``): real poles with radii ``radius``;
    "chain": of ``states`` / 2 masses between two walls, pushed and observed at both ends.

    Raises:
        ValueError: another kind.
    """
    import torch

    from torchstu.systems.lds import LDS
    from torchstu.systems.physical import mass_spring_chain
    from torchstu.systems.random import JordanBlocks, NonNormal, Rotations, Spectrum, random_lds

    kind, states = system["kind"], system["states"]
    if kind == "chain":
        ends = (0, states // 2 - 1)
        return mass_spring_chain(states // 2, forced=ends, observed=ends)
    low, high = system["radius"]
    if kind == "gaussian":
        A, B, C, D = (
            torch.randn(*shape, generator=generator, dtype=torch.float64)
            for shape in ((states, states), (states, CHANNELS), (CHANNELS, states), (CHANNELS, CHANNELS))
        )
        return LDS(high * A / torch.linalg.eigvals(A).abs().max(), B / math.sqrt(states), C / math.sqrt(states), D)
    spectra: dict[str, Spectrum] = {
        "rotations": Rotations(radius=(low, high), angle=tuple(system["angle"])),
        "jordan": JordanBlocks(low, high),
        "non-normal": NonNormal(low, high, system.get("departure", 0.0)),
    }
    if kind not in spectra:
        raise ValueError(f"kind: {kind!r}; it must be 'chain', 'gaussian' or one of {sorted(spectra)}")
    return random_lds(states, CHANNELS, CHANNELS, spectra[kind], generator)


def told_prior(angle: Sequence[float]) -> Prior:
    """The prior that knows between which angles the poles lie: a sector from 0 on, or an arc away from it."""
    from torchstu.spectral.sector import Harmonics, Sector

    low, high = angle
    if low == 0:
        return Sector(high)
    return Harmonics([4 * math.pi / (low + high)], width=(high - low) / 2)


def _learn(trial: Trial, U: Tensor, Y: Tensor) -> tuple[Callable[[Tensor], Any], Result]:
    """A way to predict from inputs, and what is to be known of it."""
    from torchstu.experiments.reproduce.comparison import learned_lru

    if trial["learner"] == LRU:
        high = max(trial["system"]["angle"])
        phase = high if high > REAL else 2 * math.pi  # real poles may be negative
        rollout = learned_lru(U, Y, trial["lru"], rate=trial["rate"], max_phase=phase, seed=trial["seed"])
        return rollout, {"prior": None, "filters": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of filters that float64 does not support: the counts are chosen below that
        model = _regressor(trial, U, Y).fit(U, Y)
    layer = model.layer
    layer.mode = "fft"  # tables for blocks would not pay for one roll-out
    prior = layer.bank.prior
    notes: Result = {"prior": None if prior is None else prior.name, "filters": layer.bank.count}
    if "lags" in trial:
        from torchstu.learn.diagnostics import feedback_radius

        notes["feedback"] = feedback_radius(layer)
    return model.predict, notes


def _regressor(trial: Trial, U: Tensor, Y: Tensor) -> SpectralRegressor:
    from torchstu.learn.closed_form import SpectralRegressor
    from torchstu.learn.prior_suggestion import suggest_prior
    from torchstu.spectral.decomposition import decompose

    learner, options = trial["learner"], {"num_filters": trial["filters"]}
    if learner == TOLD:
        prior = told_prior(trial["system"]["angle"])
        count = min(decompose(prior, trial["length"]).reliable, trial["length"] // 2)
        options = {"prior": prior, "num_filters": count, "autoregression": None}
    elif learner == SUGGESTED:
        options = suggest_prior(U, Y).options
    elif learner == CHEBYSHEV:
        options |= {"preconditioning": 5, "output_lags": 5}
    elif learner != STU:
        lags = trial["lags"]
        options |= {"autoregression": "learned", "objective": "next", "output_lags": lags, "input_lags": lags + 1}
    return SpectralRegressor(**options, tail_penalty=0.0)


EXPERIMENT = Experiment(
    name="asymmetric",
    question="Which learners hold systems that are not symmetric: rotations, Jordan blocks, non-normal ones, swinging masses?",
    trials=trials,
    run=run,
    sections=sections,
)
