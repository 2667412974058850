"""AdamW in the coordinates of unit-norm filters: the same as training layers whose filters have norm 1, stored as before."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from torchstu import ARSTU, LRU, STU, FilterBank, SpectralAdamW, SpectralSSM, TensordotSTU, Uniform, fit_gradient, random_lds
from torchstu.learn.optimizers import parameter_groups

LENGTH, FILTERS = 64, 12


def make(autoregression=None):
    return STU(2, 2, length=LENGTH, num_filters=FILTERS, autoregression=autoregression, dtype=torch.float64)


def signals(dtype=torch.float64, count=8):
    generator = torch.Generator().manual_seed(1)
    u = torch.randn(count, LENGTH, 2, generator=generator, dtype=torch.float64)
    return u.to(dtype), random_lds(6, 2, 2, Uniform(0.9, 1.0), generator).simulate(u).to(dtype)


def train(layer, optimizer, steps, u, y, closure=False):
    def loss():
        optimizer.zero_grad()
        value = (layer.next_step(u, y) - y).square().mean()
        value.backward()
        return value

    for _ in range(steps):
        if closure:
            optimizer.step(loss)
        else:
            loss()
            optimizer.step()


def test_scales_are_the_nearest_powers_of_two_to_the_norms_of_filters():
    layer = make()
    scales = layer.weight_scales()
    assert set(scales) == {"M_phi_plus", "M_phi_minus"}
    ratio = np.array(scales["M_phi_plus"]) / layer.bank.eigenvalues**0.25
    assert ratio.max() <= 2**0.5 + 1e-12
    assert ratio.min() >= 2**-0.5 - 1e-12
    assert all(float(x).hex().split("p")[0] == "0x1.0000000000000" for x in scales["M_phi_plus"])


def test_a_bank_of_ones_own_counts_the_norms_of_its_filters_and_not_only_eigenvalues():
    bank = FilterBank(np.array([1.0, 1.0, 1.0]), np.random.default_rng(0).standard_normal((LENGTH, 3)) * [8.0, 1 / 64, 0.0])
    layer = STU(1, 1, length=LENGTH, num_filters=3, prior=bank)
    norms = np.linalg.norm(bank.filters, axis=0)
    scales = np.array(layer.weight_scales()["M_phi_plus"])
    assert np.abs(np.log2(scales[:2] / norms[:2])).max() <= 0.5 + 1e-12
    assert scales[2] == 1.0


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_it_is_adamw_on_a_layer_whose_filters_were_scaled_instead(decay):
    layer, (u, y) = make(), signals()
    unit = SpectralAdamW(layer, lr=0.1, weight_decay=decay)
    train(layer, unit, 20, u, y)
    scale = np.array(layer.weight_scales()["M_phi_plus"])
    filters = layer.bank.scaled_filters / scale  # what the weights of the other layer multiply
    sign = np.where(np.arange(LENGTH) % 2, -1.0, 1.0)[:, None]
    both = FilterBank(np.ones(2 * FILTERS), np.concatenate([filters, sign * filters], axis=1))
    other = STU(2, 2, length=LENGTH, num_filters=2 * FILTERS, autoregression=None, prior=both, dtype=torch.float64)
    train(other, torch.optim.AdamW(other.parameters(), lr=0.1, weight_decay=decay), 20, u, y)
    expected = torch.cat([layer.M_phi_plus, layer.M_phi_minus]) * torch.tensor(scale).repeat(2)[:, None, None]
    torch.testing.assert_close(other.M_phi_plus, expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(other.M_u, layer.M_u, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_scaling_rounds_nothing_and_gives_gradients_back(dtype):
    layer = STU(2, 2, length=LENGTH, num_filters=FILTERS, autoregression=None, dtype=dtype)
    with torch.no_grad():
        layer.M_phi_plus.normal_()
    before = layer.M_phi_plus.detach().clone()
    gradient = torch.randn_like(before)
    layer.M_phi_plus.grad = gradient.clone()
    SpectralAdamW(layer, lr=0.0).step()
    assert torch.equal(layer.M_phi_plus, before)
    assert torch.equal(layer.M_phi_plus.grad, gradient)


def test_weights_without_a_gradient_stay_and_groups_follow_the_hints():
    layer = ARSTU(2, 2, length=LENGTH, num_filters=FILTERS)
    with torch.no_grad():
        layer.M_phi_minus.fill_(3.0)
    layer.M_phi_plus.grad = torch.ones_like(layer.M_phi_plus)
    optimizer = SpectralAdamW(layer, lr=0.1, weight_decay=0.5, coordinates="unit")
    optimizer.step()
    assert (layer.M_phi_minus == 3.0).all()
    assert (layer.M_phi_plus != 0.0).all()
    by_size = {tuple(sorted(tuple(p.shape) for p in group["params"])): group for group in optimizer.param_groups}
    assert by_size[(2, 2, 2),]["lr"] == pytest.approx(0.01)  # M_y, a tenth
    assert by_size[(2, 2, 2),]["weight_decay"] == 0.0
    assert by_size[(FILTERS, 2, 2), (FILTERS, 2, 2)]["scale"] == layer.weight_scales()["M_phi_plus"]


def test_every_weight_of_a_deep_model_is_in_one_group_and_shared_ones_once():
    model = SpectralSSM(
        2,
        2,
        d_model=4,
        mixer="STU",
        num_layers=2,
        length=LENGTH,
        mixer_options={"num_filters": FILTERS, "autoregression": None},
    )
    model.backbone.blocks[1].linear.weight = model.backbone.blocks[0].linear.weight
    for scales_of in (None, lambda part: part.weight_scales() if isinstance(part, STU) else {}):
        weights = [p for group in parameter_groups(model, 1.0, 0.1, scales_of) for p in group["params"]]
        assert len(weights) == len(set(weights)) == len(list(model.parameters()))
    scaled = [group for group in SpectralAdamW(model).param_groups if group["scale"] is not None]
    assert len(scaled) == 1
    assert len(scaled[0]["params"]) == 4  # two banks in two layers


def test_without_filters_it_is_adamw():
    u, y = signals(torch.float32)
    torch.manual_seed(0)
    one = LRU(2, 2, state_dim=4)
    two = copy.deepcopy(one)
    train(one, SpectralAdamW(one, lr=0.01, weight_decay=0.1), 5, u, y)
    train(two, torch.optim.AdamW(parameter_groups(two, 0.01, 0.1)), 5, u, y)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_a_state_dict_goes_on_where_it_was_and_a_closure_comes_first(tmp_path):
    u, y = signals()
    one, two, three = make(), make(), make()
    whole, first, third = (SpectralAdamW(layer, lr=0.1) for layer in (one, two, three))
    train(one, whole, 10, u, y)
    train(two, first, 5, u, y)
    torch.save(first.state_dict(), tmp_path / "optimizer.pt")
    second = SpectralAdamW(two, lr=0.3)
    second.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    train(two, second, 5, u, y)
    train(three, third, 10, u, y, closure=True)
    assert torch.equal(one.M_phi_plus, two.M_phi_plus)
    assert torch.equal(one.M_phi_plus, three.M_phi_plus)


def test_moments_of_other_coordinates_are_refused():
    layer = make()
    plain = torch.optim.AdamW([{"params": group["params"]} for group in SpectralAdamW(layer).param_groups])
    other = STU(2, 2, length=2 * LENGTH, num_filters=FILTERS, autoregression=None, dtype=torch.float64)
    for state in (plain.state_dict(), SpectralAdamW(other).state_dict()):
        with pytest.raises(ValueError, match="state_dict: of an optimizer with other scales"):
            SpectralAdamW(layer).load_state_dict(state)


def test_step_hooks_and_schedules_see_one_step_and_groups_can_be_added():
    layer, extra = make(), nn.Linear(2, 2)
    torch.optim.AdamW([torch.zeros(1)])  # from now on AdamW.step itself runs hooks
    optimizer = SpectralAdamW(layer, lr=0.1)
    optimizer.add_param_group({"params": list(extra.parameters())})
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    layer.M_phi_plus.grad = torch.ones_like(layer.M_phi_plus)
    optimizer.step()
    schedule.step()
    assert calls == [1]
    assert {group["lr"] for group in optimizer.param_groups} == {0.05}


def test_without_a_y_term_it_learns_what_stored_coordinates_do_not():
    generator = torch.Generator().manual_seed(0)
    lds = random_lds(64, 2, 2, Uniform(0.99, 1.0), generator)
    u = torch.randn(400, 128, 2, generator=generator, dtype=torch.float64)
    y = lds.simulate(u)
    errors = {}
    for autoregression, optimizer in (
        (None, "spectral"),
        (None, "unit"),
        (None, "adamw"),
        ("fixed", "unit"),
        ("fixed", "adamw"),
    ):
        layer = STU(2, 2, length=128, num_filters=16, autoregression=autoregression)
        history = fit_gradient(
            layer, u[16:], y[16:], steps=300, batch_size=8, learning_rate=0.1, optimizer=optimizer,
            validation=(u[:16], y[:16]), validate_every=300, progress=False,
        )  # fmt: skip
        errors[autoregression, optimizer] = history.errors[-1]
    assert errors[None, "spectral"] == errors[None, "unit"] < 1e-5
    assert errors[None, "adamw"] > 100 * errors[None, "unit"]
    assert errors["fixed", "adamw"] < errors["fixed", "unit"]


@pytest.mark.parametrize("autoregression", ["fixed", "learned"])
def test_with_a_y_term_stored_coordinates_are_kept_unless_told_otherwise(autoregression):
    layer = make(autoregression)
    assert all(group["scale"] is None for group in SpectralAdamW(layer).param_groups)
    assert any(group["scale"] for group in SpectralAdamW(layer, coordinates="unit").param_groups)
    assert any(group["scale"] for group in SpectralAdamW(make()).param_groups)
    with pytest.raises(ValueError, match="coordinates: 'stored'"):
        SpectralAdamW(layer, coordinates="stored")


def test_tensordot_weights_are_scaled_by_filter():
    layer = TensordotSTU(3, length=LENGTH, num_filters=FILTERS, banks="both")
    assert set(layer.weight_scales()) == {"M_filters", "M_filters_minus"}
    layer.M_filters.grad = torch.ones_like(layer.M_filters)
    before = layer.M_filters.detach().clone()
    SpectralAdamW(layer, lr=0.5).step()
    moved = (before - layer.M_filters).abs() * torch.tensor(layer.weight_scales()["M_filters"])[:, None]
    torch.testing.assert_close(moved, torch.full_like(moved, 0.5), rtol=1e-3, atol=0)
