"""ListOps: nested lists of digits under MIN, MAX, MED and SM, drawn to the published definition.

A tree is drawn from its root: a node is an operator with probability p and else a digit; an operator has 2 to A arguments,
each a node of the next level; nodes of the last level are digits. The root is an operator. Trees whose number of tokens is out
of bounds are drawn again, and so are expressions that there are already, in any part.

    [MAX 4 3 [MIN 2 3 ] 1 0 [MED 1 5 8 9 2 ] ]    is 5

MED is the median, of an even number of arguments the mean of the middle two rounded down; SM is the sum modulo 10.

Whole levels of many trees are drawn and evaluated at a time. Shapes: R trees, n nodes of a level, m of them operators.

Sources: Nangia and Bowman, arXiv 1804.06028 (the task); Tay et al., arXiv 2011.04006 (the long version and its sizes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from statistics import median
from typing import Any

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence

from torchstu.data.packed import PackedExamples, Packer
from torchstu.data.sequences import SequenceData
from torchstu.spectral.measures import positive_int

SYMBOLS = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "[MIN", "[MAX", "[MED", "[SM", "]")
"""What a model sees; token 0 is the padding, and `SYMBOLS[i]` is token i + 1. As in Long Range Arena the closing bracket is
a token, and the parentheses of its files, which only spell the tree out in binary, are dropped."""

SOURCE = "generated; definition of Nangia and Bowman, arXiv 1804.06028, sizes of Tay et al., arXiv 2011.04006"
_FIRST_OPERATOR, _CLOSE = 10, 14
_EVALUATE: dict[str, Callable[[list[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda values: int(median(values)),
    "[SM": lambda values: sum(values) % 10,
}
_BATCH_TOKENS = 2**20
_PATIENCE = 50


def listops(
    *,
    train: int = 96_000,
    validation: int = 2_000,
    test: int = 2_000,
    min_length: int = 501,
    max_length: int = 1_999,
    max_depth: int = 10,
    max_args: int = 10,
    operator_probability: float = 0.25,
    seed: int = 0,
) -> SequenceData:
    """ListOps, ten classes; the defaults are the published sizes of Long Range Arena. See the module for the definition.

    The parts come from separate random streams and share no expression; the test part depends on no other part's size.

    Args:
        train, validation, test: expressions in the parts.
        min_length, max_length: smallest and largest number of tokens; the published 500 and 2000 are both excluded.
        max_depth: levels of the tree, the last of which has digits only; operators nest up to ``max_depth - 1`` deep.
        max_args: most arguments of an operator; the fewest are 2.
        operator_probability: of a node below the root to be an operator, above the last level.
        seed: of everything.

    Raises:
        TypeError: a number that is no integer.
        ValueError: numbers out of range, or bounds that leave too few different expressions; the message says which.
    """
    low, high = positive_int("min_length", min_length, 4), positive_int("max_length", max_length, 4)
    depth, args = positive_int("max_depth", max_depth, 2), positive_int("max_args", max_args, 2)
    _check_bounds(low, high, depth, args)
    if not 0 < operator_probability < 1:
        raise ValueError(f"operator_probability: {operator_probability}; it must be above 0 and below 1")
    trees = _Trees(low, high, depth, args, float(operator_probability))
    counts = {name: positive_int(name, count) for name, count in (("test", test), ("validation", validation), ("train", train))}
    seed, seen = positive_int("seed", seed, 0), set[bytes]()
    parts = {name: _part(name, count, trees, _stream(seed, part), seen) for part, (name, count) in enumerate(counts.items())}
    about = {"licence": "that of torchstu, which generated them", "split": f"a random stream each, seed {seed}"}
    return listops_data("ListOps", parts, SOURCE, about)


def listops_data(name: str, parts: dict[str, PackedExamples], source: str, about: dict[str, str]) -> SequenceData:
    """The data set of parts "train", "validation" and "test" whose bytes are places in `SYMBOLS`."""
    classes = SYMBOLS[:_FIRST_OPERATOR]
    return SequenceData(
        name, "classification", "tokens", len(SYMBOLS) + 1, len(classes), **parts, source=source, classes=classes, about=about
    )


def to_text(tokens: Any) -> str:
    """The expression of a sequence of tokens, such as "[MAX 2 9 [MIN 4 7 ] 0 ]"; padding is left out."""
    return " ".join(SYMBOLS[int(token) - 1] for token in tokens if int(token) != 0)


def evaluate(expression: str) -> int:
    """The value of an expression, read from left to right: the slow twin of what `listops` computes level by level.

    Raises:
        ValueError: not an expression.
    """
    open_lists: list[tuple[str, list[int]]] = [("", [])]
    for word in expression.split():
        if word in _EVALUATE:
            open_lists.append((word, []))
            continue
        if word == "]" and len(open_lists) > 1 and open_lists[-1][1]:
            operator, values = open_lists.pop()
            value = _EVALUATE[operator](values)
        elif word in SYMBOLS[:_FIRST_OPERATOR]:
            value = int(word)
        else:
            raise ValueError(f"expression: {word!r} where it stands; it must be an operator, a digit, or ']' after arguments")
        open_lists[-1][1].append(value)
    if len(open_lists) > 1 or len(open_lists[0][1]) != 1:
        raise ValueError("expression: not one value; it must be a digit or an operator with its arguments and ']'")
    return open_lists[0][1][0]


def _check_bounds(low: int, high: int, depth: int, args: int) -> None:
    if low > high:
        raise ValueError(f"min_length: {low}, above max_length {high}; it must be at most that")
    longest = 1
    for _ in range(depth - 1):
        longest = 2 + args * longest
    if low > longest:
        raise ValueError(f"min_length: {low}; with max_depth {depth} and max_args {args} it must be at most {longest}")


def _stream(seed: int, part: int) -> Generator:
    return Generator(PCG64(SeedSequence([seed, part])))


def _part(name: str, count: int, trees: _Trees, stream: Generator, seen: set[bytes]) -> PackedExamples:
    """Expressions that are not among the ``seen``, where their digests are added."""
    packer, barren, drawn = Packer(), 0, 0
    while len(packer) < count:
        before = len(packer)
        for tokens, value in trees.draw(stream):
            digest = blake2b(tokens, digest_size=16).digest()
            if digest not in seen and len(packer) < count:
                seen.add(digest)
                packer.add(packer.store(tokens), value)
        drawn += trees.batch
        barren = barren + 1 if len(packer) == before else 0
        if barren == _PATIENCE:
            raise ValueError(
                f"{name}: {count}; only {before} different expressions found in {drawn} trees; it must be fewer, "
                f"or min_length {trees.min_length} and max_length {trees.max_length} wider"
            )
    return packer.pack()


@dataclass
class _Level:
    """Nodes of one depth, of all trees; those with the same parent stand together, in the order of their parents."""

    tree: np.ndarray  # (n,) int64
    args: np.ndarray  # (n,) int64; 0 is a digit
    symbol: np.ndarray = field(init=False)  # (n,) place in SYMBOLS
    value: np.ndarray = field(init=False)  # (n,)
    size: np.ndarray = field(init=False)  # (n,) tokens

    @property
    def operators(self) -> np.ndarray:
        """(m,) places of the operators."""
        return np.flatnonzero(self.args)


@dataclass(frozen=True)
class _Trees:
    """What is drawn."""

    min_length: int
    max_length: int
    max_depth: int
    max_args: int
    operator_probability: float

    @property
    def batch(self) -> int:
        """Trees drawn at a time, R."""
        return max(64, min(_BATCH_TOKENS // self.max_length, 16_384))

    def draw(self, stream: Generator) -> Iterator[tuple[bytes, int]]:
        """Expressions in bounds among a batch of trees, and their values."""
        levels = self._shapes(stream)
        if not levels[0].tree.size:
            return
        for level in levels:
            operators = stream.integers(_FIRST_OPERATOR, _CLOSE, level.args.size)
            level.symbol = np.where(level.args > 0, operators, stream.integers(0, 10, level.args.size))
        _evaluate_levels(levels)
        ends = np.cumsum(levels[0].size)
        tokens = _write(levels, ends - levels[0].size, int(ends[-1])).tobytes()
        start = 0
        for end, value in zip(ends.tolist(), levels[0].value.tolist(), strict=True):
            yield tokens[start:end], value
            start = end

    def _shapes(self, stream: Generator) -> list[_Level]:
        """Levels of the trees of a batch that are in bounds; one that is too long already is not drawn further."""
        levels = [_Level(np.arange(self.batch), stream.integers(2, self.max_args + 1, self.batch))]
        lengths = np.full(self.batch, 2)
        for depth in range(2, self.max_depth + 1):
            tree = np.repeat(levels[-1].tree, levels[-1].args)
            inner = stream.random(tree.size) < self.operator_probability
            args = np.where(inner & (depth < self.max_depth), stream.integers(2, self.max_args + 1, tree.size), 0)
            lengths += np.bincount(tree, minlength=self.batch) + np.bincount(tree[args > 0], minlength=self.batch)
            levels.append(_Level(tree, np.where(lengths[tree] <= self.max_length, args, 0)))
        kept = (lengths >= self.min_length) & (lengths <= self.max_length)
        return [_Level(level.tree[kept[level.tree]], level.args[kept[level.tree]]) for level in levels]


def _evaluate_levels(levels: list[_Level]) -> None:
    """Values and sizes of all nodes, from the last level up."""
    below = levels[-1]
    for level in reversed(levels):
        level.value, level.size = level.symbol.copy(), np.ones_like(level.symbol)
        where = level.operators
        if where.size:
            args = level.args[where]
            starts = np.cumsum(args) - args
            level.size[where] = 2 + np.add.reduceat(below.size, starts)
            results = [
                np.minimum.reduceat(below.value, starts),
                np.maximum.reduceat(below.value, starts),
                _medians(below.value, args, starts),
                np.add.reduceat(below.value, starts) % 10,
            ]
            level.value[where] = np.choose(level.symbol[where] - _FIRST_OPERATOR, results)
        below = level


def _medians(values: np.ndarray, args: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Medians, rounded down, of groups of digits."""
    in_order = np.sort(np.repeat(np.arange(args.size) * 10, args) + values) % 10
    return (in_order[starts + (args - 1) // 2] + in_order[starts + args // 2]) // 2


def _write(levels: list[_Level], place: np.ndarray, total: int) -> np.ndarray:
    """(total,) uint8: the expressions one after the other; ``place`` (R,) is where each begins."""
    tokens = np.empty(total, dtype=np.uint8)
    for depth, level in enumerate(levels):
        tokens[place] = level.symbol
        where = level.operators
        tokens[place[where] + level.size[where] - 1] = _CLOSE
        if not where.size:
            break
        args, size = level.args[where], levels[depth + 1].size
        before = np.cumsum(size) - size
        place = np.repeat(place[where] + 1 - before[np.cumsum(args) - args], args) + before
    return tokens
