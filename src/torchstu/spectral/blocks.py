"""A filter bank by blocks of C steps, design (8): what a block does to its own inputs, and what a state does to a block.

Inside a block the bank is a *negacyclic* convolution (the block as if its inputs went on with the sign changed). It needs no
zero padding, and the error of that fiction is the free response of one state: with x the state before the block and x' the
one after it, U_s = U_s^neg + (±A)^{s+1} (I + A^C)^{-1} (x + x'). (I + A^C) is well conditioned, since A^C has eigenvalues in
[0, 1]. The free responses of all states are smooth: within a tolerance they lie in a space of P << C functions of s.
Derivation: ``docs/streaming.md``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from torchstu.spectral.filters import FilterBank


@dataclass(frozen=True, eq=False)
class BlockForm:
    """The fixed matrices of a bank for blocks of C steps; R states, K filters (scaled by σ^{1/4}), P functions.

    Attributes:
        even, odd: (C/4, K) complex, transforms of the even and odd taps of the negacyclic kernel (I + A^C)^{-1} A^i b at the
            frequencies π(4m - 1)/C; at π(4m - 1)/C + π the odd ones change sign.
        drive: (R, C), what a block's inputs add to the state: column j is A^{C-1-j} b.
        jump: A^C, (R, R).
        response: (P, K, R) and
        shapes: (C, P), orthonormal columns: Σ_p shapes_p(s) response_p = A^{s+1} (I + A^C)^{-1}, the free response.
    """

    even: np.ndarray
    odd: np.ndarray
    drive: np.ndarray
    jump: np.ndarray
    response: np.ndarray
    shapes: np.ndarray


def block_form(bank: FilterBank, block: int, tolerance: float) -> BlockForm:
    """The block form of a bank that has a realization.

    Args:
        bank: with a `state_space`.
        block: C, a multiple of 4.
        tolerance: functions of the free response below this share of the largest are left out.

    Raises:
        ValueError: a bank without a realization, ``block`` no positive multiple of 4.
    """
    if block < 4 or block % 4:
        raise ValueError(f"block: {block}; it must be a positive multiple of 4")
    space, count = bank.state_space, bank.count
    if space is None:
        raise ValueError("bank: of one's own arrays, which have no realization beyond their length")
    scale = bank.eigenvalues**0.25
    states = space.free_response(space.b, block)  # (C, R), A^i b
    powers = space.A[None]
    while len(powers) < block:  # A^1..A^C, by doubling
        powers = np.concatenate([powers, powers @ powers[-1]])
    jump = powers[block - 1]
    fold = _graded_inverse(np.eye(len(jump)) + jump)
    taps = (states @ fold.T)[:, :count] * scale
    free = ((powers[:block, :count] @ fold) * scale[:, None]).reshape(block, -1)  # (C, K·R)
    sketch = np.random.default_rng(0).standard_normal((free.shape[1], space.order + 8))
    basis, _ = np.linalg.qr(free @ sketch)  # the rank is at most R
    left, values, right = np.linalg.svd(basis.T @ free, full_matrices=False)
    kept = int((values > tolerance * values[0]).sum())
    response = (values[:kept, None] * right[:kept]).reshape(kept, count, space.order)
    frequencies = math.pi / block * (4 * np.arange(block // 4) - 1)
    waves = np.exp(-1j * np.outer(frequencies, np.arange(block)))
    return BlockForm(
        even=waves[:, 0::2] @ taps[0::2],
        odd=waves[:, 1::2] @ taps[1::2],
        drive=states[::-1].T.copy(),
        jump=jump,
        response=response,
        shapes=basis @ left[:, :kept],
    )


def _graded_inverse(matrix: np.ndarray) -> np.ndarray:
    """The inverse to small errors entry by entry, where entries differ by many orders as those of A^C do past L.

    Rows and columns are first scaled to one size; two steps of Newton's iteration then work on the unscaled entries.
    """
    size = np.ones(len(matrix))
    for _ in range(20):  # Osborne's balancing
        scaled = np.abs(matrix * size / size[:, None])
        size *= np.sqrt(np.linalg.norm(scaled, axis=1) / np.linalg.norm(scaled, axis=0))
    inverse = np.linalg.inv(matrix * size / size[:, None]) / size * size[:, None]
    for _ in range(2):
        inverse = inverse + inverse @ (np.eye(len(matrix)) - matrix @ inverse)
    return inverse
