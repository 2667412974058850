"""Every mixer by its name."""

import pytest
import torch

from torchstu.layers.registry import MIXERS, make_mixer


@pytest.mark.parametrize("name", MIXERS)
def test_make_mixer_gives_the_class_of_the_name(name):
    layer = make_mixer(name, 8, 16, **({"num_filters": 6} if "STU" in name else {}))
    assert type(layer) is MIXERS[name]
    assert (layer.d_in, layer.d_out) == (8, 8)
    y, _ = layer(torch.randn(2, 20, 8))
    assert y.shape == (2, 20, 8)
    assert y.isfinite().all()
    assert type(layer)(**layer.config).config == layer.config


def test_length_goes_to_those_that_have_one():
    assert make_mixer("STU", 2, 16, num_filters=4).config["length"] == 16
    assert make_mixer("DSS", 2, 16, variant="softmax").config["length"] == 16
    assert make_mixer("DSS", 2, 16).config["length"] is None


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="mixer: 'RNN'; it must be one of"):
        make_mixer("RNN", 2, 16)
