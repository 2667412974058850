"""S4, S4D, DSS and S5: kernels, published values, starts, the contract. LRU: published values."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from torchstu.layers.dss import DSS
from torchstu.layers.hippo import legs, legs_normal, legs_nplr
from torchstu.layers.lru import LRU
from torchstu.layers.s4 import S4
from torchstu.layers.s4d import S4D
from torchstu.layers.s5 import S5
from torchstu.testing import TOLERANCES, check_mixer, run_steps

GOLDEN = Path(__file__).parent.parent / "golden"
KERNEL, PUBLISHED = TOLERANCES["state-space kernel"], TOLERANCES["golden baselines"]
LENGTHS = (1, 2, 3, 7, 64, 129)

MIXERS = {
    **{
        f"S4D, {init}, {rule}": lambda dtype, init=init, rule=rule: S4D(
            3, state_dim=8, init=init, discretization=rule, dtype=dtype
        )
        for init in ("lin", "inv", "legs")
        for rule in ("zoh", "bilinear")
    },
    "DSS, exp": lambda dtype: DSS(3, state_dim=4, dtype=dtype),
    "DSS, softmax": lambda dtype: DSS(3, state_dim=4, variant="softmax", length=60, dtype=dtype),
    "S4": lambda dtype: S4(3, state_dim=8, dtype=dtype),
    "S5": lambda dtype: S5(3, state_dim=8, blocks=2, dtype=dtype),
    "S5, all modes": lambda dtype: S5(3, state_dim=6, blocks=2, conj_sym=False, dtype=dtype),
}


def error(actual, expected):
    return float((actual - expected).detach().abs().max() / expected.detach().abs().max())


def shaken(name):
    """A layer of the list, large steps, weights moved off their start."""
    generator = torch.Generator().manual_seed(3)
    layer = MIXERS[name](torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        if name == "DSS, softmax":
            layer.Lambda_re[0] = 0.5  # a mode that grows
    return layer


def complex_of(weight):
    return torch.view_as_complex(weight.detach())


def with_conjugates(x):
    return torch.cat([x, x.conj()], dim=-1)


def continuous(layer, h):
    """Dense A (N, N), b and c of channel h of an S4 or S4D, with all modes."""
    Lambda = torch.complex(-torch.exp(layer.log_A_real[h]), layer.A_imag[h]).detach()
    b, c = complex_of(layer.B)[h], complex_of(layer.C)[h]
    A = torch.diag(with_conjugates(Lambda))
    if isinstance(layer, S4):
        p = with_conjugates(complex_of(layer.P)[h])
        A = A - torch.outer(p, p.conj())
    return A, with_conjugates(b), with_conjugates(c)


def exponential(A):
    """By Taylor's series and squaring; ``torch.linalg.matrix_exp`` is right to 1e-8 only, for complex numbers."""
    scale = 2 ** max(0, math.ceil(math.log2(float(torch.linalg.matrix_norm(A)))) + 1)
    term = total = torch.eye(len(A), dtype=A.dtype)
    for k in range(1, 25):
        term = term @ A / (scale * k)
        total = total + term
    return torch.linalg.matrix_power(total, scale)


def dense_system(layer, h):
    """Dense Ā, b̄, c of channel h, by matrix functions that the layers do not use."""
    if isinstance(layer, DSS):
        return dss_system(layer, h)
    A, b, c = continuous(layer, h)
    dt, eye = math.exp(layer.log_dt[h].item()), torch.eye(len(A), dtype=A.dtype)
    if isinstance(layer, S4D) and layer.discretization == "zoh":
        augmented = torch.zeros(len(A) + 1, len(A) + 1, dtype=A.dtype)
        augmented[:-1, :-1], augmented[:-1, -1] = dt * A, dt * b
        both = exponential(augmented)
        return both[:-1, :-1], both[:-1, -1], c
    return torch.linalg.solve(eye - dt / 2 * A, eye + dt / 2 * A), torch.linalg.solve(eye - dt / 2 * A, dt * b), c


