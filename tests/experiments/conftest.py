"""Helpers that tests here share are importable by name, also from the processes that they start."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
