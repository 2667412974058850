"""Where the contours of Pathfinder images run: random walks that keep clear of each other, many images in lock step.

A contour of n dashes is a chain of n steps, each as long as a dash with half a gap before and after it, each turned from the
one before by a random angle. Points are (row, column) in pixels.

Shapes: B images, n steps of a chain, M chains, C candidates for a step, S points along a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CANDIDATES = 32
"""Directions tried for a step before the chain is at a dead end."""
_LOOKED_AT = 8
"""Of these so many, the first that are possible, are looked at for a step after them."""
ATTEMPTS = 4
"""Times a distractor is tried, after which the image has one less."""
ROUNDS = 8
"""Steps tried for the two long contours, as a multiple of those they need, before the image is given up."""
_CELLS = 8
"""Cells of the grid to the clearance: distances are kept to √2/8 of it."""
_FREE, _FRAME = 255, 0
_PROBES = np.array([0.2, 0.4, 0.6, 0.8, 1.0])
"""Where a step is checked, and later blocks others, as a share of it."""
DIRECTIONS = 1024
"""Directions there are; a heading is one of these, as an integer."""
_ANGLES = 2 * np.pi / DIRECTIONS * np.arange(DIRECTIONS)
_COMPASS = np.round(np.stack([np.sin(_ANGLES), np.cos(_ANGLES)], axis=-1) * 2**20) / 2**20  # the same on every machine


@dataclass(frozen=True)
class Geometry:
    """How contours run; lengths in pixels.

    Attributes:
        size: of the square image.
        border: frame that no contour enters.
        dash, gap: length of a dash, and of the gap to the next when the contour goes straight.
        clearance: distance from the line of a contour to that of any other, kept to 18%.
        bending: turns δ have density ∝ cos²(δ·bending) where |δ|·bending < π/2.
        seed_distance: from the start of one of the two long contours to that of the other.
        contour: dashes of the two long contours.
        distractor, distractors: dashes of a short contour, and how many of these.
    """

    size: int
    border: float
    dash: float
    gap: float
    clearance: float
    bending: float
    seed_distance: float
    contour: int
    distractor: int
    distractors: int

    @property
    def step(self) -> float:
        """From the middle of a gap to the middle of the next."""
        return self.dash + self.gap


def two_contours(count: int, geometry: Geometry, rng: np.random.Generator) -> tuple[np.ndarray, Grid]:
    """Pairs of long contours, from ``count`` attempts; those that are not complete after `ROUNDS` are left out.

    Both grow in turn. At a dead end both go back a few steps.

    Returns:
        vertices (B, 2, n + 1, 2), and the grid on which they are taken.
    """
    grid, length = Grid(count, geometry), geometry.contour
    vertices, headings = np.zeros((count, 2, length + 1, 2)), np.zeros((count, 2, length + 1), dtype=np.int64)
    vertices[:, :, 0] = _starts(count, geometry, rng)
    done = np.zeros(count, dtype=np.int64)  # steps of both
    for _ in range(ROUNDS * length):
        images = np.flatnonzero(done < length)
        if not len(images):
            break
        steps = done[images]
        here, heading, last = vertices[images, :, steps], headings[images, :, steps], _last_steps(vertices[images], steps)
        first = _extend(here[:, 0], heading[:, 0], _turns(steps, geometry, rng), grid, images, avoid=last[:, 1])
        near = np.concatenate([last[:, 0], _along(here[:, 0], first[0])], axis=1)
        second = _extend(here[:, 1], heading[:, 1], _turns(steps, geometry, rng), grid, images, avoid=near)
        possible = first[2] & second[2]
        ahead, stuck, number = images[possible], images[~possible], steps[possible] + 1
        for chain, (ends, towards, _) in enumerate((first, second)):
            vertices[ahead, chain, number], headings[ahead, chain, number] = ends[possible], towards[possible]
            grid.take(last[possible, chain], ahead, number)  # not the new step: the next begins where it ends
        done[ahead] += 1
        done[stuck] -= np.minimum(rng.integers(1, 2 + length // 2, len(images)), steps)[~possible]
        grid.undo(stuck, 1 + done[stuck])
    complete = done == length
    vertices, grid.taken = vertices[complete], grid.taken[complete]
    for chain in range(2):
        grid.take(_along(vertices[:, chain, -2], vertices[:, chain, -1]), np.arange(len(vertices)))
    return vertices, grid


def distractors(grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """Short contours among what is taken on a grid: vertices (B, M, n + 1, 2), NaN where none found a place."""
    geometry = grid.geometry
    chains = np.full((len(grid.taken), geometry.distractors, geometry.distractor + 1, 2), np.nan)
    for number in range(geometry.distractors):
        for _ in range(ATTEMPTS):
            images = np.flatnonzero(np.isnan(chains[:, number, 0, 0]))
            chain, found = _distractor(grid, images, rng)
            images, chain = images[found], chain[found]
            chains[images, number] = chain
            for step in range(geometry.distractor):
                grid.take(_along(chain[:, step], chain[:, step + 1]), images)
    return chains


def dashes(vertices: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The two ends of each dash of chains (..., n + 1, 2): (..., n, 2, 2)."""
    first, last = vertices[..., :-1, :], vertices[..., 1:, :]
    margin = 0.5 * geometry.gap / geometry.step * (last - first)
    return np.stack([first + margin, last - margin], axis=-2)


