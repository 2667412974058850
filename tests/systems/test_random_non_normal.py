"""Defective and non-normal systems, and Henrici's departure."""

import numpy as np
import pytest
import torch

from torchstu import random_lds
from torchstu.systems.random import JordanBlocks, NonNormal, Rotations, departure_from_normality


def generator():
    return torch.Generator().manual_seed(0)


def test_departure_of_known_matrices():
    assert departure_from_normality(np.eye(3)) == 0
    assert departure_from_normality(np.zeros((2, 2))) == 0
    assert departure_from_normality([[0.0, 1.0], [0.0, 0.0]]) == pytest.approx(1.0)
    assert departure_from_normality([[1.0, 1.0], [0.0, 1.0]]) == pytest.approx(3**-0.5, abs=1e-6)
    rotation = np.array([[0.6, -0.8], [0.8, 0.6]])
    assert departure_from_normality(rotation) < 1e-7
    with pytest.raises(ValueError, match="A: shape"):
        departure_from_normality(np.ones((2, 3)))


@pytest.mark.parametrize("departure", [0.0, 0.3, 0.7])
def test_non_normal_systems_have_the_departure_asked_for(departure):
    lds = random_lds(12, 2, 2, NonNormal(departure=departure), generator())
    assert departure_from_normality(lds.A) == pytest.approx(departure, abs=1e-6)
    if departure <= 0.3:
        sizes = lds.eigenvalues().abs()
        assert 0.9 - 1e-6 <= float(sizes.min()) <= float(sizes.max()) <= 0.99 + 1e-6


def test_jordan_blocks_are_defective_and_grow_before_they_decay():
    lds = random_lds(9, 1, 1, JordanBlocks(low=0.95, high=0.99, size=3), generator())
    _, vectors = np.linalg.eig(lds.A.numpy())
    assert np.linalg.cond(vectors) > 1e6
    assert np.linalg.norm(np.linalg.matrix_power(lds.A.numpy(), 30), 2) > 50
    assert np.linalg.norm(np.linalg.matrix_power(lds.A.numpy(), 3000), 2) < 1e-2


def test_names_and_bad_numbers():
    assert random_lds(6, 1, 1, "jordan", generator()).state_dim == 6
    assert random_lds(6, 1, 1, "non-normal", generator()).state_dim == 6
    assert departure_from_normality(random_lds(6, 1, 1, Rotations(skew=1.0), generator()).A) < 1e-6
    for spectrum, text in (
        (JordanBlocks(size=4), "state_dim: 6"),
        (JordanBlocks(size=0), "spectrum: size: 0"),
        (NonNormal(departure=1.0), "departure 1.0"),
        (NonNormal(low=-1.0), "radii"),
    ):
        with pytest.raises(ValueError, match=text):
            random_lds(6, 1, 1, spectrum, generator())
