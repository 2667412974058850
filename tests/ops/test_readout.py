"""The read-out of one step against its twin, design (5)."""

import pytest
import torch
from twin import against_twin, normal

from torchstu.ops import readout
from torchstu.testing import close


def twin(x, M):
    return torch.einsum("bki,kio->bo", x, M)


@pytest.mark.parametrize("batch", [1, 3])
def test_gradients_are_those_of_the_sum(batch):
    against_twin(readout.read_out, twin, normal(batch, 5, 4), normal(5, 4, 3))


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_one_sequence_reads_rows(threads, monkeypatch):
    monkeypatch.setattr(readout, "_LARGE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    called = []
    inner = readout.embedding_bag
    monkeypatch.setattr(readout, "embedding_bag", lambda *args, **options: called.append(True) or inner(*args, **options))
    x, M = normal(1, 5, 3).float(), normal(5, 3, 4).float().requires_grad_()
    with torch.no_grad():
        found = readout.read_out(x, M)
    assert called
    close(found.double(), twin(x.double(), M.detach().double()), "modes float32", "rows")
    readout.read_out(x, M).sum().backward()  # with gradients: the matrix product
    assert len(called) == 1
    close(M.grad.double(), x[0].double()[:, :, None].expand(5, 3, 4), "modes float32", "gradient")
