"""What each layer is, beyond the contract."""

import math

import pytest
import torch

from torchstu import ARSTU, LRU, STU, FilterBank, Rotations, TensordotSTU, filter_bank, random_lds
from torchstu.spectral.sector import Sector
from torchstu.testing import TOLERANCES, close, run_steps

SMALL = {"length": 32, "num_filters": 8, "dtype": torch.float64}


def filled(layer, scale=0.1):
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name != "M_y":
                parameter.copy_(scale * torch.randn(parameter.shape, dtype=torch.float64))
    return layer


def test_stu_is_equation_4():
    """Written out term by term, with a loop over time."""
    layer = filled(STU(2, 3, **SMALL))
    u = torch.randn(1, 20, 2, dtype=torch.float64)
    phi, scale = torch.as_tensor(layer.bank.filters.copy()), torch.as_tensor(layer.bank.eigenvalues**0.25)
    y = torch.zeros(22, 3, dtype=torch.float64)  # two zeros ahead of time 1
    for t in range(20):
        y[t + 2] = y[t]
        for i in range(3):
            if t - i >= 0:
                y[t + 2] += u[0, t - i] @ layer.M_u[i]
        for k in range(8):
            for i in range(t - 1):
                y[t + 2] += scale[k] * phi[i, k] * (u[0, t - 2 - i] @ layer.M_phi_plus[k])
                y[t + 2] += scale[k] * (-1) ** i * phi[i, k] * (u[0, t - 2 - i] @ layer.M_phi_minus[k])
    close(layer(u)[0][0], y[2:], "twin float64", "Eq. 4")


@pytest.mark.parametrize("mode", ["fft", "block"])
@pytest.mark.parametrize("autoregression", ["fixed", "learned", None])
def test_heads_are_layers_side_by_side(autoregression, mode):
    """Outputs, steps and gradients of a layer with two heads are those of two layers on half of the channels each."""
    options = SMALL | {"autoregression": autoregression, "mode": mode}
    layer, own = filled(STU(6, 4, num_heads=2, **options)), [STU(3, 2, **options) for _ in range(2)]
    for name, weight in layer.named_parameters():
        for part, one in zip(weight.chunk(2, dim=1), own, strict=True):
            one.get_parameter(name).data.copy_(part)
    u = torch.randn(2, 75, 6, dtype=torch.float64, requires_grad=True)
    y = layer(u)[0]
    expected = torch.cat([one(part)[0] for one, part in zip(own, u.chunk(2, dim=2), strict=True)], dim=2)
    close(y, expected, "twin float64", "outputs")
    close(run_steps(layer, u), expected, "split float64", "steps")
    direction = torch.randn_like(y)
    gradients = torch.autograd.grad(y, [u, *layer.parameters()], direction)
    wanted = torch.autograd.grad(expected, [u, *own[0].parameters(), *own[1].parameters()], direction)
    close(gradients[0], wanted[0], "twin float64", "gradient of the inputs")
    for (name, _), gradient, first, second in zip(
        layer.named_parameters(), gradients[1:], wanted[1 : len(gradients)], wanted[len(gradients) :], strict=True
    ):
        close(gradient, torch.cat([first, second], dim=1), "twin float64", f"gradient of {name}")


