"""A stream of rows from input to output, stopped and restarted without a difference."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from torchstu.data.line_source import LineSource
from torchstu.experiments.series import SeriesModel, load_series_model
from torchstu.experiments.series_stream import SeriesStream
from torchstu.experiments.stream_rows import BadRowError, Columns, RowPredictor
from torchstu.whole_file import clear_drafts, whole_file

FORMAT = "torchstu stream 1"


@dataclass(frozen=True)
class StreamOptions:
    """What ``torchstu stream`` is given.

    Attributes:
        model: folder that ``torchstu fit`` wrote.
        input, output: files; None: standard input and output.
        follow: whether the input file may grow.
        state: file of all that is needed to go on; None keeps nothing.
        level, adapt, forgetting: of `SeriesStream`; "auto" is 0.9 where the model knows its errors, else None.
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
    level = None if options.level == "auto" and model.held_out is None else 0.9 if options.level == "auto" else options.level
    stream = SeriesStream(model, level=level, adapt=options.adapt, forgetting=options.forgetting, rows=rows)
    with ExitStack() as stack:
        run = _Run(options, model, settings.get("time"), stream, say)
        source = run.open(stack, stopped)
        for batch in source.lines():
            run.take(batch)
            run.save_if_due()
        run.finish()


class _Run:
    """The files of a run, and where it is in them."""

    def __init__(
        self,
        options: StreamOptions,
        model: SeriesModel,
        time_name: str | None,
        stream: SeriesStream,
        say: Callable[[str], None],
    ) -> None:
        self.options, self.model, self.time_name, self.stream, self.say = options, model, time_name, stream, say
        self.state = None if options.state is None else Path(options.state)
        self.identity = {
            "model": _digest(Path(options.model)), "level": stream.level, "adapt": options.adapt,
            "forgetting": options.forgetting,
        }  # fmt: skip
        self.header: str | None = None
        self.predictor: RowPredictor | None = None
        self.position = self.journals = self.written = self.before = 0
        self.began = self.saved = self.reported = time.monotonic()

    def open(self, stack: ExitStack, stopped: Callable[[], bool]) -> LineSource:
        """Open input and output where the state says."""
        known = self._read_state()
        if self.options.input is None:
            fd = sys.stdin.fileno()
        else:
            fd = os.open(self.options.input, os.O_RDONLY)
            stack.callback(os.close, fd)
            self._check_input(fd)
        if self.state is not None:
            clear_drafts(self.state)
            for old in self.state.parent.glob(f"{self.state.name}.journal-*"):
                if not known or old != self._journal():
                    old.unlink()
        self.output = self._open_output(stack, known)
        self.source = LineSource(
            fd, offset=self.position, follow=self.options.follow, stopped=stopped,
            journal=None if self.state is None else self._journal(),
        )  # fmt: skip
        self.marks = None
        if self.state is not None and self.options.output is None:
            path = self.state.with_name(f"{self.state.name}.written")
            self.marks = stack.enter_context(path.open("r+b" if known and path.exists() else "w+b", buffering=0))
            if self.predictor is not None:
                self.predictor.known_rows = int(self.marks.read() or b"0")
        if self.state is not None and not known:
            self.save()  # so that a run killed before the next save knows its journal
        return self.source

    def take(self, batch: list[tuple[bytes, int]]) -> None:
        """Predict lines, each with the offset behind it, and write what was found."""
        out: list[str] = []
        for line, end in batch:
            text = line.decode("utf-8", errors="replace")
            if self.predictor is None:
                self._begin(text.removeprefix("\ufeff"))
                out.append(self.predictor.header)  # type: ignore[attr-defined]
            elif line and text != self.header:
                try:
                    out.append(self.predictor.line(line))
                except BadRowError as error:
                    if not self.options.skip_bad:
                        self._undo_count()
                        self._write(out)
                        self.save()
                        raise ValueError(f"{error}; the run stopped before it") from error
                    self.say(f"torchstu: {error}; skipped")
            self.position = end
        self._write(out)

    def save_if_due(self) -> None:
        """Save the state and say the counters where it is time."""
        now = time.monotonic()
        if self.state is not None and now - self.saved >= self.options.save_every:
            self.save()
        if self.options.report_every is not None and now - self.reported >= self.options.report_every:
            self.reported = now
            self.say(self._counters())

    def finish(self) -> None:
        """The last save and the last report."""
        if self.state is not None:
            self.save()
        self.say(self._counters())

    def save(self) -> None:
        """All that is needed to go on, whole or not at all; what was written is on disk before."""
        assert self.state is not None
        if self.options.output is not None:
            os.fsync(self.output.fileno())
        old = self.source.journal
        if old is not None and not self.source.seekable:
            self.journals += 1
            self.source.rotate(self._journal(), self.position)
            self.position = 0
        now = self.stream.state_dict()
        arrays = {name: value for name, value in now.items() if isinstance(value, torch.Tensor)}
        numbers = {name: value for name, value in now.items() if name not in arrays}
        facts = self.identity | {
            "numbers": numbers, "header": self.header, "position": self.position, "journal": self.journals,
            "written": self.written, "row": self.predictor.row if self.predictor else 0,
            "bad": self.predictor.bad if self.predictor else 0,
        }  # fmt: skip
        with whole_file(self.state) as draft:
            draft.write_bytes(save(arrays, {"format": FORMAT, "facts": json.dumps(facts)}))
        if old is not None and old != self.source.journal:
            old.unlink(missing_ok=True)
        self.saved = time.monotonic()

    def _read_state(self) -> bool:
        """Go on from the state's file, if it is there."""
        if self.state is None or not self.state.exists():
            return False
        try:
            with safe_open(self.state, "pt") as file:
                found = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(f"state: {self.state} is no state of a stream ({error}); give another file") from error
        if found.get("format") != FORMAT:
            raise ValueError(f"state: {self.state} is no state of a stream; give another file")
        facts = json.loads(found["facts"])
        for name, own in self.identity.items():
            if facts[name] != own:
                what = "is of another model" if name == "model" else f"has {name} {facts[name]!r}, not {own!r}"
                raise ValueError(f"state: {self.state} {what}; give what it was begun with, or another file")
        self.stream.load_state_dict(arrays | facts["numbers"])
        self.position, self.journals, self.written = facts["position"], facts["journal"], facts["written"]
        if facts["header"] is not None:
            self._begin(facts["header"])
            assert self.predictor is not None
            self.predictor.row, self.predictor.bad, self.before = facts["row"], facts["bad"], facts["row"]
        return True

    def _begin(self, header: str) -> None:
        names = [name.strip() for name in next(csv.reader(io.StringIO(header)), [])]
        time_name = self.time_name if self.time_name in names else None
        columns = Columns(names, self.model.input_names, self.model.output_names, time_name)
        marked = self.state is not None and self.options.output is None
        self.header, self.predictor = header, RowPredictor(self.stream, columns, time=time_name, marked=marked)

    def _check_input(self, fd: int) -> None:
        if self.header is None:
            return
        start = os.pread(fd, len(self.header.encode()) + 3, 0).decode("utf-8", errors="replace").removeprefix("\ufeff")
        if not start.startswith(self.header):
            raise ValueError(f"input: {self.options.input} has another header than the state; give the file it was begun with")

    def _open_output(self, stack: ExitStack, known: bool) -> BinaryIO:
        if self.options.output is None:
            return sys.stdout.buffer
        path = Path(self.options.output)
        if self.options.input is not None and path.exists() and path.samefile(self.options.input):
            raise ValueError(f"output: {path} is the input itself; give another file")
        if not known:
            return stack.enter_context(path.open("wb"))
        size = path.stat().st_size if path.exists() else 0
        if size < self.written:
            raise ValueError(f"output: {path} has {size} bytes, and {self.written} were written; give the file of the state")
        file = stack.enter_context(path.open("r+b"))
        file.truncate(self.written)
        file.seek(self.written)
        return file

    def _journal(self) -> Path:
        assert self.state is not None
        return self.state.with_name(f"{self.state.name}.journal-{self.journals}")

    def _write(self, out: list[str]) -> None:
        data = "".join(out).encode()
        if self.marks is not None and self.predictor is not None:
            self.predictor.known_rows = max(self.predictor.known_rows, self.predictor.row)
            os.pwrite(self.marks.fileno(), b"%020d" % self.predictor.known_rows, 0)
        self.output.write(data)
        self.output.flush()
        self.written += len(data)

    def _undo_count(self) -> None:
        assert self.predictor is not None
        self.predictor.row, self.predictor.bad = self.predictor.row - 1, self.predictor.bad - 1

    def _counters(self) -> str:
        if self.predictor is None:
            return "torchstu: no rows"
        rows, seconds = self.predictor.row - self.before, time.monotonic() - self.began
        said = f"torchstu: {rows} rows, {rows / max(seconds, 1e-9):.0f} rows/s, {self.predictor.bad} malformed in all"
        middle, most = (1e6 * self.predictor.latency(share) for share in (0.5, 0.99))
        return said if math.isnan(middle) else f"{said}; half of them took {middle:.0f} µs at most, 99 % took {most:.0f} µs"


def _digest(folder: Path) -> str:
    found = hashlib.sha256()
    for name in ("model.json", "model.safetensors"):
        found.update((folder / name).read_bytes())
    return found.hexdigest()
