"""Systems in files: other tools read the matrices as they are, and they come back with the same outputs."""

import json
import sys

import numpy as np
import pytest
import torch

from torchstu import LDS
from torchstu.convert.control import to_control
from torchstu.convert.system_files import read_system, write_system
from torchstu.extras import MissingExtraError

ROUNDING = 1e-12  # relative to the largest output


@pytest.fixture
def system():
    return LDS([[0.9, 0.2], [-0.1, 0.7]], [[1.0], [0.5]], [[1.0, 0.0], [0.3, 2.0]], [[0.0], [1.0]])


FACTS = {"sample_time": 0.1, "input_names": ["valve"], "output_names": ["flow", "level"], "input_level": [3.0],
         "output_level": [1.0, 2.0]}  # fmt: skip


@pytest.mark.parametrize("suffix", ["npz", "json"])
def test_there_and_back(system, tmp_path, suffix):
    path = write_system(tmp_path / f"system.{suffix}", system, **FACTS)
    back = read_system(path)
    u = torch.randn(50, 1, dtype=torch.float64)
    expected = system.simulate(u)
    assert (back.system.simulate(u) - expected).abs().max() < ROUNDING * expected.abs().max()
    assert back.sample_time == 0.1
    assert back.input_names == ("valve",)
    assert back.output_names == ("flow", "level")
    assert back.input_level.tolist() == [3.0]
    assert back.output_level.tolist() == [1.0, 2.0]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_matrices_are_those_of_python_control(system, tmp_path):
    pytest.importorskip("control")
    stored, made = np.load(write_system(tmp_path / "s.npz", system)), to_control(system)
    for name in "ABCD":
        assert np.allclose(stored[name], getattr(made, name), rtol=1e-14)
    assert stored["sample_time"].item() is True
    assert "x[t+1]" in str(stored["convention"])


def test_matlab(system, tmp_path):
    io = pytest.importorskip("scipy.io")
    stored = io.loadmat(write_system(tmp_path / "s.MAT", system, **FACTS))
    assert np.array_equal(stored["A"], system.A.numpy())
    assert stored["output_names"][0][1][0] == "level"


def test_a_gain_without_states(tmp_path):
    gain = LDS(np.zeros((0, 0)), np.zeros((0, 1)), np.zeros((2, 0)), [[2.0], [3.0]])
    for suffix in ("npz", "json"):
        back = read_system(write_system(tmp_path / f"g.{suffix}", gain))
        assert back.system.state_dim == 0
        assert back.system.D.tolist() == [[2.0], [3.0]]
        assert back.input_names == ("input_1",)


def test_refusals(system, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"path: 'a.csv'; it must end in .npz, .json, .mat"):
        write_system(tmp_path / "a.csv", system)
    with pytest.raises(ValueError, match="input_names: 2; the system has 1 inputs"):
        write_system(tmp_path / "a.npz", system, input_names=["a", "b"])
    with pytest.raises(ValueError, match="sample_time"):
        write_system(tmp_path / "a.npz", system, sample_time=-1.0)
    with pytest.raises(OSError):
        write_system(tmp_path / "none" / "a.npz", system)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(MissingExtraError, match="control"):
        write_system(tmp_path / "a.mat", system)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [{"A": [[1.0]]}, {"A": 1, "B": 2, "C": 3, "D": 4}, []])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="holds no system"):
        read_system(path)
    np.savez(tmp_path / "x.npz", A=np.eye(2))
    with pytest.raises(ValueError, match="holds no system"):
        read_system(tmp_path / "x.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:20])
    with pytest.raises(ValueError, match="holds no system"):
        read_system(tmp_path / "cut.npz")
    with pytest.raises(ValueError, match=r"must end in .npz or .json"):
        read_system(tmp_path / "x.mat")
