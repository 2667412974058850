"""Experiments: whole runs from data to errors, without printing."""