class Grid:
    """Which cells of B images are taken, and since which step: an undone step gives its cells back.

    Attributes:
        taken: (B, cells) uint8, the first step that took a cell.
    """

    def __init__(self, count: int, geometry: Geometry) -> None:
        self.geometry = geometry
        self._scale = _CELLS / geometry.clearance  # cells to a pixel
        self._pad = _CELLS + 1
        self._side = int(np.ceil(geometry.size * self._scale)) + 2 * self._pad
        frame = np.full((self._side, self._side), _FRAME, dtype=np.uint8)
        edge = self._pad + int(np.ceil(geometry.border * self._scale))
        frame[edge:-edge, edge:-edge] = _FREE
        self.taken = frame.reshape(1, -1).repeat(count, axis=0)
        rows, columns = np.mgrid[-_CELLS : _CELLS + 1, -_CELLS : _CELLS + 1]
        self._disc = (rows * self._side + columns)[rows**2 + columns**2 <= _CELLS**2]

    def free(self, points: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Whether all of the points (B, C, S, 2) of a candidate are, in the images (B,); (B, C)."""
        cells = images[:, None, None] * self.taken.shape[1] + self._cells(points, 0)
        return (self.taken.ravel()[cells] == _FREE).all(axis=-1)

    def take(self, points: np.ndarray, images: np.ndarray, step: np.ndarray | int = 1) -> None:
        """Block all within the clearance of points (B, S, 2), in the images (B,), for a step (B,)."""
        cells = images[:, None] * self.taken.shape[1] + self._cells(points, self._pad)
        steps = np.broadcast_to(np.asarray(step, dtype=np.uint8), images.shape)[:, None, None]
        taken, around = self.taken.ravel(), cells[..., None] + self._disc
        taken[around] = np.minimum(taken[around], steps)

    def undo(self, images: np.ndarray, step: np.ndarray) -> None:
        """Give back what steps (B,) and later ones took."""
        taken = self.taken[images]
        taken[taken >= step[:, None]] = _FREE
        self.taken[images] = taken

    def _cells(self, points: np.ndarray, edge: int) -> np.ndarray:
        index = np.clip(points * self._scale + self._pad, edge, self._side - 1 - edge).astype(np.int64)
        return index[..., 0] * self._side + index[..., 1]


def _starts(count: int, geometry: Geometry, rng: np.random.Generator) -> np.ndarray:
    """(B, 2, 2): the first near the middle, the other at the seed distance from it."""
    middle = geometry.size / 2
    reach = max(middle - 2 * geometry.seed_distance, geometry.size / 16)
    first = middle + rng.uniform(-reach, reach, (count, 2))
    return np.stack([first, first + geometry.seed_distance * _COMPASS[rng.integers(DIRECTIONS, size=count)]], axis=1)


def _last_steps(vertices: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Points along the last of the steps (B,) of each chain; before the first, S times the start: (B, M, S, 2)."""
    images = np.arange(len(vertices))
    return _along(vertices[images, :, np.maximum(steps - 1, 0)], vertices[images, :, steps])


def _distractor(grid: Grid, images: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    geometry, count = grid.geometry, len(images)
    places = rng.uniform(geometry.border, geometry.size - geometry.border, (count, CANDIDATES, 2))
    free = grid.free(places[:, :, None], images)
    chain, heading = [places[np.arange(count), free.argmax(axis=1)]], np.zeros(count, dtype=np.int64)
    found = np.asarray(free.any(axis=1))
    earlier = np.full((count, 1, 2), np.inf)
    for number in range(geometry.distractor):
        turns = _turns(np.full(count, number), geometry, rng)
        end, heading, possible = _extend(chain[-1], heading, turns, grid, images, avoid=earlier)
        found = found & possible
        if number:
            earlier = np.concatenate([earlier, _along(chain[-2], chain[-1])], axis=1)
        chain.append(end)
    return np.stack(chain, axis=1), found


def _extend(
    here: np.ndarray, heading: np.ndarray, turns: np.ndarray, grid: Grid, images: np.ndarray, avoid: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A step from points (B, 2), by the first of the turns (B, C) that leads nowhere taken, and on where one does.

    Returns:
        ends (B, 2), headings (B,), and whether the step is free, and clear of the points ``avoid`` (B, N, 2); (B,).
    """
    geometry, every = grid.geometry, np.arange(len(here))
    headings = (heading[:, None] + turns) % DIRECTIONS
    free = grid.free(_along(here[:, None], here[:, None] + geometry.step * _COMPASS[headings]), images)
    first = np.argsort(~free, axis=1, kind="stable")[:, :_LOOKED_AT]
    headings, free = headings[every[:, None], first], free[every[:, None], first]
    ends = here[:, None] + geometry.step * _COMPASS[headings]  # (B, C, 2)
    bends = np.round(np.array([-1.1, 0.0, 1.1]) / geometry.bending * DIRECTIONS / (2 * np.pi)).astype(np.int64)
    onward = geometry.step * _COMPASS[(headings[..., None] + bends) % DIRECTIONS]  # (B, C, 3, 2)
    beyond = ends[:, :, None, None] + np.array([[0.6], [1.0]]) * onward[..., None, :]
    leads_on = grid.free(beyond.reshape(len(here), _LOOKED_AT * 3, 2, 2), images).reshape(*free.shape, 3).any(axis=-1)
    best = (free * (1 + leads_on)).argmax(axis=1)
    gaps = _along(here, ends[every, best])[:, :, None] - avoid[:, None]
    possible = free[every, best] & (gaps[..., 0] ** 2 + gaps[..., 1] ** 2 >= geometry.clearance**2).all(axis=(1, 2))
    return ends[every, best], headings[every, best], possible


def _turns(steps: np.ndarray, geometry: Geometry, rng: np.random.Generator) -> np.ndarray:
    """Turns with density ∝ cos²(δ·bending), by a table of their distribution; uniform for a first step: (B, C)."""
    scaled = np.linspace(-np.pi / 2, np.pi / 2, 257)
    below = 0.5 + (scaled + np.sin(scaled) * np.cos(scaled)) / np.pi
    share = rng.uniform(size=(len(steps), CANDIDATES))
    turns = np.where(steps[:, None] == 0, share, np.interp(share, below, scaled) / geometry.bending / (2 * np.pi))
    return np.round(turns * DIRECTIONS).astype(np.int64)


def _along(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Points on the way from (..., 2) to (..., 2): (..., S, 2)."""
    return first[..., None, :] + _PROBES[:, None] * (last - first)[..., None, :]
