"""Differentiable functions of tensors. Each has a naive twin in `torchstu.ops.reference` that defines it.

Shapes: B batch, T steps, D_in and D_out channels, J columns of a fixed basis of taps, R states.
"""
