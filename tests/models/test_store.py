"""Models in folders: whole or not at all, and refused when broken."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from torchstu import ARSTU, LRU, STU, FilterBank, Prior, SpectralSSM, TensordotSTU, filter_bank, load_model, save_model
from torchstu.layers.attention import Attention
from torchstu.layers.gru import GRU
from torchstu.spectral.sector import Harmonics, Sector

OWN = FilterBank(filter_bank(16, 4).eigenvalues, filter_bank(16, 4).filters)
MODELS = {
    "STU": lambda: STU(2, 3, length=16, num_filters=4, dtype=torch.float64),
    "STU, own bank": lambda: STU(2, 3, length=16, num_filters=4, prior=OWN),
    "STU, signed": lambda: STU(2, 2, length=16, num_filters=4, prior="signed", autoregression=None),
    "STU, preconditioning": lambda: STU(2, 3, length=16, num_filters=4, preconditioning=5),
    "STU, sum": lambda: STU(2, 3, length=16, num_filters=4, prior="positive" + Sector(0.1, radius=(0.5, 1.0))),
    "SpectralSSM, harmonics": lambda: SpectralSSM(
        2, 3, d_model=4, num_layers=2, length=16, mixer="STU", mixer_options={"num_filters": 4, "prior": Harmonics([7, 12])}
    ),
    "ARSTU": lambda: ARSTU(2, 3, length=16, num_filters=4, output_lags=3),
    "TensordotSTU": lambda: TensordotSTU(2, length=16, num_filters=4, banks="both"),
    "LRU": lambda: LRU(2, 3, state_dim=5),
    "SpectralSSM, own bank": lambda: SpectralSSM(
        2, 3, d_model=4, num_layers=2, length=16, mixer="STU", mixer_options={"num_filters": 4, "prior": OWN}
    ),
    "Attention": lambda: Attention(2, num_heads=1, window=7),
    "GRU": lambda: GRU(2),
    "SpectralSSM, attention": lambda: SpectralSSM(
        2, 3, d_model=4, num_layers=2, length=16, mixer="Attention", mixer_options={"num_heads": 2, "window": 5}
    ),
    "SpectralSSM, no activation": lambda: SpectralSSM(
        2, 3, d_model=4, num_layers=2, length=16, mixer="STU", activation=None, norm=None, mixer_options={"num_filters": 4}
    ),
    "SpectralSSM": lambda: SpectralSSM(2, 3, d_model=4, num_layers=2, length=16, mixer_options={"num_filters": 4}),
}


@pytest.mark.parametrize("name", MODELS)
def test_round_trip(name, tmp_path):
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    save_model(tmp_path / "a" / "model", model, {"note": "kept"})
    loaded, extra = load_model(tmp_path / "a" / "model")
    u = torch.randn(2, 20, 2, dtype=next(model.parameters()).dtype)
    assert type(loaded) is type(model)
    assert extra == {"note": "kept"}
    assert torch.equal(loaded(u)[0], model(u)[0])
    if "own bank" not in name:
        assert loaded.config == model.config


def test_models_stored_before_activation_was_an_option_load(tmp_path):
    model = MODELS["SpectralSSM"]()
    save_model(tmp_path / "model", model)
    description = json.loads((tmp_path / "model" / "model.json").read_text())
    assert description["config"].pop("activation") == "glu"
    (tmp_path / "model" / "model.json").write_text(json.dumps(description))
    u = torch.randn(2, 20, 2)
    assert torch.equal(load_model(tmp_path / "model")[0](u)[0], model(u)[0])


def test_nothing_is_overwritten_or_left_half_done(tmp_path):
    save_model(tmp_path / "model", MODELS["STU"]())
    with pytest.raises(FileExistsError, match="exists already"):
        save_model(tmp_path / "model", MODELS["LRU"]())
    with pytest.raises(TypeError, match="JSON"):
        save_model(tmp_path / "other", MODELS["STU"](), {"note": object()})
    with pytest.raises(TypeError, match="model: Linear"):
        save_model(tmp_path / "other", torch.nn.Linear(1, 1))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_broken_folders_are_refused(tmp_path):
    save_model(tmp_path / "model", MODELS["STU"]())
    weights, description = tmp_path / "model" / "model.safetensors", tmp_path / "model" / "model.json"
    whole, text = weights.read_bytes(), description.read_text()
    for broken in (b"", whole[: len(whole) // 2], b"\x00" * 100):
        weights.write_bytes(broken)
        with pytest.raises(ValueError, match="is no readable model"):
            load_model(tmp_path / "model")
    weights.write_bytes(whole)
    for changed in ("{", "[]", text.replace('"STU"', '"RNN"'), text.replace('"d_in": 2', '"d_in": 5'),
                    json.dumps(json.loads(text) | {"format": 99})):  # fmt: skip
        description.write_text(changed)
        with pytest.raises(ValueError, match="is no readable model"):
            load_model(tmp_path / "model")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        load_model(tmp_path / "model")
    with pytest.raises(FileNotFoundError, match=r"has no model\.json"):
        load_model(tmp_path / "nowhere")


def test_a_measure_without_a_name_cannot_be_saved(tmp_path):
    from torchstu.spectral.priors import POSITIVE

    layer = STU(1, 1, length=16, num_filters=4, prior=Prior("mine", POSITIVE.density, symmetric=False))
    assert "prior='mine'" in repr(layer)
    with pytest.raises(ValueError, match="prior: 'mine' is not in"):
        save_model(tmp_path / "model", layer)


def test_bad_models_are_refused():
    good = {"d_model": 4, "num_layers": 1, "length": 16}
    for change, text in (
        ({"mixer": "RNN"}, "mixer: 'RNN'"),
        ({"dropout": 1.0}, "dropout: 1.0"),
        ({"activation": "relu"}, "activation: 'relu'"),
        ({"activation": None, "dropout": 0.1}, "dropout: 0.1; it must be 0 without activation"),
        ({"num_layers": 0}, "num_layers: 0"),
        ({"length": 0}, "length: 0"),
        ({"mixer_options": {"num_filters": 17}}, "num_filters: 17"),
    ):
        with pytest.raises(ValueError, match=text):
            SpectralSSM(1, 1, **(good | change))


def test_models_of_format_1_are_still_read(tmp_path):
    model = SpectralSSM(2, 3, d_model=4, num_layers=2, length=16, mixer="STU", mixer_options={"num_filters": 4})
    save_model(tmp_path / "new", model)
    old = json.loads((tmp_path / "new" / "model.json").read_text())
    old["format"] = 1
    for name in ("norm", "norm_position", "bidirectional", "inputs", "pooling"):
        del old["config"][name]
    tensors = {
        name.removeprefix("backbone.").replace("embedding.linear.", "embedding."): tensor
        for name, tensor in load_file(tmp_path / "new" / "model.safetensors").items()
    }
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "model.json").write_text(json.dumps(old))
    save_file(tensors, tmp_path / "old" / "model.safetensors")
    u = torch.randn(1, 20, 2)
    assert torch.equal(load_model(tmp_path / "old")[0](u)[0], model(u)[0])
