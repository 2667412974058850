"""Fast operations against the naive loops that define them: values and all gradients, at odd lengths."""

import torch

from torchstu.testing import close

LENGTHS = [1, 2, 3, 7, 16, 33, 50]


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def against_twin(fast, naive, *inputs):
    """Values and the gradients of every input, for a random cotangent."""
    inputs = [x.requires_grad_() for x in inputs]
    y, expected = fast(*inputs), naive(*inputs)
    close(y, expected, "twin float64", "value")
    cotangent = torch.randn_like(expected)
    got = torch.autograd.grad(y, inputs, cotangent)
    for x, grad, wanted in zip(inputs, got, torch.autograd.grad(expected, inputs, cotangent), strict=True):
        close(grad, wanted, "twin float64", f"gradient of {tuple(x.shape)}")
