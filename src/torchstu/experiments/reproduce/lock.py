"""One run at a time in a folder."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder/.lock``; the lock of a process that has ended is taken over.

    Raises:
        ValueError: another run works there, or one on a machine that cannot be asked.
    """
    path, own = folder / ".lock", _owner(os.getpid())
    while not _created(path, own):
        held = _held(path)
        if held is not None and _running(held):
            where = "" if held["host"] == own["host"] else f" on {held['host']} (if it has ended, remove {path})"
            raise ValueError(f"output: process {held['pid']}{where} works in {folder}; wait for it, or choose another folder")
        _remove(path, held)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _owner(pid: int) -> dict[str, str]:
    return {"pid": str(pid), "started": _process(pid)[1], "host": platform.node()}


def _created(path: Path, owner: dict[str, str]) -> bool:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(owner, file)
    return True


def _held(path: Path) -> dict[str, str] | None:
    """Whose it is; None where it is gone or says nothing for a second: its owner died between making and writing it."""
    for _ in range(20):
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            return {key: str(held[key]) for key in ("pid", "started", "host")}
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            time.sleep(0.05)
    return None


def _running(owner: dict[str, str]) -> bool:
    if owner["host"] != platform.node():
        return True
    pid = int(owner["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    state, started = _process(pid)
    return state not in ("Z", "X") and started == owner["started"]


def _process(pid: int) -> tuple[str, str]:
    """State and time of start, which tells a process from a later one with its number; empty where /proc is not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[0], fields[19]


def _remove(path: Path, dead: dict[str, str] | None) -> None:
    """Remove a dead owner's lock; one that another run has taken over meanwhile is put back."""
    aside = path.with_name(f".lock-{os.getpid()}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    if _held(aside) != dead:
        os.link(aside, path)
    aside.unlink()
