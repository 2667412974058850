"""The features of an STU as a stream: design (4) by the recurrence (8), a step or a block at a time, in constant memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch

from torchstu.layers.stu import STU

BLOCK = 64
"""Steps whose features are computed at once: one matrix product with a table of BLOCK·K rows a bank."""
_DOUBLINGS = 40
"""Gramians are summed over 2^40 lags: all there are, since the slowest mode at L = 10^6 forgets in about 10^6 steps."""
_JITTER = 1e-14
"""Added to the correlations of the filters, whose least eigenvalue is 4e-16 at the worst (L = 32, K = 24)."""


class FeatureStream:
    """The features of n parallel sequences, in coordinates of orthonormal responses: (bank, response), then input lags.

    U_t = ±A U_{t-1} + b u_t (8) goes on for ever, so the filters count as it continues them, on 0, 1, 2, …: φ_24 of L = 1024
    has 10^5 times its energy there. With W = Σ_i φ(i) φ(i)ᵀ, their Gramian, the features are

        f_t = [T U⁺_{t-d}, T U⁻_{t-d}, u_t, …, u_{t-k_u+1}],    T W Tᵀ = I, T lower triangular,

    P_in = (banks·K + k_u) D_in numbers. So for white inputs of unit variance every one of them tends to variance 1 and those of
    one bank are uncorrelated, and the Frobenius norm of a bank's weights is the ℓ2 norm of its impulse response: a radius, a
    ridge and a step size mean the same whatever the prior, K and L.

    Args:
        layer: the STU whose features they are; its bank has a realization.
        batch: n.
        orthonormal: whether T is as above, or the identity: the filters as they are, for weights that are not learned.

    Attributes:
        inputs: (n, m, D_in) the last inputs, most recent first; m = max(k_u - 1, d).
        states: (n, banks, R, D_in) the recurrence's states, delayed by d.
        mixing: T, (K, K).
    """

    def __init__(self, layer: STU, batch: int, orthonormal: bool = True) -> None:
        space = layer.bank.state_space
        assert space is not None
        self.space, self.count, self.signs = space, layer.num_filters, np.array(layer.signs, dtype=np.float64)
        self.delay, self.lags, self.memory = layer.delay, layer.input_lags, layer.memory
        self.inputs = np.zeros((batch, self.memory, layer.d_in))
        self.states = np.zeros((batch, len(self.signs), space.order, layer.d_in))
        self.transitions = self.signs[:, None, None] * space.A
        self.mixing = orthonormal_mixing(space.A, space.b, self.count) if orthonormal else np.eye(self.count)
        self._tables: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def size(self) -> int:
        """P_in."""
        return (len(self.signs) * self.count + self.lags) * self.inputs.shape[2]

    def peek(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features (n, P_in) for the inputs u (n, D_in) of the next step, and the states after it; nothing is changed."""
        known = np.concatenate([u[:, None], self.inputs], axis=1)
        driven = self.space.b[:, None] * known[:, self.delay, None, None, :]
        states = self.transitions @ self.states + driven
        spectral = self.mixing @ states[:, :, : self.count]
        return np.concatenate([spectral.reshape(len(u), -1), known[:, : self.lags].reshape(len(u), -1)], axis=1), states

    def commit(self, u: np.ndarray, states: np.ndarray) -> None:
        """Go on by a step: what `peek` was given and returned."""
        if self.memory:
            self.inputs = np.concatenate([u[:, None], self.inputs[:, :-1]], axis=1)
        self.states = states

    def blocks(self, U: np.ndarray) -> Iterator[np.ndarray]:
        """Features of the inputs U (n, T, D_in), in pieces (n, c, P_in), c at most `BLOCK`; the stream goes on."""
        steps = U.shape[1]
        whole = steps - steps % BLOCK
        for start in range(0, whole, BLOCK):
            yield self._block(U[:, start : start + BLOCK])
        rest = []
        for t in range(whole, steps):
            features, states = self.peek(U[:, t])
            self.commit(U[:, t], states)
            rest.append(features)
        if rest:
            yield np.stack(rest, axis=1)

    def _block(self, u: np.ndarray) -> np.ndarray:
        """U_s = Σ_{j≤s} A^{s-j} b u_j + A^{s+1} x for a whole block at once."""
        batch, steps, width = u.shape
        m, banks = self.memory, len(self.signs)
        known = np.concatenate([self.inputs[:, ::-1], u], axis=1)
        delayed = known[:, m - self.delay : m - self.delay + steps]
        if self._tables is None:
            self._tables = _block_tables(self.space.A, self.space.b, self.mixing, self.signs)
        table, jump = self._tables
        left = np.concatenate([np.broadcast_to(delayed[:, None], (batch, banks, steps, width)), self.states], axis=2)
        spectral = (table @ left).reshape(batch, banks, steps, self.count, width)
        features = [spectral.transpose(0, 2, 1, 3, 4).reshape(batch, steps, -1)]
        features += [known[:, m - i : m - i + steps] for i in range(self.lags)]
        self.states = jump @ left
        self.inputs = known[:, ::-1][:, :m].copy()
        return np.concatenate(features, axis=2)


