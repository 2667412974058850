"""Many token sequences in one array of bytes, with their classes: published data sets in tens of megabytes, not gigabytes.

Shapes: S stored sequences of N bytes in all, E examples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from torchstu.data.sequences import Example


@dataclass(frozen=True, eq=False)
class PackedExamples:
    """Examples for "classification" and "pair classification" whose tokens are bytes; implements `Examples`.

    Token 0 is the padding, so byte b is token b + 1. A sequence that several examples share is stored once.

    Attributes:
        values: (N,) uint8, the sequences one after the other.
        offsets: (S + 1,) int64; sequence s is ``values[offsets[s]:offsets[s + 1]]``.
        rows: (E,) integers, the sequence of each example; or (E, 2), the two of each pair.
        targets: (E,) uint8, the classes.
    """

    values: np.ndarray
    offsets: np.ndarray
    rows: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int, /) -> Example:
        row = self.rows[index]
        inputs = self._tokens(row) if row.ndim == 0 else (self._tokens(row[0]), self._tokens(row[1]))
        return inputs, torch.tensor(int(self.targets[index]))

    def select(self, index: np.ndarray) -> PackedExamples:
        """Some of the examples, in the order of ``index``; the stored sequences are shared."""
        return PackedExamples(self.values, self.offsets, self.rows[index], self.targets[index])

    def _tokens(self, row: int) -> Tensor:
        piece = self.values[self.offsets[row] : self.offsets[row + 1]]
        return torch.from_numpy(piece.astype(np.int64) + 1)  # (L,)


class Packer:
    """Collects sequences of bytes and examples that refer to them; `pack` gives the `PackedExamples`."""

    def __init__(self) -> None:
        self._values = bytearray()
        self._offsets = [0]
        self._rows: list[int | tuple[int, int]] = []
        self._targets = bytearray()

    def __len__(self) -> int:
        return len(self._targets)

    def store(self, sequence: bytes) -> int:
        """Store a sequence; its number."""
        self._values += sequence
        self._offsets.append(len(self._values))
        return len(self._offsets) - 2

    def add(self, row: int | tuple[int, int], target: int) -> None:
        """Add an example: a stored sequence, or a pair of them, and its class."""
        self._rows.append(row)
        self._targets.append(target)

    def pack(self) -> PackedExamples:
        """What was collected."""
        offsets, rows = np.array(self._offsets, dtype=np.int64), np.array(self._rows, dtype=np.int32)
        return PackedExamples(np.frombuffer(self._values, np.uint8), offsets, rows, np.frombuffer(self._targets, np.uint8))
