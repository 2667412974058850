"""Bytes of a file or a pipe as they come, cut at line ends; a pipe's go through a journal, to be read again from there."""

from __future__ import annotations

import errno
import itertools
import os
import select
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

CHUNK = 2**16
POLL = 0.05
"""Seconds between looks at a file that may grow, or at whether to stop."""
LONGEST = 2**20
"""Bytes of a line at most."""

Lines = list[tuple[bytes, int]]


class LineSource:
    """Complete lines from where they are wanted on.

    What comes through a pipe is moved to the journal by the kernel where it can (splice), so that there is no moment at which
    it is in neither of them; then it is read from there.

    Args:
        fd: of a file or a pipe, opened for reading.
        offset: bytes to leave out: of a file, or of the journal.
        path: of a file that is followed where it is replaced by another of its name, or shortened.
        follow: whether a file that ends may grow.
        stopped: asked between reads.
        journal: of a pipe; None keeps nothing.
        last: whether a line without an end, where nothing can follow, is one; else it is left for another time.

    Attributes:
        is_file: whether it is a file and no pipe.
        offset: of the first byte that `lines` has not given out.
        unfinished: bytes of a last line that was left.

    Raises:
        ValueError: a file shorter than ``offset``.
    """

    def __init__(
        self, fd: int, *, offset: int = 0, path: str | None = None, follow: bool = False,
        stopped: Callable[[], bool] = lambda: False, journal: Path | None = None, last: bool = True,
    ) -> None:  # fmt: skip
        self.fd, self.path, self.follow, self.stopped, self.last = fd, path, follow, stopped, last
        self.is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        self.journal = None if self.is_file else journal
        self.offset = self._read_to = offset
        self._left, self.unfinished, self._splices = b"", 0, hasattr(os, "splice")
        self._log = None if self.journal is None else os.open(self.journal, os.O_RDWR | os.O_CREAT, 0o666)
        if self.is_file and os.fstat(fd).st_size < offset:
            raise ValueError(
                f"input: {os.fstat(fd).st_size} bytes, of which {offset} were read; it must not have become shorter"
            )

    def lines(self) -> Iterator[Lines]:
        """Lines without their ends, each with the offset behind it, as many at once as have come; [] while nothing comes.

        Raises:
            ValueError: a line longer than `LONGEST`.
            OSError: it cannot be read, or the journal not written; what was not given out is still in the pipe or the journal.
        """
        while not self.stopped():
            chunk = self._next()
            if chunk is None:
                yield []
            elif chunk:
                self._left += chunk
                if b"\n" in chunk:
                    yield self._cut()
                elif len(self._left) > LONGEST:
                    raise ValueError(f"input: a line of more than {LONGEST} bytes; it must be rows of numbers")
            else:
                if self._left and self.last:
                    self.offset += len(self._left)
                    yield [(self._left, self.offset)]
                else:
                    self.unfinished = len(self._left)
                return

    def _cut(self) -> Lines:
        *lines, self._left = self._left.split(b"\n")
        ends = itertools.accumulate((len(line) + 1 for line in lines), initial=self.offset)
        cut = [(line.removesuffix(b"\r"), end) for line, end in zip(lines, itertools.islice(ends, 1, None), strict=True)]
        self.offset = cut[-1][1]
        return cut

    def _next(self) -> bytes | None:
        """What comes next; b"" at the end, None where nothing has come yet."""
        chunk: bytes | None
        if self.is_file:
            chunk = os.pread(self.fd, CHUNK, self._read_to)
            if not chunk and self.follow:
                if not self._is_other():
                    time.sleep(POLL)
                return None
        elif self._log is None:
            chunk = os.read(self.fd, CHUNK) if self._waits() else None
        else:
            chunk = os.pread(self._log, CHUNK, self._read_to)
            if not chunk:
                chunk = self._journaled() if self._waits() else None
        self._read_to += len(chunk or b"")
        return chunk

    def _waits(self) -> bool:
        """Whether something is in the pipe, or its end."""
        return bool(select.select([self.fd], [], [], POLL)[0])

    def _journaled(self) -> bytes:
        """What is in the pipe, by way of the journal."""
        assert self._log is not None
        if self._splices:
            try:
                moved = os.splice(self.fd, self._log, CHUNK, offset_dst=self._read_to)
                return os.pread(self._log, moved, self._read_to)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOSYS):
                    raise
                self._splices = False  # no pipe, but a terminal or the like
        chunk = os.read(self.fd, CHUNK)
        write_all(lambda data: os.pwrite(self._log, data, self._read_to + len(chunk) - len(data)), chunk)  # type: ignore[arg-type]
        return chunk

    def _is_other(self) -> bool:
        """Whether the file that was followed to its end is another now, or was shortened: then it is read from its start."""
        size = os.fstat(self.fd).st_size
        if self.path is not None:
            try:
                found = os.stat(self.path)
            except FileNotFoundError:
                return False  # between two of its name
            own = os.fstat(self.fd)
            if (found.st_dev, found.st_ino) != (own.st_dev, own.st_ino):
                other = os.open(self.path, os.O_RDONLY)
                os.dup2(other, self.fd)
                os.close(other)
                size = -1
        if size >= self._read_to:
            return False
        self.offset = self._read_to = 0
        self._left = b""
        return True

    def tail(self, offset: int) -> bytes:
        """At most 4096 bytes of a file before ``offset``, by which it is known again; nothing of a pipe."""
        return os.pread(self.fd, min(4096, offset), max(0, offset - 4096)) if self.is_file else b""

    @property
    def journaled(self) -> int:
        """Bytes of the journal."""
        return 0 if self._log is None else os.fstat(self._log).st_size

    def rotate(self, journal: Path, offset: int) -> None:
        """Begin another journal with what lies behind ``offset`` in this one; the caller deletes the old one."""
        assert self._log is not None
        rest = os.pread(self._log, self.journaled - offset, offset)
        log = os.open(journal, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        write_all(lambda data: os.pwrite(log, data, len(rest) - len(data)), rest)
        os.close(self._log)
        self._log, self.journal = log, journal
        self.offset, self._read_to = self.offset - offset, self._read_to - offset


def write_all(write: Callable[[bytes], int], data: bytes) -> None:
    """Write again and again what a write has left."""
    while data:
        data = data[write(data) :]
