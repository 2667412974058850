"""Linear recurrences and the diagonal scan against their twins, design (8)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from twin import LENGTHS, against_twin, normal

from torchstu.ops import recurrence, reference, scan


@given(steps=st.integers(1, 300), order=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_absorb(steps, order):
    torch.manual_seed(steps)
    A, b, x, w = normal(order, order) * 0.4, normal(order), normal(2, order, 3), normal(2, steps, 3)
    against_twin(lambda x, w: recurrence.absorb(A, b, x, w), lambda x, w: reference.recurrence(A, b, x, w)[:, -1], x, w)


@pytest.mark.parametrize("length", [*LENGTHS, 100])
def test_diagonal_scan(length):
    log_lambda = torch.complex(-torch.rand(4).double(), normal(4))
    v, past = torch.complex(normal(2, length, 4), normal(2, length, 4)), torch.complex(normal(2, 4), normal(2, 4))
    against_twin(scan.diagonal_scan, reference.diagonal_scan, log_lambda, v, past)
