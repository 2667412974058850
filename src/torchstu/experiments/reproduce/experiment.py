"""What an experiment is: trials from settings, a function of one trial, and sections of a report from all results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torchstu.report.page import Section

Settings = Mapping[str, Any]
"""A table of a recipe: ``quick`` or ``full``."""
Trial = dict[str, Any]
"""Everything one run needs, in values that JSON has."""
Result = dict[str, Any]
"""What one run found: the same to the last bit whenever it is run again on one machine."""
Measured = dict[str, Any]
"""What differs from run to run: seconds, memory."""


@dataclass(frozen=True)
class Row:
    """A trial and what came out of it."""

    trial: Trial
    result: Result
    measured: Measured


@dataclass(frozen=True)
class Experiment:
    """A question and the way to its answer.

    Attributes:
        name: as on the command line; the recipe is ``recipes/<name>.toml``.
        question: one line.
        trials: (settings, seed) to trials; repetition i draws from seed + i.
        run: a trial to what was found and what was measured, on one thread, a pure function.
        sections: (rows, settings) to the sections of the report.
    """

    name: str
    question: str
    trials: Callable[[Settings, int], list[Trial]]
    run: Callable[[Trial], tuple[Result, Measured]]
    sections: Callable[[Sequence[Row], Settings], list[Section]]
