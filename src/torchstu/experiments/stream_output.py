"""Where the rows of a stream go: a file that is cut back after a stop, or a pipe in which repeats are marked."""

from __future__ import annotations

import os
import select
import stat
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, TextIO

from torchstu.data.line_source import POLL, write_all
from torchstu.experiments.stream_state import same_file

PIECE = 4096
"""Bytes that a pipe takes whole or not at all."""


class StoppedError(Exception):
    """The run shall end, and what reads its output takes nothing."""


def standard_fd(stream: TextIO | None, what: str) -> int:
    """The descriptor of standard input or output.

    Raises:
        ValueError: it is closed, or something else has taken its place.
    """
    try:
        return stream.fileno()  # type: ignore[union-attr]
    except (AttributeError, OSError) as error:
        raise ValueError(f"{what}: there is no standard {what}; give --{what} FILE") from error


class RowOutput:
    """Standard output, or a file; nothing is changed before the first write.

    Args:
        name: of the file; None or "-": standard output.
        stack: that closes it.
        given: descriptor of the input, which it must not be.
        stopped: asked while what reads it takes nothing.

    Attributes:
        is_file: whether it is a file, not a pipe, a terminal or a device.
        written: bytes of a file.
        known_rows: rows up to this one may have been written to a pipe.

    Raises:
        ValueError: it is the input, or is not there.
        OSError: it cannot be opened.
    """

    def __init__(self, name: str | None, stack: ExitStack, given: int, stopped: Callable[[], bool]) -> None:
        self.name, self.stopped, self.written, self.known_rows = name, stopped, 0, 0
        self.marks: BinaryIO | None = None
        if name in (None, "-"):
            self.fd, self.is_file = standard_fd(sys.stdout, "output"), False
            sys.stdout.flush()
            return
        if same_file(given, Path(str(name))):
            raise ValueError(f"output: {name} is the input itself; give another file")
        self.fd = os.open(str(name), os.O_RDWR | os.O_CREAT, 0o666)
        stack.callback(os.close, self.fd)
        self.is_file = stat.S_ISREG(os.fstat(self.fd).st_mode)
        self._cut = False

    def begin(self) -> None:
        """Of a run with a new state.

        Raises:
            ValueError: a file that has something already.
        """
        size = os.fstat(self.fd).st_size if self.is_file else 0
        if size:
            raise ValueError(f"output: {self.name} has {size} bytes already, and the state is new; give another file")

    def go_on(self, written: int) -> None:
        """Behind the bytes that a state knows of.

        Raises:
            ValueError: a file that has fewer.
        """
        size = os.fstat(self.fd).st_size if self.is_file else written
        if size < written:
            raise ValueError(f"output: {self.name} has {size} bytes, and {written} were written; give the file of the state")
        self.written = written

    def mark(self, path: Path, stack: ExitStack, anew: bool) -> None:
        """Note in a file up to which row a pipe may have had them."""
        if not self.is_file:
            self.marks = stack.enter_context(path.open("w+b" if anew or not path.exists() else "r+b", buffering=0))
            self.known_rows = int(self.marks.read() or b"0")

    def write(self, text: str, row: int) -> None:
        """Lines up to a row, all of them.

        Raises:
            StoppedError: the run was stopped while a pipe was full. OSError: they cannot be written.
        """
        data = text.encode()
        if self.is_file:
            if not self._cut:
                os.ftruncate(self.fd, self.written)
                self._cut = True
            end = self.written + len(data)
            write_all(lambda left: os.pwrite(self.fd, left, end - len(left)), data)
        else:
            if self.marks is not None:
                self.known_rows = max(self.known_rows, row)
                os.pwrite(self.marks.fileno(), b"%020d" % self.known_rows, 0)
            write_all(self._some, data)
        self.written += len(data)

    def _some(self, data: bytes) -> int:
        while not select.select([], [self.fd], [], POLL)[1]:
            if self.stopped():
                raise StoppedError
        return os.write(self.fd, data[:PIECE])

    def sync(self) -> None:
        """To the disk."""
        if self.is_file:
            os.fsync(self.fd)
