"""Sequence mixers, one a file, under the one contract of `torchstu.layers.base.Mixer`."""
