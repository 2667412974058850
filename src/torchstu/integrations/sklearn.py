"""scikit-learn's interface: a row of a table is a sequence. Importing this needs the extra ``sklearn``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from torchstu.extras import require
from torchstu.learn.closed_form import SpectralRegressor

_base: Any = require("sklearn", "sklearn.base")
_validation: Any = require("sklearn", "sklearn.utils.validation")


class SpectralRowRegressor(_base.RegressorMixin, _base.BaseEstimator):
    """`SpectralRegressor` for tables: every row is a sequence of one input, oldest first, and y its output at the end.

    A linear model whose weights over time are K spectral filters and three lags, design (4) and (10): a row of ten thousand
    values costs 2K + 3 weights. It passes ``sklearn.utils.estimator_checks.check_estimator``.

    Args:
        num_filters: K; at most the values of a row are used.
        prior: as in `STU`.
        ridge: λ, at least 0, or "auto", as in `SpectralRegressor`.
        fit_intercept: whether a constant is added.

    Attributes:
        regressor_: the fitted `SpectralRegressor`.
        n_features_in_: values of a row.

    Raises:
        ValueError: from ``fit`` and ``predict``, as scikit-learn words them.
    """

    def __init__(
        self, num_filters: int = 12, *, prior: Any = "positive", ridge: Any = 1e-6, fit_intercept: bool = True
    ) -> None:
        self.num_filters, self.prior, self.ridge, self.fit_intercept = num_filters, prior, ridge, fit_intercept

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SpectralRowRegressor:
        """Fit to rows X (n, L) and outputs y (n,) or (n, D_out), with weights (n,)."""
        X, y = _validation.validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        if sample_weight is not None:
            sample_weight = _validation._check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
            if not sample_weight.any():
                raise ValueError("sample_weight: every weight is zero")
        rows, length = X.shape
        outputs = np.full((rows, length, 1 if y.ndim == 1 else y.shape[1]), np.nan)
        outputs[:, -1] = y.reshape(rows, -1)
        weights = None if sample_weight is None else np.repeat(sample_weight[:, None], length, axis=1)
        self.regressor_ = SpectralRegressor(
            min(self.num_filters, length),
            length=length,
            prior=self.prior,
            autoregression=None,
            ridge=self.ridge,
            tail_penalty=0.0,
            fit_intercept=self.fit_intercept,
            missing="mask",
        ).fit(X[:, :, None], outputs, sample_weight=weights)
        self._one_output = y.ndim == 1
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Outputs at the end of rows X (n, L): (n,) or (n, D_out), as in ``fit``."""
        _validation.check_is_fitted(self)
        X = _validation.validate_data(self, X, dtype=np.float64, reset=False)
        last = self.regressor_.predict(torch.as_tensor(X)[:, :, None])[:, -1].numpy()
        return last[:, 0] if self._one_output else last

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
