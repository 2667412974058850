"""Which lags, filters, seasons and ridge: those that forecast the later part of the data from the earlier best, averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from torchstu.forecast.features import FeatureMap

if TYPE_CHECKING:
    from torchstu.forecast.direct import Panel

RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
FOLDS = 4
MEMBERS = 4
MOST_ORIGINS = 500
"""Of a fold, over all series."""


@dataclass(frozen=True)
class Candidate:
    """Columns of one of the maps, and a ridge."""

    map: int
    lags: int
    filters: bool
    seasons: bool
    ridge: float

    def columns(self, own: FeatureMap) -> np.ndarray:
        """Which of the map's."""
        groups = own.groups
        lags = np.arange(self.lags)
        kept = {"filters": self.filters, "seasons": self.seasons, "inputs": True, "filtered inputs": self.filters}
        return np.concatenate([lags, *(np.arange(groups[name].start, groups[name].stop) for name in kept if kept[name])])


def candidates(own: FeatureMap, index: int, lags: Sequence[int]) -> list[Candidate]:
    """All of a map, without ridges."""
    filters = (False, True) if own.num_filters else (False,)
    seasons = (False, True) if len(own.frequencies) else (False,)
    return [Candidate(index, p, f, s, 0.0) for p in lags for f in filters for s in seasons]


@dataclass(frozen=True, eq=False)
class Choice:
    """What was chosen.

    Attributes:
        members: with how often each is in the average.
        errors: mean |error| on the folds, in the units of the series, of every candidate that was tried, best first.
        error: of the average.
        residuals: (n, H) what was seen minus what was forecast on the folds, in units of the series; NaN where unknown.
    """

    members: tuple[tuple[Candidate, int], ...]
    errors: tuple[tuple[Candidate, float], ...]
    error: float
    residuals: np.ndarray


def choose(panel: Panel, maps: Sequence[FeatureMap], lags: Sequence[int]) -> Choice:
    """Forecasts of all candidates on blocks of later data, and of those the average that errs least.

    The blocks are the last of each series, at most half of it; the weights come from rows whose targets lie before the block.
    Members are added one by one, the same again where that is best, as long as the average of forecasts gains.

    Source: R. Caruana et al., Ensemble selection from libraries of models, ICML 2004.
    """
    tried = [c for i, own in enumerate(maps) for c in candidates(own, i, lags)]
    forecasts: list[list[np.ndarray]] = [[] for _ in range(len(tried) * len(RIDGES))]
    seen = []
    normals = [panel.empty(own) for own in maps]
    done = np.zeros(len(panel.series), dtype=int)
    for fold in range(FOLDS):
        starts = panel.fold_starts(fold, FOLDS)
        stops = np.maximum(starts - panel.reach, done)
        for own, normal in zip(maps, normals, strict=True):
            panel.accumulate(own, normal, done, stops, targets_from_fill=True)
        done = stops
        origins = panel.origins(starts, panel.fold_starts(fold + 1, FOLDS), MOST_ORIGINS)
        seen.append(panel.truth(origins))
        parts = [panel.at_origins(own, origins) for own in maps]
        for at, candidate in enumerate(tried):
            own = maps[candidate.map]
            columns = candidate.columns(own)
            weights = normals[candidate.map].solve(columns, RIDGES)
            for j, own_forecasts in enumerate(panel.forecasts(parts[candidate.map], columns, weights)):
                forecasts[at * len(RIDGES) + j].append(own_forecasts)
    truth = np.concatenate(seen)
    every = [Candidate(c.map, c.lags, c.filters, c.seasons, ridge) for c in tried for ridge in RIDGES]
    return _average(every, [np.concatenate(f) for f in forecasts], truth)


def _average(every: list[Candidate], forecasts: list[np.ndarray], truth: np.ndarray) -> Choice:
    known = ~np.isnan(truth)
    target = truth[known]
    if not target.size:  # too short for folds
        careful = max(range(len(every)), key=lambda at: (every[at].map, -every[at].lags, every[at].ridge))
        return Choice(((every[careful], 1),), (), np.nan, truth)
    table = np.stack([f[known] for f in forecasts]) - target  # errors
    single = np.abs(table).mean(axis=1)
    chosen: list[int] = []
    total, best = np.zeros_like(target), np.inf
    for size in range(1, MEMBERS + 1):
        errors = [np.abs((total + own) / size).mean() for own in table]
        at = int(np.argmin(errors))
        if errors[at] >= best:
            break
        chosen.append(at)
        total, best = total + table[at], float(errors[at])
    residuals = np.full(truth.shape, np.nan)
    residuals[known] = -total / len(chosen)
    members = tuple((every[at], chosen.count(at)) for at in dict.fromkeys(chosen))
    order = np.argsort(single, kind="stable")
    return Choice(members, tuple((every[i], float(single[i])) for i in order), best, residuals)
