"""Files that appear whole or not at all."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A draft beside ``path`` to be written in the block; it takes its place, and is on disk, when the block ends well.

    The draft has the suffix of ``path``. After an error nothing is left behind, and what was at ``path`` stays.

    Raises:
        OSError: it cannot be written.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix.lower(), dir=path.parent)
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        draft.chmod(0o666 & ~mask)  # as an ordinary new file
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def clear_drafts(path: Path) -> None:
    """Delete the drafts of `path` that a killed process left; none may be at work on it now.

    Raises:
        OSError: one cannot be deleted.
    """
    for draft in path.parent.glob(f".{glob.escape(path.name)}.*"):
        draft.unlink()