def test_whole_weights_have_zeros_between_heads():
    layer = ARSTU(4, 6, num_heads=2, **SMALL)
    assert layer.M_phi_plus.shape == (8, 4, 3)
    assert layer.M_y.shape == (2, 6, 3)
    assert torch.equal(layer.whole("M_y")[1], torch.eye(6, dtype=torch.float64))  # lag 2 starts there
    whole = filled(layer).whole("M_phi_plus")
    assert torch.equal(whole[:, :2, :3], layer.M_phi_plus[:, :2])
    assert torch.equal(whole[:, 2:, 3:], layer.M_phi_plus[:, 2:])
    assert not whole[:, :2, 3:].any()
    assert not whole[:, 2:, :3].any()
    assert torch.equal(STU(2, 3, **SMALL).whole("M_y")[1], torch.eye(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="num_heads: 4; it must divide the channels, 4 in and 6 out"):
        STU(4, 6, num_heads=4, **SMALL)
    with pytest.raises(ValueError, match="num_heads: 0"):
        STU(4, 6, num_heads=0, **SMALL)


def test_preconditioning_is_a_fixed_polynomial_of_past_outputs():
    """(9), written out: the y-term of degree 5 and the defaults that make (7) exact."""
    layer = filled(STU(2, 3, **SMALL, preconditioning=5))
    assert (layer.delay, layer.input_lags, layer.output_lags) == (5, 6, 5)
    assert layer.fixed_coefficients == (0.0, 1.25, 0.0, -0.3125, 0.0)
    assert STU(2, 3, **SMALL).fixed_coefficients == (0.0, 1.0)
    assert ARSTU(2, 3, **SMALL).fixed_coefficients is None
    plain = STU(2, 3, **SMALL, autoregression=None, input_lags=6, delay=5)
    plain.load_state_dict(layer.state_dict())
    u = torch.randn(1, 70, 2, dtype=torch.float64)
    y, forced = layer(u)[0], plain(u)[0]
    expected = forced.clone()
    expected[:, 2:] += 1.25 * y[:, :-2]
    expected[:, 4:] -= 0.3125 * y[:, :-4]
    close(y, expected, "twin float64", "y-term")
    assert [name for name, _ in layer.named_parameters()] == ["M_u", "M_phi_plus", "M_phi_minus"]


def test_wide_banks_are_run_by_transforms_unless_asked():
    layer = STU(1, 1, length=512, num_filters=150, prior=Sector(1.0), dtype=torch.float64)
    u = torch.zeros(1, 300, 1, dtype=torch.float64)
    assert layer.order > layer.most_block_states
    assert layer.block_tensors(u) is None
    assert STU(1, 1, length=512, dtype=torch.float64).block_tensors(u) is not None


@pytest.mark.parametrize("prior", [Sector(0.1), "positive" + Sector(0.1)], ids=repr)
def test_every_mode_agrees_with_a_prior_that_oscillates(prior):
    layer = filled(STU(1, 2, length=1024, num_filters=64, prior=prior, autoregression=None, dtype=torch.float64))
    u = torch.randn(1, 3000, 1, dtype=torch.float64)
    results = {}
    for mode in ("fft", "block"):
        layer.mode = mode
        results[mode] = layer(u)[0]
        first, state = layer(u[:, :1100])
        close(torch.cat([first, layer(u[:, 1100:], state)[0]], 1), results[mode], "modes float64", f"cut, {mode}")
    close(results["block"], results["fft"], "modes float64", "blocks")
    close(run_steps(layer, u[:, :500]), results["fft"][:, :500], "modes float64", "steps")


def test_arstu_starts_as_the_theorem_and_is_equation_5():
    fixed, learned = STU(2, 2, **SMALL), ARSTU(2, 2, **SMALL)
    filled(fixed)
    learned.load_state_dict({**fixed.state_dict(), "M_y": learned.M_y})
    u = torch.randn(2, 50, 2, dtype=torch.float64)
    close(learned(u)[0], fixed(u)[0], "twin float64", "M_y at the identity")
    assert [name for name, _ in fixed.named_parameters()] == ["M_u", "M_phi_plus", "M_phi_minus"]
    assert [name for name, _ in learned.named_parameters()] == ["M_u", "M_phi_plus", "M_phi_minus", "M_y"]
    assert ARSTU(2, 2, output_lags=1, **SMALL).M_y.count_nonzero() == 0


def test_weights_start_at_zero_and_have_the_documented_shapes():
    layer = STU(2, 3, length=32, num_filters=8, input_lags=4)
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    assert shapes == {"M_u": (4, 2, 3), "M_phi_plus": (8, 2, 3), "M_phi_minus": (8, 2, 3)}
    assert all(p.count_nonzero() == 0 for p in layer.parameters())
    assert layer(torch.randn(1, 5, 2))[0].count_nonzero() == 0


def test_next_step_with_its_own_outputs_is_the_rollout():
    for layer in (STU(2, 3, **SMALL), ARSTU(2, 3, **SMALL, output_lags=3), STU(2, 3, autoregression=None, **SMALL)):
        filled(layer)
        u = torch.randn(2, 30, 2, dtype=torch.float64)
        y, _ = layer(u)
        close(layer.next_step(u, y), y, "twin float64", "next step")
        state = layer.observe(u[:, :17], y[:, :17])
        close(layer(u[:, 17:], state)[0], y[:, 17:], "split float64", "after a known past")


def test_observed_outputs_replace_predictions():
    layer = filled(STU(1, 1, **SMALL))
    u, y = torch.randn(1, 10, 1, dtype=torch.float64), torch.randn(1, 10, 1, dtype=torch.float64)
    state = layer.observe(u, y)
    following = torch.randn(1, 1, 1, dtype=torch.float64)
    expected = layer.next_step(torch.cat([u, following], 1), torch.cat([y, following], 1))[:, -1:]
    close(layer(following, state)[0], expected, "split float64", "first step after the past")


@pytest.mark.parametrize("length", [1, 2, 3, 63, 1000, 4096, 9000])
def test_every_mode_agrees_beyond_the_memory(length):
    """Whole, cut and stepped, up to and past ``length=4096``, in float64 and float32."""
    torch.manual_seed(3)
    for autoregression, bound in (("fixed", 1e-5), (None, 2e-6)):
        layer = STU(1, 2, length=4096, autoregression=autoregression, dtype=torch.float64)
        filled(layer, 0.3)
        u = torch.randn(1, length, 1, dtype=torch.float64)
        whole, _ = layer(u)
        cut = max(1, length // 3)
        first, state = layer(u[:, :cut])
        parts = [first] if cut == length else [first, layer(u[:, cut:], state)[0]]
        close(torch.cat(parts, 1), whole, "split float64", "cut")
        if length <= 1000:
            close(run_steps(layer, u), whole, "split float64", "steps")
        single = layer.float()
        error = (single(u.float())[0] - whole).abs().max() / whole.abs().max()
        assert float(error.detach()) <= bound
        layer.double()


def test_tied_tensordot_sees_even_lags_only():
    layer = TensordotSTU(2, banks="tied", **SMALL)
    pulse = torch.zeros(1, 20, 2, dtype=torch.float64)
    pulse[:, 0] = 1
    response = layer(pulse)[0][0]
    assert response[0::2].abs().max() > 1e-3
    assert response[1::2].abs().max() <= TOLERANCES["twin float64"]
    assert TensordotSTU(2, **SMALL)(pulse)[0][0, 1::2].abs().max() > 1e-3


def test_tensordot_is_an_stu_of_rank_one():
    """M_k = M_inputs diag(M_filters_k)."""
    small = TensordotSTU(3, banks="both", **SMALL)
    full = STU(3, 3, input_lags=0, autoregression=None, **SMALL)
    with torch.no_grad():
        full.M_phi_plus.copy_(small.M_inputs * small.M_filters[:, None])
        full.M_phi_minus.copy_(small.M_inputs * small.M_filters_minus[:, None])
    u = torch.randn(2, 40, 3, dtype=torch.float64)
    close(small(u)[0], full(u)[0], "twin float64", "tensordot")


def test_lru_is_stable_and_starts_on_its_ring():
    layer = LRU(2, 2, state_dim=4000, r_min=0.9, r_max=0.99, max_phase=math.pi / 5, dtype=torch.float64)
    eigenvalues = torch.exp(layer._log_lambda(torch.float64)).detach()
    assert 0.9 <= eigenvalues.abs().min() < 0.905
    assert 0.985 < eigenvalues.abs().max() <= 0.99
    assert eigenvalues.angle().min() >= 0
    assert eigenvalues.angle().max() <= math.pi / 5
    torch.testing.assert_close(layer.gamma_log.exp() ** 2, 1 - eigenvalues.abs() ** 2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert torch.exp(layer._log_lambda(torch.float64)).abs().max() <= 1


def test_lru_holds_a_rotating_system_exactly():
    """Its weights written down from the eigenvectors of a system with complex eigenvalues."""
    lds = random_lds(6, 2, 3, Rotations((0.8, 0.95), (0.1, 3.0)), torch.Generator().manual_seed(0))
    values, basis = torch.linalg.eig(lds.A)
    layer = LRU(2, 3, state_dim=6, dtype=torch.float64)
    phase = torch.where(values.angle() > 0, values.angle(), values.angle() + 2 * math.pi)
    B, C = torch.linalg.solve(basis, lds.B.to(basis.dtype)), lds.C.to(basis.dtype) @ basis
    with torch.no_grad():
        layer.nu_log.copy_(torch.log(-torch.log(values.abs())))
        layer.theta_log.copy_(torch.log(phase))
        layer.gamma_log.zero_()
        layer.B.copy_(torch.view_as_real(B.T))
        layer.C.copy_(torch.view_as_real(C.T))
        layer.D.copy_(lds.D.T)
    u = torch.randn(2, 60, 2, dtype=torch.float64)
    torch.testing.assert_close(layer(u)[0], lds.simulate(u), rtol=1e-9, atol=1e-9)


def test_a_users_bank_is_saved_with_the_weights():
    bank = filter_bank(32, 5)
    own = FilterBank(bank.eigenvalues, bank.filters)
    other = FilterBank(bank.eigenvalues / 2, bank.filters[::-1].copy())
    saved, layer = STU(1, 1, length=32, num_filters=5, prior=own), STU(1, 1, length=32, num_filters=5, prior=other)
    filled(saved)
    layer.load_state_dict(saved.state_dict())
    u = torch.randn(1, 40, 1)
    torch.testing.assert_close(layer(u)[0], saved(u)[0], rtol=0, atol=0)
    assert "bank_filters" in saved.state_dict()
    assert "filters" not in STU(1, 1, length=32, num_filters=5).state_dict()
    assert saved.half().state_dict()["bank_filters"].dtype == torch.float64


def test_autocast_leaves_the_recurrence_exact():
    layer, u = filled(STU(2, 2, length=64, num_filters=8)), torch.randn(1, 60, 2)
    expected = layer(u)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(u)[0], expected)
        close(run_steps(layer, u), expected, "split float32", "steps under autocast")


def test_a_bank_of_another_size_is_refused():
    long, short = (STU(1, 1, length=n, num_filters=3, prior=FilterBank(b.eigenvalues, b.filters))
                   for n, b in ((64, filter_bank(64, 3)), (32, filter_bank(32, 3))))  # fmt: skip
    with pytest.raises(RuntimeError, match="bank_filters"):
        short.load_state_dict(long.state_dict())


def test_lru_starts_finite_in_bfloat16():
    layer = LRU(2, 2, r_min=0.99, r_max=0.9999, dtype=torch.bfloat16)
    assert all(torch.isfinite(parameter).all() for parameter in layer.parameters())


BAD = [
    (lambda: STU(2, 2, length=8, num_filters=9), ValueError, "num_filters: 9; it must be at most length=8"),
    (lambda: STU(2, 2, length=0), ValueError, "length: 0"),
    (lambda: STU(0, 2, length=8, num_filters=2), ValueError, "d_in: 0"),
    (lambda: STU(2, 2.5, length=8, num_filters=2), TypeError, "d_out: 2.5"),
    (lambda: STU(2, 2, length=8, num_filters=2, input_lags=-1), ValueError, "input_lags: -1"),
    (lambda: STU(2, 2, length=8, num_filters=2, autoregression="yes"), ValueError, "autoregression: 'yes'"),
    (lambda: STU(2, 2, length=8, num_filters=2, output_lags=3), ValueError, "output_lags: 3 with autoregression='fixed'"),
    (lambda: ARSTU(2, 2, length=8, num_filters=2, output_lags=0), ValueError, "output_lags: 0"),
    (lambda: STU(2, 2, length=8, num_filters=2, preconditioning=0), ValueError, "preconditioning: 0"),
    (lambda: ARSTU(2, 2, length=8, num_filters=2, preconditioning=5), ValueError, "preconditioning: 5 with autoreg"),
    (lambda: STU(2, 2, length=8, num_filters=2, preconditioning=5, output_lags=2), ValueError, "output_lags: 2"),
    (lambda: ARSTU(2, 2, length=8, num_filters=2, initial_feedback="one"), ValueError, "initial_feedback: 'one'"),
    (lambda: STU(2, 2, length=8, num_filters=2, initial_feedback="zero"), ValueError, "initial_feedback: 'zero' with"),
    (lambda: ARSTU(2, 2, length=8, num_filters=2, autoregression="fixed"), ValueError, "autoregression: 'fixed'"),
    (lambda: STU(2, 2, length=8, num_filters=2, delay=-1), ValueError, "delay: -1"),
    (lambda: STU(2, 2, length=8, num_filters=2, banks="negative"), ValueError, "banks: 'negative'"),
    (lambda: STU(2, 2, length=8, num_filters=2, banks="both", prior="signed"), ValueError, "banks: 'both' with the prior"),
    (lambda: STU(2, 2, length=9, num_filters=2, prior=filter_bank(8, 2)), ValueError, "prior: a bank of 2 filters"),
    (lambda: TensordotSTU(2, length=8, num_filters=2, banks="positive"), ValueError, "banks: 'positive'"),
    (lambda: LRU(2, 2, r_min=0.9, r_max=0.5), ValueError, "r_min, r_max: 0.9, 0.5"),
    (lambda: LRU(2, 2, max_phase=7), ValueError, "max_phase: 7"),
    (lambda: LRU(2, 2, state_dim=0), ValueError, "state_dim: 0"),
]


@pytest.mark.parametrize(("call", "kind", "text"), BAD)
def test_bad_configuration_is_refused(call, kind, text):
    with pytest.raises(kind, match=text):
        call()
