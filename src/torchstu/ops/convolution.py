"""Causal convolution by kernels in a fixed basis, the merged form (11): never a transform a filter.

The kernel of every spectral layer is h(i) = Σ_j taps_j(i) (P_j + (-1)^i N_j) with fixed taps and learned matrices: P and N are
the weights of the + and the - bank of design (4). Even taps carry P + N and odd taps P - N, so with E and O the transforms of
the two halves of the taps, ĥ(f) = E(f)(P+N) + e^{-iω}O(f)(P-N) and the mirrored frequency has the difference of the same two
terms. A product therefore runs over a quarter of the frequencies with two *sheets*, f and n/2 - f, in real arithmetic, one
block of frequencies at a time: memory stays O(B T D), and nothing of size T·D_in·D_out is ever kept.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_BLOCK_NUMBERS = 2**19
"""Numbers of one frequency block of kernels: what stays in a core's cache."""


def basis_convolution(u: Tensor, taps: Tensor, plus: Tensor, minus: Tensor | None = None, heads: int = 1) -> Tensor:
    """y_t = Σ_{i<t} u_{t-i} Σ_j taps_j(i) (P_j + (-1)^i N_j), design (4) and (11).

    Args:
        u: (B, T, D_in), T at least 1.
        taps: (T, J) real, fixed: no gradient flows to them.
        plus: P, (J, D_in, D_out/H): rows of group h for the outputs of group h.
        minus: N, as P; None means zero.
        heads: H, groups of channels that do not mix.

    Returns:
        (B, T, D_out).
    """
    even = plus if minus is None else plus + minus
    odd = plus if minus is None else plus - minus
    return _BasisConvolution.apply(u, taps, torch.stack([even, odd]), heads)


def channel_convolution(u: Tensor, kernel: Tensor) -> Tensor:
    """y_t = Σ_{i<t} kernel(i) * u_{t-i}, channel by channel; u (B, T, D), kernel (T, D) -> (B, T, D)."""
    size = transform_size(2 * u.shape[1])
    spectrum = torch.fft.rfft(u.mT, size) * torch.fft.rfft(kernel.mT, size)  # (B, D, F)
    return torch.fft.irfft(spectrum, size)[..., : u.shape[1]].mT


def features(u: Tensor, taps: Tensor) -> Tensor:
    """U_{t,j} = Σ_{i<t} taps_j(i) u_{t-i}, design (4), every one of them; u (B, T, D), taps (T, J) -> (B, T, J, D)."""
    size = transform_size(2 * u.shape[1])
    spectrum = torch.fft.rfft(u, size, dim=1)[:, :, None, :] * torch.fft.rfft(taps, size, dim=0)[:, :, None]
    return torch.fft.irfft(spectrum, size, dim=1)[:, : u.shape[1]]


def transform_size(minimum: int) -> int:
    """The smallest multiple of 4 of the form {1,3,5,9,15}·2^m that is at least ``minimum``."""
    sizes = (factor * 2 ** max(2, math.ceil(math.log2(minimum / factor))) for factor in (1, 3, 5, 9, 15))
    return min(sizes)


