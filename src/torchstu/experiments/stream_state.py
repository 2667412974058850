"""What a stream keeps on disk to go on: one file, whole or not at all, locked by the process that uses it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from torchstu.whole_file import clear_drafts, whole_file

FORMAT = "torchstu stream 2"


class StateFile:
    """A state and what lies beside it: ``.journal-N`` of a pipe, ``.written`` of standard output, ``.lock``.

    Args:
        path: of the state.
        stack: that closes the lock.

    Raises:
        ValueError: its folder is not there, or another process uses it.
    """

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        if not path.absolute().parent.is_dir() or path.is_dir():
            raise ValueError(f"state: {path}; it must be a file in a folder that is there")
        lock = stack.enter_context(path.with_name(f"{path.name}.lock").open("w"))
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass  # not on this system
        except OSError as error:
            raise ValueError(f"state: {path}; another process uses it") from error
        clear_drafts(path)

    def journal(self, number: int) -> Path:
        """Of a pipe."""
        return self.path.with_name(f"{self.path.name}.journal-{number}")

    @property
    def marks(self) -> Path:
        """The number of the last row that may have been written to standard output."""
        return self.path.with_name(f"{self.path.name}.written")

    def forget_journals(self, kept: int | None) -> None:
        """Delete journals of earlier times, but for one."""
        pattern = re.compile(re.escape(self.path.name) + r"\.journal-(\d+)")
        for path in self.path.absolute().parent.iterdir():
            found = pattern.fullmatch(path.name)
            if found and int(found[1]) != kept:
                path.unlink()

    def read(self, identity: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Tensors and numbers of the stream, and facts; None where there is no state.

        Raises:
            ValueError: no state of a stream, or of one with another identity; the message names what differs.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                found = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(f"state: {self.path} is no state of a stream ({error}); give another file") from error
        if found.get("format") != FORMAT:
            raise ValueError(f"state: {self.path} is no state of a stream; give another file")
        facts = json.loads(found["facts"])
        for name, own in identity.items():
            if facts[name] != own:
                what = "is of another model" if name == "model" else f"has {name} {facts[name]!r}, not {own!r}"
                raise ValueError(f"state: {self.path} {what}; give what it was begun with, or another file")
        return arrays | facts.pop("numbers"), facts

    def write(self, stream: dict[str, Any], facts: dict[str, Any]) -> None:
        """Replace what was there."""
        arrays = {name: value for name, value in stream.items() if isinstance(value, torch.Tensor)}
        numbers = {name: value for name, value in stream.items() if name not in arrays}
        with whole_file(self.path) as draft:
            draft.write_bytes(save(arrays, {"format": FORMAT, "facts": json.dumps(facts | {"numbers": numbers})}))


def digest(folder: Path) -> str:
    """Of the files of a model."""
    found = hashlib.sha256()
    for name in ("model.json", "model.safetensors"):
        found.update((folder / name).read_bytes())
    return found.hexdigest()


def same_file(fd: int, path: Path) -> bool:
    """Whether a path is what a descriptor is of."""
    if not path.exists():
        return False
    one, other = os.fstat(fd), path.stat()
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
