"""Pathfinder: are the two marked ends those of one dashed contour, or of two? Generated, by index."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchstu.data.pathfinder_contours import Geometry, dashes, distractors, two_contours
from torchstu.data.sequences import SequenceData
from torchstu.spectral.priors import positive_int

Difficulty = Literal["easy", "medium", "hard"]
CONTOUR: dict[Difficulty, int] = {"easy": 6, "medium": 9, "hard": 14}
"""Dashes of the two long contours: the published sets curv_baseline, curv_contour_length_9 and curv_contour_length_14."""
BLOCK = 64
"""Images made at once; those of a block share a random stream."""
_PAIRS = np.array([[[0, 0], [0, 1]], [[1, 1], [1, 0]], [[0, 0], [1, 0]], [[1, 1], [0, 1]]])
"""Long contours whose start and whose end are marked, with label 1 and with label 0: one of these four, (4, 2, 2)."""
_PARTS = ("train", "validation", "test")


class _Style(NamedTuple):
    """Published settings of an image size; lengths in pixels. Gaps are twice the margin, one of ``margins`` an image."""

    dash: float
    margins: tuple[float, ...]
    thickness: float
    contrast: float
    marker_radius: float
    bending: float
    seed_distance: float
    distractor_dashes: int
    clearance: float  # above twice the margin


_STYLES = {
    32: _Style(2, (1,), 0.5, 1.5, 1.5, 1.0, 7, 20, 0.75),
    128: _Style(5, (2, 3), 1.5, 0.9, 3, 1.8, 20, 35, 1.5),
}


class Scene(NamedTuple):
    """What is on an image.

    Attributes:
        dashes: (N, 2, 2), the two ends of each, (row, column) in pixels.
        contours: (N,), the number of the contour that each dash is of; 0 and 1 are the long ones.
        markers: (2, 2), their centres.
        label: 1 if the markers are at the ends of one contour, 0 if of two.
    """

    dashes: np.ndarray
    contours: np.ndarray
    markers: np.ndarray
    label: int


@dataclass(frozen=True)
class _Block:
    """Shapes: B images."""

    long: np.ndarray  # (B, 2, n, 2, 2) dashes
    short: np.ndarray  # (B, M, m, 2, 2), NaN where a distractor found no place
    marked: np.ndarray  # (B, 2): the contour whose start is marked, that whose end is


class PathfinderImages:
    """Images and labels by index: `torchstu.data.Examples`. Blocks of images are made when one of them is first asked for."""

    def __init__(self, count: int, *, size: int, difficulty: Difficulty, seed: int, part: int) -> None:
        self.size, self.difficulty, self.seed, self.part, self._count = size, difficulty, seed, part, count
        self._blocks: dict[int, _Block] = {}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """The pixels row after row (size², 1) uint8, and the label () int64."""
        scene = self.scene(index)
        pixels = torch.from_numpy(draw(scene, self.size)).reshape(-1, 1)
        return pixels, torch.tensor(scene.label)

    def scene(self, index: int) -> Scene:
        """What is on an image.

        Raises:
            IndexError: no such image.
        """
        if not 0 <= index < self._count:
            raise IndexError(f"index: {index}; it must be from 0 to {self._count - 1}")
        number, place = divmod(index, BLOCK)
        if number not in self._blocks:
            self._blocks[number] = _block(number, self.size, self.difficulty, self.seed, self.part)
        block = self._blocks[number]
        long, short, (start, end) = block.long[place], block.short[place], block.marked[place]
        chains = np.concatenate([np.repeat([0, 1], long.shape[1]), np.repeat(2 + np.arange(len(short)), short.shape[1])])
        every = np.concatenate([long.reshape(-1, 2, 2), short.reshape(-1, 2, 2)])
        there = ~np.isnan(every[:, 0, 0])
        return Scene(every[there], chains[there], np.stack([long[start, 0, 0], long[end, -1, 1]]), int(start == end))

    def make(self, processes: int) -> None:
        """Make all images now, with so many processes."""
        numbers = [number for number in range(-(-self._count // BLOCK)) if number not in self._blocks]
        one = partial(_block, size=self.size, difficulty=self.difficulty, seed=self.seed, part=self.part)
        if min(processes, len(numbers)) < 2:
            self._blocks.update(zip(numbers, map(one, numbers), strict=True))
            return
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            self._blocks.update(zip(numbers, pool.map(one, numbers, chunksize=4), strict=True))


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

    Args:
        size: 32, or 128, where it is Path-X.
        difficulty: dashes of a long contour: "easy" 6, "medium" 9, "hard" 14; those of a distractor are a third as many.
        train, validation, test: images. An image depends on its index, not on how many there are.
        seed: of everything.
        processes: to make all images with now (started anew, so a script needs ``if __name__ == "__main__"``); None makes them,
            64 at once, as they are asked for. The images are the same.

    Raises:
        ValueError: an argument that is not as above.

    Source: Linsley et al., arXiv 1805.08315, after Houtkamp and Roelfsema, J. Exp. Psychol. 36, 2010; as in Tay et al., Long
    Range Arena, arXiv 2011.04006.
    """
    if size not in _STYLES:
        raise ValueError(f"size: {size}; it must be one of {', '.join(map(str, _STYLES))}")
    if difficulty not in CONTOUR:
        raise ValueError(f"difficulty: {difficulty!r}; it must be one of {', '.join(map(repr, CONTOUR))}")
    seed = positive_int("seed", seed, minimum=0)
    counts = [positive_int(name, count) for name, count in zip(_PARTS, (train, validation, test), strict=True)]
    parts = [
        PathfinderImages(count, size=size, difficulty=difficulty, seed=seed, part=part) for part, count in enumerate(counts)
    ]
    if processes is not None:
        for part in parts:
            part.make(positive_int("processes", processes))
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
    )


