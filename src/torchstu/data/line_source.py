"""Bytes of a file or a pipe as they come, cut at line ends; kept in a journal where they cannot be read again."""

from __future__ import annotations

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


class LineSource:
    """Complete lines from where they are wanted on.

    Args:
        fd: of a file or a pipe, opened for reading.
        offset: bytes of a file to leave out; of a pipe's journal, where there is one.
        follow: whether a file that ends may grow.
        stopped: asked between reads.
        journal: of a pipe: what is read goes here before it is given out, and what it has is given out first.

    Attributes:
        offset: of the first byte that `lines` has not given out.
    """

    def __init__(
        self, fd: int, *, offset: int = 0, follow: bool = False, stopped: Callable[[], bool] = lambda: False,
        journal: Path | None = None,
    ) -> None:  # fmt: skip
        self.fd, self.offset, self.follow, self.stopped, self.journal = fd, offset, follow, stopped, journal
        self.seekable = stat.S_ISREG(os.fstat(fd).st_mode)
        self._left = b""
        self._log: int | None = None
        if self.seekable:
            size = os.fstat(fd).st_size
            if size < offset:
                raise ValueError(f"input: {size} bytes; {offset} of them were read before, it must not have become shorter")
            os.lseek(fd, offset, os.SEEK_SET)
        elif journal is not None:
            self._left = journal.read_bytes()[offset:] if journal.exists() else b""
            self._log = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def lines(self) -> Iterator[list[tuple[bytes, int]]]:
        """Lines without their ends, each with the offset behind it, as many at once as have come.

        An unfinished line at the end of a file or pipe is one, too.
        """
        old, self._left = self._left, b""
        if b"\n" in old:
            yield self._cut(old)
        else:
            self._left = old
        while not self.stopped():
            chunk = self._read()
            if chunk:
                if self._log is not None:
                    os.write(self._log, chunk)
                if b"\n" in chunk:
                    yield self._cut(self._left + chunk)
                else:
                    self._left += chunk
            elif chunk is not None:
                if self._left and not self.stopped():
                    last, self._left = self._left, b""
                    self.offset += len(last)
                    yield [(last, self.offset)]
                return

    def _cut(self, data: bytes) -> list[tuple[bytes, int]]:
        *lines, self._left = data.split(b"\n")
        ends = itertools.accumulate((len(line) + 1 for line in lines), initial=self.offset)
        cut = [(line.removesuffix(b"\r"), end) for line, end in zip(lines, itertools.islice(ends, 1, None), strict=True)]
        self.offset = cut[-1][1]
        return cut

    def _read(self) -> bytes | None:
        """What there is; b"" at the end, None where nothing has come yet."""
        if not self.seekable:
            return os.read(self.fd, CHUNK) if select.select([self.fd], [], [], POLL)[0] else None
        chunk = os.read(self.fd, CHUNK)
        if not chunk and self.follow:
            time.sleep(POLL)
            return None
        return chunk

    def rotate(self, journal: Path, offset: int) -> None:
        """Begin another journal, of what was read and lies behind ``offset``; the caller deletes the old one."""
        assert self.journal is not None
        rest = self.journal.read_bytes()[offset:]
        log = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        os.write(log, rest)
        if self._log is not None:
            os.close(self._log)
        self._log, self.journal = log, journal
        self.offset -= offset
