"""Results of one experiment on disk, safe against a kill at any moment.

While it runs, ``partial.jsonl`` grows by a line a trial in the order of completion; when all are there, ``measured.jsonl`` and
``results.jsonl`` are written whole, in the order of the trials, and the partial file goes. ``manifest.json`` says what was run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torchstu.experiments.reproduce.experiment import Measured, Result, Row, Trial
from torchstu.experiments.reproduce.jsonlines import from_json, read_lines, to_json
from torchstu.report.page import write_text


@dataclass(frozen=True)
class Manifest:
    """What was run, and with what.

    Attributes:
        name: of the experiment.
        module: its home.
        scale: ``quick`` or ``full``.
        seed: the base seed.
        settings: the recipe's table.
        trials: how many.
        digest: SHA-256 of settings and trials.
        versions: of Python and the packages that compute.
        code: digests of the package's files, one for every version that took part.
        machines: in words, every one that took part.
    """

    name: str
    module: str
    scale: str
    seed: int
    settings: dict[str, Any]
    trials: int
    digest: str
    versions: dict[str, str]
    code: list[str] = field(default_factory=list)
    machines: list[str] = field(default_factory=list)


def digest_of(settings: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    """SHA-256 of settings and trials, in hexadecimal digits."""
    return hashlib.sha256(to_json([dict(settings), list(trials)], "trials").encode()).hexdigest()


class Store:
    """The folder of one experiment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = folder / "results.jsonl"
        self._measured = folder / "measured.jsonl"
        self._partial = folder / "partial.jsonl"
        self._manifest = folder / "manifest.json"

    def manifest(self) -> Manifest:
        """What the folder holds.

        Raises:
            ValueError: there is no manifest, or it is none.
            OSError: it cannot be read.
        """
        try:
            return Manifest(**from_json(self._manifest.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise ValueError(f"output: {self.folder} has no manifest.json; choose another folder") from error
        except (ValueError, TypeError) as error:
            raise ValueError(f"output: {self._manifest} is no manifest; choose another folder") from error

    @property
    def finished(self) -> bool:
        """Whether all results are there."""
        return self.results.exists()

    def check(self, new: Manifest) -> None:
        """Whether a run can begin here or go on.

        Raises:
            ValueError: the folder is of another run; the message says what differs.
        """
        if not self._manifest.exists():
            if self.results.exists() or self._partial.exists():
                raise ValueError(f"output: {self.folder} has results without manifest.json; choose another folder")
            return
        differing = _differences(self.manifest(), new, with_versions=not self.finished)
        if differing:
            raise ValueError(f"output: {self.folder} is of another run: {differing}; choose another folder")

    def begin(self, new: Manifest) -> None:
        """Write the manifest, or add this code and machine to the one that is there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._manifest.exists():
            old = self.manifest()
            new = replace(
                old,
                code=[*old.code, *(c for c in new.code if c not in old.code)],
                machines=[*old.machines, *(m for m in new.machines if m not in old.machines)],
            )
            if new == old:
                return
        plain = json.loads(to_json(asdict(new), "manifest"))
        _write(self._manifest, json.dumps(plain, indent=1, ensure_ascii=False) + "\n")

    def partial(self) -> dict[int, tuple[Result, Measured]]:
        """What an earlier run finished; a last line that was cut off is removed from the file."""
        if not self._partial.exists():
            return {}
        content = self._partial.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self._partial, len(whole))
        return {line["index"]: (line["result"], line["measured"]) for line in read_lines(self._partial)}

    def append(self, index: int, result: Result, measured: Measured) -> None:
        """Keep what one trial found; it is on disk when this returns."""
        line = to_json({"index": index, "result": result, "measured": measured}, f"trial {index}")
        with self._partial.open("ab") as file:
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def finish(self, trials: Sequence[Trial], outcomes: Mapping[int, tuple[Result, Measured]]) -> None:
        """Write everything in the order of the trials."""
        pairs = [(trial, *outcomes[i]) for i, trial in enumerate(trials)]
        _write(self._measured, "".join(f"{to_json({'trial': t, 'measured': m}, 'measured')}\n" for t, _, m in pairs))
        _write(self.results, "".join(f"{to_json({'trial': t, 'result': r}, 'result')}\n" for t, r, _ in pairs))
        self._partial.unlink(missing_ok=True)

    def rows(self) -> list[Row]:
        """All trials with what came out.

        Raises:
            OSError: the results are not there.
            ValueError: they are damaged.
        """
        results, measured = read_lines(self.results), read_lines(self._measured)
        if [line["trial"] for line in results] != [line["trial"] for line in measured]:
            raise ValueError(f"output: results.jsonl and measured.jsonl of {self.folder} are not of one run")
        return [Row(r["trial"], r["result"], m["measured"]) for r, m in zip(results, measured, strict=True)]


def _differences(old: Manifest, new: Manifest, with_versions: bool) -> str:
    """What keeps a run from going on with the results of another, in words."""
    there, here = ({"scale": m.scale, "seed": m.seed, **m.settings} for m in (old, new))
    pairs = {key: (there.get(key), here.get(key)) for key in (*there, *(k for k in here if k not in there))}
    if with_versions:
        pairs |= {name: (old.versions.get(name), new.versions[name]) for name in new.versions}
    found = [f"{key} is {_word(was)} there and {_word(now)} here" for key, (was, now) in pairs.items() if was != now]
    if not found and old.digest != new.digest:
        found = ["the experiment makes other trials than it made then"]
    return ", ".join(found)


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else to_json(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _write(path: Path, text: str) -> None:
    """Whole or not at all, and on disk when this returns, under its name too."""
    folder = os.open(write_text(path, text).parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