def dss_system(layer, h):
    """The softmax by its sum."""
    dt, imag = torch.exp(layer.log_dt[h]).detach(), layer.Lambda_im.detach()
    real = (-torch.exp(layer.log_Lambda_re) if layer.variant == "exp" else layer.Lambda_re).detach()
    Lambda, mu = torch.complex(real, imag), torch.complex(dt[0] * real, dt[1] * imag)
    if layer.variant == "exp":
        b = (torch.exp(mu) - 1) / Lambda
    else:
        b = 1 / (Lambda * torch.exp(mu[:, None] * torch.arange(layer.length)).sum(dim=1))
    return torch.diag(torch.exp(mu)), b, complex_of(layer.W)[h]


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("name", [name for name in MIXERS if "S5" not in name])
def test_kernel_against_a_dense_recurrence(name, steps, monkeypatch):
    monkeypatch.setattr(DSS, "epsilon", 0.0)
    layer = shaken(name)
    kernel = layer.kernel(layer.unroll(torch.float64, steps), steps)
    for h in range(layer.d_in):
        A, b, c = dense_system(layer, h)
        x, expected = b, []
        for _ in range(steps):
            expected.append((c @ x).real)
            x = A @ x
        expected = torch.stack(expected)
        assert error(kernel[h], expected) < KERNEL, f"channel {h}"


@pytest.mark.parametrize("name", MIXERS)
def test_layer_against_its_recurrence(name):
    layer = shaken(name)
    u = torch.randn(2, 45, 3, dtype=torch.float64)
    assert error(layer(u)[0], run_steps(layer, u)) < KERNEL


def test_s5_against_a_dense_recurrence():
    layer = shaken("S5")
    Lambda = torch.complex(layer.Lambda_re.clamp(max=-1e-4), layer.Lambda_im)
    dt = torch.exp(layer.log_step)
    A, B = torch.exp(dt * Lambda), ((torch.exp(dt * Lambda) - 1) / Lambda)[:, None] * complex_of(layer.B)
    u, x, outputs = torch.randn(30, 3, dtype=torch.float64), torch.zeros(4, dtype=torch.complex128), []
    for u_t in u:
        x = A * x + B @ u_t.to(B.dtype)
        outputs.append(2 * (complex_of(layer.C) @ x).real + layer.D * u_t)
    assert error(layer(u[None])[0][0], torch.stack(outputs)) < KERNEL


@pytest.mark.parametrize("name", MIXERS)
def test_mixer_keeps_the_contract(name):
    check_mixer(MIXERS[name])


@pytest.mark.parametrize("name", ["S4D, lin, zoh", "DSS, softmax", "S4", "S5"])
def test_compile_and_export(name):
    layer = MIXERS[name](torch.float32).eval()
    u = torch.randn(2, 11, 3, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    y, expected = compiled(u)[0], layer(u)[0]
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), u), torch.autograd.grad(expected.sum(), u))
    exported = torch.export.export(layer, (u.detach(),)).module()
    torch.testing.assert_close(exported(u.detach())[0], layer(u)[0])


