"""The least that a layer's mathematics costs on this machine, by the best algorithms known to us."""

from __future__ import annotations

import math
from typing import NamedTuple

from registry import Shape

NUMBER = 4
"""Bytes of a float32."""


class Floor(NamedTuple):
    flops: float
    bytes: float

    def seconds(self, gflops: float, gigabytes: float) -> float:
        """At the machine's matrix product and copy rates (1e9 flops and bytes a second): the slower of the two."""
        return max(self.flops / gflops, self.bytes / gigabytes) / 1e9


def floor(shape: Shape, passes: int, *, banks: int = 2, output_lags: int = 0, tensordot: bool = False) -> Floor:
    """Flops and bytes of one layer; ``passes`` is 3 for training (output, gradient of inputs, of weights) and 1 for prefill.

    flops = passes (min of `_features`, `_transform`, `_blocks` + 2 k_y B L D²). Not counted, so that the figure stays below
    what anyone can reach: transforms of inputs and outputs, forming features. A tensordot layer is counted with its
    transforms, since they are most of it: passes B L D (2 D + 10 log2 2L), at 5/2 n log2 n flops a real transform of n = 2L.

    bytes = read u and the weights, write y; in training also read dL/dy, write the gradients of u and of the weights.
    """
    batch, length, channels, count = shape
    steps, square = batch * length, channels * channels
    weights = square + count * channels if tensordot else (banks * count + output_lags) * square
    if tensordot:
        flops = passes * steps * channels * (2 * channels + 10 * math.log2(2 * length))
    else:
        least = min(_features(shape, banks), _transform(shape), _blocks(shape, banks))
        flops = passes * (least + 2 * output_lags * steps * square)
    moved = (2 * steps * channels + weights) * (2 if passes > 1 else 1)
    return Floor(flops, NUMBER * moved)


def _features(shape: Shape, banks: int) -> float:
    """The definition: K D features a bank and step, each times D weights."""
    batch, length, channels, count = shape
    return 2 * banks * count * batch * length * channels**2


def _transform(shape: Shape) -> float:
    """Merged kernels (11), one zero-padded transform of n = 2L: n/2 complex products of D x D a sequence, 8 flops a number.

    Kernels: for n/4 pairs of frequencies two sums of K real matrices times complex numbers, 4 flops each; they are all that two
    banks need, and one bank needs them too.
    """
    batch, length, channels, count = shape
    return (8 * batch * length + 4 * length * count) * channels**2


def _blocks(shape: Shape, banks: int) -> float:
    """Negacyclic blocks of C steps, the best C: what wraps around is put right by the state carried to the next block.

    C/2 complex products a block: 4 D² a step. Kernels: C/4 pairs of frequencies, 2 C K D², once for all blocks. A carried state
    leaves as P functions of time, each with K D numbers that the weights read out: 2 P K D² a block and bank. P is the rank of
    the free responses, at least 2 log2 C (measured at 24 filters, relative 1e-5: 14 at C = 32, 24 at C = 1024).
    """
    batch, length, channels, count = shape
    steps = batch * length

    def cost(block: int) -> float:
        carry = 2 * banks * 2 * math.log2(block) * count * steps / block
        return (4 * steps + carry + 2 * block * count) * channels**2

    return min(cost(2**i) for i in range(4, max(5, math.ceil(math.log2(length)) + 1)))
