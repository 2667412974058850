"""Attention against the full matrix with a mask, the GRU against PyTorch's own."""

import math

import pytest
import torch

from torchstu.layers.attention import Attention
from torchstu.layers.gru import GRU
from torchstu.testing import close


def naive_attention(layer, u):
    """One (L, L) matrix a head, absolute rotary positions by complex numbers, a mask for what the window does not show."""
    steps, heads, width = u.shape[1], layer.num_heads, layer.d_head
    q, k, v = (u @ layer.qkv.weight.T).view(len(u), steps, 3, heads, width).unbind(2)
    rates = torch.tensor([layer.theta ** (-2 * i / width) for i in range(width // 2)], dtype=torch.float64)
    turns = torch.exp(1j * torch.arange(steps, dtype=torch.float64)[:, None] * rates)[:, None]  # (L, 1, d_head / 2)
    q, k = (torch.complex(x[..., 0::2], x[..., 1::2]) * turns for x in (q, k))
    scores = torch.einsum("bthd,bshd->bhts", q, k.conj()).real / math.sqrt(width)
    age = torch.arange(steps)[:, None] - torch.arange(steps)
    scores = scores.masked_fill((age < 0) | (age >= layer.window), -math.inf)
    seen = torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v)
    return seen.flatten(2) @ layer.output.weight.T


@pytest.mark.parametrize(
    ("heads", "window", "steps"), [(1, 1, 5), (2, 4, 1), (2, 4, 4), (2, 4, 5), (3, 7, 40), (3, 8, 64), (1, 64, 30), (2, 5, 51)]
)
def test_attention_is_its_definition(heads, window, steps, generator):
    layer = Attention(12, num_heads=heads, window=window, theta=100.0, dtype=torch.float64)
    u = torch.randn(3, steps, 12, generator=generator, dtype=torch.float64, requires_grad=True)
    head = torch.randn(3, steps, 12, generator=generator, dtype=torch.float64)
    inputs = (u, *layer.parameters())
    y, expected = layer(u)[0], naive_attention(layer, u)
    close(y, expected, "twin float64", "attention")
    pairs = zip(
        torch.autograd.grad((y * head).sum(), inputs), torch.autograd.grad((expected * head).sum(), inputs), strict=True
    )
    for gradient, naive in pairs:
        close(gradient, naive, "twin float64", "gradient")


def test_attention_forgets_exactly_what_left_the_window(generator):
    layer = Attention(4, num_heads=1, window=6, dtype=torch.float64)
    u = torch.randn(1, 20, 4, generator=generator, dtype=torch.float64)
    changed = u.clone()
    changed[:, 3] += 1
    difference = (layer(u)[0] - layer(changed)[0]).abs().amax(-1)[0]
    assert (difference[3:9] > 1e-6).all()
    assert (difference[9:] < 1e-12).all()


def test_attention_streams_without_losing_precision(generator):
    """Where the window shows the same inputs, outputs are the same to the last bit, ten or ten thousand steps into a stream."""
    layer = Attention(8, num_heads=2, window=5)
    u = torch.randn(1, 10, 8, generator=generator)
    early, late = (layer(torch.randn(1, steps, 8, generator=generator))[1] for steps in (10, 10_000))
    assert torch.equal(layer(u, early)[0][:, 4:], layer(u, late)[0][:, 4:])
    assert int(late.seen) == 4  # nothing in the state grows


def test_attention_needs_no_square_matrix():
    """A sequence of 65,536 steps, whose full matrix would take 16 GB a head."""
    layer = Attention(2, num_heads=1, window=8)
    u = torch.randn(1, 65_536, 2)
    y = layer(u)[0]
    torch.testing.assert_close(y[:, -1], layer(u[:, -8:])[0][:, -1])


def test_gru_is_the_one_of_pytorch(generator):
    layer, reference = GRU(5, dtype=torch.float64), torch.nn.GRU(5, 5, batch_first=True, dtype=torch.float64)
    reference.load_state_dict({f"{name}_l0": value for name, value in layer.state_dict().items()})
    u = torch.randn(2, 30, 5, generator=generator, dtype=torch.float64)
    y, state = layer(u)
    expected, last = reference(u)
    close(y, expected, "twin float64", "outputs")
    close(state.h, last[0], "twin float64", "state")
    h = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    close(layer(u, state._replace(h=h))[0], reference(u, h[None])[0], "twin float64", "from a state")


def test_gru_starts_as_the_one_of_pytorch():
    weights = torch.cat([p.detach().flatten() for p in GRU(64).parameters()])
    assert weights.abs().max() <= 1 / 8
    assert abs(float(weights.std()) - 1 / 8 / math.sqrt(3)) < 1e-3


def test_bad_arguments_are_refused():
    for change, text in (
        ({"num_heads": 3}, "num_heads: 3 for d_model 8"),
        ({"num_heads": 8}, "num_heads: 8 for d_model 8"),
        ({"num_heads": 0}, "num_heads: 0"),
        ({"window": 0}, "window: 0"),
        ({"theta": 0.0}, "theta: 0.0"),
        ({"theta": math.inf}, "theta: inf"),
    ):
        with pytest.raises(ValueError, match=text):
            Attention(8, **({"num_heads": 2} | change))
    with pytest.raises(ValueError, match="d_model: 0"):
        GRU(0)
