"""Synthetic memory tasks, to their published definitions: what a layer can keep, and what it can look up.

Shapes: N sequences, L steps, V tokens; tokens come as one-hot vectors. Everything is drawn from the generator given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from torchstu.data.sequences import IGNORED
from torchstu.spectral.priors import positive_int


@dataclass(frozen=True)
class Task:
    """Sequences and what is to be said about them.

    Attributes:
        inputs: (N, L, V) one-hot tokens, or (N, L, 2) reals; float32.
        targets: (N, L) labels below ``d_out``, int64, `IGNORED` where nothing is asked; or (N, L, 1) reals, float32.
    """

    inputs: Tensor
    targets: Tensor
    d_out: int

    @property
    def loss(self) -> Literal["cross_entropy", "l2"]:
        """The loss that fits the targets, as `torchstu.fit_gradient` takes it."""
        return "l2" if self.targets.is_floating_point() else "cross_entropy"


def copying(count: int, length: int, generator: torch.Generator, *, items: int = 10, symbols: int = 8) -> Task:
    """Say the first ``items`` tokens again, in order, after a wait.

    ``items`` random symbols, T - 1 blanks, a delimiter, ``items`` blanks; L = T + 2·items. The last ``items`` steps are asked.
    Tokens: the symbols, then blank, then delimiter. Published: 10 items of 8 symbols, T from 100 to 500. The published loss
    also counts the blanks to be said before, which need no memory.

    Raises:
        ValueError: numbers below 1, or a length that leaves no wait.

    Source: Arjovsky, Shah and Bengio, arXiv 1511.06464, after Hochreiter and Schmidhuber, Neural Computation 9, 1997.
    """
    _, wanted = _check_copying(count, length, items, symbols), _tokens(count, items, symbols, generator)
    return _copying(wanted, torch.arange(items).expand(count, -1), length, symbols)


def selective_copying(count: int, length: int, generator: torch.Generator, *, items: int = 10, symbols: int = 8) -> Task:
    """`copying` with the items at random places among the blanks: which steps to remember depends on the input.

    Published: 16 items, a vocabulary of 16, L = 4096.

    Raises:
        ValueError: as `copying`.

    Source: Gu and Dao, arXiv 2312.00752, after Jing et al., arXiv 1706.02761.
    """
    span = _check_copying(count, length, items, symbols)
    wanted = _tokens(count, items, symbols, generator)
    places = torch.rand(count, span, generator=generator).argsort(1)[:, :items].sort(1).values
    return _copying(wanted, places, length, symbols)


def adding(count: int, length: int, generator: torch.Generator) -> Task:
    """The sum of the two numbers that are marked.

    Channel 0 is uniform in [0, 1]; channel 1 is 1 at one step of the first half and one of the second, 0 elsewhere. The target
    of the last step is the published one, the sum of the two marked numbers; that of an earlier step is the sum of those marked
    so far. Saying 1 at the end whatever comes in has a mean square error of 1/6. Published: L from 100 to 750.

    Raises:
        ValueError: ``count`` below 1, ``length`` below 2.

    Source: Hochreiter and Schmidhuber, Neural Computation 9, 1997, as in Arjovsky et al., arXiv 1511.06464.
    """
    count, length = positive_int("count", count), positive_int("length", length, minimum=2)
    numbers, marks, half = torch.rand(count, length, generator=generator), torch.zeros(count, length), length // 2
    first = torch.randint(half, (count, 1), generator=generator)
    second = torch.randint(half, length, (count, 1), generator=generator)
    marks.scatter_(1, torch.cat([first, second], dim=1), 1.0)
    return Task(torch.stack([numbers, marks], dim=-1), (numbers * marks).cumsum(1)[..., None], 1)


def induction_heads(count: int, length: int, generator: torch.Generator, *, symbols: int = 19) -> Task:
    """What followed the special token when it came before?

    Random symbols; the special token at one random step up to L - 2 and at the last, where its first successor is asked.
    Tokens: the symbols, then the special one. Published: L = 30 and 20 tokens (H3); L = 256 and 16 tokens (Mamba).

    Raises:
        ValueError: numbers below 1, ``length`` below 3.

    Source: Fu, Dao et al., arXiv 2212.14052; Gu and Dao, arXiv 2312.00752.
    """
    count, length = positive_int("count", count), positive_int("length", length, minimum=3)
    tokens = _tokens(count, length, symbols, generator)
    place = torch.randint(length - 2, (count, 1), generator=generator)
    answer = tokens.gather(1, place + 1)[:, 0]
    tokens.scatter_(1, place, symbols)
    tokens[:, -1] = symbols
    return _asked_at_the_end(tokens, answer, symbols + 1)


def associative_recall(count: int, length: int, generator: torch.Generator, *, keys: int = 5, values: int = 5) -> Task:
    """Which value belongs to this key?

    Pairs of a key and its value, as many as fit, keys drawn with replacement, then one of the keys that occurred, whose value
    is asked; L is odd. Every sequence pairs each key with a value of its own. Tokens: the keys, then the values. Published:
    L about 20 and 10 tokens.

    Raises:
        ValueError: numbers below 1, ``length`` even or below 3.

    Source: Fu, Dao et al., arXiv 2212.14052, after Ba et al., arXiv 1610.06258.
    """
    count, length = positive_int("count", count), positive_int("length", length, minimum=3)
    if length % 2 == 0:
        raise ValueError(f"length: {length}; it must be odd: pairs and a key")
    book = _tokens(count, positive_int("keys", keys), values, generator) + keys  # (N, keys)
    drawn = _tokens(count, length // 2, keys, generator)
    asked = drawn.gather(1, torch.randint(length // 2, (count, 1), generator=generator))
    pairs = torch.stack([drawn, book.gather(1, drawn)], dim=-1).flatten(1)
    return _asked_at_the_end(torch.cat([pairs, asked], dim=1), book.gather(1, asked)[:, 0], keys + values)


TASKS: dict[str, Callable[..., Task]] = {
    "copying": copying,
    "selective copying": selective_copying,
    "adding": adding,
    "induction heads": induction_heads,
    "associative recall": associative_recall,
}


def _tokens(count: int, length: int, symbols: int, generator: torch.Generator) -> Tensor:
    return torch.randint(positive_int("symbols", symbols), (positive_int("count", count), length), generator=generator)


def _check_copying(count: int, length: int, items: int, symbols: int) -> int:
    """The steps before the delimiter."""
    positive_int("count", count), positive_int("symbols", symbols)
    span = positive_int("length", length) - positive_int("items", items) - 1
    if span < items:
        raise ValueError(f"length: {length} for {items} items; it must be at least {2 * items + 1}")
    return span


def _copying(wanted: Tensor, places: Tensor, length: int, symbols: int) -> Task:
    """``wanted`` (N, items) put at ``places`` among blanks, and asked after the delimiter."""
    count, items = wanted.shape
    tokens = torch.full((count, length), symbols)
    tokens.scatter_(1, places, wanted)
    tokens[:, length - items - 1] = symbols + 1
    targets = torch.full((count, length), IGNORED)
    targets[:, length - items :] = wanted
    return Task(one_hot(tokens, symbols + 2).float(), targets, symbols + 2)


def _asked_at_the_end(tokens: Tensor, answer: Tensor, vocabulary: int) -> Task:
    targets = torch.full_like(tokens, IGNORED)
    targets[:, -1] = answer
    return Task(one_hot(tokens, vocabulary).float(), targets, vocabulary)
