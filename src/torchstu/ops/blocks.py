"""A filter bank by blocks: a negacyclic convolution inside each, one small state between them, design (4), (8) and (11).

The transform of a block of C real steps is a complex one of C/2 points: with c_j = u_j + i u_{j+C/2},

    û(m) = Σ_{j<C/2} e^{iπj/C} c_j e^{-2πi m j/(C/2)},   at the frequencies ω_m = π(4m - 1)/C,

and products of such transforms are negacyclic convolutions. Frequencies m and m + C/4 lie π apart, where the even taps of a
kernel agree and the odd ones change sign: both banks of design (4) for the price of one. Kernels are formed for some
frequencies at a time and formed again in the backward, so that memory stays O(B T D).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

_KERNEL_NUMBERS = 2**20
"""Complex numbers of one batch of kernels."""


class BlockTensors(NamedTuple):
    """`torchstu.spectral.blocks.BlockForm` for one or two banks as tensors."""

    basis: Tensor
    """(2 even|odd, 2 Re|Im, C/4, K)."""
    drive: Tensor
    """(banks·R, C)."""
    jump: Tensor
    """(R, R)."""
    response: Tensor
    """(P·K, R)."""
    shapes: Tensor
    """(C, banks·P)."""

    @property
    def block(self) -> int:
        """C."""
        return self.shapes.shape[0]


@torch.compiler.assume_constant_result
def block_size(batch: int, steps: int, channels: int) -> int:
    """C for inputs (B, T, D): forming kernels costs C, free responses 1/C; near that balance the size that pads least."""
    best = min(max(math.sqrt(10 * batch * steps * (1 + 36 / channels)), 64), 1024)
    sizes = [factor * 2**power for power in range(2, 10) for factor in (4, 5, 6, 7)]
    near = [size for size in sizes if best / 1.5 <= size <= 1.5 * best]
    whole = [size for size in sizes if size >= steps][:1]
    return min([*near, *whole], key=lambda size: (-(-steps // size) * size, abs(math.log(size / best))))


def block_convolution(u: Tensor, x: Tensor, form: BlockTensors, weights: Tensor, heads: int = 1) -> tuple[Tensor, Tensor]:
    """y_t = Σ_k U⁺_{t,k} P_k + U⁻_{t,k} N_k with the features (4), from the state x, by blocks of C steps.

    With a vector for each channel in place of matrices the products are channel by channel.

    Args:
        u: (B, T, D_in), T at least 1.
        x: (B, banks, R, D_in), the features before the first step.
        form: of a bank, C steps a block.
        weights: (banks, K, D_in, D_out/H) or (banks, K, D), P and N.
        heads: H, groups of channels that do not mix; weights have the rows of group h for the outputs of group h.

    Returns:
        y (B, T, D_out) and the states before every block and after the last whole one, (B, ⌊T/C⌋ + 1, banks, R, D_in).
    """
    batch, steps, channels = u.shape
    block, banks = form.block, len(weights)
    count = -(-steps // block)
    rows = pad(u, (0, 0, 0, count * block - steps)).reshape(batch * count, block, channels)
    states = carry(torch.matmul(form.drive, rows).view(batch, count, *x.shape[1:]), x, form.jump)
    free = _read_out(states, form, weights, heads)
    even, odd = (weights[0] + weights[1], weights[0] - weights[1]) if banks == 2 else (weights[0], weights[0])
    merged = torch.stack([even, odd])
    if weights.ndim == 4:
        y = negacyclic_convolution(rows, form.basis, merged, heads)
    else:
        y = negacyclic_channel_convolution(rows, form.basis, merged)
    y = torch.baddbmm(y, form.shapes.expand(len(rows), -1, -1), free)
    return y.reshape(batch, count * block, -1)[:, :steps], states[:, : steps // block + 1]


def free_response(x: Tensor, steps: int, form: BlockTensors, weights: Tensor, heads: int = 1) -> Tensor:
    """What the features x still bring at the next steps, without inputs: `block_convolution` of zeros; (B, steps, D_out)."""
    count = -(-steps // form.block)
    states = carry(x.new_zeros(1, count, 1, 1, 1), x, form.jump)
    free = _read_out(states, form, weights, heads)
    return torch.matmul(form.shapes, free).view(len(x), count * form.block, -1)[:, :steps]


def _read_out(states: Tensor, form: BlockTensors, weights: Tensor, heads: int) -> Tensor:
    """The free responses of the blocks between states (B, n+1, banks, R, D_in) as (B·n, banks·P, D_out)."""
    jumps = (states[:, :-1] + states[:, 1:]).flatten(0, 1).transpose(0, 1).contiguous()  # (banks, B·n, R, D_in)
    if weights.ndim == 3:  # channel by channel
        response = form.response.unflatten(0, (-1, weights.shape[1]))  # (P, K, R)
        table = torch.einsum("pkr,bkd->bdpr", response, weights).flatten(0, 1)
        free = torch.bmm(table, jumps.permute(0, 3, 2, 1).flatten(0, 1))  # (banks·D, P, N)
        return free.unflatten(0, weights.shape[::2]).permute(3, 0, 2, 1).flatten(1, 2)
    if heads == 1:
        return _FreeResponse.apply(jumps, form.response, weights)
    jumps = jumps.unflatten(3, (heads, -1)).movedim(3, 1).flatten(0, 1)  # every head as a bank of its own
    own = weights.unflatten(2, (heads, -1)).movedim(2, 1).flatten(0, 1)
    free = _FreeResponse.apply(jumps, form.response, own).unflatten(1, (len(weights), heads, -1))
    return free.movedim(2, 3).flatten(3).flatten(1, 2)


def carry(ends: Tensor, x: Tensor, jump: Tensor) -> Tensor:
    """x_{n+1} = A^C x_n + e_n: the states before every block and after the last; (B, n, banks, R, D) -> (B, n+1, …)."""
    states = [x]
    for end in ends.unbind(1):
        states.append(torch.matmul(jump, states[-1]) + end)
    return torch.stack(states, dim=1)


def negacyclic_convolution(u: Tensor, basis: Tensor, weights: Tensor, heads: int = 1) -> Tensor:
    """y_t = Σ_{s<C} ±u_{t-s} H(s), the sign negative where t-s wraps around; H given by transforms of its taps.

    Args:
        u: (N, C, D_in), C a multiple of 4.
        basis: (2, 2, C/4, K), real and imaginary parts of the transforms of even and odd taps; no gradient flows to it.
        weights: (2, K, D_in, D_out/H), what even and odd taps multiply.
        heads: H, as in `block_convolution`.

    Returns:
        (N, C, D_out).
    """
    return _Negacyclic.apply(u, basis, weights, heads)


def negacyclic_channel_convolution(u: Tensor, basis: Tensor, weights: Tensor) -> Tensor:
    """`negacyclic_convolution` channel by channel; u (N, C, D), weights (2, K, D) -> (N, C, D)."""
    even, odd = torch.matmul(basis, weights[:, None]).mT  # (Re|Im, D, C/4)
    kernel = torch.cat([torch.complex(*(even + odd)), torch.complex(*(even - odd))], dim=1)
    return _inverse(_transform(u) * kernel)


class _Negacyclic(torch.autograd.Function):
    """Sheets: (C/4, 2, H, N, D/H) complex, the frequencies m and m + C/4. The backward works on conj(ĝ): only transposes."""

    @staticmethod
    def forward(u: Tensor, basis: Tensor, weights: Tensor, heads: int) -> Tensor:
        inputs, parts = _to_sheets(u, heads), _parts(weights, basis)
        outputs = [torch.bmm(inputs[part].flatten(0, 2), _kernels(basis[:, :, part], weights, heads)) for part in parts]
        return _from_sheets(_joined(outputs, heads))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.heads = inputs[3]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        (u, basis, weights), heads = ctx.saved_tensors, ctx.heads
        needs_u, _, needs_weights, _ = ctx.needs_input_grad
        grads = _to_sheets(grad, heads, conjugate=True)
        inputs = _to_sheets(u, heads) if needs_weights else None
        grad_inputs: list[Tensor] = []
        grad_weights = torch.zeros_like(weights) if needs_weights else None
        for part in _parts(weights, basis):
            part_grads = grads[part].flatten(0, 2)
            if needs_u:
                grad_inputs.append(torch.bmm(part_grads, _kernels(basis[:, :, part], weights, heads).mT))
            if grad_weights is not None and inputs is not None:
                products = torch.bmm(inputs[part].flatten(0, 2).mT, part_grads)
                _accumulate(grad_weights, basis[:, :, part], torch.view_as_real(products))
        if grad_weights is not None:
            grad_weights.div_(u.shape[1] // 2)
        grad_u = _from_sheets(_joined(grad_inputs, heads), conjugate=True) if needs_u else None
        return grad_u, None, grad_weights, None


class _FreeResponse(torch.autograd.Function):
    """Free responses, read out by the weights: jumps (banks, N, R, D_in) -> (N, banks·P, D_out), in the form's coordinates.

    The features are made again in the backward instead of kept: they are P·K/C times as many numbers as the inputs.
    """

    @staticmethod
    def forward(jumps: Tensor, response: Tensor, weights: Tensor) -> Tensor:
        rows, matrix = _FreeResponse.features(jumps, response, weights), weights.flatten(1, 2)
        y = torch.bmm(rows, matrix).view(len(weights), jumps.shape[1], -1, weights.shape[3])  # (banks, N, P, D_out)
        return y.transpose(0, 1).flatten(1, 2)

    @staticmethod
    def features(jumps: Tensor, response: Tensor, weights: Tensor) -> Tensor:
        """(banks, N·P, K·D_in)."""
        return torch.matmul(response, jumps).view(len(jumps), -1, weights.shape[1] * jumps.shape[3])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        jumps, response, weights = ctx.saved_tensors
        needs_jumps, _, needs_weights = ctx.needs_input_grad
        banks, blocks, _, channels = jumps.shape
        grad = grad.reshape(blocks, banks, -1, weights.shape[3]).transpose(0, 1).flatten(1, 2)  # (banks, N·P, D_out)
        grad_jumps = grad_weights = None
        if needs_jumps:
            grad_features = torch.bmm(grad, weights.flatten(1, 2).mT).view(banks, blocks, len(response), channels)
            grad_jumps = torch.matmul(response.mT, grad_features)
        if needs_weights:
            grad_weights = torch.bmm(_FreeResponse.features(jumps, response, weights).mT, grad).view_as(weights)
        return grad_jumps, None, grad_weights


def _parts(weights: Tensor, basis: Tensor) -> list[slice]:
    """Frequencies by the batch of kernels that `_KERNEL_NUMBERS` allows."""
    count, step = basis.shape[2], max(1, _KERNEL_NUMBERS // (2 * weights[0, 0].numel()))
    return [slice(i, min(i + step, count)) for i in range(0, count, step)]


def _joined(products: list[Tensor], heads: int) -> Tensor:
    """Products (f·2·H, N, D/H) of all batches of frequencies as sheets, (C/4, 2, H, N, D/H)."""
    return (products[0] if len(products) == 1 else torch.cat(products)).unflatten(0, (-1, 2, heads))


def _twist(half: int, like: Tensor) -> Tensor:
    angle = torch.arange(half, dtype=torch.float64, device=None if like.device.type == "mps" else like.device)
    angle = (angle * (math.pi / (2 * half))).to(device=like.device, dtype=like.dtype)
    return torch.polar(torch.ones_like(angle), angle)


def _transform(x: Tensor) -> Tensor:
    """û, (N, C, D) real to (N, D, C/2) complex."""
    half = x.shape[1] // 2
    halves = torch.complex(x[:, :half].mT.contiguous(), x[:, half:].mT.contiguous())
    return torch.fft.fft(halves.mul_(_twist(half, x)))


def _inverse(spectrum: Tensor) -> Tensor:
    """The inverse of `_transform`."""
    count, channels, half = spectrum.shape
    halves = torch.fft.ifft(spectrum)
    halves = halves.mul_(_twist(half, halves.real).conj())
    return torch.view_as_real(halves).permute(0, 3, 2, 1).reshape(count, 2 * half, channels)


def _to_sheets(x: Tensor, heads: int, conjugate: bool = False) -> Tensor:
    """(N, C, D) real to (C/4, 2, H, N, D/H) complex, or to its conjugate."""
    spectrum = _transform(x).unflatten(2, (2, -1)).unflatten(1, (heads, -1)).permute(4, 3, 1, 0, 2)
    return (spectrum.conj() if conjugate else spectrum).clone(memory_format=torch.contiguous_format).resolve_conj()


def _from_sheets(sheets: Tensor, conjugate: bool = False) -> Tensor:
    """The inverse of `_to_sheets`."""
    spectrum = sheets.conj().resolve_conj() if conjugate else sheets
    return _inverse(spectrum.permute(3, 2, 4, 1, 0).flatten(3).flatten(1, 2))


def _kernels(basis: Tensor, weights: Tensor, heads: int) -> Tensor:
    """E S ± O Δ at a batch of frequencies, (f·2 sheets·H, D_in/H, D_out/H) complex."""
    count, (_, columns, d_in, d_out) = basis.shape[2], weights.shape
    halves = torch.bmm(basis.reshape(2, 2 * count, columns), weights.reshape(2, columns, d_in * d_out))
    even, odd = halves.view(2, 2, count, d_in, d_out)  # (Re|Im, f, D_in, D_out)
    kernels = weights.new_empty(count, 2, d_in, d_out, 2)
    sheets = kernels.permute(1, 4, 0, 2, 3)
    sheets[0].copy_(even).add_(odd)
    sheets[1].copy_(even).sub_(odd)
    return torch.view_as_complex(kernels).view(-1, d_in // heads, d_out)


def _accumulate(grad_weights: Tensor, basis: Tensor, products: Tensor) -> None:
    """Add a batch's share in place; products (f·2 sheets·H, D_in/H, D_out/H, Re|Im) are conj(ûᴴ ĝ)."""
    count, (_, columns, d_in, d_out) = basis.shape[2], grad_weights.shape
    plus, minus = products.view(count, 2, d_in, d_out, 2).permute(1, 4, 0, 2, 3)  # (Re|Im, f, D_in, D_out)
    halves = products.new_empty(2, 2, count, d_in, d_out)
    halves[0].copy_(plus).add_(minus)
    halves[1].copy_(plus).sub_(minus)
    signed = torch.stack([basis[:, 0], -basis[:, 1]], dim=1).reshape(2, 2 * count, columns)
    grad_weights.view(2, columns, d_in * d_out).baddbmm_(signed.mT, halves.view(2, 2 * count, -1))