def weights_of(layer: STU, mixing: np.ndarray) -> np.ndarray:
    """Weights m (P, D_out) over the features of a `FeatureStream` with ``mixing`` that are those of a layer in float64."""
    scale = layer.bank.eigenvalues[:, None, None] ** 0.25
    banks = [getattr(layer, name).detach().numpy() * scale for name in ("M_phi_plus", "M_phi_minus")[: len(layer.signs)]]
    parts = [np.linalg.solve(mixing.T, M.reshape(len(mixing), -1)) for M in banks]
    parts.append(layer.M_u.detach().numpy())
    if layer.autoregression == "learned":
        parts.append(layer.M_y.detach().numpy())  # type: ignore[union-attr]
    return np.concatenate([part.reshape(-1, layer.d_out) for part in parts])


def with_weights(layer: STU, mixing: np.ndarray, weights: np.ndarray) -> STU:
    """A copy of a layer with the weights m: the inverse of `weights_of`."""
    layer, m = copy.deepcopy(layer), torch.from_numpy(weights)
    size = (len(layer.signs) * layer.num_filters + layer.input_lags) * layer.d_in
    kernel, outputs = m[:size].view(-1, layer.d_in, layer.d_out), m[size:]
    back = torch.from_numpy(mixing.T / layer.bank.eigenvalues[:, None] ** 0.25)
    parts = kernel.split([layer.num_filters] * len(layer.signs) + [layer.input_lags])
    with torch.no_grad():
        layer.M_phi_plus.copy_(torch.einsum("kj,jio->kio", back, parts[0]))
        if layer.M_phi_minus is not None:
            layer.M_phi_minus.copy_(torch.einsum("kj,jio->kio", back, parts[1]))
        layer.M_u.copy_(parts[-1])
        if layer.autoregression == "learned":
            layer.M_y.copy_(outputs.view(layer.output_lags, layer.d_out, layer.d_out))  # type: ignore[union-attr]
    return layer


def orthonormal_mixing(A: np.ndarray, b: np.ndarray, count: int) -> np.ndarray:
    """T, (K, K) lower triangular, with T W Tᵀ = I for the Gramian W = Σ_i φ(i) φ(i)ᵀ of the filters on all i ≥ 0."""
    gramian, power = np.outer(b, b), A
    for _ in range(_DOUBLINGS):
        gramian, power = gramian + power @ gramian @ power.T, power @ power
    norms = np.sqrt(gramian.diagonal()[:count])
    correlation = gramian[:count, :count] / norms / norms[:, None]
    factor = np.linalg.cholesky((correlation + correlation.T) / 2 + _JITTER * np.eye(count))
    return np.linalg.solve(factor, np.diag(1 / norms))


def _block_tables(A: np.ndarray, b: np.ndarray, mixing: np.ndarray, signs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps from a block's inputs and the state before it: to features (banks, BLOCK·K, BLOCK + R), to the state after it."""
    order, count = len(b), len(mixing)
    powers = [np.eye(order)]
    for _ in range(BLOCK):
        powers.append(A @ powers[-1])
    response = np.stack([power @ b for power in powers[:-1]])  # (BLOCK, R): A^i b
    mixed = response[:, :count] @ mixing.T
    tables, jumps = [], []
    for sign in signs:
        table = np.zeros((BLOCK, count, BLOCK + order))
        for s in range(BLOCK):
            alternating = sign ** np.arange(s, -1, -1.0)[:, None]
            table[s, :, : s + 1] = (alternating * mixed[s::-1]).T
            table[s, :, BLOCK:] = sign ** (s + 1) * (mixing @ powers[s + 1][:count])
        alternating = sign ** np.arange(BLOCK - 1, -1, -1.0)[:, None]
        jumps.append(np.concatenate([(alternating * response[::-1]).T, sign**BLOCK * powers[BLOCK]], axis=1))
        tables.append(table.reshape(BLOCK * count, BLOCK + order))
    return np.stack(tables), np.stack(jumps)
