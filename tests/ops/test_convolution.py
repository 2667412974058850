"""Merged convolution, features and channel convolution against their twins, design (4) and (11)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from twin import LENGTHS, against_twin, normal

from torchstu.ops import convolution, reference


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("banks", [1, 2])
def test_basis_convolution(length, banks):
    taps = normal(length, 4)
    weights = [normal(4, 3, 5) for _ in range(banks)]
    against_twin(
        lambda u, *w: convolution.basis_convolution(u, taps, *w),
        lambda u, *w: reference.basis_convolution(u, taps, *w),
        normal(2, length, 3),
        *weights,
    )


def test_basis_convolution_in_several_blocks_of_frequencies(monkeypatch):
    monkeypatch.setattr(convolution, "_BLOCK_NUMBERS", 500)
    taps = normal(33, 4)
    against_twin(
        lambda u, p, n: convolution.basis_convolution(u, taps, p, n),
        lambda u, p, n: reference.basis_convolution(u, taps, p, n),
        normal(2, 33, 3),
        normal(4, 3, 5),
        normal(4, 3, 5),
    )


def test_basis_convolution_keeps_nothing_of_kernel_size():
    """O(B T D) memory: what autograd saves is the input, the taps and the weights."""
    saved = []
    u, taps, weight = normal(2, 64, 8).requires_grad_(), normal(64, 5), normal(5, 8, 8).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        convolution.basis_convolution(u, taps, weight, weight)
    assert sum(saved) <= u.numel() + taps.numel() + 2 * weight.numel()


@pytest.mark.parametrize("length", LENGTHS)
def test_channel_convolution(length):
    against_twin(convolution.channel_convolution, reference.channel_convolution, normal(2, length, 3), normal(length, 3))


@pytest.mark.parametrize("length", LENGTHS)
def test_features(length):
    taps = normal(length, 4)
    against_twin(lambda u: convolution.features(u, taps), lambda u: reference.features(u, taps), normal(2, length, 3))


@given(minimum=st.integers(1, 10**6))
def test_transform_size_is_a_multiple_of_four_and_near(minimum):
    size = convolution.transform_size(minimum)
    assert size >= minimum
    assert size % 4 == 0
    assert size <= max(4, 1.3 * minimum + 4)
    while size % 2 == 0:
        size //= 2
    assert size in (1, 3, 5, 9, 15)
