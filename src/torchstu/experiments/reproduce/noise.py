"""What observation and process noise do to each way of learning, beside the floor that the Kalman filter sets."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torchstu.experiments.reproduce.experiment import Experiment, Measured, Result, Row, Settings, Trial
from torchstu.report.page import Section, Table

if TYPE_CHECKING:
    from torch import Tensor

    from torchstu.systems.lds import LDS

ROLLOUT, NEXT, LEARNED, WHITE, COLORED = (
    "roll-out fit",
    "next-step fit",
    "learned feedback",
    "refined, white",
    "refined, colored",
)
LRU, KALMAN = "LRU", "Kalman, told all"
CLOSED = (ROLLOUT, NEXT, LEARNED)
REFINED = {WHITE: "white", COLORED: "colored"}


def trials(settings: Settings, seed: int) -> list[Trial]:
    """One fit for each pair of noises, learner, learning rate of the LRU, and seed."""
    names = ("states", "radius", "length", "training", "fresh", "filters", "max_order")
    common = {name: settings[name] for name in names}
    learners: list[dict[str, Any]] = [{"learner": name} for name in (*CLOSED, *REFINED, KALMAN)]
    learners += [{"learner": LRU, "rate": rate, "lru": dict(settings["lru"])} for rate in settings["lru_rates"]]
    return [
        common | {"process": process, "observation": observation, "seed": seed + i} | learner
        for process in settings["levels"]
        for observation in settings["levels"]
        for learner in learners
        for i in range(settings["seeds"])
    ]


def run(trial: Trial) -> tuple[Result, Measured]:
    """Squared errors over the mean square of the clean output: of the roll-out against the clean output of fresh inputs, of
    one step against the output as observed."""
    lds, data = _data(trial)
    U, Y, V, W, clean, noises, power = data
    start = time.perf_counter()
    rollout, step, notes = _learn(trial, lds, U, Y, noises)
    seconds = time.perf_counter() - start

    def error(predicted: Any, target: Tensor) -> float:
        return float((predicted - target).square().mean()) / power

    return {"rollout": error(rollout(V), clean), "step": error(step(V, W), W)} | notes, {"seconds": seconds}


def _data(trial: Trial) -> tuple[LDS, tuple[Any, ...]]:
    """A symmetric system and its recordings: U, Y to learn from, V, W and W without noise to judge by, (q, r), the scale."""
    import torch

    from torchstu.systems.random import Uniform, random_lds

    generator = torch.Generator().manual_seed(trial["seed"])
    lds = random_lds(trial["states"], 1, 1, Uniform(0.0, trial["radius"]), generator)
    known, count = trial["training"], trial["training"] + trial["fresh"]
    inputs = torch.randn(count, trial["length"], 1, generator=generator, dtype=torch.float64)
    clean = lds.simulate(inputs)
    power = float(clean.square().mean())
    unit = lds.simulate(torch.zeros_like(inputs), process_noise=1.0, generator=generator).std()
    q, r = trial["process"] * math.sqrt(power) / float(unit), trial["observation"] * math.sqrt(power)
    noisy = lds.simulate(inputs, process_noise=q, observation_noise=r, generator=generator)
    return lds, (inputs[:known], noisy[:known], inputs[known:], noisy[known:], clean[known:], (q, r), power)


Rollout = Callable[["Tensor"], Any]
Step = Callable[["Tensor", "Tensor"], Any]


def _learn(trial: Trial, lds: LDS, U: Tensor, Y: Tensor, noises: tuple[float, float]) -> tuple[Rollout, Step, Result]:
    """How to roll out and how to predict one step, and what is to be known of it."""
    from torchstu.experiments.reproduce.comparison import learned_lru
    from torchstu.learn.closed_form import SpectralRegressor
    from torchstu.learn.output_error import refine
    from torchstu.systems.kalman import KalmanFilter

    learner = trial["learner"]
    if learner == KALMAN:
        return lds.simulate, KalmanFilter(lds, *noises).predict_next, {}
    if learner == LRU:
        rollout = learned_lru(U, Y, trial["lru"], rate=trial["rate"], max_phase=2 * math.pi, seed=trial["seed"])
        return rollout, lambda V, W: rollout(V), {}
    options: dict[str, Any] = {"ridge": "auto", "length": trial["length"]}
    options |= {NEXT: {"objective": "next"}, LEARNED: {"objective": "next", "autoregression": "learned"}}.get(learner, {})
    model = SpectralRegressor(trial["filters"], **options).fit(U, Y)
    if learner in CLOSED:
        return model.predict, model.predict_next, {}
    found = refine(U, Y, model, noise=REFINED[learner], max_order=trial["max_order"])  # type: ignore[arg-type]
    return model.predict if found.kept_start else found.system.simulate, found.predict_next, {"order": found.order}


def sections(rows: Sequence[Row], settings: Settings) -> list[Section]:
    """Roll-outs, then one step ahead."""
    return [_rollouts(rows, settings), _steps(rows)]


Pair = tuple[float, float]
"""Process and observation noise."""
Index = dict[Pair, dict[str, dict[int, Row]]]
"""Rows by pair of noises, learner and seed."""


def _index(rows: Sequence[Row]) -> Index:
    """Rows in order; of the LRU those at the rate with the least median roll-out error under that pair of noises."""
    from torchstu.experiments.reproduce.systems import grouped, median

    found: Index = {}
    for (process, observation, learner), group in grouped(rows, "process", "observation", "learner").items():
        rates: dict[float, list[Row]] = {}
        for row in group:
            rates.setdefault(row.trial.get("rate", 0.0), []).append(row)
        best = min(rates.values(), key=lambda part: median([row.result["rollout"] for row in part]))
        found.setdefault((process, observation), {})[learner] = {row.trial["seed"]: row for row in best}
    return found


def _errors(index: Index, quantity: str) -> dict[Pair, dict[str, list[float]]]:
    return {
        pair: {learner: [float(row.result[quantity]) for row in by_seed.values()] for learner, by_seed in found.items()}
        for pair, found in index.items()
    }


def _ratios(index: Index, quantity: str, over: str, under: str) -> dict[Pair, list[float]]:
    """One learner's errors over another's on the same data, where there is noise."""
    found: dict[Pair, list[float]] = {}
    for pair, learners in index.items():
        if any(pair):
            first, second = learners.get(over, {}), learners.get(under, {})
            found[pair] = [
                float(row.result[quantity]) / float(second[seed].result[quantity])
                for seed, row in first.items()
                if seed in second
            ]
    return found


def _figure(errors: dict[Pair, dict[str, list[float]]], learners: Sequence[str], xlabel: str, which: int) -> dict[str, Any]:
    """Error against one noise where the other is absent; which: 0 process, 1 observation."""
    from torchstu.experiments.reproduce.comparison import picture

    along = {100 * pair[which]: found for pair, found in errors.items() if not pair[1 - which]}
    lines = {name: {x: found[name] for x, found in along.items() if name in found} for name in learners}
    return picture(lines, xlabel=xlabel, ylabel="squared error / mean square of the output")


def _rollouts(rows: Sequence[Row], settings: Settings) -> Section:
    """Errors from inputs alone, against the clean output."""
    from torchstu.experiments.reproduce.comparison import cell

    learners = [*CLOSED, *REFINED, LRU]
    index = _index(rows)
    errors = _errors(index, "rollout")
    names = {NEXT: "The next-step fit", LEARNED: "Learned feedback", WHITE: "Refinement to few states", LRU: "The LRU"}
    parts = [
        f"{name} has {ratios[len(ratios) // 2]:.2g} times the error of the roll-out fit ({ratios[0]:.2g} to {ratios[-1]:.2g})."
        for learner, name in names.items()
        if (ratios := sorted(r for group in _ratios(index, "rollout", learner, ROLLOUT).values() for r in group))
    ]
    found = "With noise, in the median over all pairs of noises and seeds (range): " + " ".join(parts) if parts else ""
    cells = [
        [f"{pair[0]:.0%}", f"{pair[1]:.0%}", *(cell(by_learner.get(name, [])) for name in learners)]
        for pair, by_learner in errors.items()
    ]
    words = "\n\n".join(part for part in (*_asked(settings), found, _clean(errors)) if part)
    figure = _figure(errors, learners, "observation noise, % of the output's scale (no process noise)", 1)
    return Section("Roll-outs under noise", words, Table(["process noise", "observation noise", *learners], cells), **figure)


def _asked(settings: Settings) -> tuple[str, str]:
    lru = settings["lru"]
    return (
        "The paper's systems are free of noise; what does noise do? Observation noise is added to what is measured; process "
        "noise enters the system's state and stays there as long as the system remembers. Both are given in shares of the "
        f"clean output's scale. Random symmetric systems of {settings['states']} states, one input and output, are learned "
        f"from {settings['training']} sequences of {settings['length']} steps of random input. The error here is that of "
        "outputs predicted from inputs alone, on fresh inputs, against the output without noise.",
        f"The closed forms have {settings['filters']} filters in two banks and a ridge chosen by cross-validation: fitted to "
        "the whole roll-out, to the next step with the fixed feedback of Eq. 4, or to the next step with learned feedback. "
        '"Refined" goes on from the first to a stable system of few states, taking the noise to be white or to have a '
        f"memory. The LRU of {lru['states']} states learns by gradient descent, {lru['steps']} steps of {lru['batch']} "
        "sequences.",
    )


def _clean(errors: dict[Pair, dict[str, list[float]]]) -> str:
    """The learners' order without noise."""
    from torchstu.experiments.reproduce.comparison import short
    from torchstu.experiments.reproduce.systems import median

    clean = {name: median(values) for name, values in errors.get((0.0, 0.0), {}).items() if name != KALMAN}
    if not clean:
        return ""
    order = sorted(clean, key=lambda name: clean[name])
    return "Without noise, best first: " + ", ".join(f"{name} {short(clean[name])}" for name in order) + "."


