"""Layers inside inference mode and autocast: what others do there must not change what comes after."""

import pytest
import torch

from torchstu import ARSTU, STU, TensordotSTU, filter_bank
from torchstu.layers import spectral
from torchstu.testing import close

LAYERS = {
    "STU": lambda mode: STU(3, 2, length=40, num_filters=8, mode=mode),
    "ARSTU": lambda mode: ARSTU(3, 2, length=40, num_filters=8, mode=mode),
    "TensordotSTU": lambda mode: TensordotSTU(3, length=40, num_filters=8, mode=mode),
}


def shaken(name, mode):
    torch.manual_seed(0)
    layer = LAYERS[name](mode)
    for weight in layer.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return layer


@pytest.mark.parametrize("mode", ["fft", "block"])
@pytest.mark.parametrize("name", LAYERS)
def test_training_after_validation_in_inference_mode(name, mode):
    spectral._TABLES.clear()
    layer, u = shaken(name, mode), torch.randn(2, 150, 3)
    with torch.inference_mode():
        layer.load_state_dict(layer.state_dict())
        _, state = layer(u)
        layer.free_response(state, 150)
    y, state = layer(u)
    (y.sum() + layer.free_response(state, 150)[0].sum()).backward()
    assert all(weight.grad is not None for weight in layer.parameters())


@pytest.mark.parametrize("mode", ["fft", "block"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_forward_inside_autocast_is_exact(name, mode):
    """The backward outside, as torch asks for."""
    layer, u = shaken(name, mode), torch.randn(2, 150, 3)
    expected = torch.autograd.grad(layer(u)[0].square().sum(), list(layer.parameters()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = layer(u)[0].square().sum()
    for a, b in zip(torch.autograd.grad(loss, list(layer.parameters())), expected, strict=True):
        close(a, b, "low precision float32", "gradient")


def test_layers_share_one_bank():
    assert filter_bank(40, 8) is filter_bank(40, 8)
    assert STU(1, 1, length=40, num_filters=8).bank is TensordotSTU(2, length=40, num_filters=8).bank


def test_a_state_of_another_dtype_is_taken_up():
    layer = shaken("STU", "auto")
    _, state = layer(torch.randn(2, 50, 3))
    half = type(state)(*(x.bfloat16() for x in state))
    y, _ = layer.free_response(half, 30)
    close(y, layer.free_response(state, 30)[0], "low precision bfloat16", "a state in bfloat16")


def test_tables_go_with_their_bank():
    layer = STU(1, 1, length=43, num_filters=8)
    layer(torch.randn(1, 200, 1))
    before = len(spectral._TABLES)
    assert spectral._TABLES[layer.bank]
    del layer
    assert len(spectral._TABLES) == before - 1