class _BasisConvolution(torch.autograd.Function):
    """Forward and backward by frequency blocks; kernels are made again in the backward instead of kept.

    Shapes of a block of f frequencies, with a and b channels a head: inputs and gradients (f, 2 sheets, H, Re|Im, B, a or b);
    kernels (f, 2 sheets, H, a, Re|Im, b) in the forward and (f, 2 sheets, H, Re|Im, a, b) in the backward, so that one ``bmm``
    makes all real products.
    """

    @staticmethod
    def forward(u: Tensor, taps: Tensor, weights: Tensor, heads: int) -> Tensor:
        size, batch = transform_size(2 * u.shape[1]), len(u)
        basis, inputs = _basis_spectra(taps, size), _to_sheets(u, size, heads)
        d_in, d_out = inputs.shape[-1], weights.shape[-1]
        outputs = u.new_empty(*inputs.shape[:-1], d_out)
        for block in _blocks(len(inputs), heads * d_in * d_out):
            kernel = _kernel_block(basis[:, :, block], weights, heads, parts_first=False)
            product = torch.bmm(inputs[block].view(-1, 2 * batch, d_in), kernel.view(-1, d_in, 2 * d_out))
            product = product.view(-1, 2, heads, 2, batch, 2, d_out)  # (f, sheet, H, Re|Im of u, B, Re|Im of kernel, b)
            outputs[block, :, :, 0].copy_(product[:, :, :, 0, :, 0]).sub_(product[:, :, :, 1, :, 1])
            outputs[block, :, :, 1].copy_(product[:, :, :, 0, :, 1]).add_(product[:, :, :, 1, :, 0])
        return _from_sheets(outputs, size, u.shape[1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.heads = inputs[3]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        (u, taps, weights), heads = ctx.saved_tensors, ctx.heads
        needs_u, _, needs_weights, _ = ctx.needs_input_grad
        size, batch = transform_size(2 * u.shape[1]), len(u)
        basis, grads = _basis_spectra(taps, size), _to_sheets(grad, size, heads)
        d_in, d_out = u.shape[2] // heads, weights.shape[-1]
        grad_inputs = u.new_empty(*grads.shape[:-1], d_in) if needs_u else None
        grad_weights = torch.zeros_like(weights) if needs_weights else None
        scaled = _to_sheets(u, size, heads).mul_(_parseval(len(grads), size, u)) if needs_weights else None
        for block in _blocks(len(grads), heads * d_in * d_out):
            part = grads[block]
            if grad_inputs is not None:  # G Hᴴ
                kernel = _kernel_block(basis[:, :, block], weights, heads, parts_first=True)
                product = torch.bmm(part.view(-1, 2 * batch, d_out), kernel.view(-1, 2 * d_in, d_out).mT)
                product = product.view(-1, 2, heads, 2, batch, 2, d_in)  # (f, sheet, H, Re|Im of g, B, Re|Im of kernel, a)
                grad_inputs[block, :, :, 0].copy_(product[:, :, :, 0, :, 0]).add_(product[:, :, :, 1, :, 1])
                grad_inputs[block, :, :, 1].copy_(product[:, :, :, 1, :, 0]).sub_(product[:, :, :, 0, :, 1])
            if grad_weights is not None and scaled is not None:  # Uᴴ G, then its inner products with the basis
                _accumulate(grad_weights, basis[:, :, block], scaled[block], part)
        grad_u = None if grad_inputs is None else _from_sheets(grad_inputs, size, u.shape[1])
        return grad_u, None, grad_weights, None


def _blocks(frequencies: int, numbers: int) -> list[slice]:
    step = max(1, _BLOCK_NUMBERS // (8 * numbers))
    return [slice(i, min(i + step, frequencies)) for i in range(0, frequencies, step)]


def _to_sheets(x: Tensor, size: int, heads: int) -> Tensor:
    """(B, T, H·a) to (size/4+1, 2, H, 2, B, a): real and imaginary parts of x̂(f) and of conj(x̂(size/2 - f))."""
    quarter = size // 4
    spectrum = torch.view_as_real(torch.fft.rfft(x.mT, size)).unflatten(1, (heads, -1))  # (B, H, a, size/2+1, 2)
    sheets = x.new_empty(quarter + 1, 2, heads, 2, x.shape[0], x.shape[2] // heads)
    sheets[:, 0].copy_(spectrum[:, :, :, : quarter + 1].permute(3, 1, 4, 0, 2))
    sheets[:, 1].copy_(spectrum[:, :, :, quarter:].flip(3).permute(3, 1, 4, 0, 2))
    sheets[:, 1, :, 1].neg_()
    return sheets


def _from_sheets(sheets: Tensor, size: int, steps: int) -> Tensor:
    """The inverse of `_to_sheets`, cut to the first ``steps`` times; (B, steps, H·a)."""
    quarter, heads, (batch, channels) = size // 4, sheets.shape[2], sheets.shape[-2:]
    spectrum = sheets.new_empty(batch, heads, channels, size // 2 + 1, 2)
    spectrum[:, :, :, : quarter + 1].copy_(sheets[:, 0].permute(3, 1, 4, 0, 2))
    spectrum[:, :, :, quarter:].copy_(sheets[:, 1].flip(0).permute(3, 1, 4, 0, 2))
    spectrum[:, :, :, quarter:, 1].neg_()
    return torch.fft.irfft(torch.view_as_complex(spectrum.flatten(1, 2)), size)[..., :steps].mT


def _basis_spectra(taps: Tensor, size: int) -> Tensor:
    """(2, 2, size/4+1, J): real and imaginary parts of the transforms of even and (shifted) odd taps."""
    count = size // 4 + 1
    even = torch.fft.rfft(taps[0::2], size // 2, dim=0)
    odd = torch.fft.rfft(taps[1::2], size // 2, dim=0) if len(taps) > 1 else torch.zeros_like(even)
    angle = torch.arange(count, dtype=taps.dtype, device=taps.device) * (-2 * math.pi / size)
    odd = odd * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.view_as_real(torch.stack([even, odd])).movedim(-1, 1).contiguous()


def _kernel_block(basis: Tensor, weights: Tensor, heads: int, parts_first: bool) -> Tensor:
    """Kernels E ± O at a block of frequencies, (f, 2 sheets, H, Re|Im, a, b), or with Re|Im after a."""
    count, (_, columns, d_in, d_out) = basis.shape[2], weights.shape
    halves = torch.bmm(basis.reshape(2, 2 * count, columns), weights.reshape(2, columns, d_in * d_out))
    even, odd = halves.view(2, 2, count, heads, d_in // heads, d_out)  # (Re|Im, f, H, a, b)
    if parts_first:
        kernel = weights.new_empty(count, 2, heads, 2, d_in // heads, d_out)
        sheets = kernel.permute(1, 3, 0, 2, 4, 5)
    else:
        kernel = weights.new_empty(count, 2, heads, d_in // heads, 2, d_out)
        sheets = kernel.permute(1, 4, 0, 2, 3, 5)
    sheets[0].copy_(even).add_(odd)
    sheets[1].copy_(even).sub_(odd)
    return kernel


def _parseval(count: int, size: int, like: Tensor) -> Tensor:
    """Weights of the quarter spectrum in an inner product over time: (count, 1, 1, 1, 1, 1)."""
    weights = like.new_full((count, 1, 1, 1, 1, 1), 2.0 / size)
    weights[0] = weights[-1] = 1.0 / size
    return weights


def _accumulate(grad_weights: Tensor, basis: Tensor, x: Tensor, grad: Tensor) -> None:
    """Add a block's share of the gradient of the weights, in place."""
    count, _, heads, _, batch, channels = x.shape
    (_, columns, d_in, d_out) = grad_weights.shape
    turned = grad.new_empty(count, 2, heads, 2, batch, 2, d_out)  # g and -i g, side by side
    turned[..., 0, :].copy_(grad)
    turned[:, :, :, 0, :, 1].copy_(grad[:, :, :, 1])
    turned[:, :, :, 1, :, 1].copy_(grad[:, :, :, 0]).neg_()
    product = torch.bmm(x.reshape(-1, 2 * batch, channels).mT, turned.view(-1, 2 * batch, 2 * d_out))
    product = product.view(count, 2, d_in, 2, d_out).permute(1, 3, 0, 2, 4)  # (sheet, Re|Im, f, D_in, D_out)
    halves = x.new_empty(2, 2, count, d_in, d_out)
    halves[0].copy_(product[0]).add_(product[1])
    halves[1].copy_(product[0]).sub_(product[1])
    flat = grad_weights.view(2, columns, d_in * d_out)
    flat.baddbmm_(basis.reshape(2, 2 * count, columns).mT, halves.view(2, 2 * count, d_in * d_out))
