"""What a forecast may read, from how long the series are and which seasons they have."""

from __future__ import annotations

from collections.abc import Sequence

from torchstu.forecast.features import FeatureMap
from torchstu.spectral.filters import filter_bank
from torchstu.spectral.priors import POSITIVE, PriorLike
from torchstu.spectral.sector import Harmonics

LAGS = (2, 6, 24, 96, 192)
MOST_LAGS = 600
SHORTEST_FOR_FILTERS = 64
LONGEST = 2048


def forecast_maps(
    steps: int,
    periods: Sequence[float],
    *,
    num_filters: int = 24,
    length: int | None = None,
    prior: PriorLike | None = None,
    harmonics: int = 24,
    lags: int | None = None,
    num_inputs: int = 0,
) -> tuple[tuple[FeatureMap, ...], tuple[int, ...]]:
    """The series as it is, and its differences; and numbers of lags to choose from.

    Args:
        steps: of a series.
        periods: of its seasons, in steps, at least 2.
        num_filters, length: K, at most (fewer where float64 has no more), and L, a quarter of the steps, at most 2048, if None.
            Below 64 steps there are no filters.
        prior: "positive" and the periods' `Harmonics` joined if None: decay and trend, and seasons that change.
        harmonics: of each period, at most.
        lags: of the series; chosen if None.
        num_inputs: known inputs.
    """
    length = length or max(1, min(LONGEST, steps // 4))
    if prior is None:
        prior = POSITIVE + Harmonics(tuple(periods), harmonics=4) if len(periods) else POSITIVE
    if steps < SHORTEST_FOR_FILTERS:
        num_filters = 0
    if num_filters:
        num_filters = min(num_filters, filter_bank(length, 1, prior).reliable)
    tried = [*LAGS, *(round(p) + 2 for p in periods)]
    if len(periods) > 1:
        tried.append(round(max(periods)) + round(min(periods)) + 1)
    most = max(1, min(MOST_LAGS, steps // 5))
    chosen = (min(lags, max(1, steps // 2)),) if lags else tuple(sorted({p for p in tried if p <= most} or {1}))
    seasons = tuple(p for p in periods if steps >= 3 * p)
    common = (max(chosen), num_filters, length, prior, seasons, harmonics, num_inputs)
    return (FeatureMap(False, *common), FeatureMap(True, *common)), chosen
