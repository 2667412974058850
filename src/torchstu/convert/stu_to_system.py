"""A trained layer as a plain linear system, reduced by balanced truncation: the way back from design (7), by (8)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from torchstu.layers.base import Mixer
from torchstu.layers.lru import LRU
from torchstu.layers.spectral import SpectralMixer
from torchstu.layers.stu import STU
from torchstu.layers.tensordot import TensordotSTU
from torchstu.spectral.realization import StateSpace
from torchstu.systems.lds import LDS

MAX_STATES = 8192
"""States before reduction above which the dense matrices would not fit into a workstation."""
_DOUBLINGS = 64
_NEGLIGIBLE = 1e-18
_LRU_STEPS = 1024  # of response, to know how large an LRU's is


def to_lds(layer: Mixer, tolerance: float = 1e-8) -> LDS:
    """The system x_t = A x_{t-1} + B u_t, y_t = C x_t + D u_t that a layer is, in float64, of an order as small as asked.

    What comes before the y-term of (5), the input lags and the banks as (8) realizes them, is stable. It is reduced bank by
    bank by balanced truncation, in coordinates where the controllability Gramian is the identity: there the projections are
    orthogonal, and nothing cancels. With h_i the response before the y-term, G(z) its transform, ĥ and Ĝ those of the result
    and σ_j the Hankel singular values of the banks,

        max_i |h_i - ĥ_i|  <=  ‖G - Ĝ‖_∞  <=  2 Σ_{j cut} σ_j  <=  tolerance · max_i |h_i|    (largest entries).

    So one bound holds for every lag and, by ‖·‖_∞, for the energy of the error under any input. The y-term follows exactly: its
    modes lie on the unit circle or, learned, anywhere, and balanced truncation does not apply to them. It integrates the error
    as it integrates all else. Where G cancels the y-term, as in the layers of `system_to_stu`, both stay in the result.

    Args:
        layer: `STU`, `ARSTU`, `TensordotSTU`, of any bank, or `LRU` (for its peak 1024 lags are looked at).
        tolerance: at least 0 and below 1; with 0 nothing is reduced.

    Returns:
        At most (R · banks + max(k_u - 1, d)) min(D_in, D_out) + k_y D_out states; without a y-term the lags take one more. A
        bank of a user's own has one state a channel and lag before reduction.

    Raises:
        TypeError: a layer of another kind, a tolerance that is no number.
        ValueError: a tolerance out of range, weights that are not finite, more than `MAX_STATES` states before reduction, modes
            too close to the unit circle to be reduced.

    Source: Moore, Principal component analysis in linear systems, 1981; Glover, All optimal Hankel-norm approximations of
    linear multivariable systems and their L∞ error bounds, 1984.
    """
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)):
        raise TypeError(f"tolerance: {type(tolerance).__name__}; it must be a number")
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance: {tolerance}; it must be at least 0 and below 1")
    if isinstance(layer, LRU):
        return _lru_to_lds(layer, tolerance)
    if not isinstance(layer, (STU, TensordotSTU)):
        raise TypeError(f"layer: {type(layer).__name__}; it must be an STU, ARSTU, TensordotSTU or LRU")
    plan = _plan(layer)
    transposed = plan.d_out < plan.d_in  # the dual needs fewer states: lags are then kept of outputs
    forced = _forced(plan.transposed() if transposed else plan, tolerance)
    if transposed:
        forced = LDS(forced.A.T, forced.C.T, forced.B.T, forced.D.T)
    M_y = None if isinstance(layer, TensordotSTU) or layer.M_y is None else _array("M_y", layer.whole("M_y"))
    return _without_unread(forced if M_y is None else _with_feedback(forced, M_y))


@dataclass(frozen=True)
class _Part:
    """One bank: x_t = (±A ⊗ I) x_{t-1} + (b ⊗ I) u_{t-d}, w_t = Wᵀ x_t; or a shift register, the lags of a finite response."""

    A: np.ndarray  # (R, R)
    b: np.ndarray  # (R,)
    W: np.ndarray  # (R, D_in, D_out)
    sign: int = 1
    register: bool = False


@dataclass(frozen=True)
class _Plan:
    """A layer before its y-term: banks, delayed, and input lags; ``length`` steps of response are looked at for its size."""

    parts: list[_Part]
    lags: np.ndarray  # (k_u, D_in, D_out)
    delay: int
    length: int

    @property
    def d_in(self) -> int:
        return self.lags.shape[1]

    @property
    def d_out(self) -> int:
        return self.lags.shape[2]

    def transposed(self) -> _Plan:
        parts = [replace(part, W=part.W.swapaxes(1, 2)) for part in self.parts]
        return replace(self, parts=parts, lags=self.lags.swapaxes(1, 2))


def _array(name: str, weight: object) -> np.ndarray:
    array = weight.detach().double().cpu().numpy()  # type: ignore[attr-defined]
    if not np.isfinite(array).all():
        raise ValueError(f"layer: {name} has values that are not finite")
    return array


def _plan(layer: STU | TensordotSTU) -> _Plan:
    """Weights of a layer by bank, as (K, D_in, D_out)."""
    if isinstance(layer, STU):
        banks = [_array(n, layer.whole(n)) for n in ("M_phi_plus", "M_phi_minus")[: len(layer.signs)]]
        lags, delay = _array("M_u", layer.whole("M_u")), layer.delay
    else:
        second = layer.M_filters if layer.M_filters_minus is None else layer.M_filters_minus
        rows = [_array(n, w) for n, w in (("M_filters", layer.M_filters), ("M_filters_minus", second))][: len(layer.signs)]
        banks = [_array("M_inputs", layer.M_inputs) * row[:, None, :] for row in rows]
        lags, delay = np.zeros((0, layer.d_in, layer.d_out)), 0
    space = layer.bank.state_space
    states = (space.order * len(banks) if space else layer.length + delay) * min(layer.d_in, layer.d_out)
    if states > MAX_STATES:
        raise ValueError(f"layer: {states} states before reduction; it must have at most {MAX_STATES}")
    if space is None:
        return _finite_plan(layer, banks, lags, delay)
    scale = layer.bank.eigenvalues[:, None, None] ** 0.25
    parts = []
    for sign, M in zip(layer.signs, banks, strict=True):
        W = np.zeros((space.order, *M.shape[1:]))
        W[: len(M)] = scale * M
        parts.append(_Part(space.A, space.b, W, sign))
    return _Plan(parts, lags, delay, layer.length)


def _finite_plan(layer: SpectralMixer, banks: list[np.ndarray], lags: np.ndarray, delay: int) -> _Plan:
    """A user's own bank ends at L: the whole response, with delay and input lags, is one shift register."""
    response = np.zeros((max(delay + layer.length, len(lags)), *banks[0].shape[1:]))
    response[: len(lags)] = lags
    for sign, M in zip(layer.signs, banks, strict=True):
        signed = layer.bank.scaled_filters * (float(sign) ** np.arange(layer.length))[:, None]
        response[delay : delay + layer.length] += np.tensordot(signed, M, axes=1)
    size = len(response)
    part = _Part(np.eye(size, k=-1), np.eye(1, size)[0], response, register=True)
    return _Plan([part], lags[:0], 0, size)