def load(layer, golden, **names):
    """Weights of a file into a layer: weight name to the file's name, or to values."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            value = names.get(name, name)
            value = golden[value] if isinstance(value, str) else value
            parameter.copy_(torch.as_tensor(value))
    return layer


def golden(name):
    return {key: torch.as_tensor(value) for key, value in np.load(GOLDEN / f"{name}.npz").items()}


def kernel_of(layer, steps):
    return layer.kernel(layer.unroll(torch.float64, steps), steps)


def test_published_s4d_minimal():
    g = golden("s4d_minimal")
    layer = S4D(3, state_dim=16, init="lin", dtype=torch.float64)
    B = torch.view_as_real(torch.ones(3, 8, dtype=torch.complex128))
    load(layer, g, B=B, D=torch.zeros(3))
    assert error(kernel_of(layer, g["kernel"].shape[1]), g["kernel"]) < PUBLISHED


@pytest.mark.parametrize("name", ["s4d_lin_zoh", "s4d_inv_bilinear", "s4d_legs_zoh", "s4_legs_50", "s4_legs_33"])
def test_published_s4_and_s4d(name):
    """The published code keeps the modes of negative imaginary part."""
    g = golden(name)
    parts = name.split("_")
    if parts[0] == "s4":
        layer = S4(3, state_dim=16, dtype=torch.float64)
    else:
        layer = S4D(3, state_dim=16, init=parts[1], discretization=parts[2], dtype=torch.float64)
    start = g["init_A_imag"].sort().values
    torch.testing.assert_close(layer.A_imag[0].sort().values, start, rtol=1e-5, atol=2e-4)  # from float32, at least 1e-4
    load(layer, g, A_imag=-g["A_imag"], D=torch.zeros(3))
    steps = g["kernel"].shape[1]
    assert error(kernel_of(layer, steps), g["kernel"]) < PUBLISHED
    y, state = layer(g["u"])
    assert error(y, g["y"]) < PUBLISHED
    assert error(state.x, g["state"][..., :8]) < PUBLISHED


def test_published_start_of_s4():
    g = golden("s4_legs_50")
    Lambda, p, b = legs_nplr(16)
    by_size = g["init_A_imag"].argsort()
    torch.testing.assert_close(Lambda.imag, g["init_A_imag"][by_size])
    torch.testing.assert_close(p.real, g["init_P_abs"][by_size])
    torch.testing.assert_close(b.real, g["init_B_abs"][by_size])


@pytest.mark.parametrize("variant", ["exp", "softmax"])
def test_published_dss(variant):
    g = golden(f"dss_{variant}")
    steps = g["kernel"].shape[1]
    layer = DSS(3, state_dim=8, variant=variant, length=steps if variant == "softmax" else None, dtype=torch.float64)
    torch.testing.assert_close(layer.Lambda_im.detach(), g["init_Lambda_im"].double(), rtol=1e-5, atol=1e-5)
    load(layer, g, D=torch.zeros(3))
    assert error(kernel_of(layer, steps), g["kernel"]) < PUBLISHED


@pytest.mark.parametrize("half", [True, False])
def test_published_s5(half):
    g = golden("s5_half" if half else "s5_full")
    layer = S5(4, state_dim=12 if half else 6, blocks=2, conj_sym=half, dtype=torch.float64)
    start = g["init_Lambda_im"].sort().values
    torch.testing.assert_close(layer.Lambda_im.detach().sort().values, start.flip(0).neg() if half else start)
    assert int((g["Lambda_re"] > -1e-4).sum()) == 1  # one mode at the limit
    load(layer, g, log_step=g["log_step"][:, 0])
    assert error(layer(g["u"])[0], g["y"]) < PUBLISHED


def test_published_lru():
    g = golden("lru_minimal")
    layer = LRU(4, 4, state_dim=6, dtype=torch.float64)
    B, C = torch.stack([g["B_re"].mT, g["B_im"].mT], dim=-1), torch.stack([g["C_re"].mT, g["C_im"].mT], dim=-1)
    load(layer, g, B=B, C=C, D=torch.diag(g["D"]))
    assert error(layer(g["u"])[0], g["y"]) < PUBLISHED


def test_legs_is_normal_plus_rank_one():
    A, b = legs(32)
    assert A[3, 1] == -math.sqrt(7 * 3)
    assert A[3, 3] == -4
    assert A[1, 3] == 0
    torch.testing.assert_close(b**2, 2.0 * torch.arange(32) + 1, check_dtype=False)
    torch.testing.assert_close(
        torch.linalg.eigvals(A).real.sort().values, torch.arange(-32.0, 0), check_dtype=False, atol=1e-3, rtol=0
    )
    Lambda, V = legs_normal(32)
    p = V.mH @ (b / 2**0.5).to(V.dtype)
    assert Lambda.real.unique().tolist() == [-0.5]
    rebuilt = V @ (torch.diag(Lambda) - torch.outer(p, p.conj())) @ V.mH
    torch.testing.assert_close(rebuilt, A.to(V.dtype), atol=1e-11, rtol=0)
    assert float(p.imag.abs().max()) < 1e-12
    assert float(p.real.min()) > 0


def test_starts_as_published():
    lin, inv = S4D(2, state_dim=16, init="lin"), S4D(2, state_dim=16, init="inv")
    n = torch.arange(8)
    torch.testing.assert_close(lin.A_imag[1], math.pi * n)
    torch.testing.assert_close(inv.A_imag[1], 16 / math.pi * (16 / (2 * n + 1) - 1))
    for layer in (lin, inv, S4D(2, state_dim=16, init="legs"), S4(2, state_dim=16)):
        torch.testing.assert_close(-torch.exp(layer.log_A_real), torch.full((2, 8), -0.5))
    # the largest frequency of HiPPO-LegS tends to N²/π (arXiv 2206.11893)
    legs_imag = S4D(1, state_dim=256, init="legs").A_imag[0].detach()
    assert abs(float(legs_imag[-1]) * math.pi / 256**2 - 1) < 0.02
    wide = S4(4000, state_dim=4, dt_min=0.01, dt_max=0.1)
    low, high = wide.log_dt.detach().aminmax()
    assert math.log(0.01) - 1e-6 <= float(low) < math.log(0.011)
    assert math.log(0.09) < float(high) <= math.log(0.1) + 1e-6
    assert abs(float(complex_of(wide.C).abs().square().mean()) - 1) < 0.05
    s5 = S5(400, state_dim=64, blocks=4)
    assert abs(float(complex_of(s5.B).abs().square().mean()) * 64 - 1) < 0.05
    assert abs(float(complex_of(s5.C).abs().square().mean()) * 64 - 2) < 0.1


@pytest.mark.parametrize("name", ["S4", "S4D, inv, zoh", "S4D, legs, bilinear", "DSS, exp", "S5"])
def test_any_weights_are_stable(name):
    """Every step contracts the state, whatever gradient descent does to the weights."""
    layer = MIXERS[name](torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64))
    state = layer(torch.randn(1, 20, 3, dtype=torch.float64))[1]
    for _ in range(5):
        after = layer.free_response(state, 20)[1]
        assert float(after.x.norm()) < float(state.x.norm())
        state = after


def test_softmax_is_one_kernel_whatever_the_input_length():
    layer = shaken("DSS, softmax")
    u = torch.randn(1, 60, 3, dtype=torch.float64)
    assert error(layer(u[:, :25])[0], layer(u)[0][:, :25]) < 1e-12
    assert error(kernel_of(layer, 90)[:, :60], kernel_of(layer, 60)) < 1e-12


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: S4D(0), "d_model"),
        (lambda: S4D(2, state_dim=7), "state_dim: 7; it must be even"),
        (lambda: S4(2, state_dim=7), "state_dim: 7; it must be even"),
        (lambda: S4(2, dt_min=0.0), "dt_min, dt_max: 0.0, 0.1"),
        (lambda: S4D(2, dt_min=0.2), "dt_min, dt_max: 0.2, 0.1"),
        (lambda: S4D(2, init="hippo"), "init: 'hippo'; it must be one of"),
        (lambda: S4D(2, discretization="euler"), "discretization: 'euler'; it must be one of"),
        (lambda: DSS(2, variant="clip"), "variant: 'clip'; it must be one of"),
        (lambda: DSS(2, variant="softmax"), "length: None"),
        (lambda: DSS(2, length=10), "length: 10"),
        (lambda: DSS(2, variant="softmax", length=0), "length"),
        (lambda: S5(2, state_dim=6, blocks=2), "state_dim: 6; it must be a multiple of 4"),
        (lambda: S5(2, dt_max=math.inf), "dt_min, dt_max"),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_state_space_weights_have_a_smaller_rate_and_no_decay():
    fast = {S4D: {"C", "D"}, S4: {"C", "D"}, DSS: {"D"}, S5: {"C", "D"}}
    for kind, expected in fast.items():
        layer = kind(2, state_dim=4)
        names = {name for name, _ in layer.named_parameters()}
        assert names - set(kind.optimizer_hints) == expected
        assert set(kind.optimizer_hints.values()) == {(0.25 if kind is S5 else 0.1, False)}
