"""What is on Pathfinder images, a block of them at once, and how it is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from torchstu.data.pathfinder_contours import Geometry, dashes, distractors, two_contours

VERSION = 1
"""Of all that decides the bytes of an image; a new one for every change of them."""
Difficulty = Literal["easy", "medium", "hard"]
CONTOUR: dict[Difficulty, int] = {"easy": 6, "medium": 9, "hard": 14}
"""Dashes of the two long contours: the published sets curv_baseline, curv_contour_length_9 and curv_contour_length_14."""
BLOCK = 64
"""Images made at once; those of a block share a random stream."""
_PAIRS = np.array([[[0, 0], [0, 1]], [[1, 1], [1, 0]], [[0, 0], [1, 0]], [[1, 1], [0, 1]]])
"""Long contours whose start and whose end are marked, with label 1 and with label 0: one of these four, (4, 2, 2)."""


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


STYLES = {
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


def scene(index: int, *, size: int, difficulty: Difficulty, seed: int, part: int) -> Scene:
    """What is on an image; ``part`` is 0 for training, 1 for validation, 2 for testing."""
    number, place = divmod(index, BLOCK)
    block = _block(number, size, difficulty, seed, part)
    long, short, (start, end) = block.long[place], block.short[place], block.marked[place]
    chains = np.concatenate([np.repeat([0, 1], long.shape[1]), np.repeat(2 + np.arange(len(short)), short.shape[1])])
    every = np.concatenate([long.reshape(-1, 2, 2), short.reshape(-1, 2, 2)])
    there = ~np.isnan(every[:, 0, 0])
    return Scene(every[there], chains[there], np.stack([long[start, 0, 0], long[end, -1, 1]]), int(start == end))


def geometry(size: int, difficulty: Difficulty, margin: float) -> Geometry:
    """How contours run on images of a size."""
    style, contour = STYLES[size], CONTOUR[difficulty]
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
    style = STYLES[size]
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


@lru_cache(maxsize=16)
def _block(number: int, size: int, difficulty: Difficulty, seed: int, part: int) -> _Block:
    """The images from ``number`` · `BLOCK` on."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, part, number])))
    margins = STYLES[size].margins
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
