"""The fixed mathematics: priors, filters, realizations, bounds. Float64 NumPy on the CPU, no parameters."""
