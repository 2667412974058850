"""Progress of a run on standard error: a bar on a terminal, a line a trial elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torchstu.experiments.reproduce.engines import label
from torchstu.experiments.reproduce.experiment import Trial
from torchstu.extras import require


class Progress(Protocol):
    """Told of every trial that ends."""

    def __call__(self, index: int, trial: Trial, seconds: float) -> None:
        """One more is done, after ``seconds`` of its own."""


@contextmanager
def shown(name: str, total: int, done: int, visible: bool) -> Iterator[Progress]:
    """Progress of an experiment of ``total`` trials, ``done`` of them by an earlier run."""
    if not visible:
        yield lambda index, trial, seconds: None
    elif sys.stderr.isatty():
        bar: Any = require("train", "tqdm").tqdm(total=total, initial=done, desc=name, unit="trial", dynamic_ncols=True)
        with bar:
            yield lambda index, trial, seconds: bar.update()
    else:
        yield _Lines(name, total, done)


class _Lines:
    def __init__(self, name: str, total: int, done: int) -> None:
        self._name, self._total, self._done = name, total, done
        self._start, self._before = time.monotonic(), done
        if done:
            self._say(f"{name}: {done} of {total} trials done by an earlier run")

    def __call__(self, index: int, trial: Trial, seconds: float) -> None:
        self._done += 1
        pace = (time.monotonic() - self._start) / (self._done - self._before)
        left = f"about {duration(pace * (self._total - self._done))} left" if self._done < self._total else "done"
        self._say(f"{self._name}: {self._done}/{self._total}, {left}: {label(index, trial)} took {seconds:.1f} s")

    def _say(self, words: str) -> None:
        print(words, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds, minutes or hours in words."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
