"""The mass-spring chain: Newton's law, exactly discretized."""

import math

import numpy as np
import pytest
import torch

from torchstu.systems.physical import mass_spring_chain


def test_modes_are_those_of_the_formula():
    n, k, c, step = 5, 80.0, 0.02, 0.01
    eigenvalues = mass_spring_chain(n, stiffness=k, damping=c, step=step).eigenvalues().numpy()
    eigenvalues = sorted(eigenvalues[eigenvalues.imag > 0], key=lambda value: value.imag)
    omega = [2 * math.sqrt(k) * math.sin(math.pi * j / (2 * (n + 1))) for j in range(1, n + 1)]
    np.testing.assert_allclose(np.angle(eigenvalues), step * np.array(omega), rtol=1e-5)
    np.testing.assert_allclose(np.abs(eigenvalues), [math.exp(-c * w**2 * step / (2 * k)) for w in omega], rtol=1e-9)


def test_a_held_force_ends_at_the_static_position():
    """One mass between two springs: q = f / (2 k)."""
    chain = mass_spring_chain([2.0], stiffness=50.0, damping=5.0, step=0.1)
    y = chain.simulate(torch.full((400, 1), 3.0))
    assert float(y[-1, 0]) == pytest.approx(3.0 / 100.0, rel=1e-9)


def test_half_steps_twice_are_a_whole_step():
    whole, half = (mass_spring_chain([1.0, 3.0], step=step, forced=(0, 1)) for step in (0.2, 0.1))
    u = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    twice = half.simulate(u.repeat_interleave(2, dim=0))[1::2]
    torch.testing.assert_close(whole.simulate(u), twice, rtol=1e-10, atol=1e-12)


def test_without_damping_the_eigenvalues_lie_on_the_circle():
    np.testing.assert_allclose(mass_spring_chain(4, damping=0.0).eigenvalues().abs(), 1, rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"masses": 0}, "masses: 0"),
        ({"masses": [1.0, -1.0]}, "masses: "),
        ({"masses": []}, "masses: "),
        ({"masses": 2, "stiffness": 0.0}, "stiffness: 0.0"),
        ({"masses": 2, "damping": -1.0}, "damping: -1.0"),
        ({"masses": 2, "step": math.inf}, "step: inf"),
        ({"masses": 2, "forced": (2,)}, "forced: "),
        ({"masses": 2, "observed": ()}, "observed: "),
    ],
)
def test_bad_input_is_refused(options, text):
    with pytest.raises(ValueError, match=text):
        mass_spring_chain(**options)