def _forced(plan: _Plan, tolerance: float) -> LDS:
    """The system before the y-term, its banks cut to the states that the bound asks for."""
    if not tolerance:
        return _assemble(plan, [_project(part, None) for part in plan.parts])
    allowed, parts, values, bases = tolerance * _peak(plan), [], [], []
    for part in plan.parts:
        parts.append(part if part.register else _input_normal(part))
        _, sigma, right = np.linalg.svd(_observability(parts[-1]), full_matrices=False)
        values.append(sigma)
        bases.append(right.T)
    orders = _orders(values, allowed)
    kept = [V[:, :r] if r < V.shape[0] else None for V, r in zip(bases, orders, strict=True)]
    return _assemble(plan, [_project(part, V) for part, V in zip(parts, kept, strict=True)])


def _orders(values: list[np.ndarray], allowed: float) -> list[int]:
    """How many Hankel singular values of each bank to keep: the smallest of all go while 2 Σ σ <= allowed."""
    together = np.sort(np.concatenate(values))
    cut = int(np.searchsorted(2 * np.cumsum(together), allowed, side="right"))
    least = together[cut] if cut < len(together) else np.inf  # what equals a kept value is kept
    return [int((v >= least).sum()) for v in values]


def _peak(plan: _Plan, block: int = 256) -> float:
    """The largest entry of the response before the y-term, over the memory."""
    if plan.parts[0].register:
        return float(np.abs(plan.parts[0].W).max())
    largest = 0.0
    spaces = [StateSpace(part.sign * part.A, part.b, 0.0) for part in plan.parts]
    states, jumps = [part.b for part in plan.parts], [np.linalg.matrix_power(space.A, block) for space in spaces]
    for start in range(0, plan.length, block):
        steps = min(block, plan.length - start)
        pairs = zip(plan.parts, spaces, states, strict=True)
        rows = np.sum([np.tensordot(s.free_response(x, steps), part.W, axes=1) for part, s, x in pairs], axis=0)
        if start == 0:
            whole = np.zeros((max(plan.delay + steps, len(plan.lags)), *rows.shape[1:]))
            whole[plan.delay : plan.delay + steps] = rows
            whole[: len(plan.lags)] += plan.lags
            rows = whole
        largest = max(largest, float(np.abs(rows).max()))
        states = [jump @ x for jump, x in zip(jumps, states, strict=True)]
    return largest


