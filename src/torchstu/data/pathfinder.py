"""Pathfinder: are the two marked ends those of one dashed contour, or of two? Generated once, kept in files."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from torchstu.data.pathfinder_scenes import BLOCK, STYLES, VERSION, Difficulty, Scene, draw, scene
from torchstu.data.sequences import SequenceData
from torchstu.extras import MissingExtraError, require
from torchstu.spectral.cache import cache_folder
from torchstu.spectral.priors import positive_int
from torchstu.whole_file import whole_file

FILE_IMAGES = 4 * BLOCK
"""Images of a file; the last of a part may have fewer."""
_FILES_WORTH_A_PROCESS = 8
"""Files to make for each process started, unless their number is given: a process takes seconds to begin."""
_PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class PathfinderImages:
    """Images and labels by index: `torchstu.data.Examples`. They are read from files, each time one is asked for.

    A file has a byte of label and size² bytes of pixels an image.

    Attributes:
        count: images.
        size, difficulty, seed: see `pathfinder`.
        part: 0 for training, 1 for validation, 2 for testing.
        folder: of the files.
    """

    count: int
    size: int
    difficulty: Difficulty
    seed: int
    part: int
    folder: Path

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """The pixels row after row (size², 1) uint8, and the label () int64.

        Raises:
            IndexError: no such image. OSError: its file is gone.
        """
        self._check(index)
        number, place = divmod(index, FILE_IMAGES)
        record = 1 + self.size**2
        stored = np.fromfile(self.file(number), dtype=np.uint8, count=record, offset=place * record)
        return torch.from_numpy(stored[1:, None]), torch.tensor(int(stored[0]))

    def scene(self, index: int) -> Scene:
        """What is on an image, generated anew.

        Raises:
            IndexError: no such image.
        """
        self._check(index)
        return scene(index, size=self.size, difficulty=self.difficulty, seed=self.seed, part=self.part)

    def _check(self, index: int) -> None:
        if not 0 <= index < self.count:
            raise IndexError(f"index: {index}; it must be from 0 to {self.count - 1}")

    def file(self, number: int) -> Path:
        """The file of images from ``number`` · `FILE_IMAGES` on; named by all that decides its bytes."""
        images = self._images(number)
        name = f"{self.size}-{self.difficulty}-{self.seed}-{_PARTS[self.part]}"
        return self.folder / f"pathfinder-{VERSION}" / name / f"{images.start}-{images.stop}.bin"

    def missing(self) -> list[int]:
        """Numbers of the files that are not there whole."""
        numbers = range(-(-self.count // FILE_IMAGES))
        return [number for number in numbers if _bytes(self.file(number)) != len(self._images(number)) * (1 + self.size**2)]

    def make(self, number: int) -> None:
        """Generate a file, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        path = self.file(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as draft, draft.open("wb") as file:
            for index in self._images(number):
                drawn = self.scene(index)
                file.write(bytes([drawn.label]) + draw(drawn, self.size).tobytes())

    def _images(self, number: int) -> range:
        return range(number * FILE_IMAGES, min((number + 1) * FILE_IMAGES, self.count))


def pathfinder(
    *,
    size: int = 32,
    difficulty: Difficulty = "hard",
    train: int = 160_000,
    validation: int = 20_000,
    test: int = 20_000,
    seed: int = 0,
    processes: int | None = None,
) -> SequenceData:
    """Images with two long dashed contours and two markers: is one contour marked at both ends (1), or each at one (0)?

    Grey images (size², 1), row after row. Two long contours start near each other, near the middle, and grow by dashes that
    turn at random; short ones are between them as distractors, as many as find a place. Contours keep a distance from each
    other, and from themselves, that is larger than the gaps within a contour. The start of one long contour is marked, and the
    end of the same or of the other.

    Lengths, thickness, bending and numbers are those of the published sets; see there. What differs: all contours are equally
    bright (the published distractors are brighter at size 32); a gap has one width in 64 images (size 128); an image is kept
    only if the markers are about as far from each other with either label, to size/16 · (dashes/14)². Without that their
    distance alone gives 58% at size 32 and 87% on easy images of size 128; with it 53% at most.

    The label is a coin, tossed after the contours are drawn: nothing but the places of the markers depends on it. As contours
    start near each other and keep clear, the directions of the dashes at the two markers say something about it without a look
    at the contours between: a logistic regression on them is right on 68% of hard images of size 32, 88% of easy ones.

    The images are made here, once, and kept in ``pathfinder-*`` of `torchstu.spectral.cache.cache_folder`
    (``$TORCHSTU_CACHE``): 0.2 GB for the published number at size 32, 3.3 GB at 128. What was made when this was stopped is
    not made again, and several processes that need the same images share the work.

    Args:
        size: 32, or 128, where it is Path-X.
        difficulty: dashes of a long contour: "easy" 6, "medium" 9, "hard" 14; those of a distractor are a third as many.
        train, validation, test: images. An image depends on its index, not on how many there are.
        seed: of everything.
        processes: that make the images; None: as many as this process may use cores, over the processes of ``torchrun``.

    Raises:
        ValueError: an argument that is not as above.
        OSError: the images cannot be written.

    Source: Linsley et al., arXiv 1805.08315, after Houtkamp and Roelfsema, J. Exp. Psychol. 36, 2010; as in Tay et al., Long
    Range Arena, arXiv 2011.04006.
    """
    if size not in STYLES:
        raise ValueError(f"size: {size}; it must be one of {', '.join(map(str, STYLES))}")
    if difficulty not in get_args(Difficulty):
        raise ValueError(f"difficulty: {difficulty!r}; it must be one of {', '.join(map(repr, get_args(Difficulty)))}")
    seed = positive_int("seed", seed, minimum=0)
    counts = [positive_int(name, count) for name, count in zip(_PARTS, (train, validation, test), strict=True)]
    processes = None if processes is None else positive_int("processes", processes)
    folder = cache_folder()
    parts = [PathfinderImages(count, size, difficulty, seed, part, folder) for part, count in enumerate(counts)]
    make_missing(parts, processes)
    return SequenceData(
        name=f"Pathfinder-{size} {difficulty}",
        task="classification",
        inputs="pixels",
        d_in=1,
        d_out=2,
        train=parts[0],
        validation=parts[1],
        test=parts[2],
        source=f"generated, seed {seed}; definition of arXiv 1805.08315 and 2011.04006",
        classes=("two contours", "one contour"),
        about={"licence": "that of torchstu, which generated them", "split": f"a random stream each, seed {seed}"},
    )


def make_missing(parts: list[PathfinderImages], processes: int | None) -> None:
    """Make the files that are not there, with a progress bar on a terminal.

    Without locks: each process makes a missing file, drawn at random, until none is missing. Two of them seldom make the same
    one; if they do, it is written twice, with the same bytes.

    Raises:
        OSError: a file cannot be written.
    """
    todo = _missing(parts)
    if not todo:
        return
    wanted = min(_cores(), len(todo) // _FILES_WORTH_A_PROCESS) if processes is None else min(processes, len(todo))
    with _progress(len(todo)) as bar, _helpers(parts, wanted - 1):
        while todo:
            part, number = random.SystemRandom().choice(todo)
            part.make(number)
            left = _missing(parts)
            if bar is not None:
                bar.update(len(todo) - len(left))
            todo = left


def _missing(parts: list[PathfinderImages]) -> list[tuple[PathfinderImages, int]]:
    return [(part, number) for part in parts for number in part.missing()]


def _bytes(path: Path) -> int:
    """Of a file; -1 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _cores() -> int:
    """That each process of ``torchrun`` may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def _progress(files: int) -> Iterator[Any]:
    """A bar on a terminal; None without tqdm."""
    try:
        tqdm = require("train", "tqdm").tqdm
    except MissingExtraError:
        yield None
        return
    with tqdm(total=files, desc="making Pathfinder images", unit="file", leave=False, disable=None) as bar:
        yield bar


@contextmanager
def _helpers(parts: list[PathfinderImages], count: int) -> Iterator[None]:
    """Processes that make missing files while the block runs; they end with it, and with this process."""
    like = parts[0]
    options = {"size": like.size, "difficulty": like.difficulty, "seed": like.seed, "processes": 1}
    options |= {name: part.count for name, part in zip(_PARTS, parts, strict=True)}
    surroundings = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TORCHSTU_CACHE": str(like.folder.absolute())}
    command = [sys.executable, "-c", _HELPER, json.dumps(options)]
    helpers = [
        subprocess.Popen(command, env=surroundings, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(count)
    ]
    try:
        yield
    finally:
        for helper in helpers:
            helper.communicate()  # closes its input


_HELPER = """
import _thread, json, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), _thread.interrupt_main()), daemon=True).start()
from torchstu.data.pathfinder import pathfinder
pathfinder(**json.loads(sys.argv[1]))
"""
"""A process of its own, as `multiprocessing` would run the caller's script again; it ends when its input does."""
