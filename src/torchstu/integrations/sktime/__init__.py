"""sktime's interface. Importing this needs the extra ``forecast``."""

from torchstu.extras import require

require("forecast", "sktime")

from torchstu.integrations.sktime.spectral import SpectralForecaster as SpectralForecaster  # noqa: E402

__all__ = ["SpectralForecaster"]
