"""A stream of rows from input to output, stopped and restarted without a difference."""

from __future__ import annotations

import csv
import hashlib
import math
import os
import stat
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torchstu.data.line_source import Lines, LineSource
from torchstu.experiments.series import SeriesModel, load_series_model
from torchstu.experiments.series_stream import SeriesStream
from torchstu.experiments.stream_output import PIECE, RowOutput, StoppedError, standard_fd
from torchstu.experiments.stream_rows import BadRowError, Columns, RowPredictor, cells
from torchstu.experiments.stream_state import StateFile, digest, same_file

TOLD = 20
"""Malformed rows that are told one by one."""
LARGEST_JOURNAL = 2**24


@dataclass(frozen=True)
class StreamOptions:
    """What ``torchstu stream`` is given.

    Attributes:
        model: folder that ``torchstu fit`` wrote.
        input, output: files; None or "-": standard input and output.
        follow: whether the input file may grow, or be replaced by another of its name.
        state: file of all that is needed to go on; None keeps nothing.
        level, adapt, forgetting, limit: of `SeriesStream`; "auto" is 0.9, or as much as the model's held-out errors tell.
        fill_gaps: whether rows that are missing by their times are gone through.
        save_every: seconds between two saves of the state, at least 0.
        skip_bad: whether a row that cannot be read is left out; else it ends the run.
        report_every: seconds between two reports; None: one, at the end.

    Raises:
        ValueError: seconds out of range.
    """

    model: str
    input: str | None = None
    output: str | None = None
    follow: bool = False
    state: str | None = None
    level: float | Literal["auto"] | None = "auto"
    adapt: bool = False
    forgetting: float | None = None
    limit: float = 1e4
    fill_gaps: bool = False
    save_every: float = 10.0
    skip_bad: bool = True
    report_every: float | None = None

    def __post_init__(self) -> None:
        for name in ("save_every", "report_every"):
            seconds = getattr(self, name)
            if seconds is not None and not (0 <= seconds < math.inf):
                raise ValueError(f"{name}: {seconds}; it must be a number of seconds, at least 0")


def stream_rows(options: StreamOptions, *, stopped: Callable[[], bool], say: Callable[[str], None]) -> None:
    """Predict every row of the input until it ends or ``stopped`` says so.

    Args:
        options: what to run.
        stopped: asked between batches of rows.
        say: gets lines about malformed rows, and counters.

    Raises:
        ValueError: options, a state or an input that do not fit the model; a malformed row, where rows are not skipped. What
            was before it is written, and a state kept.
        OSError: a file cannot be read or written.
    """
    model, settings = load_series_model(options.model)
    rows = sum(count for part, count in settings.get("rows", {}).items() if part != "test") or 1000
    level = options.level
    if level == "auto":
        level = None if model.held_out is None else min(0.9, model.held_out.count / (model.held_out.count + 1))
    stream = SeriesStream(
        model, level=level, adapt=options.adapt, forgetting=options.forgetting, rows=rows, limit=options.limit
    )
    with ExitStack() as stack:
        run = _Run(options, model, settings.get("time"), stream, say, stopped)
        source = run.open(stack)
        try:
            for batch in source.lines():
                run.take(batch)
                run.save_if_due()
            run.finish()
        except StoppedError:
            say("torchstu: stopped, while what reads the output took nothing; rows since the last save come again")


