"""Error against the number of filters for many banks: what do the Hankel filters buy?"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from torchstu.experiments.reproduce.experiment import Experiment, Measured, Result, Settings, Trial
from torchstu.experiments.reproduce.priors_sections import (
    FOURIER,
    HANKEL,
    LEARNED,
    LEGENDRE,
    POSITIVE,
    RANDOM,
    SECTOR,
    sections,
)

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from torchstu.spectral.filters import FilterBank
    from torchstu.systems.lds import LDS

MIRRORED = (POSITIVE, SECTOR, FOURIER, LEGENDRE)
"""Banks whose filters have low frequencies or decay without a change of sign: where modes flip their sign they are halved and
every filter gets its mirror image, (-1)^i φ(i)."""
CHANNELS = 2


def trials(settings: Settings, seed: int) -> list[Trial]:
    """One fit for each case, bank, number of filters, learning rate of the learned filters, and seed."""
    common = {name: settings[name] for name in ("length", "training", "fresh", "sector")}
    ways: list[dict[str, Any]] = [{"bank": bank} for bank in (*HANKEL, RANDOM, FOURIER, LEGENDRE)]
    ways += [{"bank": LEARNED, "rate": rate, "gradient": dict(settings["gradient"])} for rate in settings["rates"]]
    return [
        common | {"case": dict(case), "count": count, "seed": seed + i} | way
        for case in settings["cases"]
        for way in ways
        for count in settings["learned_counts" if way["bank"] == LEARNED else "counts"]
        for i in range(settings["seeds"])
    ]


def run(trial: Trial) -> tuple[Result, Measured]:
    """Relative roll-out error on fresh sequences against the output without noise, and the numbers that were fitted."""
    import torch

    from torchstu.learn.diagnostics import relative_error

    case, length = trial["case"], trial["length"]
    generator = torch.Generator().manual_seed(trial["seed"])
    lds = _draw(case, generator)
    U, u = (
        torch.randn(count, length, CHANNELS, generator=generator, dtype=torch.float64)
        for count in (trial["training"], trial["fresh"])
    )
    Y = lds.simulate(U)
    Y = Y + case.get("noise", 0.0) * Y.std() * torch.randn(Y.shape, generator=generator, dtype=torch.float64)
    start = time.perf_counter()
    predicted, weights = _learned(trial, U, Y, u) if trial["bank"] == LEARNED else _closed(trial, U, Y, u)
    seconds = time.perf_counter() - start
    return {"error": relative_error(predicted, lds.simulate(u)), "weights": weights}, {"seconds": seconds}


def _draw(case: Mapping[str, Any], generator: Generator) -> LDS:
    """A system: |λ| uniform in ``radius`` with random signs, or with an ``angle`` rotations up to it; or with ``decays`` "
    "1 - |λ|
    log-uniform between those, with random signs, A diagonal."""
    import torch

    from torchstu.systems.lds import LDS
    from torchstu.systems.random import Rotations, Spectrum, Uniform, random_lds

    states = case["states"]
    if "decays" not in case:
        low, high = case["radius"]
        spectrum: Spectrum = (
            Rotations(radius=(low, high), angle=(0.0, case["angle"])) if "angle" in case else Uniform(low, high)
        )
        return random_lds(states, CHANNELS, CHANNELS, spectrum, generator)
    fastest, slowest = (math.log(value) for value in case["decays"])
    share = torch.rand(states, generator=generator, dtype=torch.float64)
    signs = torch.where(torch.rand(states, generator=generator) < 0.5, -1.0, 1.0).double()
    modes = signs * (1 - torch.exp(fastest + (slowest - fastest) * share))
    B, C, D = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((states, CHANNELS), (CHANNELS, states), (CHANNELS, CHANNELS))
    )
    drive = (1 - modes.square()).sqrt()[:, None] * B  # every mode as strong in the output as any other
    return LDS(torch.diag(modes), drive, C / math.sqrt(states), D)


def _closed(trial: Trial, U: Tensor, Y: Tensor, u: Tensor) -> tuple[Any, int]:
    """Least squares on the roll-out, the same for every bank."""
    from torchstu.learn.closed_form import SpectralRegressor

    case, count = trial["case"], trial["count"]
    mirrored = trial["bank"] in MIRRORED and case["flips"]
    filters = count // 2 if mirrored else count
    model = SpectralRegressor(
        filters,
        length=trial["length"],
        prior=make_bank(trial["bank"], trial["length"], filters, sector=trial["sector"], seed=trial["seed"]),
        banks="both" if mirrored else "positive",
        autoregression="fixed" if case["feedback"] else None,
        ridge="auto" if case.get("noise") else 0.0,
        tail_penalty=0.0,
    ).fit(U, Y)
    layer = model.layer
    layer.mode = "fft"
    return model.predict(u), sum(p.numel() for p in layer.parameters())


def make_bank(name: str, length: int, count: int, *, sector: float = 0.1, seed: int = 0) -> FilterBank:
    """``count`` filters of a length, orthonormal and without eigenvalues that would scale them.

    "positive", "signed", "sector": the leading filters of the prior. "random": an orthonormal basis of a random space.
    "Fourier": a constant, then cosine and sine of 1, 2, … periods. "Legendre": the discrete Legendre polynomials of the
    degrees 0, 1, …, orthogonal on the points 0..L-1.

    Args:
        name: the bank.
        length: L.
        count: K, at most L.
        sector: largest angle of the sector, radians.
        seed: of the random basis.

    Raises:
        ValueError: an unknown name.

    Source: Abramowitz and Stegun, 22.17, for the discrete polynomials.
    """
    from torchstu.spectral.filters import FilterBank, filter_bank
    from torchstu.spectral.sector import Sector

    if name in HANKEL:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # past what float64 supports they are still orthonormal, and that is all that counts
            filters = filter_bank(length, count, Sector(sector) if name == SECTOR else name).filters
    elif name == RANDOM:
        filters = np.linalg.qr(np.random.default_rng(seed).standard_normal((length, count)))[0]
    elif name == FOURIER:
        steps, periods = np.arange(length) / length, np.arange(1, count // 2 + 1)
        waves = [f(2 * np.pi * np.outer(steps, periods)) for f in (np.cos, np.sin)]
        filters = np.column_stack([np.ones(length), np.stack(waves, axis=2).reshape(length, -1)])[:, :count]
        filters = filters / np.linalg.norm(filters, axis=0)
    elif name == LEGENDRE:
        points = np.linspace(-1, 1, length)
        filters = np.linalg.qr(np.polynomial.legendre.legvander(points, count - 1))[0]
    else:
        raise ValueError(f"name: {name!r}; it must be one of {[*HANKEL, RANDOM, FOURIER, LEGENDRE]}")
    return FilterBank(np.ones(count), np.array(filters))


def _learned(trial: Trial, U: Tensor, Y: Tensor, u: Tensor) -> tuple[Tensor, int]:
    """Filters and read-out by gradient descent in float32; with feedback on y_t - y_{t-2}, summed up again in the "
    "roll-out."""
    import torch

    from torchstu.experiments.reproduce.learned_filters import LearnedFilters
    from torchstu.learn.gradient import fit_gradient
    from torchstu.ops.autoregression import lag2_cumsum, lag2_difference

    feedback, options = trial["case"]["feedback"], trial["gradient"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial["seed"])
        mixer = LearnedFilters(CHANNELS, CHANNELS, length=trial["length"], num_filters=trial["count"])
    target = lag2_difference(Y) if feedback else Y
    scale = float(target.std())
    fit_gradient(
        mixer, U, target / scale, steps=options["steps"], batch_size=options["batch"], learning_rate=trial["rate"],
        objective="rollout", seed=trial["seed"], progress=False,
    )  # fmt: skip
    with torch.no_grad():
        y = scale * mixer(u.float())[0].double()
    return (lag2_cumsum(y) if feedback else y), sum(p.numel() for p in mixer.parameters())


EXPERIMENT = Experiment(
    name="priors",
    question="What do Hankel filters buy over random, Fourier, Legendre and learned filters, at equal K on the same data?",
    trials=trials,
    run=run,
    sections=sections,
)
