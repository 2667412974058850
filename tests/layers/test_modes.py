"""Transforms, blocks, steps and any cut give one result, design (8): in both precisions, at every length, past L too."""

import functools
import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchstu import ARSTU, STU, FilterBank, SpectralSSM, TensordotSTU, filter_bank, load_model, save_model
from torchstu.testing import check_mixer, close, run_steps

L4096 = {"length": 4096}
MAKE = {
    "STU": lambda dtype: STU(2, 2, **L4096, dtype=dtype),
    "STU, no y-term": lambda dtype: STU(2, 3, **L4096, autoregression=None, dtype=dtype),
    "STU, heads": lambda dtype: STU(4, 2, **L4096, num_heads=2, dtype=dtype),
    "STU, signed": lambda dtype: STU(2, 2, **L4096, prior="signed", autoregression=None, dtype=dtype),
    "STU, odd delay, many lags": lambda dtype: STU(1, 2, **L4096, delay=3, input_lags=6, dtype=dtype),
    "ARSTU": lambda dtype: ARSTU(2, 2, **L4096, dtype=dtype),
    "TensordotSTU": lambda dtype: TensordotSTU(2, **L4096, banks="tied", dtype=dtype),
    "TensordotSTU, both": lambda dtype: TensordotSTU(3, **L4096, banks="both", dtype=dtype),
    "TensordotSTU, signed": lambda dtype: TensordotSTU(2, **L4096, prior="signed", dtype=dtype),
}
SMALL = {"length": 64, "num_filters": 12}
SMALL_LAYERS = {
    "STU": lambda **options: STU(2, 3, **SMALL, **options),
    "STU, odd delay": lambda **options: STU(1, 1, **SMALL, delay=1, input_lags=6, **options),
    "ARSTU": lambda **options: ARSTU(2, 2, **SMALL, **options),
    "TensordotSTU": lambda **options: TensordotSTU(3, **SMALL, banks="tied", **options),
    "TensordotSTU, both": lambda **options: TensordotSTU(3, **SMALL, banks="both", **options),
}


