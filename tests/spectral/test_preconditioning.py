"""The fixed polynomial y-term, design (9)."""

import numpy as np
import pytest

from torchstu.spectral.preconditioning import chebyshev_coefficients


def test_degree_5_is_the_papers():
    assert chebyshev_coefficients(5) == (0.0, -1.25, 0.0, 0.3125, 0.0)
    assert chebyshev_coefficients(1) == (0.0,)


@pytest.mark.parametrize("degree", [1, 2, 3, 8, 20])
def test_the_polynomial_is_monic_smallest_and_its_y_term_stable(degree):
    polynomial = np.array([1.0, *chebyshev_coefficients(degree)])
    assert len(polynomial) == degree + 1
    z = np.linspace(-1, 1, 2001)
    assert np.abs(np.polyval(polynomial, z)).max() == pytest.approx(2.0 ** (1 - degree), rel=1e-9)
    assert np.abs(np.roots(polynomial)).max() < 1


@pytest.mark.parametrize(("degree", "kind"), [(0, ValueError), (33, ValueError), (2.0, TypeError), (True, TypeError)])
def test_other_degrees_are_refused(degree, kind):
    with pytest.raises(kind, match="preconditioning: "):
        chebyshev_coefficients(degree)
