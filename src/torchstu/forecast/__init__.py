"""Forecasting in closed form: direct forecasts from lags, spectral features and seasons."""