def geometry(size: int, difficulty: Difficulty, margin: float) -> Geometry:
    """How contours run on images of a size."""
    style, contour = _STYLES[size], CONTOUR[difficulty]
    short = contour // 3
    return Geometry(
        size=size,
        border=1.0 + style.thickness,
        dash=style.dash,
        gap=2 * margin,
        clearance=2 * margin + style.clearance,
        bending=style.bending,
        seed_distance=style.seed_distance,
        contour=contour,
        distractor=short,
        distractors=style.distractor_dashes // short,
    )


def draw(scene: Scene, size: int) -> np.ndarray:
    """The image of a scene, (size, size) uint8: strokes and discs, smoothed at their edges over a pixel."""
    style = _STYLES[size]
    image = np.zeros((size, size))
    markers = scene.markers[:, None].repeat(2, axis=1)  # segments of length 0
    for ends, width, contrast in ((scene.dashes, style.thickness, style.contrast), (markers, 2 * style.marker_radius, 1.0)):
        at, distance = _around(ends, 0.5 * width + 0.5, size)
        np.maximum.at(image, at, contrast * np.clip(0.5 * width + 0.5 - distance, 0, min(1.0, width)))
    return np.round(255 * np.minimum(image, 1)).astype(np.uint8)


def _around(ends: np.ndarray, reach: float, size: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Pixels within reach of line segments (N, 2, 2), and a few more, with their distance; the first's centre is (½, ½)."""
    first, along = ends[:, 0], ends[:, 1] - ends[:, 0]
    squared = along[:, 0] ** 2 + along[:, 1] ** 2
    offset = np.arange(-(half := int(np.ceil(reach + 0.5 * np.sqrt(squared.max())))), half + 1)
    middle = np.floor(first + 0.5 * along).astype(np.int64)
    rows, columns = np.broadcast_arrays(middle[:, 0, None, None] + offset[:, None], middle[:, 1, None, None] + offset)
    down, right = rows + 0.5 - first[:, 0, None, None], columns + 0.5 - first[:, 1, None, None]
    share = (down * along[:, 0, None, None] + right * along[:, 1, None, None]) / np.maximum(squared, 1e-9)[:, None, None]
    share = np.clip(share, 0, 1)
    distance = np.sqrt((down - share * along[:, 0, None, None]) ** 2 + (right - share * along[:, 1, None, None]) ** 2)
    inside = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
    return (rows[inside], columns[inside]), distance[inside]


def _block(number: int, size: int, difficulty: Difficulty, seed: int, part: int) -> _Block:
    """The images from ``number`` · `BLOCK` on."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, part, number])))
    margins = _STYLES[size].margins
    how = geometry(size, difficulty, margins[number % len(margins)])
    long: list[np.ndarray] = []
    short: list[np.ndarray] = []
    marked: list[np.ndarray] = []
    missing = BLOCK
    while missing:
        vertices, grid = two_contours(2 * BLOCK, how, rng)
        chains = dashes(vertices, how)
        pairs, fair = _markers(chains, how, rng)
        kept = np.flatnonzero(fair)[:missing]
        grid.taken = grid.taken[kept]
        long.append(chains[kept].astype(np.float32))
        short.append(dashes(distractors(grid, rng), how).astype(np.float32))
        marked.append(pairs[kept].astype(np.int8))
        missing -= len(kept)
    return _Block(np.concatenate(long), np.concatenate(short), np.concatenate(marked))


def _markers(chains: np.ndarray, how: Geometry, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Which ends of long contours (B, 2, n, 2, 2) are marked (B, 2), by a coin, and whether the distance is fair (B,).

    The coin decides between two pairs of a start and an end, one of the same contour, one of both, that have one in common.
    """
    starts, ends = chains[:, :, 0, 0], chains[:, :, -1, 1]
    apart = np.sqrt(((starts[:, :, None] - ends[:, None]) ** 2).sum(axis=-1))  # (B, start, end)
    distance = apart[:, _PAIRS[..., 0], _PAIRS[..., 1]]  # (B, 4, 2)
    fair = np.abs(distance[..., 0] - distance[..., 1]) <= how.size / 16 * (how.contour / CONTOUR["hard"]) ** 2
    chosen = (fair * rng.uniform(0.5, 1, fair.shape)).argmax(axis=1)
    return _PAIRS[chosen, rng.integers(2, size=len(chains))], fair.any(axis=1)
