"""Every mixer under the one contract."""

import pytest
import torch

from torchstu import ARSTU, LRU, STU, FilterBank, SpectralSSM, TensordotSTU, filter_bank
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
    "STU, sum": lambda dtype: STU(2, 2, **SMALL, prior="positive" + Harmonics([8]), preconditioning=1, dtype=dtype),
    "ARSTU": lambda dtype: ARSTU(3, 2, **SMALL, dtype=dtype),
    "ARSTU, 1 output lag": lambda dtype: ARSTU(3, 2, **SMALL, output_lags=1, dtype=dtype),
    "ARSTU, 5 output lags": lambda dtype: ARSTU(2, 2, **SMALL, output_lags=5, dtype=dtype),
    "TensordotSTU": lambda dtype: TensordotSTU(3, **SMALL, dtype=dtype),
    "TensordotSTU, both": lambda dtype: TensordotSTU(3, **SMALL, banks="both", dtype=dtype),
    "TensordotSTU, own bank": lambda dtype: TensordotSTU(2, length=32, num_filters=6, prior=OWN, dtype=dtype),
    "LRU": lambda dtype: LRU(3, 2, state_dim=8, r_min=0.5, r_max=0.99, dtype=dtype),
}
MODELS = {
    name: lambda dtype, name=name: SpectralSSM(
        2, 3, d_model=4, num_layers=2, length=32, mixer=name,
        mixer_options={} if name == "LRU" else {"num_filters": 12}, dtype=dtype,
    )
    for name in ("AR-STU", "STU", "TensordotSTU", "LRU")
}  # fmt: skip


@pytest.mark.parametrize("name", MIXERS)
def test_mixer_keeps_the_contract(name):
    check_mixer(MIXERS[name])


@pytest.mark.parametrize("name", MODELS)
def test_deep_model_keeps_the_contract(name):
    check_mixer(MODELS[name], linear=False)


@pytest.mark.parametrize("name", ["STU", "ARSTU", "TensordotSTU", "LRU"])
def test_compile_captures_the_whole_graph(name):
    layer = MIXERS[name](torch.float32)
    u = torch.randn(2, 40, layer.d_in, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    y, expected = compiled(u)[0], layer(u)[0]
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), u), torch.autograd.grad(expected.sum(), u))


@pytest.mark.parametrize("name", ["STU", "ARSTU", "TensordotSTU", "LRU"])
def test_export_gives_the_same_outputs(name):
    layer = MIXERS[name](torch.float32).eval()
    u = torch.randn(2, 40, layer.d_in)
    exported = torch.export.export(layer, (u,)).module()
    torch.testing.assert_close(exported(u)[0], layer(u)[0])
