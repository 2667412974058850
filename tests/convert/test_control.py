"""Systems of python-control and SciPy have the outputs of ours, step by step, and come back."""

import sys

import numpy as np
import pytest
import torch

from torchstu import LDS, Uniform, random_lds
from torchstu.convert.control import from_control, to_control, to_scipy
from torchstu.extras import MissingExtraError

control = pytest.importorskip("control")
signal = pytest.importorskip("scipy.signal")
ROUNDING = 1e-12  # relative to the largest output; measured 5e-16


@pytest.fixture
def system(generator):
    lds = random_lds(5, 2, 3, Uniform(0.3, 0.95), generator)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64)).Q
    return LDS(0.9 * turn, lds.B, lds.C, lds.D)


@pytest.fixture
def inputs(generator):
    return torch.randn(60, 2, generator=generator, dtype=torch.float64)


def close(actual, expected):
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= ROUNDING * np.abs(expected).max()


def test_python_control_simulates_the_same_outputs(system, inputs):
    made = to_control(system, 0.1, inputs=["a", "b"], outputs=["x", "y", "z"])
    assert made.dt == 0.1
    assert made.input_labels == ["a", "b"]
    assert made.output_labels == ["x", "y", "z"]
    response = control.forced_response(made, T=np.arange(60) * 0.1, U=inputs.numpy().T)
    close(response.outputs.T, system.simulate(inputs).numpy())
    assert to_control(system).dt is True


def test_scipy_simulates_the_same_outputs(system, inputs):
    made = to_scipy(system, 0.5)
    assert made.dt == 0.5
    _, outputs, _ = signal.dlsim(made, inputs.numpy())
    close(outputs, system.simulate(inputs).numpy())


@pytest.mark.parametrize("to", [to_control, to_scipy])
def test_there_and_back_is_the_same_system(system, inputs, to):
    back = from_control(to(system))
    assert back.state_dim == system.state_dim
    close(back.simulate(inputs).numpy(), system.simulate(inputs).numpy())


def lossy(kind):
    """Systems whose A is singular: nothing that is read before the step need be left after it."""
    if kind == "pure delay of three steps":
        return np.eye(3, k=-1), np.eye(3)[:, :1], np.eye(3)[2:], np.zeros((1, 1))
    if kind == "no dynamics":
        return np.zeros((2, 2)), np.eye(2), np.ones((1, 2)), np.ones((1, 2))
    A = np.diag([0.9, 1e-13, 0.5])
    return A, np.ones((3, 1)), np.ones((2, 3)), np.ones((2, 1))


@pytest.mark.parametrize("kind", ["pure delay of three steps", "no dynamics", "nearly singular"])
def test_what_a_singular_A_loses_takes_states_of_its_own(kind):
    matrices = lossy(kind)
    given = control.ss(*matrices, True)
    u = np.random.default_rng(0).standard_normal((40, matrices[1].shape[1]))
    back = from_control(given)
    assert len(matrices[0]) < back.state_dim <= len(matrices[0]) + len(matrices[2])
    expected = np.atleast_2d(control.forced_response(given, T=np.arange(40), U=u.T).outputs)
    close(back.simulate(torch.as_tensor(u)).numpy(), expected.reshape(len(matrices[2]), -1).T)
    again = control.forced_response(to_control(back), T=np.arange(40), U=u.T).outputs
    close(np.atleast_2d(again).reshape(len(matrices[2]), -1), expected.reshape(len(matrices[2]), -1))


def test_a_gain_without_states():
    back = from_control(control.ss([], [], [], [[2.0]], True))
    assert back.state_dim == 0
    assert float(back.simulate(torch.ones(3, 1))[2, 0]) == 2.0


@pytest.mark.parametrize(("time", "error"), [(0, ValueError), (-0.1, ValueError), (float("nan"), ValueError), ("1", TypeError),
                                             (False, TypeError), (None, TypeError)])  # fmt: skip
@pytest.mark.parametrize("to", [to_control, to_scipy])
def test_sample_times_are_checked(system, to, time, error):
    with pytest.raises(error, match="sample_time"):
        to(system, time)


def test_other_objects_are_refused(system):
    for to in (to_control, to_scipy):
        with pytest.raises(TypeError, match="lds: str"):
            to("system")
    with pytest.raises(ValueError, match="outputs: 1 names; the system has 3"):
        to_control(system, outputs=["y"])
    with pytest.raises(TypeError, match="system: LDS"):
        from_control(system)
    with pytest.raises(TypeError, match="TransferFunction"):
        from_control(control.tf([1], [1, 0.5], True))
    for continuous in (control.ss([[-1.0]], [[1.0]], [[1.0]], [[0.0]]), signal.StateSpace([[-1.0]], [[1.0]], [[1.0]], [[0.0]])):
        with pytest.raises(ValueError, match="continuous"):
            from_control(continuous)


def test_without_the_packages_the_error_says_what_to_install(system, monkeypatch):
    monkeypatch.setitem(sys.modules, "control", None)
    monkeypatch.setitem(sys.modules, "scipy.signal", None)
    for to in (to_control, to_scipy):
        with pytest.raises(MissingExtraError, match=r"pip install 'torchstu\[control\]'"):
            to(system)
