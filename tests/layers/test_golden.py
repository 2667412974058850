"""Outputs of the published implementations for given weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from torchstu import ARSTU, STU, FilterBank, TensordotSTU
from torchstu.testing import close

GOLDEN = Path(__file__).parent.parent / "golden"


def load(name):
    data = {key: torch.as_tensor(value.copy()) for key, value in np.load(GOLDEN / name).items()}
    data["bank"] = FilterBank(data["sigma"].flip(0).double().numpy(), data["phi"].flip(1).double().numpy())
    return data


@pytest.mark.parametrize("size", ["small", "medium"])
def test_ar_stu_of_the_paper(size):
    g = load(f"ar_stu_{size}.npz")
    layer = ARSTU(
        g["x"].shape[2], g["y"].shape[2], length=g["bank"].length, num_filters=g["bank"].count, prior=g["bank"],
        banks="positive", input_lags=g["m_u"].shape[2], output_lags=g["m_y"].shape[1], dtype=torch.float64,
    )  # fmt: skip
    with torch.no_grad():
        layer.M_u.copy_(g["m_u"].permute(2, 1, 0))
        layer.M_y.copy_(g["m_y"].permute(1, 2, 0))
        layer.M_phi_plus.copy_(g["m_phi"].flip(0))
    close(layer(g["x"])[0], g["y"], "golden AR-STU", "outputs")


def test_features_of_the_paper():
    """The layer with one unit weight at a time is a feature: σ^{1/4} U⁺ delayed by 2."""
    g = load("ar_stu_small.npz")
    for k in range(g["bank"].count):
        layer = STU(1, 1, length=g["bank"].length, num_filters=g["bank"].count, prior=g["bank"], delay=2,
                    banks="positive", autoregression=None, dtype=torch.float64)  # fmt: skip
        with torch.no_grad():
            layer.M_phi_plus[k] = 1.0
        x, features = g["x"][..., :1], g["features"][..., -1 - k, :1]
        close(layer(x)[0], features, "golden AR-STU", f"feature {k}")


def test_flash_stu():
    g = load("flash_stu_full.npz")
    layer = STU(
        g["x"].shape[2], g["y"].shape[2], length=g["bank"].length, num_filters=g["bank"].count, prior=g["bank"],
        banks="both", input_lags=0, autoregression=None,
    )  # fmt: skip
    with torch.no_grad():
        layer.M_phi_plus.copy_(g["M_phi_plus"].flip(0))
        layer.M_phi_minus.copy_(g["M_phi_minus"].flip(0))
    close(layer(g["x"])[0], g["y"], "golden Flash STU", "outputs")


def test_flash_stu_tensordot():
    g = load("flash_stu_tensordot.npz")
    layer = TensordotSTU(g["x"].shape[2], length=g["bank"].length, num_filters=g["bank"].count, prior=g["bank"], banks="tied")
    with torch.no_grad():
        layer.M_inputs.copy_(g["M_inputs"])
        layer.M_filters.copy_(g["M_filters"].flip(0))
    close(layer(g["x"])[0], g["y"], "golden Flash STU", "outputs")
