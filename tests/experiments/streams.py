"""A model of a small recording and the recording, and streams in processes of their own to be stopped: python's fork."""

import multiprocessing
import os
import signal
import sys
import time

import numpy as np

import torchstu.data.line_source
from torchstu.experiments.fitting import fit_series
from torchstu.experiments.stream_run import StreamOptions, stream_rows
from torchstu.models.store import write_model


def recording(steps=4000, seed=0):
    """Two inputs, one output: sums of two exponentials and noise."""
    rng = np.random.default_rng(seed)
    u, x, y = rng.normal(size=(steps, 2)), np.zeros(2), np.empty((steps, 1))
    for t in range(steps):
        x = np.array([0.99, 0.7]) * x + u[t] * [0.1, 1.0]
        y[t] = 20 + 3 * x.sum() + 0.2 * rng.normal()
    return u, y


def write_fitted(folder, **options):
    u, y = recording(1500)
    found = fit_series(u, y, input_names=["a", "b"], output_names=["y"], length=64, num_filters=8, **options)
    folder.mkdir()
    write_model(folder, found.model.regressor.layer, found.extra() | {"settings": found.settings | {"time": "t"}})
    return found


def write_rows(path, u, y=None):
    head = "t,a,b" + (",y" if y is not None else "")
    rows = [f"{i},{a!r},{b!r}" for i, (a, b) in enumerate(u.tolist())]
    if y is not None:
        rows = [f"{row},{'' if np.isnan(value) else repr(value)}" for row, value in zip(rows, y[:, 0].tolist(), strict=True)]
    path.write_text("\n".join([head, *rows]) + "\n")


def crash_at(name, count, after):
    """Let this process kill itself before or after a call of a function of os."""
    real, calls = getattr(os, name), [0]

    def call(*arguments, **options):
        calls[0] += 1
        if calls[0] == count and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        found = real(*arguments, **options)
        if calls[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(os, name, call)


def start(options, stdin=None, stdout=None, stderr=None, crash=None, chunk=None):
    """A stream in a fork of this process; files for its standard streams."""

    def run():
        if crash is not None:
            crash_at(*crash)
        if chunk is not None:
            torchstu.data.line_source.CHUNK = chunk
        stopped = []
        signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
        for number, file in enumerate((stdin, stdout, stderr)):
            if file is not None:
                os.dup2(file, number)
        sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")  # in place of what pytest put there
        said = os.fdopen(os.dup(2), "w")
        stream_rows(
            StreamOptions(**options), stopped=lambda: bool(stopped), say=lambda line: print(line, file=said, flush=True)
        )

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def kill_and_go_on(options, kills, dice, longest):
    """Kill a stream from file to file again and again, then let it end; how many kills hit it at work."""
    hit = 0
    for _ in range(kills):
        process = start(options)
        time.sleep(dice.uniform(0, longest))
        hit += process.is_alive()
        process.kill()
        process.join()
    process = start(options)
    process.join()
    assert process.exitcode == 0
    return hit
