"""Linear dynamical systems with known answers: simulation, impulse responses, random families."""
