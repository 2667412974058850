"""A bank by blocks against its twins, design (4), (8) and (11)."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from twin import LENGTHS, against_twin, normal

from torchstu import filter_bank
from torchstu.layers.spectral import block_tensors
from torchstu.ops import blocks, convolution, reference
from torchstu.ops.blocks import BlockTensors
from torchstu.testing import close

BANK = filter_bank(32, 6)
BLOCK = 16


def form_of(banks, bank=BANK, block=BLOCK):
    return BlockTensors(*block_tensors(bank, block, banks, torch.float64, torch.device("cpu")))


def scaled_realization(bank=BANK):
    """A and b of the states times σ^{1/4} (1 for those beyond the filters), and that scale."""
    space, scale = bank.state_space, torch.ones(bank.state_space.order, dtype=torch.float64)
    scale[: bank.count] = torch.as_tensor(bank.eigenvalues**0.25)
    return torch.as_tensor(space.A.copy()) * scale[:, None] / scale, torch.as_tensor(space.b.copy()) * scale, scale


def transforms(taps):
    """(2 even|odd, 2 Re|Im, C/4, K) at the frequencies π(4m - 1)/C."""
    count = len(taps)
    angle = math.pi / count * torch.outer(4 * torch.arange(count // 4) - 1, torch.arange(count)).double()
    waves = torch.stack([angle.cos(), -angle.sin()])
    return torch.stack([waves[..., i::2] @ taps[i::2] for i in (0, 1)])


@pytest.mark.parametrize("block", [4, 8, 20, 28])
def test_negacyclic_convolution(block):
    taps = normal(block, 5)
    against_twin(
        lambda u, w: blocks.negacyclic_convolution(u, transforms(taps), w),
        lambda u, w: reference.negacyclic_convolution(u, taps, w),
        normal(3, block, 2),
        normal(2, 5, 2, 4),
    )


@pytest.mark.parametrize("block", [4, 8, 20, 28])
def test_negacyclic_channel_convolution(block):
    taps = normal(block, 5)
    against_twin(
        lambda u, w: blocks.negacyclic_channel_convolution(u, transforms(taps), w),
        lambda u, w: reference.negacyclic_convolution(u, taps, w),
        normal(2, block, 3),
        normal(2, 5, 3),
    )


@pytest.mark.parametrize("numbers", [1, 30])
def test_negacyclic_convolution_in_several_batches_of_kernels(numbers, monkeypatch):
    monkeypatch.setattr(blocks, "_KERNEL_NUMBERS", numbers)
    taps = normal(20, 5)
    assert len(blocks._parts(normal(2, 5, 2, 3), transforms(taps))) > 1
    against_twin(
        lambda u, w: blocks.negacyclic_convolution(u, transforms(taps), w),
        lambda u, w: reference.negacyclic_convolution(u, taps, w),
        normal(3, 20, 2),
        normal(2, 5, 2, 3),
    )


@pytest.mark.parametrize("steps", [*LENGTHS, 64])
@pytest.mark.parametrize("shape", [(2, 3), (2,)], ids=["matrices", "channels"])
@pytest.mark.parametrize("banks", [1, 2])
def test_block_convolution_with_a_carried_state(steps, banks, shape):
    """Values and gradients of inputs, state and weights, in one, several and broken blocks."""
    A, b, scale = scaled_realization()
    form = form_of(banks)
    against_twin(
        lambda u, x, w: blocks.block_convolution(u, x, form, w)[0],
        lambda u, x, w: reference.bank_convolution(u, x * scale[:, None], A, b, w),
        normal(2, steps, 2),
        normal(2, banks, len(b), 2),
        normal(banks, 6, *shape),
    )


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("banks", [1, 2])
def test_block_convolution_from_rest_is_the_convolution_with_the_filters(steps, banks):
    """Up to L the filters, beyond it as the bank continues them."""
    taps = torch.as_tensor(BANK.continued(steps) * BANK.eigenvalues**0.25)
    u, weights, form = normal(2, steps, 2), normal(banks, 6, 2, 3), form_of(banks)
    y, _ = blocks.block_convolution(u, torch.zeros(2, banks, len(form.jump), 2).double(), form, weights)
    close(y, reference.basis_convolution(u, taps, *weights), "modes float64", "against the double sum")
    close(y, convolution.basis_convolution(u, taps, *weights), "modes float64", "against whole transforms")


@pytest.mark.parametrize("steps", [1, 15, 16, 17, 50])
def test_states_between_blocks_are_those_of_the_recurrence(steps):
    form, weights = form_of(2), normal(2, 6, 2, 3)
    u, x = normal(2, steps, 2), normal(2, 2, len(form.jump), 2)
    _, states = blocks.block_convolution(u, x, form, weights)
    assert states.shape == (2, steps // BLOCK + 1, 2, len(form.jump), 2)
    space = BANK.state_space
    A, b = torch.as_tensor(space.A.copy()), torch.as_tensor(space.b.copy())
    for bank in (0, 1):
        every = torch.cat([x[:, None, bank], reference.recurrence((-1) ** bank * A, b, x[:, bank], u)], dim=1)
        close(states[:, :, bank], every[:, ::BLOCK], "twin float64", "states before blocks")


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("shape", [(2, 3), (2,)], ids=["matrices", "channels"])
def test_free_response_is_the_block_convolution_of_zeros(steps, shape):
    form = form_of(2)
    zeros = torch.zeros(3, steps, 2).double()
    against_twin(
        lambda x, w: blocks.free_response(x, steps, form, w),
        lambda x, w: blocks.block_convolution(zeros, x, form, w)[0],
        normal(3, 2, len(form.jump), 2),
        normal(2, 6, *shape),
    )


def kept_for_backward(count, shape):
    """Bytes that autograd keeps of ``count`` blocks, beside those of the inputs, of a state and of the weights."""
    form = form_of(2)
    u, weights = normal(1, count * BLOCK, shape[0]).requires_grad_(), normal(2, 6, *shape).requires_grad_()
    x, kept = torch.zeros(1, 2, len(form.jump), shape[0]).double().requires_grad_(), {}
    fixed = {part.data_ptr() for part in form}

    def keep(tensor):
        if tensor.data_ptr() not in fixed:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        blocks.block_convolution(u, x, form, weights)
    return sum(kept.values()), u.nbytes, x.nbytes, weights.nbytes


def test_block_convolution_keeps_inputs_states_and_weights_alone():
    """O(B T D) memory: of the size of a kernel (8 times the inputs here) or of the features (10 times) nothing is kept."""
    kept, inputs, state, weights = kept_for_backward(4, (32, 32))
    assert kept <= inputs + 5 * state + 2 * weights


def test_the_channel_form_keeps_memory_in_proportion_to_the_inputs():
    """Autograd keeps transforms, but no features."""
    (less, before, state, _), (more, after, _, _) = kept_for_backward(4, (32,)), kept_for_backward(12, (32,))
    assert more - less <= 3 * (after - before) + 9 * state


@given(batch=st.integers(1, 10**4), steps=st.integers(1, 10**6), channels=st.integers(1, 10**4))
@settings(max_examples=300, deadline=None)
def test_block_sizes_are_multiples_of_four_and_pad_little(batch, steps, channels):
    size = blocks.block_size(batch, steps, channels)
    padded = -(-steps // size) * size
    assert size % 4 == 0
    assert 16 <= size <= 1536
    assert padded <= max(16, 1.25 * steps)
    while size % 2 == 0:
        size //= 2
    assert size in (1, 3, 5, 7)


def test_blocks_grow_with_the_work_and_stay_within_the_sequence():
    assert blocks.block_size(1, 10, 4) == 16
    assert blocks.block_size(1, 200, 4) <= 256
    sizes = [blocks.block_size(batch, 4096, 64) for batch in (1, 4, 16, 64)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
