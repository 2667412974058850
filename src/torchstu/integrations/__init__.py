"""Other libraries' interfaces, each behind an extra."""