class _Run:
    """The files of a run, and where it is in them."""

    def __init__(
        self, options: StreamOptions, model: SeriesModel, time_name: str | None, stream: SeriesStream,
        say: Callable[[str], None], stopped: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.options, self.model, self.time_name, self.stream = options, model, time_name, stream
        self.say, self.stopped = say, stopped
        self.predictor: RowPredictor | None = None
        self.header: str | None = None
        self.state: StateFile | None = None
        self.position = self.journals = self.shift = self.before = self.told = 0
        self.began = self.saved = self.reported = time.monotonic()
        self.changed = True

    def open(self, stack: ExitStack) -> LineSource:
        """Open input and output where the state says."""
        fd = self._open_input(stack)
        self.output = RowOutput(self.options.output, stack, fd, self.stopped)
        is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        known = None
        if self.options.state is not None:
            self._check_apart(fd, Path(self.options.state))
            self.state = StateFile(Path(self.options.state), stack)
            self.identity = {
                "model": digest(Path(self.options.model)), "level": self.stream.level, "adapt": self.options.adapt,
                "forgetting": self.options.forgetting, "limit": self.options.limit, "fill_gaps": self.options.fill_gaps,
                "input": "a file" if is_file else "a pipe", "output": "a file" if self.output.is_file else "a stream",
            }  # fmt: skip
            known = self.state.read(self.identity)
            self.state.forget_journals(None if known is None else known[1]["journal"])
        start = os.lseek(fd, 0, os.SEEK_CUR) if is_file and self.options.input in (None, "-") else 0
        self.position = known[1]["position"] if known else start
        self.journals = known[1]["journal"] if known else 0
        self.source = LineSource(
            fd, offset=self.position, path=self.options.input, follow=self.options.follow, stopped=self.stopped,
            journal=None if self.state is None else self.state.journal(self.journals), last=self.state is None,
        )  # fmt: skip
        if self.state is not None:
            self.output.mark(self.state.marks, stack, anew=known is None)
        if known is not None:
            self.output.go_on(known[1]["written"])
            self._continue(*known)
        elif self.state is not None:
            self.output.begin()
            self.save()
        return self.source

    def take(self, batch: Lines) -> None:
        """Predict lines, each with the offset behind it, and write what was found."""
        out: list[str] = []
        size = self.shift = 0
        for line, end in batch:
            text = line.decode("utf-8", errors="replace").removeprefix("\ufeff")
            self.changed = True
            if self.predictor is None and text.strip():
                self._begin(text, end - self.shift)
            elif text.strip() and text != self.header:
                out += self._predicted(text, out)
            self.position = end - self.shift
            size += len(out[-1]) if out else 0
            if size > PIECE - 1024:
                self._write(out)
                out, size = [], 0
        self._write(out)

    def save_if_due(self) -> None:
        """Save the state and say the counters where it is time."""
        now = time.monotonic()
        due = now - self.saved >= self.options.save_every or self.source.journaled > LARGEST_JOURNAL
        if self.state is not None and self.changed and due:
            self.save()
        if self.options.report_every is not None and now - self.reported >= self.options.report_every:
            self.reported = now
            self.say(self._counters())

    def finish(self) -> None:
        """The last save and the last report."""
        if self.state is not None:
            self.save()
        if self.source.unfinished:
            self.say(f"torchstu: the last line has no end; its {self.source.unfinished} bytes are left for the next run")
        self.say(self._counters())

    def save(self) -> None:
        """All that is needed to go on, whole or not at all; what was written is on disk before."""
        assert self.state is not None
        self.output.sync()
        old = self.source.journal
        if old is not None:
            self.journals += 1
            self.source.rotate(self.state.journal(self.journals), self.position)
            self.shift += self.position
            self.position = 0
        rows = {} if self.predictor is None else self.predictor.state()
        tail = hashlib.sha256(self.source.tail(self.position)).hexdigest()
        facts = {"header": self.header, "position": self.position, "journal": self.journals, "written": self.output.written,
                 "rows": rows, "tail": tail}  # fmt: skip
        self.state.write(self.stream.state_dict(), self.identity | facts)
        if old is not None:
            old.unlink(missing_ok=True)
        self.saved, self.changed = time.monotonic(), False

    def _continue(self, stream: dict[str, Any], facts: dict[str, Any]) -> None:
        """Go on from a state."""
        if hashlib.sha256(self.source.tail(self.position)).hexdigest() != facts["tail"]:
            raise ValueError(f"input: other rows before byte {self.position} than those that were read; give the same file")
        self.stream.load_state_dict(stream)
        if facts["header"] is not None:
            self._set_header(facts["header"])
            assert self.predictor is not None
            self.predictor.load_state(facts["rows"])
            self.before = self.predictor.row

    def _set_header(self, header: str) -> None:
        columns = Columns(header, self.model.input_names, self.model.output_names, self.time_name)
        if self.predictor is None:
            marked = self.state is not None and not self.output.is_file
            self.predictor = RowPredictor(self.stream, columns, marked=marked, fill_gaps=self.options.fill_gaps)
            self.predictor.known_rows = self.output.known_rows
        elif columns.time != self.predictor.columns.time:
            raise ValueError(f"input: a second header, {header[:80]!r}, with other times than the first")
        self.header, self.predictor.columns = header, columns

    def _begin(self, header: str, end: int) -> None:
        """The first line."""
        try:
            self._set_header(header)
        except (ValueError, csv.Error) as error:
            self.position = end  # a pipe that is mended begins with another header
            if self.state is not None and not self.source.is_file:
                self.save()
            raise ValueError(f"{error}") from error
        assert self.predictor is not None
        self.position = end
        self._write([self.predictor.header])
        if self.state is not None:
            self.save()  # from here on rows are known by their numbers

    def _predicted(self, text: str, out: list[str]) -> list[str]:
        """The lines to write for a row; ``out`` is written before the run stops at it."""
        assert self.predictor is not None
        before = self.predictor.state()
        try:
            line, words = self.predictor.line(text)
        except BadRowError as error:
            if self._is_header(text):
                self.predictor.load_state(before)
                self._set_header(text)
                return []
            if not self.options.skip_bad:
                self.predictor.load_state(before)
                self._write(out)
                if self.state is not None:
                    self.save()
                raise ValueError(f"{error}; the run stopped before it, go on with --on-bad skip") from error
            self.predictor.pass_over(error)
            self._tell(f"{error}; skipped")
            return []
        for word in words:
            self._tell(word)
        return [line]

    def _is_header(self, text: str) -> bool:
        try:
            return {name.strip() for name in cells(text)} >= set(self.model.input_names)
        except csv.Error:
            return False

    def _tell(self, words: str) -> None:
        self.told += 1
        if self.told <= TOLD:
            self.say(f"torchstu: {words}")
        if self.told == TOLD:
            self.say("torchstu: further ones are counted, not told")

    def _open_input(self, stack: ExitStack) -> int:
        if self.options.input in (None, "-"):
            return standard_fd(sys.stdin, "input")
        fd = os.open(str(self.options.input), os.O_RDONLY)
        stack.callback(os.close, fd)
        return fd

    def _check_apart(self, given: int, state: Path) -> None:
        for name, fd in (("input", given), ("output", self.output.fd)):
            if same_file(fd, state):
                raise ValueError(f"state: {state} is the {name} itself; give another file")

    def _write(self, out: list[str]) -> None:
        if out:
            self.output.write("".join(out), 0 if self.predictor is None else self.predictor.row)

    def _counters(self) -> str:
        if self.predictor is None:
            return "torchstu: no rows"
        rows, seconds = self.predictor.row - self.before, time.monotonic() - self.began
        said = f"torchstu: {rows} rows, {rows / max(seconds, 1e-9):.0f} rows/s, {self.predictor.bad} malformed in all"
        middle, most = (1e6 * self.predictor.latency(share) for share in (0.5, 0.99))
        return said if math.isnan(middle) else f"{said}; half of them took {middle:.0f} µs at most, 99 % took {most:.0f} µs"