def _observability(part: _Part) -> np.ndarray:
    """A factor N of the observability Gramian Nᵀ N of an input-normal bank, (R D_out, R D_in).

    With orthonormal f(i) = A^i b every A^i is Σ_j f_j(i) H_j, H_j = Σ_i f_j(i) A^i, so the outputs that a state goes on to give
    have the coordinates Wᵀ H_j x. The sign of the bank flips every second output and no norm.
    """
    order, d_in, d_out = part.W.shape
    if part.register:  # f_j(i) = [i = j]: the block Hankel matrix of the response
        index = np.add.outer(np.arange(order), np.arange(order))
        hankel = np.concatenate([part.W, np.zeros_like(part.W)])[index]  # (R, R, D_in, D_out)
    else:
        H, power = np.multiply.outer(part.b, np.eye(order)), part.A
        for _ in range(_DOUBLINGS):
            more = np.einsum("ji,ikr->jkr", power, H @ power, optimize=True)
            H, power = H + more, power @ power
            if np.abs(more).max() <= _NEGLIGIBLE * np.abs(H).max():
                break
        hankel = np.einsum("kco,jkr->jrco", part.W, H, optimize=True)
    return hankel.transpose(0, 3, 1, 2).reshape(order * d_out, order * d_in)


def _input_normal(part: _Part) -> _Part:
    """The bank in coordinates where the states of white input are white: A Aᵀ + b bᵀ = I."""
    S = _gramian_factor(part.A, part.b[:, None])
    return replace(part, A=np.linalg.solve(S, part.A @ S), b=np.linalg.solve(S, part.b), W=np.tensordot(S.T, part.W, axes=1))


