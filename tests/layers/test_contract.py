"""Every mixer under the one contract."""

import pytest
import torch

from torchstu import ARSTU, LRU, STU, FilterBank, SpectralSSM, TensordotSTU, filter_bank
from torchstu.layers.attention import Attention
from torchstu.layers.dss import DSS
from torchstu.layers.gru import GRU
from torchstu.layers.s4 import S4
from torchstu.layers.s4d import S4D
from torchstu.layers.s5 import S5
from torchstu.spectral.sector import Harmonics, Sector
from torchstu.testing import check_mixer

OWN = FilterBank(filter_bank(32, 6).eigenvalues, filter_bank(32, 6).filters)
SMALL = {"length": 32, "num_filters": 12}

MIXERS = {
    "STU": lambda dtype: STU(3, 2, **SMALL, dtype=dtype),
    "STU, one bank": lambda dtype: STU(3, 2, **SMALL, banks="positive", dtype=dtype),
    "STU, signed": lambda dtype: STU(2, 3, **SMALL, prior="signed", dtype=dtype),
    "STU, no y-term": lambda dtype: STU(3, 2, **SMALL, autoregression=None, dtype=dtype),
    "STU, odd delay, many lags": lambda dtype: STU(1, 1, **SMALL, delay=1, input_lags=6, dtype=dtype),
    "STU, no lags": lambda dtype: STU(2, 2, **SMALL, input_lags=0, autoregression=None, dtype=dtype),
    "STU, own bank": lambda dtype: STU(2, 2, length=32, num_filters=6, prior=OWN, banks="both", dtype=dtype),
    "STU, preconditioning": lambda dtype: STU(3, 2, **SMALL, preconditioning=5, dtype=dtype),
    "STU, sector": lambda dtype: STU(2, 3, **SMALL, prior=Sector(0.3), autoregression=None, dtype=dtype),
    "STU, heads": lambda dtype: STU(6, 4, **SMALL, num_heads=2, autoregression=None, dtype=dtype),
    "STU, sum": lambda dtype: STU(2, 2, **SMALL, prior="positive" + Harmonics([8]), preconditioning=1, dtype=dtype),
    "ARSTU": lambda dtype: ARSTU(3, 2, **SMALL, dtype=dtype),
    "ARSTU, heads": lambda dtype: ARSTU(3, 6, **SMALL, num_heads=3, dtype=dtype),
    "ARSTU, 1 output lag": lambda dtype: ARSTU(3, 2, **SMALL, output_lags=1, dtype=dtype),
    "ARSTU, from zero": lambda dtype: ARSTU(2, 2, **SMALL, initial_feedback="zero", dtype=dtype),
    "ARSTU, 5 output lags": lambda dtype: ARSTU(2, 2, **SMALL, output_lags=5, dtype=dtype),
    "TensordotSTU": lambda dtype: TensordotSTU(3, **SMALL, dtype=dtype),
    "TensordotSTU, tied": lambda dtype: TensordotSTU(3, **SMALL, banks="tied", dtype=dtype),
    "TensordotSTU, own bank": lambda dtype: TensordotSTU(2, length=32, num_filters=6, prior=OWN, banks="tied", dtype=dtype),
    "LRU": lambda dtype: LRU(3, 2, state_dim=8, r_min=0.5, r_max=0.99, dtype=dtype),
    "S4": lambda dtype: S4(3, state_dim=8, dtype=dtype),
    "S4D": lambda dtype: S4D(3, state_dim=8, dtype=dtype),
    "DSS": lambda dtype: DSS(3, state_dim=8, dtype=dtype),
    "DSS, softmax": lambda dtype: DSS(3, state_dim=8, variant="softmax", length=32, dtype=dtype),
    "S5": lambda dtype: S5(3, state_dim=8, dtype=dtype),
}
NONLINEAR = {
    "Attention": lambda dtype: Attention(8, num_heads=2, window=16, dtype=dtype),
    "Attention, window of one": lambda dtype: Attention(4, num_heads=1, window=1, dtype=dtype),
    "Attention, long window": lambda dtype: Attention(4, num_heads=2, window=256, theta=50.0, dtype=dtype),
    "GRU": lambda dtype: GRU(3, dtype=dtype),
}
OPTIONS = {name: {"num_filters": 12} for name in ("AR-STU", "STU", "TensordotSTU")} | {
    "S4": {"state_dim": 8},
    "S4D": {"state_dim": 8},
    "Attention": {"num_heads": 2, "window": 12},
}
ALL = MIXERS | NONLINEAR
COMPILED = ["STU", "ARSTU", "TensordotSTU", "LRU", "S4D", "Attention", "GRU"]
MODELS = {
    name: lambda dtype, name=name: SpectralSSM(
        2, 3, d_model=4, num_layers=2, length=32, mixer=name, mixer_options=OPTIONS.get(name, {}), dtype=dtype,
    )
    for name in ("AR-STU", "STU", "TensordotSTU", "LRU", "S4", "Attention", "GRU")
}  # fmt: skip
LINEAR_MODELS = {
    name: lambda dtype, name=name: SpectralSSM(
        2, 3, d_model=4, num_layers=2, length=32, mixer=name, activation=None, norm=None,
        mixer_options=OPTIONS.get(name, {}), dtype=dtype,
    )
    for name in ("AR-STU", "STU", "TensordotSTU", "LRU", "S4D")
}  # fmt: skip


@pytest.mark.parametrize("name", MIXERS)
def test_mixer_keeps_the_contract(name):
    assert MIXERS[name](torch.float64).is_linear
    check_mixer(MIXERS[name])


@pytest.mark.parametrize("name", NONLINEAR)
def test_nonlinear_mixer_keeps_the_contract(name):
    assert not NONLINEAR[name](torch.float64).is_linear
    check_mixer(NONLINEAR[name], linear=False)


@pytest.mark.parametrize("name", MODELS)
def test_deep_model_keeps_the_contract(name):
    assert not MODELS[name](torch.float64).is_linear
    check_mixer(MODELS[name], linear=False)


@pytest.mark.parametrize("name", LINEAR_MODELS)
def test_model_without_activation_keeps_the_contract(name):
    assert LINEAR_MODELS[name](torch.float64).is_linear
    check_mixer(LINEAR_MODELS[name], linear=True)


def test_model_of_nonlinear_mixers_is_not_linear():
    model = SpectralSSM(2, 3, d_model=4, num_layers=1, length=32, mixer="GRU", activation=None, norm=None)
    assert not model.is_linear


@pytest.mark.parametrize("name", COMPILED)
def test_compile_captures_the_whole_graph(name):
    layer = ALL[name](torch.float32)
    u = torch.randn(2, 40, layer.d_in, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    y, expected = compiled(u)[0], layer(u)[0]
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), u), torch.autograd.grad(expected.sum(), u))


@pytest.mark.parametrize("name", COMPILED)
def test_export_gives_the_same_outputs(name):
    layer = ALL[name](torch.float32).eval()
    u = torch.randn(2, 40, layer.d_in)
    exported = torch.export.export(layer, (u,)).module()
    torch.testing.assert_close(exported(u)[0], layer(u)[0])