def filled(layer):
    """Random weights; a learned M_y is stable: 0.5 I on lag 1 and a little noise."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_((0.05 if name == "M_y" else 0.3) * noise)
            if name == "M_y":
                parameter[0] += 0.5 * torch.eye(layer.d_out)
    return layer.eval()


@functools.cache
def pair(name):
    """The layer in float32 and one in float64 with the same, rounded, weights."""
    single, double = filled(MAKE[name](torch.float32)), MAKE[name](torch.float64).eval()
    double.load_state_dict({key: value.double() for key, value in single.state_dict().items()})
    return single, double


def tolerance(layer, dtype):
    y_term = getattr(layer, "autoregression", None) is not None
    return "modes float64" if dtype == torch.float64 else "modes float32, y-term" if y_term else "modes float32"


def run(layer, u, mode, cuts=()):
    """Outputs and state of `forward` in a mode, cut into pieces."""
    layer.mode, outputs, state = mode, [], None
    for piece in u.tensor_split(sorted(cuts), dim=1):
        if piece.shape[1]:
            y, state = layer(piece, state)
            outputs.append(y)
    layer.mode = "auto"
    return torch.cat(outputs, dim=1), state


def signal(layer, steps, batch=1):
    return torch.randn(batch, steps, layer.d_in)  # exact in both precisions


@pytest.mark.parametrize("length", [1, 2, 3, 63, 1000, 4096, 20_000])
@pytest.mark.parametrize("name", MAKE)
@torch.no_grad()
def test_transforms_and_blocks_agree_at_every_length(name, length):
    """Against float64 transforms of the whole, with a cut and without; in float64 the states agree too."""
    u = signal(pair(name)[1], length)
    expected, expected_state = run(pair(name)[1], u.double(), "fft")
    for layer, dtype in zip(pair(name), (torch.float32, torch.float64), strict=True):
        for mode in ("fft", "block"):
            for cuts in ((), (length // 3,)):
                y, state = run(layer, u.to(dtype), mode, cuts)
                assert y.dtype == dtype
                close(y.double(), expected, tolerance(layer, dtype), f"{mode} in {dtype}, cuts {cuts}")
                for part, wanted in zip(state, expected_state, strict=True):
                    if dtype == torch.float64 and wanted.numel():
                        close(part, wanted, "modes float64", f"state by {mode}, cuts {cuts}")


@pytest.mark.parametrize(
    ("name", "length"),
    [(name, 1000) for name in MAKE] + [(name, 20_000) for name in ("STU", "STU, no y-term", "TensordotSTU")],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@torch.no_grad()
def test_steps_agree_with_the_whole(name, length, dtype):
    layer = pair(name)[dtype == torch.float64]
    u = signal(layer, length)
    expected, _ = run(pair(name)[1], u.double(), "fft")
    close(run_steps(layer, u.to(dtype)).double(), expected, tolerance(layer, dtype), f"steps in {dtype}")


PIECES = st.lists(st.tuples(st.integers(1, 400), st.sampled_from(["fft", "block", "auto", "step"])), min_size=1, max_size=5)


@pytest.mark.parametrize("name", MAKE)
@given(pieces=PIECES, seed=st.integers(0, 100))
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@torch.no_grad()
def test_any_cut_in_any_mode_gives_the_whole(name, pieces, seed):
    """A state says nothing about the mode that made it: pieces may change it."""
    torch.manual_seed(seed)
    u = signal(pair(name)[1], sum(steps for steps, _ in pieces), batch=2)
    expected, _ = run(pair(name)[1], u.double(), "fft")
    for layer, dtype in zip(pair(name), (torch.float32, torch.float64), strict=True):
        outputs, state = [], None
        for piece, (_, mode) in zip(u.to(dtype).split([steps for steps, _ in pieces], dim=1), pieces, strict=True):
            if mode == "step":
                piece, rest = piece[:, :20], piece[:, 20:]
                for u_t in piece.unbind(1):
                    y_t, state = layer.step(u_t, state)
                    outputs.append(y_t[:, None])
                piece, mode = rest, "auto"
            layer.mode = mode
            if piece.shape[1]:
                y, state = layer(piece, state)
                outputs.append(y)
            layer.mode = "auto"
        close(torch.cat(outputs, dim=1).double(), expected, tolerance(layer, dtype), f"{pieces} in {dtype}")


@pytest.mark.parametrize("mode", ["fft", "block"])
@pytest.mark.parametrize("name", ["STU, no y-term", "STU, signed"])
@torch.no_grad()
def test_past_the_filters_a_layer_convolves_with_the_realizations_impulse_response(name, mode):
    single, double = pair(name)
    steps, space, count = 12_000, double.bank.state_space, double.num_filters
    response = space.free_response(space.b, steps)[:, :count] * double.bank.eigenvalues**0.25
    taps = torch.as_tensor(response.copy())
    kernel = torch.einsum("tk,kio->tio", taps, double.M_phi_plus)
    if double.M_phi_minus is not None:
        kernel += (1 - 2 * (torch.arange(steps) % 2))[:, None, None] * torch.einsum("tk,kio->tio", taps, double.M_phi_minus)
    kernel[: double.input_lags] += double.M_u
    u = signal(double, steps)
    spectrum = torch.einsum(
        "bfi,fio->bfo", torch.fft.rfft(u.double(), 2 * steps, dim=1), torch.fft.rfft(kernel, 2 * steps, dim=0)
    )
    expected = torch.fft.irfft(spectrum, 2 * steps, dim=1)[:, :steps]
    close(run(double, u.double(), mode)[0], expected, "modes float64", mode)
    close(run(single, u, mode)[0].double(), expected, "modes float32", mode)


@pytest.mark.parametrize("name", SMALL_LAYERS)
def test_gradients_are_the_same_in_every_mode(name):
    """Of inputs, weights and, through a carried state, earlier inputs; 200 steps in blocks of 80 and more."""
    layer = filled(SMALL_LAYERS[name](dtype=torch.float64))
    head, u = (torch.randn(2, n, layer.d_in, dtype=torch.float64, requires_grad=True) for n in (90, 200))
    inputs, results = [head, u, *layer.parameters()], {}
    weight, weights = torch.randn(2, 200, layer.d_out).double(), {}
    for mode in ("fft", "block"):
        layer.mode = mode
        _, state = layer(head)
        y, after = layer(u, state)
        weights = weights or {i: torch.randn_like(part) for i, part in enumerate(after)}
        loss = (y * weight).sum() + sum((part * weights[i]).sum() for i, part in enumerate(after))
        results[mode] = torch.autograd.grad(loss, inputs)
    for got, expected in zip(results["block"], results["fft"], strict=True):
        close(got, expected, "modes float64", f"gradient of {tuple(expected.shape)}")


@pytest.mark.parametrize("name", SMALL_LAYERS)
@pytest.mark.parametrize("steps", [1, 5, 100, 3000])
def test_free_response_and_its_gradient_are_those_of_zero_inputs(name, steps):
    layer = filled(SMALL_LAYERS[name](dtype=torch.float64, mode="fft"))
    head = torch.randn(2, 90, layer.d_in, dtype=torch.float64, requires_grad=True)
    weight, inputs = torch.randn(2, steps, layer.d_out).double(), [head, *layer.parameters()]
    free, _ = layer.free_response(layer(head)[1], steps)
    zeros, _ = layer(torch.zeros(2, steps, layer.d_in).double(), layer(head)[1])
    close(free, zeros, "modes float64", "free response")
    gradients = (torch.autograd.grad((y * weight).sum(), inputs, allow_unused=True) for y in (free, zeros))
    for got, expected in zip(*gradients, strict=True):
        assert (got is None) <= (expected is None or not expected.count_nonzero())
        if got is not None:
            close(got, expected, "modes float64", f"gradient of {tuple(expected.shape)}")


@pytest.mark.parametrize("name", SMALL_LAYERS)
def test_mixer_keeps_the_contract_in_blocks(name):
    check_mixer(lambda dtype: SMALL_LAYERS[name](dtype=dtype, mode="block"))


def test_the_rule_of_auto():
    layer, blocks = STU(2, 2, **SMALL), STU(2, 2, **SMALL, mode="block")
    own = STU(2, 2, length=64, num_filters=12, prior=own_bank())
    shortest = STU.shortest_block_sequence
    for steps, expected in ((1, False), (shortest - 1, False), (shortest, True), (5000, True)):
        u = torch.randn(1, steps, 2)
        assert (layer.block_tensors(u) is not None) == expected
        assert blocks.block_tensors(u) is not None
        assert own.block_tensors(u) is None


def own_bank():
    bank = filter_bank(64, 12)
    return FilterBank(bank.eigenvalues, bank.filters)


def test_the_mode_can_be_changed_and_a_bad_one_is_refused():
    layer = filled(STU(2, 2, **SMALL))
    assert layer.mode == "auto"
    layer.mode = "block"
    assert layer.config["mode"] == "block"
    with pytest.raises(ValueError, match="mode: 'blocks'; it must be 'auto', 'fft' or 'block'"):
        layer.mode = "blocks"
    assert layer.mode == "block"
    for make in (STU, ARSTU):
        with pytest.raises(ValueError, match="mode: None; it must be"):
            make(2, 2, **SMALL, mode=None)
    with pytest.raises(ValueError, match="mode: 'block' with a bank of one's own"):
        TensordotSTU(2, **SMALL, prior=own_bank(), mode="block")
    own = STU(2, 2, **SMALL, prior=own_bank())
    with pytest.raises(ValueError, match="mode: 'block' with a bank of one's own"):
        own.mode = "block"


@pytest.mark.parametrize("name", SMALL_LAYERS)
def test_a_configuration_carries_the_mode_and_may_lack_it(name):
    layer = SMALL_LAYERS[name](mode="block")
    assert type(layer)(**_arguments(layer)).mode == "block"
    old = {key: value for key, value in _arguments(layer).items() if key != "mode"}
    assert type(layer)(**old).mode == "auto"


def _arguments(layer):
    return {key: value for key, value in layer.config.items() if type(layer) is not ARSTU or key != "autoregression"}


def test_a_model_folder_carries_the_mode_and_may_lack_it(tmp_path):
    options = {"num_filters": 12, "mode": "block"}
    model = SpectralSSM(2, 1, d_model=4, num_layers=2, length=64, mixer="STU", mixer_options=options)
    save_model(tmp_path / "model", model)
    again, _ = load_model(tmp_path / "model")
    assert [part.mode for part in again.modules() if isinstance(part, STU)] == ["block", "block"]
    path = tmp_path / "model" / "model.json"
    text = path.read_text(encoding="utf-8")
    assert '"mode"' in text
    stored = json.loads(text)
    _remove(stored, "mode")
    path.write_text(json.dumps(stored), encoding="utf-8")
    old, _ = load_model(tmp_path / "model")
    assert [part.mode for part in old.modules() if isinstance(part, STU)] == ["auto", "auto"]
    u = torch.randn(1, 100, 2)
    torch.testing.assert_close(old(u)[0], again(u)[0])


def _remove(tree, key):
    for value in tree.values():
        if isinstance(value, dict):
            value.pop(key, None)
            _remove(value, key)


@pytest.mark.parametrize("name", ["STU", "ARSTU", "TensordotSTU"])
def test_blocks_compile_as_one_graph(name):
    layer = filled(SMALL_LAYERS[name](mode="block"))
    u = torch.randn(2, 200, layer.d_in, requires_grad=True)
    y, expected = torch.compile(layer, fullgraph=True, backend="aot_eager")(u)[0], layer(u)[0]
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), u), torch.autograd.grad(expected.sum(), u))


@pytest.mark.parametrize("mode", ["auto", "block"])
@pytest.mark.parametrize("name", ["STU", "ARSTU", "TensordotSTU"])
def test_export_gives_the_same_outputs(name, mode):
    layer = filled(SMALL_LAYERS[name](mode=mode))
    u = torch.randn(2, 200, layer.d_in)
    exported = torch.export.export(layer, (u,)).module()
    close(exported(u)[0], layer(u)[0], tolerance(layer, torch.float32), "exported")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", SMALL_LAYERS)
@torch.no_grad()
def test_half_precision_is_calculated_in_float32_in_every_mode(name, dtype):
    low = filled(SMALL_LAYERS[name](dtype=dtype))
    exact = SMALL_LAYERS[name](dtype=torch.float64)
    exact.load_state_dict({key: value.double() for key, value in low.state_dict().items()})
    u = torch.randn(2, 300, low.d_in).to(dtype)
    expected, _ = run(exact, u.double(), "fft")
    for mode in ("fft", "block"):
        y, _ = run(low, u, mode)
        assert y.dtype == dtype
        close(y.double(), expected, f"low precision {str(dtype).removeprefix('torch.')}", f"{mode} in {dtype}")


@pytest.mark.parametrize(("name", "share"), [("STU", 5), ("TensordotSTU", 5)])
def test_blocks_keep_memory_of_the_size_of_the_inputs(name, share):
    """What autograd keeps for the backward is within c·B·T·D numbers: neither kernels nor features are kept."""
    layer = {"STU": lambda: STU(16, 16, length=1024), "TensordotSTU": lambda: TensordotSTU(16, length=1024)}[name]()
    filled(layer).mode = "block"
    u, kept = torch.randn(4, 4096, 16, requires_grad=True), {}
    fixed = {part.data_ptr() for part in layer.block_tensors(u)} | {part.data_ptr() for part in layer.parameters()}

    def keep(tensor):
        if tensor.data_ptr() not in fixed:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(u)
    assert sum(kept.values()) <= share * u.nbytes