def _gramian_factor(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """S lower triangular with S Sᵀ = Σ_i A^i B Bᵀ A^iᵀ, by doubling.

    Raises:
        ValueError: the sum does not converge.
    """
    factor, power = B, A
    for _ in range(_DOUBLINGS):
        more = power @ factor
        triangle = np.linalg.qr(np.concatenate([factor, more], axis=1).T)[1]
        factor = triangle.T
        if np.abs(more).max() <= _NEGLIGIBLE * np.abs(factor).max():
            return factor
        power = power @ power
    raise ValueError("layer: has a mode of magnitude 1 before the y-term; only tolerance=0 can convert it")


def _project(part: _Part, basis: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(A, B, C) of a bank on the span of an orthonormal basis (R D_in, r); on all states if None."""
    order, d_in, d_out = part.W.shape
    if basis is None:
        identity = np.eye(d_in)
        return np.kron(part.sign * part.A, identity), np.kron(part.b[:, None], identity), part.W.reshape(-1, d_out).T
    V = basis.reshape(order, d_in, -1)
    A = part.sign * (basis.T @ np.tensordot(part.A, V, axes=1).reshape(basis.shape))
    return A, np.tensordot(part.b, V, axes=1).T, part.W.reshape(-1, d_out).T @ basis


def _assemble(plan: _Plan, banks: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> LDS:
    """Banks side by side, behind one shift register (u_t, u_{t-1}, …) that serves their delay and the input lags."""
    width, entries = plan.d_in, max(plan.delay, len(plan.lags))
    start = sum(len(A) for A, _, _ in banks)
    size = start + entries * width
    A, B, C, D = np.zeros((size, size)), np.zeros((size, width)), np.zeros((plan.d_out, size)), np.zeros((plan.d_out, width))
    at = 0
    for A_j, B_j, C_j in banks:
        own = slice(at, at + len(A_j))
        A[own, own], C[:, own] = A_j, C_j
        if plan.delay:
            A[own, start + (plan.delay - 1) * width : start + plan.delay * width] = B_j
        else:
            B[own] = B_j
        at = own.stop
    if entries:
        B[start : start + width] = np.eye(width)
        A[start + width :, start : size - width] = np.eye(size - start - width)
    if len(plan.lags):
        D[:] = plan.lags[0].T
        C[:, start + width : start + len(plan.lags) * width] = plan.lags[1:].reshape(-1, plan.d_out).T
    return LDS(A, B, C, D)


def _with_feedback(forced: LDS, M_y: np.ndarray) -> LDS:
    """y_t = w_t + Σ_i y_{t-i} M_i, the last outputs as states; w_t = C A x_{t-1} + (C B + D) u_t is the given system."""
    A, B, C, D = (getattr(forced, name).numpy() for name in "ABCD")
    (lags, width, _), states = M_y.shape, len(A)
    size = states + lags * width
    whole, drive, read = np.zeros((size, size)), np.zeros((size, B.shape[1])), np.zeros((width, size))
    own = slice(states, states + width)
    whole[:states, :states], whole[own, :states], drive[:states], drive[own] = A, C @ A, B, C @ B + D
    whole[own, states:] = M_y.swapaxes(1, 2).transpose(1, 0, 2).reshape(width, lags * width)
    whole[states + width :, states : size - width] = np.eye(size - states - width)
    read[:, own] = np.eye(width)
    return LDS(whole, drive, read, np.zeros_like(D))


def _without_unread(lds: LDS) -> LDS:
    """Without the states that neither another state nor the output reads: exact."""
    A, B, C = lds.A.numpy(), lds.B.numpy(), lds.C.numpy()
    keep = np.arange(len(A))
    while True:
        read = A[np.ix_(keep, keep)].any(axis=0) | C[:, keep].any(axis=0)
        if read.all():
            return LDS(A[np.ix_(keep, keep)], B[keep], C[:, keep], lds.D)
        keep = keep[read]


def _lru_to_lds(layer: LRU, tolerance: float) -> LDS:
    """λ as the real block [[Re λ, -Im λ], [Im λ, Re λ]], reduced by the square-root method."""
    nu, theta, gamma, B, C, D = (_array(n, getattr(layer, n)) for n in ("nu_log", "theta_log", "gamma_log", "B", "C", "D"))
    modes = np.exp(-np.exp(nu) + 1j * np.exp(theta))
    A = np.block([[np.diag(modes.real), -np.diag(modes.imag)], [np.diag(modes.imag), np.diag(modes.real)]])
    B = np.concatenate([(np.exp(gamma)[:, None] * B[..., i].T) for i in range(2)])
    C = np.concatenate([C[..., 0].T, -C[..., 1].T], axis=1)
    if tolerance:
        reach, watch = _gramian_factor(A, B), _gramian_factor(A.T, C.T)
        left, sigma, right = np.linalg.svd(watch.T @ reach)
        peak = LDS(A, B, C, D.T).impulse_response(_LRU_STEPS).abs().max()
        order = _orders([sigma], tolerance * float(peak))[0]
        T, T_inverse = reach @ right[:order].T, (left[:, :order] / sigma[:order]).T @ watch.T
        A, B, C = T_inverse @ A @ T, T_inverse @ B, C @ T
    return LDS(A, B, C, D.T)
