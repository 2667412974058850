"""System identification side by side: torchstu and installable peers over a grid of systems; `identify.py` runs it."""
