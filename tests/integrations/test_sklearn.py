"""scikit-learn's interface, by scikit-learn's own checks."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from torchstu import SpectralRegressor, extras
from torchstu.integrations.sklearn import SpectralRowRegressor


@parametrize_with_checks([SpectralRowRegressor(), SpectralRowRegressor(24, prior="signed", ridge=0.01)])
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def test_a_row_is_a_sequence():
    """The weights over time of a response that K filters span are found from few rows."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 300))
    weights = 0.98 ** np.arange(300)[::-1]
    model = SpectralRowRegressor(14, ridge=1e-9).fit(X[:80], 2.0 + X[:80] @ weights)
    np.testing.assert_allclose(model.predict(X[80:]), 2.0 + X[80:] @ weights, atol=0.05)
    two = SpectralRowRegressor(8, ridge=1e-9).fit(X, np.stack([X @ weights, X[:, -1]], axis=1))
    assert two.predict(X).shape == (90, 2)


def test_search_over_its_parameters():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 50))
    search = GridSearchCV(SpectralRowRegressor(), {"num_filters": [1, 6]}, cv=3).fit(X, X @ 0.9 ** np.arange(50)[::-1])
    assert search.best_params_ == {"num_filters": 6}
    assert clone(search.best_estimator_).num_filters == 6
    assert isinstance(search.best_estimator_.regressor_, SpectralRegressor)


def test_what_is_missing_is_said(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(ImportError, match="sklearn is not installed: pip install 'torchstu"):
        extras.require("sklearn", "sklearn.base")
