"""The step as a graph: torch.export and ONNX against the layer, over long streams and any batch."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from torchstu import (
    ARSTU,
    LRU,
    STU,
    FilterBank,
    SpectralSSM,
    TensordotSTU,
    Uniform,
    export_onnx,
    filter_bank,
    random_lds,
    system_to_stu,
)
from torchstu.convert import onnx as target
from torchstu.convert.onnx import StepModule
from torchstu.testing import TOLERANCES


def shaken(layer, scale=0.1):
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return layer


def own_bank():
    bank = filter_bank(32, 6)
    return FilterBank(bank.eigenvalues.copy(), bank.filters.copy())


MAKERS = {
    "STU": lambda: STU(3, 2, length=64, num_filters=8),
    "STU without y-term": lambda: STU(3, 2, length=64, num_filters=8, autoregression=None),
    "STU, signed, no lags": lambda: STU(3, 2, length=64, num_filters=8, prior="signed", input_lags=0, delay=0),
    "ARSTU": lambda: ARSTU(3, 3, length=64, num_filters=8, output_lags=3),
    "own bank": lambda: STU(3, 2, length=32, num_filters=6, prior=own_bank()),
    "TensordotSTU": lambda: TensordotSTU(3, length=64, num_filters=8),
    "SpectralSSM": lambda: SpectralSSM(
        3, 2, d_model=4, num_layers=2, length=64, dropout=0.2, mixer="AR-STU", mixer_options={"num_filters": 8}
    ).eval(),
}


def largest_error(y, expected):
    return float((torch.as_tensor(y).double() - expected.double()).abs().max() / expected.abs().max())


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_torch_export_of_a_step_is_the_layer_at_any_batch(make):
    layer = shaken(make())
    step = StepModule(layer).eval()
    batch = torch.export.Dim("batch")
    example = (torch.zeros(2, 3), *step.initial_state(2))
    program = torch.export.export(step, example, dynamic_shapes=({0: batch}, tuple({0: batch} for _ in step.state_names)))
    targets = {str(node.target) for node in program.graph.nodes}
    assert not [name for name in targets if "fft" in name or "complex" in name]
    run = program.module()
    for size in (1, 5):
        u = torch.randn(size, 40, 3)
        with torch.no_grad():
            state, outputs = step.initial_state(size), []
            for t in range(40):
                y, *state = run(u[:, t], *state)
                outputs.append(y)
            assert largest_error(torch.stack(outputs, dim=1), layer(u)[0]) <= TOLERANCES["exported step float32"]


def stream(path, u):
    """Outputs (B, L, D_out) of an ONNX step, its state started as its metadata say."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["torchstu.initial_state"] == "zeros"
    shapes = json.loads(facts["torchstu.state"])
    names = [value.name for value in session.get_inputs()]
    assert names == ["u_t", *shapes]
    assert [value.name for value in session.get_outputs()] == ["y_t", *(f"next_{name}" for name in shapes)]
    state = {name: np.zeros((len(u), *shape[1:]), u.dtype) for name, shape in shapes.items()}
    outputs = []
    for u_t in u.swapaxes(0, 1):
        y, *after = session.run(None, {"u_t": np.ascontiguousarray(u_t), **state})
        state = dict(zip(state, after, strict=True))
        outputs.append(y)
    return np.stack(outputs, axis=1)


def written(autoregression, dtype):
    """Weights as they come out of a good fit: written down from a system, or the same banks without a y-term."""
    lds = random_lds(16, 3, 2, Uniform(0.9, 0.99), torch.Generator().manual_seed(3))
    layer = system_to_stu(lds, 1024)
    if autoregression is None:
        other = STU(**layer.config | {"autoregression": None, "output_lags": 2}, dtype=torch.float64)
        other.load_state_dict(layer.state_dict())
        layer = other
    return layer.to(dtype)