def _steps(rows: Sequence[Row]) -> Section:
    """One step ahead, against the observed output, as multiples of the Kalman filter's error."""
    from torchstu.experiments.reproduce.comparison import cell
    from torchstu.experiments.reproduce.systems import spread

    index, learners = _index(rows), [*CLOSED, *REFINED, LRU]
    errors = _errors(index, "step")
    ratios = {learner: _ratios(index, "step", learner, KALMAN) for learner in learners}
    words = (
        "One step ahead, the past outputs may be used, and they tell something of the noise in the state. Nothing linear "
        "predicts better on average than the Kalman filter that is told the system and both noises: its error, against the "
        "output as it is observed, is the floor. The table has every learner's error as a multiple of it, on the same data. "
        "The LRU and a refinement with white noise use no past outputs.\n\nMedian over all pairs of noises and seeds "
        "(range), closest first: "
    )
    pooled = {learner: sorted(r for group in ratios[learner].values() for r in group) for learner in learners}
    order = sorted((name for name in learners if pooled[name]), key=lambda name: pooled[name][len(pooled[name]) // 2])
    words += "; ".join(f"{name} {spread(pooled[name], lambda v: f'{v:.3g}')}" for name in order) + "."
    cells = [
        [f"{pair[0]:.0%}", f"{pair[1]:.0%}", cell(found.get(KALMAN, []))]
        + [spread(ratios[name][pair], lambda v: f"{v:.2f}") for name in learners]
        for pair, found in errors.items()
        if any(pair)
    ]
    figure = _figure(
        errors,
        [KALMAN, LEARNED, COLORED, WHITE, ROLLOUT, LRU],
        "process noise, % of the output's scale (no observation noise)",
        0,
    )
    header = ["process noise", "observation noise", f"floor: {KALMAN}", *learners]
    return Section("One step ahead under noise", words, Table(header, cells), **figure)


EXPERIMENT = Experiment(
    name="noise",
    question="What do observation and process noise do to each way of learning, and how far is each from the best possible?",
    trials=trials,
    run=run,
    sections=sections,
)
