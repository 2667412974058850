"""Where trials run: processes of this machine, or a Ray cluster. One thread a trial, so results do not depend on where.

An engine takes the module of an experiment and (index, trial) pairs and yields (index, result, measured) as they complete.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from typing import Any

from torchstu.experiments.reproduce import identity
from torchstu.experiments.reproduce.experiment import Measured, Result, Trial
from torchstu.experiments.reproduce.jsonlines import to_json
from torchstu.experiments.reproduce.registry import load
from torchstu.extras import require

Outcome = tuple[int, Result, Measured]
Outcomes = Generator[Outcome, None, None]
Engine = Callable[[str, Sequence[tuple[int, Trial]]], Outcomes]

ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "VECLIB_MAXIMUM", "NUMEXPR")}
"""Environment of a worker, read when its numerical libraries load."""


class TrialError(RuntimeError):
    """A trial that did not finish; the message names it."""


def label(index: int, trial: Trial) -> str:
    """A trial in a few words, for a line of progress or an error."""
    words = ", ".join(f"{key}={value}" for key, value in trial.items() if isinstance(value, (str, int, float)))
    return f"trial {index} ({words if len(words) <= 160 else words[:157] + '...'})"


def execute(module: str, trial: Trial) -> tuple[Result, Measured]:
    """Run one trial on one thread; ``trial_seconds`` is added to what was measured.

    Raises:
        TrialError: whatever it raised, or a result that JSON does not have, in one line.
    """
    torch = import_module("torch")
    torch.set_num_threads(1)
    torch.manual_seed(0)  # a trial that forgot its seed must not depend on its neighbours
    try:
        start = time.perf_counter()
        result, measured = load(module).run(trial)
        measured = {**measured, "trial_seconds": time.perf_counter() - start}
        to_json(result, "result")
        to_json(measured, "measured")
    except Exception as error:
        raise TrialError(_reason(error)) from error
    return result, measured


def in_processes(count: int) -> Engine:
    """An engine of ``count`` processes, each with a worker that stays for many trials.

    Every worker is a pool of its own, so that one that dies tells which trial it had. Workers leave when this process does,
    however it ends: each waits for the end of a pipe that only this process holds.
    """

    def engine(module: str, todo: Sequence[tuple[int, Trial]]) -> Outcomes:
        context, waiting = multiprocessing.get_context("spawn"), deque(todo)
        alive, hold = context.Pipe(duplex=False)
        pools = [
            ProcessPoolExecutor(1, context, initializer=_start_worker, initargs=(alive,)) for _ in range(min(count, len(todo)))
        ]
        running: dict[Future[tuple[Result, Measured]], tuple[ProcessPoolExecutor, int, Trial]] = {}

        def submit(pool: ProcessPoolExecutor) -> None:
            index, trial = waiting.popleft()
            running[pool.submit(execute, module, trial)] = pool, index, trial

        try:
            with _start_of_workers():
                for pool in pools:
                    submit(pool)
            while running:
                done = wait(running, return_when=FIRST_COMPLETED).done
                for future in sorted(done, key=lambda future: future.exception() is not None):  # what succeeded is kept
                    pool, index, trial = running.pop(future)
                    outcome = _outcome(future, index, trial)
                    if waiting:
                        submit(pool)
                    yield index, *outcome
        finally:
            hold.close()
            for pool in pools:
                pool.shutdown(cancel_futures=True)
            alive.close()

    return engine


def on_ray(address: str, count: int | None = None) -> Engine:
    """An engine of one Ray task a trial, each on one core of the cluster.

    Args:
        address: of a cluster, such as ``auto`` or ``ray://head:10001``; ``local`` starts one of ``count`` cores here.
        count: cores of a local cluster; None is all.

    Raises:
        MissingExtraError: without the extra ``distributed``.
        ValueError: a count beside the address of a cluster, which has its own.
    """
    if count is not None and address != "local":
        raise ValueError(f"processes: {count} on the cluster {address!r}; it must be left out, or the address be local")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use
    ray: Any = require("distributed", "ray")
    here = {} if address == "local" else {**identity.versions(), "code": identity.code()}

    def engine(module: str, todo: Sequence[tuple[int, Trial]]) -> Outcomes:
        own = not ray.is_initialized()
        if own:
            _connect(ray, address, count)
        path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} if address == "local" else {}
        task = ray.remote(num_cpus=1, max_retries=0, runtime_env={"env_vars": ONE_THREAD | path})(_execute_there)
        running = {task.remote(module, trial, here): (index, trial) for index, trial in todo}
        try:
            while running:
                done, _ = ray.wait(list(running), num_returns=1)
                index, trial = running.pop(done[0])
                try:
                    result, measured = ray.get(done[0])
                except ray.exceptions.RayError as error:
                    cause = getattr(error, "cause", None)
                    words = str(cause) if isinstance(cause, TrialError) else _reason(error)
                    raise TrialError(f"{label(index, trial)}: {words}") from error
                yield index, result, measured
        finally:
            for reference in running:
                ray.cancel(reference, force=True)
            if own:
                ray.shutdown()

    return engine


def _connect(ray: Any, address: str, count: int | None) -> None:
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {"num_cpus": count, "include_dashboard": False}
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(**options)
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        raise ValueError(f"ray: no cluster at {address!r} ({_reason(error)}); it must be running, or be local") from error


def _execute_there(module: str, trial: Trial, here: dict[str, str]) -> tuple[Result, Measured]:
    """`execute`, after a look at what is installed: a cluster of other versions has other results."""
    there = {**identity.versions(), "code": identity.code()}
    for name, version in here.items():
        if there[name] != version:
            raise TrialError(f"{name} is {there[name]} on a machine of the cluster and {version} here; they must be equal")
    _quiet()
    return execute(module, trial)


def _outcome(future: Future[tuple[Result, Measured]], index: int, trial: Trial) -> tuple[Result, Measured]:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise TrialError(f"{label(index, trial)}: its process was ended from outside (out of memory?)") from error
    except TrialError as error:
        raise TrialError(f"{label(index, trial)}: {error}") from error


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def _start_of_workers() -> Iterator[None]:
    """Processes started here have one thread, and Ctrl-C is for their parent alone."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main else None
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if in_main:
            signal.signal(signal.SIGINT, handler)


def _start_worker(alive: Connection) -> None:
    _quiet()
    threading.Thread(target=_leave_with, args=(alive,), daemon=True).start()


def _leave_with(alive: Connection) -> None:
    wait_for([alive])  # returns when the other end is closed
    os._exit(1)


def _quiet() -> None:
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