@pytest.mark.parametrize(
    ("autoregression", "dtype", "tolerance"),
    [
        ("fixed", torch.float32, TOLERANCES["exported stream float32"]),
        (None, torch.float32, TOLERANCES["exported stream float32"]),
        ("fixed", torch.float64, TOLERANCES["exported stream float64"]),
    ],
)
def test_an_onnx_stream_of_10000_steps_is_forward(tmp_path, autoregression, dtype, tolerance):
    pytest.importorskip("onnx")
    layer = written(autoregression, dtype)
    export_onnx(layer, tmp_path / "step.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["step.onnx"]
    u = torch.randn(1, 10_000, 3, dtype=dtype)
    y = stream(tmp_path / "step.onnx", u.numpy())
    with torch.no_grad():
        assert largest_error(y, layer(u)[0]) <= tolerance
        assert largest_error(y, layer.double()(u.double())[0]) <= tolerance


@pytest.mark.parametrize("name", ["ARSTU", "own bank", "TensordotSTU", "SpectralSSM"])
def test_an_onnx_step_is_the_layer_at_any_batch_in_products_and_sums(tmp_path, name):
    onnx = pytest.importorskip("onnx")
    layer = shaken(MAKERS[name]()).train()
    path = tmp_path / "step.onnx"
    export_onnx(layer, path)
    assert layer.training
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    moves = {"Cast", "Concat", "Expand", "Gather", "Reshape", "Shape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
    sums = {"Add", "Div", "Einsum", "Erf", "Gemm", "LayerNormalization", "MatMul", "Mul", "ReduceSum", "Sigmoid"}
    assert kinds <= moves | sums
    for size in (1, 4):
        u = torch.randn(size, 40, 3)
        with torch.no_grad():
            assert largest_error(stream(path, u.numpy()), layer.eval()(u)[0]) <= TOLERANCES["exported step float32"]


def test_the_file_says_what_it_is(tmp_path):
    onnx = pytest.importorskip("onnx")
    layer = STU(3, 2, length=64, num_filters=8)
    export_onnx(layer, str(tmp_path / "step.onnx"))
    facts = {entry.key: entry.value for entry in onnx.load(tmp_path / "step.onnx").metadata_props}
    assert facts["torchstu.layer"] == "STU"
    assert STU(**json.loads(facts["torchstu.config"])).config == layer.config
    features = ["batch", 2, layer.order, 3]
    assert json.loads(facts["torchstu.state"]) == {"inputs": ["batch", 2, 3], "features": features, "outputs": ["batch", 2, 2]}


def test_states_of_a_model_have_names_of_their_own():
    names = StepModule(MAKERS["SpectralSSM"]()).state_names
    assert names == tuple(f"layers_{i}_{field}" for i in range(2) for field in ("inputs", "features", "outputs"))


def test_another_number_of_states_is_refused():
    step = StepModule(MAKERS["STU"]())
    with pytest.raises(ValueError, match="state: 1 tensors; it must be 3: inputs, features, outputs"):
        step(torch.zeros(1, 3), step.initial_state(1)[0])


@pytest.mark.parametrize(
    ("layer", "text"), [(LRU(2, 2), "layer: LRU has a complex state 'x'"), (torch.nn.Linear(2, 2), "layer: Linear; it must be")]
)
def test_layers_whose_step_is_not_real_are_refused(tmp_path, layer, text):
    with pytest.raises(TypeError, match=text):
        StepModule(layer)
    with pytest.raises(TypeError, match=text):
        export_onnx(layer, tmp_path / "step.onnx")
    assert not list(tmp_path.iterdir())


def test_half_precision_other_endings_and_missing_folders_are_refused(tmp_path):
    pytest.importorskip("onnx")
    layer = STU(1, 1, length=16, num_filters=4)
    with pytest.raises(ValueError, match=r"path: .*step.bin'; it must end in '.onnx'"):
        export_onnx(layer, tmp_path / "step.bin")
    with pytest.raises(FileNotFoundError, match=r"path: .* is no folder"):
        export_onnx(layer, tmp_path / "nowhere" / "step.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(IsADirectoryError, match=r"path: .*folder.onnx' is a folder"):
        export_onnx(layer, tmp_path / "folder.onnx")
    (tmp_path / "folder.onnx").rmdir()
    with pytest.raises(ValueError, match=r"layer: weights of torch.bfloat16; they must be float32 or float64"):
        export_onnx(layer.bfloat16(), tmp_path / "step.onnx")
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "step.onnx"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(target, "_onnx_model", lambda *_: onnx.ModelProto())
    monkeypatch.setattr(target.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        export_onnx(STU(1, 1, length=16, num_filters=4), path)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("step.onnx", b"old")]


def test_without_the_extra_the_error_says_what_to_install(tmp_path):
    code = f"""
import sys
sys.modules["onnx"] = None
from torchstu import STU, export_onnx
from torchstu.convert.onnx import StepModule
StepModule(STU(1, 1, length=16, num_filters=4))
try:
    export_onnx(STU(1, 1, length=16, num_filters=4), {str(tmp_path / "x.onnx")!r})
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout == "onnx is not installed: pip install 'torchstu[onnx]'\n", result.stderr
