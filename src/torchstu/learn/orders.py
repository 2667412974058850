"""The order of an output-error fit: modes added one at a time, judged by BIC."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from torchstu.layers.base import Mixer
from torchstu.learn.diagnostics import impulse_response
from torchstu.learn.new_modes import best_pair, best_real
from torchstu.learn.separable import Fit, Recording, descend, read_out
from torchstu.systems.lds import LDS
from torchstu.systems.modes import Modes, hankel_reduction, modes_of, no_modes, with_inputs

ROUNDING = 1e-26
"""Relative squared error below which data counts as free of noise and no further order is tried."""
_PATIENCE = 3  # orders beyond the best that are tried
_SHORT, _LONG = 6, 20  # steps before the starts of one order are compared, and after
_LENGTH = 16384  # of response, that a start is asked for at most
_CLEAN = 1e-6  # relative squared error of a start below which its reductions tell where orders begin to serve
_NEAR = 1e3  # times the error of the start that a reduction may have to serve


def grow(
    data: Recording, reduced: Callable[[int], Modes | None], largest: int, automatic: bool, known: float = np.inf
) -> dict[int, Fit]:
    """Fits by order, from 0 on; from where reductions of the start serve, if its squared error ``known`` is hardly noise.

    Orders below are then reductions as they are, and so are all orders, or the one asked for, where none serves.
    """
    fits = {0: read_out(data, no_modes(data.channels))}
    first = 1
    if known <= _CLEAN * data.power:
        own = _serving(data, reduced, range(1 if automatic else largest, largest + 1), known)
        if own and (automatic or hopeless(data, own[max(own)], known)):
            fits |= own
            first = largest + 1 if hopeless(data, own[max(own)], known) else max(own)
    scores = {n: bic(data, fit.error, parameters(data, n)) for n, fit in fits.items()}
    tolerance, floor = 1e-2 / data.count, ROUNDING**1.1 * data.power
    for n in range(first, largest + 1):
        if automatic and 2 * parameters(data, n) > data.count:
            break
        starts = [fits[n - 1].modes.joined(best_real(data, fits[n - 1]))] if n - 1 in fits else []
        if n - 2 in fits and data.length > 8:
            starts.append(fits[n - 2].modes.joined(best_pair(data, fits[n - 2])))
        found = reduced(n)
        if found is not None and found.order == n:
            starts.append(found)
        tried = [descend(data, read_out(data, modes), _SHORT, tolerance, floor) for modes in starts]
        fits[n] = descend(data, min(tried, key=lambda fit: fit.error), _LONG, tolerance, floor)
        scores[n] = bic(data, fits[n].error, parameters(data, n))
        best = min(scores, key=lambda k: scores[k])
        if automatic and (fits[n].error <= ROUNDING * data.power or n - best >= _PATIENCE):
            break
    return fits


def _serving(data: Recording, reduced: Callable[[int], Modes | None], orders: range, known: float) -> dict[int, Fit]:
    """Reductions as they are, up to the first whose error is near the start's."""
    fits: dict[int, Fit] = {}
    for n in orders:
        modes = reduced(n)
        if modes is not None and modes.order == n:
            fits[n] = read_out(data, modes)
            if not hopeless(data, fits[n], known):
                break
    return fits


def hopeless(data: Recording, fit: Fit, known: float) -> bool:
    """Whether a fit is far from a start that leaves hardly any error."""
    return known <= _CLEAN * data.power and fit.error > _NEAR * max(known, ROUNDING * data.power)


def look_back(data: Recording, fits: dict[int, Fit]) -> None:
    """Reductions of the largest fit as starts of all orders below: growth may have taken a wrong turn early."""
    top = max(fits)
    if top < 2:
        return
    largest = fits[top].modes.system(fits[top].read, fits[top].direct[:, : data.inputs], data.channels)
    reduced = reductions(largest, top - 1, data.length, data.channels)
    tolerance, floor = 1e-2 / data.count, ROUNDING**1.1 * data.power
    for n in range(1, top):
        modes = reduced(n)
        if modes is None or modes.order != n:
            continue
        fit = descend(data, read_out(data, modes), _SHORT, tolerance, floor)
        if fit.error < 1.1 * fits[n].error:
            fits[n] = min(fits[n], descend(data, fit, _LONG, tolerance, floor), key=lambda found: found.error)
        if fits[n].error <= ROUNDING * data.power:
            return


def reductions(start: Mixer | LDS | None, largest: int, steps: int, channels: int) -> Callable[[int], Modes | None]:
    """Modes of the start by order: its response reduced once, as balanced orders are nested."""
    if start is None or steps < 4:
        return lambda n: None
    length = min(max(steps, 64), _LENGTH)
    response = start.impulse_response(length) if isinstance(start, LDS) else impulse_response(start, length).double()
    A, B, _ = hankel_reduction(response, largest)
    return lambda n: with_inputs(modes_of(A[:n, :n], B[:n]), channels) if n <= len(A) else None


def parameters(data: Recording, order: int) -> int:
    """Free numbers of a system of given order, its initial states and its level."""
    return order * (data.channels + data.outputs) + data.direct.shape[1] * data.outputs


def bic(data: Recording, error: float, parameters: int) -> float:
    """T log(error / T) + parameters · log T, for T observed outputs; no error counts as less than rounding."""
    error = max(error, ROUNDING * data.power, np.finfo(float).tiny)
    return float(data.count * np.log(error / data.count) + parameters * np.log(data.count))
